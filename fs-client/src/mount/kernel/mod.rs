//! The kernel's side of a mount: its protocol (`linux/fuse.h`), the device it is spoken over, and the threads
//! that listen.
//!
//! The protocol is spoken here and not by a library, since interrupts, kinds of locks and the calls of younger
//! kernels are needed, which the libraries there are leave out.
//!
//! 1. Whatever the kernel sends, it is answered: what is not understood with an error, what a task forgot
//!    with `EIO` (`what_is_forgotten_is_answered`).
//! 2. A process that is killed while it waits for an answer ends at once (`a_killed_process_ends_during_an_outage`).

mod abi;
mod device;
mod interrupts;
mod reply;
mod request;
mod serve;

pub(super) use abi::{
    OPEN_DIRECT, OPEN_KEEP_CACHE, OPEN_NO_FLUSH, OPEN_PARALLEL_WRITES, OPEN_STREAM, OpenFlags, WATCH_FROM,
    WATCH_POSITION,
};
pub(super) use device::{Device, Options};
pub use device::{watch_from, watch_position};
pub(super) use interrupts::Interrupts;
pub(super) use reply::{Listing, Reply, Waker};
pub(super) use request::{Lock, Operation, Request, SetAttr, When};
pub(super) use serve::{Handler, Wanted, serve};
