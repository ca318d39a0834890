//! Cold caches.

use anyhow::{Context, Result};

/// Writes back everything dirty on this machine, then drops pages, names and attributes.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .context("cannot drop the kernel's caches, without which reads are not cold: run as root")
}
