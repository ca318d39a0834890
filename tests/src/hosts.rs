//! A cluster of several machines: the real processes, each on a host of its own.
//!
//! A namespace host, brick hosts and a client host with the mount, in a [`World`]. The processes
//! are started as an administrator starts them: `init`, `token`, `brick`, `mount.brickyard`.
//!
//! 1. Whatever is started ends with the harness, by panic too: the kernel kills the processes
//!    with the test, mounts are detached, namespaces removed.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::cluster::{Workshop, binary, unmount_below};
use crate::logs::Log;
use crate::netns::{Host, World};
use crate::run::{Done, Run};
use crate::{status, wait};

/// Where bricks listen.
pub const BRICK_PORT: u16 = 7100;

const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const LEADER_LIMIT: Duration = Duration::from_secs(120);
/// What only says that the machine was too busy to run us in time: no fault of the product.
const BUSY_MACHINE: &str = "this process stood still";

/// A process of the product on a host.
#[derive(Debug)]
pub struct Process {
    name: String,
    host: Host,
    enter: Vec<OsString>,
    args: Vec<OsString>,
    program: PathBuf,
    env: Vec<(String, String)>,
    child: Option<Child>,
    log: Log,
}

impl Process {
    /// One that is not started yet.
    pub fn new(name: &str, host: &Host, program: &Path, args: Vec<OsString>) -> Process {
        Process::entering(name, host, host.enter(), program, args)
    }

    /// The same, with what to put before the command.
    pub fn entering(
        name: &str,
        host: &Host,
        enter: Vec<OsString>,
        program: &Path,
        args: Vec<OsString>,
    ) -> Process {
        Process {
            name: name.to_owned(),
            host: host.clone(),
            enter,
            args,
            program: program.to_owned(),
            env: Vec::new(),
            child: None,
            log: Log::default(),
        }
    }

    /// Sets a variable for later starts.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Starts with other arguments from now on.
    pub fn set_args(&mut self, args: Vec<OsString>) {
        self.args = args;
    }

    /// Starts it and waits until it says that it is ready; gives back that line.
    pub fn start(&mut self) -> Result<String> {
        let lines = self.spawn()?;
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line.starts_with("ready: ") => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "{} was not ready in {} s:\n{}",
                        self.name,
                        READY_LIMIT.as_secs(),
                        self.log.tail(40)
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.wait_end()?;
                    bail!("{} ended: {status}:\n{}", self.name, self.log.tail(40));
                }
            }
        }
    }

    /// Starts it; what it says on standard output comes out of the channel.
    pub fn spawn(&mut self) -> Result<Receiver<String>> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        // It must not outlive a test that is killed: the kernel sees to that.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(&self.enter).arg(&self.program).args(&self.args);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        let stdout = child.stdout.take().context("no standard output")?;
        self.log.collect(child.stderr.take().context("no standard error")?);
        self.child = Some(child);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The receiver is gone once it is ready: read on, so that it never blocks.
                let _ = sender.send(line);
            }
        });
        Ok(lines)
    }

    /// Whether it was started and not ended by us.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// All it logged.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().with_context(|| format!("{} does not run", self.name))?.id())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.pid()? as i32).context("no process id")?;
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// Waits for its end.
    pub fn wait_end(&mut self) -> Result<ExitStatus> {
        let child = self.child.as_mut().with_context(|| format!("{} does not run", self.name))?;
        let status = wait::until(&format!("the end of {}", self.name), STOP_LIMIT, || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(status)
    }

    /// kill -9.
    pub fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_end().map(drop)
    }

    /// SIGTERM, and it must end cleanly.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait_end()?;
        ensure!(status.success(), "{} ended with {status} after SIGTERM:\n{}", self.name, self.log.tail(40));
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a cluster is born.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Brick hosts, one brick each.
    pub bricks: usize,
    /// Copies.
    pub replicas: u32,
}

