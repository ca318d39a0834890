//! What `mount.brickyard` is told on its command line, as `mount(8)` passes it on.
//!
//! 1. An option nobody knows is refused by name; those that are for `mount(8)` itself are
//!    let pass (`options_are_understood_or_refused`).

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use fs_client::SessionClass;

use super::addresses;
use super::joining::TokenText;

/// How the program is used.
pub const USAGE: &str = "usage: mount.brickyard ADDR[,ADDR...]:/[DIR] MNT [-f] [-o OPTION,...]
  DIR               mount this directory of the filesystem only [default: all of it]
  -f                stay in the foreground
  -o token=TOKEN    join token, the first time; token=@FILE reads it from a file
  -o cred=FILE      the mount's credential; made with the token if it does not exist
                    [default: /var/lib/brickyard/client-CLUSTER.cred]
  -o ro             read-only; also: rw, noatime, nodiratime, nosuid, nodev, noexec, allow_other, noallow_other
  -o remount        change what is mounted there to these: ro, rw, noatime, nodiratime, nosuid, nodev, noexec; all else stays
  -o log=FILE       log file in the background [default: /var/log/brickyard/MNT.log]
  -o loglevel=LEVEL error, warn, info, debug, trace or a filter [default: info]
  -o wait=SECONDS   how long to wait for the cluster: that it answers, and has bricks for files [default: 60]
  -o class=CLASS    how soon others may have the locks of this machine when it is cut off or dies: standard (12 s),
                    or ha (5 s) for services that another machine takes over [default: standard]
  -o metrics=ADDR   serve metrics for Prometheus
  -o host=NAME      name of this machine [default: the host name]";

/// Longest time that a mount waits for its cluster: a day.
const MOST_WAIT: Duration = Duration::from_secs(86_400);
/// Where a refusal sends to.
const HELP: &str = "see \"mount.brickyard --help\"";

/// Options that `mount(8)`, fstab or systemd mean for themselves.
const FOR_OTHERS: [&str; 14] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "group", "owner", "_netdev", "nofail", "async",
    "suid", "dev", "exec",
];
const FOR_OTHERS_PREFIX: [&str; 4] = ["x-", "X-", "comment=", "context="];

/// What the list of mounts says of one of ours, and `mount -o remount` gives back.
const OF_A_MOUNT: [&str; 4] = ["user_id", "group_id", "default_permissions", "max_read"];

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What is mounted, as it was given.
    pub source: String,
    /// Members of the namespace.
    pub namespaces: Vec<SocketAddr>,
    /// The directory of the filesystem that is mounted.
    pub root: PathBuf,
    /// Where to mount.
    pub mountpoint: PathBuf,
    /// Stay in the foreground.
    pub foreground: bool,
    /// This process was started by one that waits for it to be ready.
    pub background: bool,
    /// See [`USAGE`].
    pub token: Option<TokenText>,
    /// See [`USAGE`].
    pub credential: Option<PathBuf>,
    /// See [`USAGE`].
    pub read_only: bool,
    /// See [`USAGE`].
    pub no_atime: bool,
    /// See [`USAGE`].
    pub no_dir_atime: bool,
    /// See [`USAGE`].
    pub remount: bool,
    /// See [`USAGE`].
    pub no_suid: bool,
    /// See [`USAGE`].
    pub no_dev: bool,
    /// See [`USAGE`].
    pub no_exec: bool,
    /// See [`USAGE`].
    pub allow_other: bool,
    /// See [`USAGE`].
    pub log: Option<PathBuf>,
    /// See [`USAGE`].
    pub log_level: String,
    /// See [`USAGE`].
    pub wait: Duration,
    /// See [`USAGE`].
    pub class: SessionClass,
    /// See [`USAGE`].
    pub metrics: Option<SocketAddr>,
    /// See [`USAGE`].
    pub host: Option<String>,
}

