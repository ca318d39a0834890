//! What this machine is and how it is.

/// The machine's architecture in Grid Engine's words.
pub(crate) const ARCH: &str = if cfg!(target_arch = "x86_64") {
    "lx-amd64"
} else if cfg!(target_arch = "aarch64") {
    "lx-arm64"
} else {
    "lx-other"
};

/// Figures of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub cores: u32,
    pub load_avg: f64,
    pub mem_total_bytes: u64,
    pub mem_available_bytes: u64,
}

/// Reads the figures; what can't be read is 0 (cores: 1).
pub(crate) fn facts() -> Facts {
    let cores =
        std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    let load_avg = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|t| t.split(' ').next().and_then(|w| w.parse().ok()))
        .unwrap_or(0.0);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |key: &str| {
        memory
            .lines()
            .find_map(|l| l.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024
    };
    Facts {
        cores,
        load_avg,
        mem_total_bytes: bytes("MemTotal:"),
        mem_available_bytes: bytes("MemAvailable:"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linux_machine_has_cores_and_memory() {
        let facts = facts();
        assert!(facts.cores >= 1 && facts.mem_total_bytes > 1 << 20, "{facts:?}");
        assert!(facts.mem_available_bytes <= facts.mem_total_bytes);
    }
}
