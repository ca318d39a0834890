//! The threads that listen to the kernel.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::abi::{self, Output, init};
use super::device::Device;
use super::interrupts::Interrupts;
use super::reply::Reply;
use super::request::{Init, Malformed, Operation, Request};

/// Who answers. Called by the threads that listen: it must not wait for anything.
pub(in crate::mount) trait Handler: Send + Sync + 'static {
    /// Answers a request, now or later.
    fn handle(&self, request: &Request<'_>, reply: Reply);
}

/// What is wanted of the kernel.
#[derive(Debug, Clone, Copy)]
pub(in crate::mount) struct Wanted {
    /// Largest data of one request, in bytes.
    pub(in crate::mount) max_write: u32,
    /// Requests nobody waits for that may be under way.
    pub(in crate::mount) max_background: u16,
    /// Pages go when the modification time or the size are new ones.
    pub(in crate::mount) drops_pages: bool,
    /// Locks are asked for, and not kept by the kernel for itself.
    pub(in crate::mount) asks_for_locks: bool,
    /// Threads that listen.
    pub(in crate::mount) threads: usize,
}

impl Wanted {
    fn flags(self) -> u64 {
        // Without ATOMIC_O_TRUNC: so the kernel truncates by a call of its own, and takes the
        // set-user-id bit away like everywhere else.
        let always = init::ASYNC_READ
            | init::EXPORT_SUPPORT
            | init::BIG_WRITES
            // What is made in a directory with a default list has nothing to do with a umask.
            | init::DONT_MASK
            | init::DO_READDIRPLUS
            | init::READDIRPLUS_AUTO
            | init::ASYNC_DIO
            | init::PARALLEL_DIROPS
            | init::POSIX_ACL
            | init::MAX_PAGES
            | init::SETXATTR_EXT
            | init::INIT_EXT
            | init::DIRECT_IO_ALLOW_MMAP;
        let drops = if self.drops_pages { init::AUTO_INVAL_DATA } else { 0 };
        let locks = if self.asks_for_locks { init::POSIX_LOCKS | init::FLOCK_LOCKS } else { 0 };
        always | drops | locks
    }

    /// The answer to the kernel's introduction.
    fn answer(self, kernel: &Init) -> Output {
        /// The kernel's pages; it takes a number of them that is too large for its largest.
        const PAGE_BYTES: u32 = 4096;
        let flags = self.flags() & kernel.flags;
        let mut output = Output::default();
        output.u32(abi::MAJOR).u32(kernel.minor.min(abi::MINOR)).u32(kernel.max_readahead);
        // Both halves of the flags are 32 bits.
        output.u32(flags as u32).u16(self.max_background).u16(self.max_background / 4 * 3);
        output.u32(self.max_write).u32(1).u16((self.max_write / PAGE_BYTES) as u16).u16(0);
        output.u32((flags >> 32) as u32).zeros(7 * 4);
        output
    }
}

/// Answers the kernel's introduction, and then everything else until the mount is over, on threads of its own.
/// Returns when the kernel has been answered; `done` is called when the last thread ends.
///
/// # Errors
/// What the system says, or that the kernel is too old.
pub(in crate::mount) fn serve(
    device: Device,
    wanted: Wanted,
    handler: Arc<impl Handler>,
    interrupts: &Arc<Interrupts>,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<()> {
    let first = Arc::new(device);
    let agreed = introduce(&first, wanted)?;
    let mut devices = vec![first.clone()];
    for _ in 1..wanted.threads {
        // Without an end of its own a thread listens at the first one.
        let device =
            first.another().inspect_err(|error| tracing::debug!(%error, "no further end of the mount"));
        devices.push(device.map_or_else(|_| first.clone(), Arc::new));
    }
    let interrupts = interrupts.clone();
    let listen = move |device: &Arc<Device>| {
        if let Err(error) = listen(device, (wanted, agreed), &*handler, &interrupts) {
            tracing::warn!(%error, "serving the mount ended with an error");
        }
    };
    std::thread::Builder::new().name("mount".to_owned()).spawn(move || {
        std::thread::scope(|scope| {
            for device in &devices[1..] {
                scope.spawn(|| listen(device));
            }
            listen(&first);
        });
        done();
    })?;
    Ok(())
}

fn buffer(wanted: Wanted) -> Vec<u8> {
    vec![0; wanted.max_write as usize + abi::MOST_ARGUMENTS]
}

/// Returns which of [`init`] hold.
fn introduce(device: &Arc<Device>, wanted: Wanted) -> io::Result<u64> {
    let mut buffer = buffer(wanted);
    let ended = || io::Error::other("it was unmounted while it was being mounted");
    let len = device.read(&mut buffer)?.ok_or_else(ended)?;
    let request = Request::parse(&buffer[..len], 0);
    let Ok(Request { unique, pid, operation: Operation::Init(kernel), .. }) = request else {
        return Err(io::Error::other("the kernel did not introduce itself"));
    };
    let reply = Reply::new(unique, pid, device);
    if kernel.major != abi::MAJOR || kernel.minor < abi::OLDEST_MINOR {
        reply.error(Errno::PROTO);
        return Err(io::Error::other(format!(
            "the kernel speaks version {}.{} of FUSE, and {}.{} is needed: use Linux 5.4 or a later one",
            kernel.major,
            kernel.minor,
            abi::MAJOR,
            abi::OLDEST_MINOR
        )));
    }
    tracing::debug!(
        minor = kernel.minor,
        flags = format!("{:#x}", kernel.flags),
        "the kernel introduces itself"
    );
    reply.raw(&wanted.answer(&kernel));
    Ok(wanted.flags() & kernel.flags)
}

/// Listens until the mount is over.
fn listen(
    device: &Arc<Device>,
    (wanted, agreed): (Wanted, u64),
    handler: &impl Handler,
    interrupts: &Interrupts,
) -> io::Result<()> {
    let mut buffer = buffer(wanted);
    while let Some(len) = device.read(&mut buffer)? {
        match Request::parse(&buffer[..len], agreed) {
            // Neither takes an answer.
            Ok(Request { operation: Operation::Forget, .. }) => {}
            Ok(Request { operation: Operation::Interrupt { unique }, .. }) => interrupts.signalled(unique),
            Ok(request) => {
                let reply = Reply::new(request.unique, request.pid, device);
                handler.handle(&request, reply);
            }
            Err(Malformed::Body { unique, opcode }) => {
                tracing::warn!(opcode, len, "the kernel sent a request that is too short");
                Reply::new(unique, 0, device).error(Errno::INVAL);
            }
            Err(Malformed::Head) => tracing::warn!(len, "the kernel sent something that is no request"),
        }
    }
    Ok(())
}
