//! A cluster in a temporary directory: its processes, and how tests talk to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// uid and gid of the user and group that own nothing.
pub const NOBODY: u32 = 65534;

/// Only root can be several users; other callers skip what needs that.
pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}

pub fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

pub struct Cluster {
    dir: tempfile::TempDir,
    pub master: Option<Child>,
    pub agent: Option<Child>,
    slots: u32,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        Said {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8(o.stdout).unwrap(),
            err: String::from_utf8(o.stderr).unwrap(),
        }
    }
}

/// Waits until `look` finds something.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < DEADLINE, "not in {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Cluster {
    /// Files only: no process runs.
    pub fn new(slots: u32) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        // Jobs of other users must reach it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let cluster = Cluster { dir, master: None, agent: None, slots };
        std::fs::create_dir_all(cluster.work()).unwrap();
        let status = Command::new(exe()).arg("init").arg(cluster.root()).status().unwrap();
        assert!(status.success());
        // Clusters of other tests count their jobs from 1 too: each has its own place for TMPDIR.
        let tmp = cluster.dir.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        for open_to_all in [tmp.clone(), cluster.work()] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
            std::fs::set_permissions(open_to_all, mode).unwrap();
        }
        let queue = format!("[[queue]]\nname = \"all.q\"\ntmpdir = {:?}\n", tmp.to_str().unwrap());
        std::fs::write(cluster.root().join("config/queues.toml"), queue).unwrap();
        cluster
    }

    /// With a master and an agent of that many slots.
    pub fn running(slots: u32) -> Cluster {
        let mut cluster = Cluster::new(slots);
        cluster.start_master();
        cluster.start_agent();
        cluster
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join(".cluster")
    }

    pub fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// The TMPDIR of a run, named as users know it: `JOB.TASK.QUEUE`.
    pub fn tmpdir_of(&self, run: &str) -> PathBuf {
        let id = std::fs::read_to_string(self.root().join("id")).unwrap();
        self.tmp().join(format!("{run}.{}", &id[..8]))
    }

    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }

    /// Where the tests' jobs work.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.work().join(name)
    }

    fn log(&self, name: &str) -> File {
        File::options().create(true).append(true).open(self.dir.path().join(name)).unwrap()
    }

    pub fn start_master(&mut self) {
        let log = self.log("master.log");
        let child =
            Command::new(exe()).arg("master").arg(self.root()).stdin(Stdio::null()).stderr(log).spawn();
        self.master = Some(child.unwrap());
    }

    pub fn start_agent(&mut self) {
        let log = self.log("agent.log");
        let child = Command::new(exe())
            .arg("agent")
            .args([self.root(), self.spool()])
            .arg(self.slots.to_string())
            .env("SECRET_OF_THE_AGENT", "1")
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        self.agent = Some(child.unwrap());
    }

    pub fn kill_master(&mut self) {
        kill(self.master.take());
    }

    pub fn kill_agent(&mut self) {
        kill(self.agent.take());
    }

    /// A `q` command in the work directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(exe());
        command
            .args(words)
            .current_dir(self.work())
            .env("BRICKYARD_ROOT", self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn say(&self, words: &[&str]) -> Said {
        self.command(words).output().unwrap().into()
    }

    /// A `q` command of the user `nobody`. The kernel's link to this program needs no way through its directories.
    pub fn say_as_nobody(&self, words: &[&str]) -> Said {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(words)
            .current_dir(self.work())
            .env("BRICKYARD_ROOT", self.dir.path())
            .stdin(Stdio::null());
        std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
        std::os::unix::process::CommandExt::gid(&mut command, NOBODY);
        command.output().unwrap().into()
    }

    /// A script in the work directory.
    pub fn script(&self, name: &str, text: &str) -> String {
        let path = self.file(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    }

    /// Submits a script's text and gives its number.
    pub fn submit(&self, options: &[&str], text: &str) -> u64 {
        let script = self.script("job.sh", text);
        let mut words = vec!["qsub", "-terse", "-cwd"];
        words.extend_from_slice(options);
        words.push(&script);
        let said = self.say(&words);
        assert_eq!(said.code, 0, "{said:?}");
        said.out.trim().split('.').next().unwrap().parse().unwrap()
    }

    pub fn text(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.file(name)).ok()
    }

    #[track_caller]
    pub fn wait_text(&self, name: &str, wanted: &str) {
        let mut last = None;
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            last = self.text(name);
            if last.as_deref() == Some(wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{name} holds {last:?}, not {wanted:?}\n{}", self.logs());
    }

    /// The accounting lines of a job, split into fields.
    pub fn accounting(&self, id: u64) -> Vec<Vec<String>> {
        let text = std::fs::read_to_string(self.root().join("accounting")).unwrap_or_default();
        let lines = text.lines().map(|l| l.split(':').map(str::to_owned).collect::<Vec<_>>());
        lines.filter(|f| f.get(5).is_some_and(|n| *n == id.to_string())).collect()
    }

    /// Waits until a job has that many accounting lines.
    #[track_caller]
    pub fn wait_accounted(&self, id: u64, lines: usize) -> Vec<Vec<String>> {
        let begin = Instant::now();
        loop {
            let found = self.accounting(id);
            if found.len() >= lines {
                return found;
            }
            assert!(
                begin.elapsed() < DEADLINE,
                "job {id} has {} lines, not {lines}\n{}",
                found.len(),
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The state column of a job's rows.
    pub fn states(&self, id: u64) -> Vec<String> {
        let said = self.say(&["qstat", "-u", "*"]);
        assert_eq!(said.code, 0, "{said:?}");
        let rows = said.out.lines().skip(2).map(|l| l.split_whitespace().collect::<Vec<_>>());
        rows.filter(|r| r[0] == id.to_string()).map(|r| r[4].to_owned()).collect()
    }

    #[track_caller]
    pub fn wait_state(&self, id: u64, state: &str) {
        let mut last = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < DEADLINE {
            last = self.states(id);
            if last == [state] {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("job {id} is {last:?}, not {state}\n{}", self.logs());
    }

    /// What the processes had to say, for a failing test.
    pub fn logs(&self) -> String {
        let read = |p: &Path| std::fs::read_to_string(p).unwrap_or_default();
        let mut out = String::new();
        for name in ["master.log", "agent.log"] {
            out.push_str(&format!("--- {name}\n{}", read(&self.dir.path().join(name))));
        }
        for run in std::fs::read_dir(self.spool().join("runs")).into_iter().flatten().flatten() {
            out.push_str(&format!("--- {}\n{}", run.path().display(), read(&run.path().join("log"))));
        }
        out
    }
}

/// Ends a process of ours as hard as can be.
pub fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Ask every job's supervisor to end before the files go.
        for run in std::fs::read_dir(self.spool().join("runs")).into_iter().flatten().flatten() {
            let _gone_is_fine = std::fs::write(run.path().join("kill"), b"");
        }
        self.kill_master();
        self.kill_agent();
        let begin = Instant::now();
        let locked = |p: &Path| File::open(p.join("lock")).is_ok_and(|f| f.try_lock().is_err());
        for run in std::fs::read_dir(self.spool().join("runs")).into_iter().flatten().flatten() {
            while locked(&run.path()) && begin.elapsed() < DEADLINE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