/// A cluster of several machines.
#[derive(Debug)]
pub struct HostCluster {
    /// The namespace's first member.
    pub namespace: Process,
    /// Its further members.
    pub members: Vec<Process>,
    /// The bricks, one a host.
    pub bricks: Vec<Process>,
    /// The mount, in the foreground.
    pub mount: Process,
    /// Further mounts, one a host.
    pub mounts: Vec<Process>,
    client: Host,
    mountpoint: PathBuf,
    allowed: Vec<String>,
    finished: bool,
    world: World,
    workshop: Workshop,
}

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

impl HostCluster {
    /// A cluster with everything running, as an administrator makes it.
    pub fn start(shape: Shape) -> Result<HostCluster> {
        let mut cluster = HostCluster::prepare_with_bricks(shape)?;
        cluster.start_mount()?;
        Ok(cluster)
    }

    /// The same without a mount.
    pub fn prepare_with_bricks(shape: Shape) -> Result<HostCluster> {
        let mut cluster = HostCluster::prepare(shape)?;
        for at in 0..shape.bricks {
            cluster.add_brick(at)?;
        }
        Ok(cluster)
    }

    /// The same with the namespace alone: bricks and mount are to be started.
    pub fn prepare(shape: Shape) -> Result<HostCluster> {
        let workshop = Workshop::new()?;
        let mut world = World::new()?;
        let binary = binary()?;
        let host = world.host()?;
        let dir = workshop.path().join("namespace");
        let listen = SocketAddr::new(host.address(), 7000);
        let init = host.run(&binary).args(words(&format!(
            "init --dir {} --listen {listen} --replicas {} --bricks {}",
            dir.display(),
            shape.replicas,
            shape.bricks
        )));
        init.ok()?;
        let args = words(&format!("namespace --dir {}", dir.display()));
        let mut namespace = Process::new("namespace", &host, &binary, args);
        namespace.start()?;
        let mountpoint = workshop.dir("mnt")?;
        let client = world.host()?;
        let mount = Process::new("mount", &client, &binary, Vec::new());
        Ok(HostCluster {
            namespace,
            members: Vec::new(),
            bricks: Vec::new(),
            mount,
            mounts: Vec::new(),
            client,
            mountpoint,
            allowed: vec![BUSY_MACHINE.to_owned()],
            finished: false,
            world,
            workshop,
        })
    }

    /// A new host with a brick that joins by a token. `number` says how its directory is called.
    pub fn add_brick(&mut self, number: usize) -> Result<()> {
        let dir = self.brick_dir(number);
        let host = self.world.host()?;
        let token = self.token("brick", &[])?;
        let mut args = words(&format!("brick --dir {}", dir.display()));
        args.extend(self.join_args(&host, &token));
        let mut brick = Process::new(&format!("brick{number}"), &host, &binary()?, args);
        brick.start()?;
        // From now on the directory is enough.
        brick.set_args(words(&format!("brick --dir {}", dir.display())));
        self.bricks.push(brick);
        Ok(())
    }

    /// A further member of the namespace, on a host of its own. `number` says how its directory is called.
    pub fn add_member(&mut self, number: usize) -> Result<()> {
        let dir = self.workshop.path().join(format!("member{number}"));
        let host = self.world.host()?;
        let token = self.token("namespace", &[])?;
        let listen = SocketAddr::new(host.address(), 7000);
        let args = words(&format!(
            "namespace --dir {} --listen {listen} --join {} --token {token}",
            dir.display(),
            self.namespaces()
        ));
        let mut member = Process::new(&format!("member{number}"), &host, &binary()?, args);
        member.start()?;
        member.set_args(words(&format!("namespace --dir {}", dir.display())));
        self.members.push(member);
        Ok(())
    }

    /// Where the members of the namespace answer, as options say it.
    pub fn namespaces(&self) -> String {
        let all = std::iter::once(&self.namespace).chain(&self.members);
        let all: Vec<String> =
            all.map(|member| SocketAddr::new(member.host().address(), 7000).to_string()).collect();
        all.join(",")
    }

