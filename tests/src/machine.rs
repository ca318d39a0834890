//! A host with files of its own: what an administrator's commands change stays with it.
//!
//! A mount namespace on top of the network namespace: the program under test is
//! `/usr/local/bin/brickyard` and `/sbin/mount.brickyard` there, `/srv`, `/mnt`, `/var/lib` and `/var/log` are empty,
//! with `/srv/brickyard` on the local disk. And somebody who plays systemd: [`Machine::systemctl`].
//!
//! 1. Whatever runs on the machine ends with it (`hosts_page::the_admin_page_is_true`, which would leave
//!    its mounts behind).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::cluster::binary;
use crate::hosts::Process;
use crate::netns::Host;
use crate::run::Run;
use crate::wait;

const LIMIT: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Machine {
    name: String,
    host: Host,
    holder: Child,
    dir: PathBuf,
    units: PathBuf,
    services: BTreeMap<String, Process>,
}

impl Machine {
    /// A machine on a host; what is in its `/srv/brickyard` lies in `dir`.
    pub fn new(name: &str, host: &Host, dir: &Path) -> Result<Machine> {
        std::fs::create_dir_all(dir.join("srv"))?;
        let sbin = dir.join("sbin");
        std::fs::create_dir_all(&sbin)?;
        std::os::unix::fs::symlink("/usr/local/bin/brickyard", sbin.join("mount.brickyard"))?;
        let script = format!(
            "set -e
             mount -t tmpfs none /usr/local/bin && cp {binary} /usr/local/bin/brickyard
             mount -t overlay none -o lowerdir={sbin}:/usr/sbin /usr/sbin
             for d in /srv /mnt /var/lib /var/log; do mount -t tmpfs none $d; done
             mkdir /srv/brickyard /mnt/brickyard
             mount --bind {srv} /srv/brickyard
             echo made
             exec sleep infinity",
            binary = binary()?.display(),
            sbin = sbin.display(),
            srv = dir.join("srv").display(),
        );
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(host.enter());
        command.args(["unshare", "--mount", "--propagation", "private", "sh", "-c", &script]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = command.spawn().context("cannot start `unshare --mount`")?;
        let stdout = holder.stdout.take().context("no standard output")?;
        let machine = Machine {
            name: name.to_owned(),
            host: host.clone(),
            holder,
            dir: dir.to_owned(),
            units: Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/systemd"),
            services: BTreeMap::new(),
        };
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        ensure!(line == "made\n", "machine {name} could not be made; its errors are above");
        Ok(machine)
    }

    fn enter(&self) -> Vec<OsString> {
        let pid = self.holder.id();
        vec![
            "nsenter".into(),
            format!("--net=/proc/{pid}/ns/net").into(),
            format!("--mount=/proc/{pid}/ns/mnt").into(),
            "--".into(),
        ]
    }

    /// A command on it.
    pub fn run(&self, program: &str) -> Run {
        let enter = self.enter();
        Run::new(&enter[0])
            .args(&enter[1..])
            .arg(program)
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// Runs a line of a shell as an administrator would type it; it must succeed.
    pub fn shell(&mut self, line: &str) -> Result<String> {
        if let Some(rest) = line.strip_prefix("systemctl ") {
            self.systemctl(rest).with_context(|| format!("{}: {line}", self.name))?;
            return Ok(String::new());
        }
        let done = self.run("bash").args(["-ec", line]).limit(LIMIT).ok();
        Ok(done.with_context(|| format!("{}: {line}", self.name))?.text())
    }

    /// Where a file of its `/srv/brickyard` is for the test.
    pub fn file(&self, path: &str) -> Result<PathBuf> {
        let rest = path
            .strip_prefix("/srv/brickyard/")
            .with_context(|| format!("{path} is not below /srv/brickyard"))?;
        Ok(self.dir.join("srv").join(rest))
    }

    /// Does what systemd does with our units: runs what `ExecStart` says, and waits until that says that it
    /// is ready.
    fn systemctl(&mut self, rest: &str) -> Result<()> {
        let words: Vec<&str> = rest.split_whitespace().filter(|word| *word != "--now").collect();
        let [verb, unit] = words.as_slice() else { bail!("not understood") };
        match *verb {
            "enable" | "start" => self.start_service(unit),
            "stop" | "disable" => {
                let mut service = self.services.remove(*unit).context("it does not run")?;
                service.stop()
            }
            _ => bail!("not understood"),
        }
    }

    fn start_service(&mut self, unit: &str) -> Result<()> {
        ensure!(!self.services.contains_key(unit), "it runs already");
        let (template, instance) = match unit.split_once('@') {
            Some((template, instance)) => (format!("{template}@"), instance),
            None => (unit.to_owned(), ""),
        };
        let path = self.units.join(format!("{template}.service"));
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(text.lines().any(|line| line == "Type=notify"), "{} is not Type=notify", path.display());
        let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).context("no ExecStart")?;
        let line = line.replace("%i", instance);
        let mut words = line.split_whitespace();
        let program = PathBuf::from(words.next().context("an empty ExecStart")?);
        let notify = self.dir.join(format!("{unit}.notify"));
        // It may be there from the last start.
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        socket.set_read_timeout(Some(LIMIT))?;
        let name = format!("{} {unit}", self.name);
        let mut service =
            Process::entering(&name, &self.host, self.enter(), &program, words.map(OsString::from).collect());
        service.set_env("NOTIFY_SOCKET", &notify.to_string_lossy());
        service.spawn()?;
        let mut state = [0; 512];
        let heard = socket.recv(&mut state);
        let length =
            heard.with_context(|| format!("it never said that it is ready:\n{}", service.log().tail(20)))?;
        ensure!(
            state[..length].starts_with(b"READY=1"),
            "it said {:?}",
            String::from_utf8_lossy(&state[..length])
        );
        self.services.insert(unit.to_owned(), service);
        Ok(())
    }

    /// Processes that run on it, but the one that holds its namespaces.
    fn processes(&self) -> Vec<Pid> {
        let own = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let Some(ours) = own(self.holder.id()) else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
            .filter(|pid| *pid != self.holder.id() && own(*pid).as_ref() == Some(&ours))
            .filter_map(|pid| Pid::from_raw(pid as i32))
            .collect()
    }

    /// Stops its services, last started last; nothing may be left on it then.
    pub fn stop(&mut self) -> Result<()> {
        for (_, mut service) in std::mem::take(&mut self.services) {
            service.stop()?;
        }
        wait::until_true(&format!("nothing runs on {} any more", self.name), LIMIT, || {
            Ok(self.processes().is_empty())
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for service in self.services.values() {
            eprintln!("-- log of {}, last lines:\n{}", service.name(), service.log().tail(25));
        }
        self.services.clear();
        for pid in self.processes() {
            // It may have ended in this moment.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
