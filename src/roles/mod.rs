//! The roles of a cluster of several machines, each a process of its own.
//!
//! | file | what |
//! |---|---|
//! | `member` | `brickyard init`, `brickyard namespace`: the directory of a namespace member |
//! | `token`, `joining` | making a join token; turning one into a credential |
//! | `brick`, `brick::serve`, `server` | `brickyard brick`: making bricks, serving them; brick directories, and whose they are |
//! | `mount`, `options` | `mount.brickyard`: in the foreground or not, and its `-o` options |
//! | `place`, `life`, `notify`, `exporter` | what they share: directories, signals, readiness, metrics |
//!
//! `brickyard up` starts the same services (`crate::up::storage`) in one process.
//!
//! Each prints `ready: ...` as its only line on standard output once it can be used, tells systemd
//! so, and ends cleanly with exit code 0 on SIGTERM and SIGINT. Join options are needed the
//! first time only.

pub mod brick;
pub mod exporter;
pub mod joining;
pub mod life;
pub mod member;
pub mod mount;
pub mod notify;
pub mod options;
pub mod place;
pub mod server;
pub mod token;

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::{Context, Result, bail};

/// Where the namespace listens unless told otherwise.
pub const NAMESPACE_PORT: u16 = 7000;

/// Addresses of the namespace from a list like `10.0.0.1:7000,master2`; without a port
/// [`NAMESPACE_PORT`] is meant.
///
/// # Errors
/// If one is no address or no name that is known.
pub fn addresses(list: &str) -> Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for text in list.split(',').map(str::trim) {
        if text.is_empty() && list.contains(',') {
            bail!(
                "{list:?}: nothing stands before, behind or between two commas; give HOST:PORT[,HOST:PORT...]"
            );
        }
        if text.is_empty() {
            break;
        }
        let with_port = match text.parse::<std::net::IpAddr>() {
            Ok(address) => SocketAddr::new(address, NAMESPACE_PORT).to_string(),
            Err(_) if text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                text.to_owned()
            }
            Err(_) => format!("{text}:{NAMESPACE_PORT}"),
        };
        let resolved =
            with_port.to_socket_addrs().with_context(|| format!("{text:?} is no address that is known"))?;
        found.extend(resolved);
    }
    if found.is_empty() {
        bail!("{list:?} names no address of the namespace: give HOST:PORT[,HOST:PORT...]");
    }
    Ok(found)
}

/// The name of a machine, as it stands on a command line: people read it in tables.
///
/// # Errors
/// What is wrong with it.
pub fn host_name(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty: give the name of the machine".to_owned()),
        _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            Err("a name of a machine has no blanks in it".to_owned())
        }
        _ if text.len() > 255 => Err("it is too long: 255 bytes at most".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// An address and a port to listen on, as it stands on a command line.
///
/// # Errors
/// What is wrong with it, and what is wanted instead.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.parse::<std::net::IpAddr>() {
        return Err(format!("it has no port: give one too, such as {}", SocketAddr::new(ip, NAMESPACE_PORT)));
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && format!("{host}:1").parse::<SocketAddr>().is_ok()
    {
        return Err(format!("{port:?} is no port: give a number up to 65535"));
    }
    Err(format!("give an IP address and a port, such as 127.0.0.1:{NAMESPACE_PORT}"))
}

/// Refuses addresses that others could not reach.
///
/// # Errors
/// If the port is 0 or the address stands for all of a machine's.
pub fn reachable(listen: SocketAddr) -> Result<SocketAddr> {
    if listen.port() == 0 || listen.ip().is_unspecified() {
        bail!("--listen {listen}: give the address and port that the other machines reach this one at");
    }
    Ok(listen)
}

/// Refuses an address that no interface of this machine has: others would be told of it, and in vain. One to be listened at `at_once`
/// must be free, too.
///
/// # Errors
/// If it is another machine's, or another program listens there.
pub fn is_ours(listen: SocketAddr, at_once: bool) -> Result<()> {
    let port = if at_once { listen.port() } else { 0 };
    match std::net::TcpListener::bind((listen.ip(), port)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrNotAvailable => {
            bail!("--listen {listen}: this machine has no such address")
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("--listen {listen}: another program listens there; end it, or give another port")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Where somebody listens nobody else can at once.
    #[test]
    fn a_port_in_use_is_refused() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let refused = is_ours(address, true).unwrap_err().to_string();
        assert!(refused.contains("another program listens there"), "{refused}");
        is_ours(address, false).unwrap();
    }

    /// Ports are added where they are missing; nonsense is refused by its text.
    #[test]
    fn lists_of_addresses() {
        let parsed = addresses("10.0.0.1, 10.0.0.2:71,[::1]:72,::2").unwrap();
        let texts: Vec<String> = parsed.iter().map(SocketAddr::to_string).collect();
        assert_eq!(texts, ["10.0.0.1:7000", "10.0.0.2:71", "[::1]:72", "[::2]:7000"]);
        for wrong in ["", ",", "no such host", "10.0.0.1:99999"] {
            let error = addresses(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
        for (wrong, said) in [
            ("10.0.0.1", "10.0.0.1:7000"),
            ("::1", "[::1]:7000"),
            ("10.0.0.1:65536", "up to 65535"),
            ("[::1]:http", "up to 65535"),
            ("localhost:7000", "an IP address and a port"),
            ("nowhere", "an IP address and a port"),
            ("", "an IP address and a port"),
        ] {
            let error = listen_address(wrong).unwrap_err();
            assert!(error.contains(said), "{wrong:?}: {error}");
        }
        assert_eq!(listen_address("[::1]:0").unwrap().to_string(), "[::1]:0");
        assert!(reachable("0.0.0.0:1".parse().unwrap()).is_err());
        assert!(reachable("10.0.0.1:0".parse().unwrap()).is_err());
        assert!(reachable("10.0.0.1:1".parse().unwrap()).is_ok());
    }
}
