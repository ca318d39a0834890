//! What can be known to be wrong before anything is made: places that contain each other, addresses that are
//! taken.
//!
//! 1. Data in the mount or the mount in the data is refused and leaves no trace: the mount would hide the data it
//!    stands on, or be listed as a part of it (`nested_places_are_told_apart`, and on real ones
//!    `tests`: `data_and_mount_must_not_contain_each_other`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use wire::net::{Endpoint, check_listen};

use super::storage::brick_address;
use crate::cli::{TransportKind, UpOptions};

/// How two directories lie.
#[derive(Debug, PartialEq, Eq)]
enum Nesting {
    Apart,
    Same,
    /// The mount point is in the data directory.
    MountInData,
    /// The data directory is in what will be mounted.
    DataInMount,
}

fn nesting(data: &Path, mount: &Path) -> Nesting {
    match (mount.starts_with(data), data.starts_with(mount)) {
        (true, true) => Nesting::Same,
        (true, false) => Nesting::MountInData,
        (false, true) => Nesting::DataInMount,
        (false, false) => Nesting::Apart,
    }
}

/// The absolute path without links, as far as it exists. A mount whose process has died is not asked: its own
/// directory is taken as it is called.
fn real(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))?;
    let mut missing = Vec::new();
    let mut there = path.as_path();
    loop {
        if let Ok(found) = there.canonicalize() {
            return Ok(missing.iter().rev().fold(found, |found, name| found.join(name)));
        }
        match (there.parent(), there.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                there = parent;
            }
            // `..` behind something that does not exist: whoever makes it finds the right words.
            _ => return Ok(path),
        }
    }
}

/// Refuses a mount point in the data directory, and the other way round.
///
/// # Errors
/// In one line, with what to do.
pub fn check_apart(data: &Path, mount: &Path) -> Result<()> {
    match nesting(&real(data)?, &real(mount)?) {
        Nesting::Apart => Ok(()),
        Nesting::Same => bail!(
            "--data and --mount are both {}: give the mount an empty directory of its own",
            data.display()
        ),
        Nesting::MountInData => bail!(
            "the mount point {} is in the data directory {}: give --mount a directory outside of it",
            mount.display(),
            data.display()
        ),
        Nesting::DataInMount => bail!(
            "the data directory {} is in the mount point {}, which would hide it: give --data a directory outside \
             of it",
            data.display(),
            mount.display()
        ),
    }
}

/// Refuses addresses that nobody can listen on, before anything is started on others.
///
/// # Errors
/// Which one, and why.
pub fn check_addresses(options: &UpOptions, bricks: u32) -> Result<()> {
    if options.listen.port() == 0 {
        // Any free port will do: only the address can be wrong.
        return Ok(check_listen(&Endpoint::Tls(options.listen))?);
    }
    let namespace = match options.transport {
        TransportKind::Tls => Endpoint::Tls(options.listen),
        TransportKind::Quic => Endpoint::Quic(options.listen),
    };
    let last = u32::from(u16::MAX).saturating_sub(bricks);
    if u32::from(options.listen.port()) > last {
        bail!(
            "--listen {}: {bricks} bricks listen on the ports after it, and there are none beyond 65535: give a port \
             up to {last}",
            options.listen
        );
    }
    check_listen(&namespace)?;
    for number in 0..bricks {
        check_listen(&Endpoint::Tls(brick_address(options.listen, number)?))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// By path, not by the beginning of a name; links count for what they lead to; what does not exist yet is
    /// judged by where it will be.
    #[test]
    fn nested_places_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("data")).unwrap();
        std::fs::create_dir(at("mnt")).unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        for (data, mount, wanted) in [
            ("data", "mnt", Nesting::Apart),
            ("data", "data", Nesting::Same),
            ("link", "data", Nesting::Same),
            ("data/new", "data/new", Nesting::Same),
            ("data", "data/mnt", Nesting::MountInData),
            ("link", "data/a/b", Nesting::MountInData),
            ("mnt/cluster", "mnt", Nesting::DataInMount),
            ("data/x", "link", Nesting::DataInMount),
            ("data", "data2", Nesting::Apart),
            ("missing/a", "missing/b", Nesting::Apart),
        ] {
            let found = nesting(&real(&at(data)).unwrap(), &real(&at(mount)).unwrap());
            assert_eq!(found, wanted, "{data} {mount}");
        }
    }

    /// A taken port is named before anything listens on another one.
    #[test]
    fn a_taken_port_of_a_brick_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let options = UpOptions {
            data: "/nowhere".into(),
            mount: "/nowhere".into(),
            bricks: None,
            replicas: None,
            namespaces: 1,
            // The namespace one below, so that the second brick would take it.
            listen: std::net::SocketAddr::from(([127, 0, 0, 1], port - 1)),
            transport: TransportKind::Tls,
            slots: None,
            no_scheduler: true,
            shared: false,
            replace: Vec::new(),
        };
        let error = check_addresses(&options, 2).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) || error.contains(&(port - 1).to_string()), "{error}");
        let there = UpOptions { listen: taken.local_addr().unwrap(), ..options.clone() };
        assert!(check_addresses(&there, 2).is_err());
        // Ports that do not exist are none to be taken: it is said up to which there are enough.
        let high = std::net::SocketAddr::from(([127, 0, 0, 1], 65_534));
        let error = check_addresses(&UpOptions { listen: high, ..options }, 2).unwrap_err().to_string();
        assert!(error.contains("give a port up to 65533"), "{error}");
    }
}
