//! Many reads or writes at once through io_uring. The one file of this crate with `unsafe`.
//!
//! A ring belongs to one call at a time: the caller takes one that is idle, submits everything,
//! waits until all of it is done, and puts it back. The calls come from threads that may block
//! anyway (a brick's pool, its committer), so a thread of its own for the ring would only add two
//! hand-overs, measured at 20 to 25 us a call (see docs/design/2026-11-25-chunk-store.md).
//!
//! 1. A call does not return while the kernel may still use its memory.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use io_uring::{IoUring, opcode, types};

/// Operations of a ring under way at a time.
const ENTRIES: u32 = 128;
/// Rings that are kept when nobody uses them.
const KEPT: usize = 8;

/// One read or write.
#[derive(Debug)]
pub enum Part<'a> {
    /// Fill this from an offset of a file.
    Read(RawFd, u64, &'a mut [u8]),
    /// Write this at an offset of a file.
    Write(RawFd, u64, &'a [u8]),
}

/// Rings that are not in use.
#[derive(Default)]
pub struct Rings {
    idle: Mutex<Vec<IoUring>>,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").finish_non_exhaustive()
    }
}

impl Rings {
    /// Tries whether the kernel has io_uring and lets us use it.
    ///
    /// # Errors
    /// What the kernel says: `ENOSYS`, or `EPERM` where it is forbidden.
    pub fn new() -> io::Result<Rings> {
        let rings = Rings::default();
        rings.idle().push(IoUring::new(ENTRIES)?);
        Ok(rings)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<IoUring>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out all parts, in any order. Those that were done only in part are named in the
    /// answer, with how many bytes were done. `gets_on` is called whenever some are done. `None`: there is no ring to be had just now, for want
    /// of memory or file numbers, and nothing was done.
    ///
    /// # Errors
    /// The first error of a part; the others were carried out or not.
    pub fn run(&self, parts: &mut [Part<'_>], gets_on: &dyn Fn()) -> Option<io::Result<Vec<(usize, usize)>>> {
        let taken = self.idle().pop();
        let mut ring = match taken {
            Some(ring) => ring,
            None => IoUring::new(ENTRIES).ok()?,
        };
        let done = run_on(&mut ring, parts, gets_on);
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(ring);
        }
        Some(done)
    }
}

fn run_on(ring: &mut IoUring, parts: &mut [Part<'_>], gets_on: &dyn Fn()) -> io::Result<Vec<(usize, usize)>> {
    let (mut next, mut flying) = (0, 0);
    let mut short = Vec::new();
    let mut first_error = None;
    while next < parts.len() || flying > 0 {
        while next < parts.len() && flying < ENTRIES as usize && first_error.is_none() {
            let entry = match &mut parts[next] {
                Part::Read(fd, offset, bytes) => {
                    opcode::Read::new(types::Fd(*fd), bytes.as_mut_ptr(), bytes.len() as u32)
                        .offset(*offset)
                        .build()
                }
                Part::Write(fd, offset, bytes) => {
                    opcode::Write::new(types::Fd(*fd), bytes.as_ptr(), bytes.len() as u32)
                        .offset(*offset)
                        .build()
                }
            };
            // SAFETY: the memory is borrowed by `parts` for this whole call, and this function does
            // not return before `flying` is 0, that is, before the kernel has answered every entry
            // it was given. The files are open for as long: their owner lends them to the call.
            let pushed = unsafe { ring.submission().push(&entry.user_data(next as u64)) };
            if pushed.is_err() {
                break;
            }
            next += 1;
            flying += 1;
        }
        if flying == 0 {
            break;
        }
        // Half of them at a time: each hand-over to the disk costs a virtual machine an exit, and
        // one for many costs no more than one for one.
        wait(ring, if next < parts.len() { flying.div_ceil(2) } else { flying });
        gets_on();
        for entry in ring.completion() {
            flying -= 1;
            let part = entry.user_data() as usize;
            let len = match parts.get(part) {
                Some(Part::Read(_, _, bytes)) => bytes.len(),
                Some(Part::Write(_, _, bytes)) => bytes.len(),
                None => continue,
            };
            match entry.result() {
                result if result < 0 => {
                    first_error.get_or_insert(io::Error::from_raw_os_error(-result));
                }
                done if (done as usize) < len => short.push((part, done as usize)),
                _ => {}
            }
        }
    }
    match first_error {
        Some(error) => Err(error),
        None => Ok(short),
    }
}

/// Submits, and waits for at least so many answers.
fn wait(ring: &mut IoUring, many: usize) {
    let mut attempts = 0u32;
    while let Err(error) = ring.submit_and_wait(many) {
        attempts += 1;
        match error.raw_os_error() {
            // Interrupted, or the kernel has no memory for it just now.
            Some(EINTR) => {}
            Some(EAGAIN | EBUSY) if attempts < 10_000 => std::thread::yield_now(),
            _ => {
                // The kernel may hold entries that point into our callers' memory, and nothing
                // tells when it is done with it. There is no safe way on.
                tracing::error!(%error, "io_uring does not answer");
                std::process::abort();
            }
        }
    }
}

const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