    /// What a brick says to join from a host.
    pub fn join_args(&self, host: &Host, token: &str) -> Vec<OsString> {
        let listen = SocketAddr::new(host.address(), BRICK_PORT);
        let namespace = self.namespaces();
        words(&format!("--listen {listen} --host {} --join {namespace} --token {token}", host.label()))
    }

    /// Starts the mount, with a token the first time.
    pub fn start_mount(&mut self) -> Result<()> {
        self.prepare_mount()?;
        self.mount.start().map(drop)
    }

    /// The same without waiting for it; what it says comes out of the channel.
    pub fn spawn_mount(&mut self) -> Result<Receiver<String>> {
        self.prepare_mount()?;
        self.mount.spawn()
    }

    fn prepare_mount(&mut self) -> Result<()> {
        let credential = self.workshop.path().join("client.cred");
        let token = match credential.exists() {
            true => String::new(),
            false => format!(",token={}", self.token("client", &[])?),
        };
        self.mount.set_args(words(&format!(
            "mount {}:/ {} -f -o host=client,cred={}{token}",
            self.namespaces(),
            self.mountpoint.display(),
            credential.display()
        )));
        Ok(())
    }

    /// A further mount, on a host of its own; its mount point.
    pub fn add_mount(&mut self) -> Result<PathBuf> {
        self.add_mount_with("")
    }

    /// The same with more options, each after a comma.
    pub fn add_mount_with(&mut self, more: &str) -> Result<PathBuf> {
        let host = self.world.host()?;
        let name = format!("mount{}", self.mounts.len() + 1);
        let mountpoint = self.workshop.dir(&name)?;
        let token = self.token("client", &[])?;
        let args = words(&format!(
            "mount {}:/ {} -f -o host={name},cred={},token={token}{more}",
            self.namespaces(),
            mountpoint.display(),
            self.workshop.path().join(format!("{name}.cred")).display()
        ));
        let mut mount = Process::new(&name, &host, &binary()?, args);
        mount.start()?;
        self.mounts.push(mount);
        Ok(mountpoint)
    }

    /// A new host in the same world.
    pub fn new_host(&mut self) -> Result<Host> {
        self.world.host()
    }

    /// Where the namespace answers.
    pub fn namespace_address(&self) -> SocketAddr {
        SocketAddr::new(self.namespace.host().address(), 7000)
    }

