//! Closing what a supervisor inherited.
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
