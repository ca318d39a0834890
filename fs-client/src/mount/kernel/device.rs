//! The device the kernel is spoken with, and mounting it. The one file of this crate with `unsafe`.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use rustix::mount::MountFlags;
use wire::id::JournalIndex;

use super::super::c_path;
use super::abi;

const PATH: &str = "/dev/fuse";
/// What a mount is called in the list of mounts.
const NAME: &str = "brickyard";
/// `FUSE_DEV_IOC_CLONE`.
const CLONE: Opcode = opcode::read::<u32>(229, 0);

const WATCH_FROM: Opcode = opcode::write::<u64>(b'B', 1);
const WATCH_POSITION: Opcode = opcode::read::<u64>(b'B', 2);
const _: () =
    assert!(WATCH_FROM == abi::WATCH_FROM as Opcode && WATCH_POSITION == abi::WATCH_POSITION as Opcode);

/// Has an open `.brickyard.watch` tell what changed after an index of the journal, from its next read on.
///
/// # Errors
/// `ENOTTY` if the file is something else.
pub fn watch_from(watch: impl AsFd, after: JournalIndex) -> io::Result<()> {
    // SAFETY: the kernel reads eight bytes where it is pointed to, and `Setter` points it to a `u64`.
    Ok(unsafe { ioctl(watch, Setter::<WATCH_FROM, u64>::new(after.0)) }?)
}

/// Where an open `.brickyard.watch` has come to: right after it was opened, the newest entry of the journal.
///
/// # Errors
/// `ENOTTY` if the file is something else.
pub fn watch_position(watch: impl AsFd) -> io::Result<JournalIndex> {
    // SAFETY: the kernel writes eight bytes where it is pointed to, and `Getter` points it to a `u64`.
    Ok(JournalIndex(unsafe { ioctl(watch, Getter::<WATCH_POSITION, u64>::new()) }?))
}

/// What is asked of `mount`.
#[derive(Debug, Clone, Copy)]
pub(in crate::mount) struct Options<'a> {
    /// What is mounted, as `/proc/mounts` is to say it.
    pub(in crate::mount) source: &'a str,
    /// See `mount(8)`.
    pub(in crate::mount) flags: MountFlags,
    /// Other users than the one who mounts may come in.
    pub(in crate::mount) allow_other: bool,
}

/// One end of a connection with the kernel. An answer goes to the end its request came from.
#[derive(Debug)]
pub(in crate::mount) struct Device(OwnedFd);

impl Device {
    /// Mounts at a path. The kernel's first request is its introduction.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::mount) fn mount(path: &Path, options: Options<'_>) -> io::Result<Device> {
        let device = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // The mode is a directory's. What a process may do the kernel judges by owner, mode and access list.
        let data = format!(
            "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions{},subtype={NAME}",
            device.as_raw_fd(),
            if options.allow_other { ",allow_other" } else { "" }
        );
        let data = CString::new(data)?;
        rustix::mount::mount(
            options.source,
            c_path(path)?.as_c_str(),
            "fuse",
            options.flags,
            data.as_c_str(),
        )?;
        Ok(Device(device))
    }

    /// Another end of the same connection, for a thread of its own.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn another(&self) -> io::Result<Device> {
        let device = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // A descriptor is not below zero.
        let ours = self.0.as_raw_fd() as u32;
        // SAFETY: the kernel reads four bytes where it is pointed to, and `Setter` points it to a `u32`.
        unsafe { ioctl(&device, Setter::<CLONE, u32>::new(ours)) }?;
        Ok(Device(device))
    }

    /// Waits for a request. `None`: the mount is over.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(self.0.as_fd(), &mut *buffer) {
                Ok(len) => return Ok(Some(len)),
                // Taken back before it could be read, among others.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends an answer; whether anybody waited for it.
    pub(super) fn write(&self, parts: &[IoSlice<'_>]) -> bool {
        match rustix::io::writev(self.0.as_fd(), parts) {
            Ok(_) => true,
            // Nobody does any more, or the mount is over.
            Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED | Errno::PERM) => false,
            Err(error) => {
                tracing::warn!(%error, "the kernel did not take an answer");
                false
            }
        }
    }
}

#[cfg(test)]
impl Device {
    /// One that writes to somewhere else.
    pub(super) fn of(fd: OwnedFd) -> Device {
        Device(fd)
    }
}