    /// Directory of a brick.
    pub fn brick_dir(&self, number: usize) -> PathBuf {
        self.workshop.path().join(format!("brick{number}"))
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// The directory of this test on the local disk.
    pub fn workshop(&self) -> &Workshop {
        &self.workshop
    }

    /// The host with the mount.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The administrator's credential.
    pub fn admin_credential(&self) -> PathBuf {
        self.workshop.path().join("namespace/admin.cred")
    }

    /// A join token.
    pub fn token(&self, role: &str, more: &[&str]) -> Result<String> {
        Ok(self.admin(&["token", role])?.args(more).ok()?.text())
    }

    /// A command of the administrator, on the client's host.
    pub fn admin(&self, verb: &[&str]) -> Result<Run> {
        let run = self.client.run(binary()?).args(verb);
        let run = run.arg("--cred").arg(self.admin_credential());
        Ok(if self.members.is_empty() { run } else { run.arg("--join").arg(self.namespaces()) })
    }

    /// What `namespace list --json` says of each member.
    pub fn member_list(&self) -> Result<Vec<serde_json::Value>> {
        let told = self.admin(&["namespace", "list"])?.arg("--json").ok()?;
        let told: serde_json::Value = serde_json::from_slice(&told.stdout)?;
        told["members"].as_array().cloned().context("no members")
    }

    /// The processes of the namespace.
    pub fn namespace_processes(&mut self) -> Vec<&mut Process> {
        std::iter::once(&mut self.namespace).chain(&mut self.members).collect()
    }

    /// The one that leads, as soon as one does.
    pub fn leader(&mut self) -> Result<&mut Process> {
        let endpoint = wait::until("somebody leads", LEADER_LIMIT, || {
            let leads = self.member_list()?.into_iter().find(|member| member["leads"] == true);
            Ok(leads.and_then(|member| member["endpoint"].as_str().map(str::to_owned)))
        })?;
        let found = self
            .namespace_processes()
            .into_iter()
            .find(|process| endpoint.contains(&format!("//{}:", process.host().address())));
        found.with_context(|| format!("nobody is at {endpoint}"))
    }

    /// `brickyard status --json`, parsed.
    pub fn status(&self) -> Result<serde_json::Value> {
        let done = self.admin(&["status"])?.arg("--json").ok()?;
        serde_json::from_slice(&done.stdout).with_context(|| format!("status is no JSON: {}", done.text()))
    }

    /// Waits until every chain has all its copies in service.
    pub fn wait_whole(&self, limit: Duration) -> Result<()> {
        wait::until_true("every chain has all its copies", limit, || {
            let status = self.status()?;
            let chains = status["chains"].as_array().context("no chains")?;
            Ok(!chains.is_empty() && status::all_whole(&status)?)
        })
        .with_context(|| {
            self.admin(&["status"]).and_then(Run::ok).map_or_else(|e| e.to_string(), |d| d.text())
        })
    }

    /// `brickyard check`: an error with the list unless the cluster is consistent.
    pub fn check(&self, data_too: bool) -> Result<Done> {
        self.checked(data_too)?.success().context("brickyard check")
    }

    /// `brickyard check --data-too` where blocks were flipped: what it put right is no error.
    pub fn check_and_repair(&self) -> Result<Done> {
        self.checked(true)?.exited_with(&[0, 3]).context("brickyard check")
    }

    fn checked(&self, data_too: bool) -> Result<Done> {
        let run = self.admin(&["check"])?;
        let run = if data_too { run.arg("--data-too") } else { run };
        run.limit(Duration::from_secs(300)).run()
    }

    /// Announces WARN and ERROR lines that fit: parts in this order, separated by `.*`.
    pub fn allow_log(&mut self, pattern: &str) {
        self.allowed.push(pattern.to_owned());
    }

    /// Stops everything in good order.
    pub fn stop(&mut self) -> Result<()> {
        for process in self.all().into_iter().rev() {
            if process.runs() {
                process.stop()?;
            }
        }
        Ok(())
    }

    /// In the order in which they are started.
    pub fn all(&mut self) -> Vec<&mut Process> {
        let mut all = vec![&mut self.namespace];
        all.extend(self.members.iter_mut());
        all.extend(self.bricks.iter_mut());
        all.push(&mut self.mount);
        all.extend(self.mounts.iter_mut());
        all
    }

    /// The end of every test: a clean stop and logs without unannounced trouble.
    pub fn finish(mut self) -> Result<()> {
        self.stop()?;
        let allowed = self.allowed.clone();
        for process in self.all() {
            let faults = process.log.faults(&allowed);
            ensure!(
                faults.is_empty(),
                "{}: {} unannounced warnings or errors, first:\n{}",
                process.name,
                faults.len(),
                faults[..faults.len().min(20)].join("\n")
            );
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for HostCluster {
    fn drop(&mut self) {
        if !self.finished {
            let processes =
                [&self.namespace, &self.mount].into_iter().chain(&self.bricks).chain(&self.mounts);
            self.workshop.failed(processes.map(|process| (process.name.as_str(), &process.log)));
            for process in self.all() {
                eprintln!("-- log of {}, last lines:\n{}", process.name, process.log.tail(25));
            }
        }
        // Detach first: whoever hangs in the mount is freed when the daemon dies.
        unmount_below(&self.mountpoint);
        for at in 1..=self.mounts.len() {
            unmount_below(&self.workshop.path().join(format!("mount{at}")));
        }
    }
}
