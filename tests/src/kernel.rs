//! The one place with `unsafe`: shared mappings and byte-range locks, by the C library.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A shared, writable mapping of the beginning of a file.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes; the file must be open for reading and writing and at least that long.
    pub fn shared(file: &File, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address the kernel chooses, of a descriptor we hold; the
        // result is checked before use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start: start.cast(), length })
    }

    /// Copies bytes out of the mapping.
    pub fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at + length <= self.length, "read beyond the mapping");
        let mut copy = vec![0u8; length];
        // SAFETY: the range lies in the mapping, which lives as long as `self`; volatile reads
        // because another process or the kernel may change the pages at any time.
        for (index, byte) in copy.iter_mut().enumerate() {
            *byte = unsafe { self.start.add(at + index).read_volatile() };
        }
        copy
    }

    /// Stores bytes into the mapping.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.length, "write beyond the mapping");
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: the range lies in the writable mapping, which lives as long as `self`.
            unsafe { self.start.add(at + index).write_volatile(*byte) };
        }
    }

    /// msync(MS_SYNC): returns when the stores are durable.
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the range that was mapped.
        match unsafe { libc::msync(self.start.cast(), self.length, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that was mapped, and nobody can use it after the drop.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

/// What a byte-range lock call shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeLock {
    /// Shared.
    Read,
    /// Exclusive.
    Write,
    /// None.
    Unlock,
}

fn range(kind: RangeLock, start: i64, length: i64) -> libc::flock {
    // SAFETY: `flock` is a plain C structure for which all zeros is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = match kind {
        RangeLock::Read => libc::F_RDLCK,
        RangeLock::Write => libc::F_WRLCK,
        RangeLock::Unlock => libc::F_UNLCK,
    } as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = length;
    lock
}

/// fcntl(F_SETLK): `Ok(false)` if another process holds a lock in the way. Length 0: to the end.
pub fn try_range_lock(file: &File, kind: RangeLock, start: i64, length: i64) -> io::Result<bool> {
    let lock = range(kind, start, length);
    // SAFETY: the call reads one `flock` structure that outlives it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(error),
        },
    }
}

/// fcntl(F_SETLKW): waits until the lock is given.
pub fn range_lock(file: &File, kind: RangeLock, start: i64, length: i64) -> io::Result<()> {
    let lock = range(kind, start, length);
    // SAFETY: the call reads one `flock` structure that outlives it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLKW, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// fcntl(F_GETLK): who would be in the way of this lock, if anybody: its process id.
pub fn range_lock_holder(file: &File, kind: RangeLock, start: i64, length: i64) -> io::Result<Option<i32>> {
    let mut lock = range(kind, start, length);
    // SAFETY: the call reads and writes one `flock` structure that outlives it.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) } {
        0 if i32::from(lock.l_type) == libc::F_UNLCK => Ok(None),
        0 => Ok(Some(lock.l_pid)),
        _ => Err(io::Error::last_os_error()),
    }
}