impl Wanted {
    /// Understands a command line, without the program's name.
    ///
    /// # Errors
    /// In one line what is not understood.
    pub fn parse(args: &[String]) -> Result<Wanted> {
        let mut plain = Vec::new();
        let mut options = Vec::new();
        let (mut foreground, mut background, mut sloppy) = (false, false, false);
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-o" | "--options" => {
                    options
                        .push(args.next().with_context(|| format!("{arg} wants options behind it"))?.clone());
                }
                "--background" => background = true,
                // A type or a mount namespace that mount(8) names; there is one type only.
                "-t" | "-N" => {
                    args.next().with_context(|| format!("{arg} wants something behind it"))?;
                }
                text if text.starts_with("--") => bail!("unknown option {text}; {HELP}"),
                text if text.starts_with("-o") => options.push(text[2..].to_owned()),
                text if text.starts_with('-') && text.len() > 1 => {
                    for letter in text.chars().skip(1) {
                        match letter {
                            'f' => foreground = true,
                            's' => sloppy = true,
                            // Without /etc/mtab, and verbose: nothing to do.
                            'n' | 'v' | 'w' => {}
                            'r' => options.push("ro".to_owned()),
                            _ => bail!("unknown option -{letter}; {HELP}"),
                        }
                    }
                }
                text => plain.push(text.to_owned()),
            }
        }
        let [source, mountpoint] = plain.as_slice() else {
            bail!("give what to mount and where, as in mount.brickyard ADDR[,ADDR...]:/[DIR] MNT; {HELP}");
        };
        let (namespaces, root) = source_parts(source)?;
        let mut wanted = Wanted {
            source: source.clone(),
            namespaces,
            root,
            mountpoint: absolute(mountpoint)?,
            foreground,
            background,
            token: None,
            credential: None,
            read_only: false,
            no_atime: false,
            no_dir_atime: false,
            remount: false,
            no_suid: false,
            no_dev: false,
            no_exec: false,
            allow_other: true,
            log: None,
            log_level: "info".to_owned(),
            wait: Duration::from_secs(60),
            class: SessionClass::Standard,
            metrics: None,
            host: None,
        };
        let options = || options.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty());
        let is_remount = options().any(|option| option == "remount");
        for option in options() {
            if !wanted.take(option)? && !sloppy {
                let name = option.split_once('=').map_or(option, |(name, _)| name);
                if is_remount && OF_A_MOUNT.contains(&name) {
                    continue;
                }
                bail!("unknown mount option {name:?}; {HELP}");
            }
        }
        Ok(wanted)
    }

    /// Whether it is an option that is known.
    fn take(&mut self, option: &str) -> Result<bool> {
        let (name, value) =
            option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
        let some =
            || value.filter(|v| !v.is_empty()).with_context(|| format!("mount option {name} wants a value"));
        match name {
            "token" => {
                let text = match some()?.strip_prefix('@') {
                    Some(file) => format!("@{}", absolute(file)?.display()),
                    None => some()?.to_owned(),
                };
                self.token = Some(text.parse()?);
            }
            "cred" => self.credential = Some(absolute(some()?)?),
            "log" => self.log = Some(absolute(some()?)?),
            "loglevel" => self.log_level = some()?.to_owned(),
            "host" => {
                let host = super::host_name(some()?);
                self.host = Some(host.map_err(|why| anyhow!("mount option host: {why}"))?);
            }
            "wait" => {
                let seconds = some()?.parse().ok().filter(|seconds| *seconds <= MOST_WAIT.as_secs());
                let seconds = seconds.with_context(|| {
                    format!("mount option wait wants a number of seconds, {} at most", MOST_WAIT.as_secs())
                })?;
                self.wait = Duration::from_secs(seconds);
            }
            "class" => {
                self.class = match some()? {
                    "standard" => SessionClass::Standard,
                    "ha" => SessionClass::Ha,
                    other => bail!("mount option class is standard or ha, not {other:?}"),
                };
            }
            "metrics" => {
                let address = super::listen_address(some()?);
                self.metrics = Some(address.map_err(|why| anyhow!("mount option metrics: {why}"))?);
            }
            _ if FOR_OTHERS_PREFIX.iter().any(|prefix| option.starts_with(prefix)) => {}
            _ if value.is_some() => return Ok(false),
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "noatime" => self.no_atime = true,
            "atime" | "relatime" => self.no_atime = false,
            "nodiratime" => self.no_dir_atime = true,
            "diratime" => self.no_dir_atime = false,
            "remount" => self.remount = true,
            "nosuid" => self.no_suid = true,
            "nodev" => self.no_dev = true,
            "noexec" => self.no_exec = true,
            "allow_other" => self.allow_other = true,
            "noallow_other" => self.allow_other = false,
            _ => return Ok(FOR_OTHERS.contains(&name)),
        }
        Ok(true)
    }
}

/// A path that stays the same where the program leaves its directory for the background.
fn absolute(path: &str) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot tell where {path} is"))
}

