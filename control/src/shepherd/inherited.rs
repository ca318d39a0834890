//! What a new process must not inherit: descriptors, and signals its makers blocked or ignored.
//!
//! Every descriptor of this program is opened close-on-exec; one of a library that isn't would keep a dead server's lock or a dead
//! mount's device open for as long as a job runs. So the supervisor begins by closing whatever it has beyond the standard three.

/// Closes all descriptors beyond stderr. Only for the very beginning of a process.
#[allow(unsafe_code)]
pub(super) fn close() {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect();
    for fd in open {
        // SAFETY: nothing in this process owns a descriptor yet: this runs before any file is opened, the standard library keeps
        // none beyond the standard three, and the one that listed the directory is closed above (closing its number again is
        // refused with EBADF, as no other thread could have got it meanwhile).
        unsafe { rustix::io::close(fd) };
    }
}

/// Unblocks all signals and sets them back to what they do by default. A shell that starts a server in the background makes it ignore
/// ^C, the supervisor blocks what it waits for: none of that is the job's.
#[allow(unsafe_code)]
pub(super) fn reset_signals() -> nix::Result<()> {
    use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
    for known in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action is no code of this process, so there is nothing it could break.
        unsafe { signal(known, SigHandler::SigDfl) }?;
    }
    SigSet::all().thread_unblock()
}