/// The addresses and the directory in `ADDR[,ADDR...]:/[DIR]`.
fn source_parts(source: &str) -> Result<(Vec<SocketAddr>, PathBuf)> {
    let Some((list, path)) = source.split_once(":/") else {
        bail!("{source:?} is not ADDR[,ADDR...]:/[DIR] (addresses of the namespace, a colon, a path)");
    };
    let path = Path::new("/").join(path);
    if path.components().any(|part| part == Component::ParentDir) {
        bail!(
            "{source:?} has a .. in its path: name the directory by its path from the root of the filesystem"
        );
    }
    Ok((addresses(list)?, path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Wanted> {
        Wanted::parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    /// The background has another directory: paths mean what they meant where they were given.
    #[test]
    fn paths_are_those_of_the_caller() {
        let here = std::env::current_dir().unwrap();
        let wanted = parse("10.0.0.1:/ mnt -o cred=a/c,log=l").unwrap();
        assert_eq!(wanted.mountpoint, here.join("mnt"));
        assert_eq!(wanted.credential, Some(here.join("a/c")));
        assert_eq!(wanted.log, Some(here.join("l")));
        let token = parse("10.0.0.1:/ mnt -o token=@no-such-file").unwrap().token.unwrap();
        let refused = token.read().unwrap_err().to_string();
        assert!(refused.contains(&here.join("no-such-file").display().to_string()), "{refused}");
    }

    /// Invariant 1, by the forms in which mount(8), fstab and people write options.
    #[test]
    fn options_are_understood_or_refused() {
        let wanted = parse(
            "10.0.0.1,10.0.0.2:71:/ /mnt -n -o rw,noatime,_netdev,x-systemd.automount,cred=/c -o log=/l",
        )
        .unwrap();
        assert_eq!(wanted.namespaces.len(), 2);
        assert_eq!(wanted.namespaces[1].port(), 71);
        assert_eq!(wanted.credential, Some("/c".into()));
        assert_eq!(wanted.log, Some("/l".into()));
        assert!(wanted.no_atime && !wanted.read_only && !wanted.foreground && wanted.allow_other);
        assert_eq!(wanted.class, SessionClass::Standard);
        assert_eq!(parse("10.0.0.1:/ /mnt -o ro,class=ha").unwrap().class, SessionClass::Ha);
        let wanted = parse("10.0.0.1:/ /mnt -fo ro,nosuid,nodev,noexec,wait=5,noallow_other");
        assert!(wanted.is_err(), "-o inside a group of letters takes no value");
        let wanted =
            parse("10.0.0.1:/ /mnt -f -oro,nosuid,nodev,noexec,wait=5,noallow_other,defaults").unwrap();
        assert!(wanted.read_only && wanted.no_suid && wanted.no_dev && wanted.no_exec && !wanted.allow_other);
        assert!(wanted.foreground);
        assert_eq!(wanted.wait, Duration::from_secs(5));
        assert_eq!(wanted.root, Path::new("/"));
        assert_eq!(parse("10.0.0.1:/home/ann /mnt").unwrap().root, Path::new("/home/ann"));
        assert!(parse("10.0.0.1:/ /mnt -s -o frobnicate").is_ok(), "sloppy");
        let wanted =
            parse("10.0.0.1:/ /mnt -o rw,nodiratime,user_id=0,default_permissions,allow_other,remount")
                .unwrap();
        assert!(wanted.remount && wanted.no_dir_atime && !wanted.no_atime);
        for (line, word) in [
            ("10.0.0.1:/ /mnt -o frobnicate", "frobnicate"),
            ("10.0.0.1:/ /mnt -o remount,frobnicate", "frobnicate"),
            ("10.0.0.1:/ /mnt -o user_id=0", "user_id"),
            ("10.0.0.1:/ /mnt -o ro=1", "ro"),
            ("10.0.0.1:/ /mnt -o token", "token"),
            ("10.0.0.1:/ /mnt -o wait=soon", "wait"),
            ("10.0.0.1:/ /mnt -o wait=18446744073709551615", "86400 at most"),
            ("10.0.0.1:/ /mnt -o class=fast", "standard or ha"),
            ("10.0.0.1:/ /mnt -o class", "class"),
            ("10.0.0.1:/ /mnt -o metrics=127.0.0.1", "127.0.0.1:7000"),
            ("10.0.0.1:/ /mnt -x", "-x"),
            ("10.0.0.1:/ /mnt --nonsense", "--nonsense"),
            ("10.0.0.1:/ /mnt -o", "-o"),
            ("10.0.0.1:/", "--help"),
            ("10.0.0.1 /mnt", "10.0.0.1"),
            (":/ /mnt", "address"),
            ("10.0.0.1,,10.0.0.2:/ /mnt", "between two commas"),
            ("10.0.0.1:/a/../.. /mnt", ".."),
            ("10.0.0.1:/ /mnt -o host=a\tb", "host"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(word), "{line}: {error}");
            assert_eq!(error.lines().count(), 1, "{line}: {error}");
        }
        // What is refused is named without its value, which may be a secret.
        let error = parse("10.0.0.1:/ /mnt -o tokn=by1-77").unwrap_err().to_string();
        assert!(!error.contains("by1"), "{error}");
    }
}
