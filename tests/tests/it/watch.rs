//! `.brickyard.watch` and `brickyard watch` on one mount. `hosts_watch` tells of several.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use brickyard_tests::cluster::binary;
use brickyard_tests::run::NOBODY;
use brickyard_tests::{Cluster, Options, Run, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const FILE: &str = ".brickyard.watch";

fn errno(result: std::io::Result<impl Sized>) -> i32 {
    result.err().and_then(|error| error.raw_os_error()).unwrap_or(0)
}

/// A directory that is watched, and the open watch.
fn watched(cluster: &Cluster, name: &str) -> Result<(PathBuf, File)> {
    let dir = cluster.dir(name)?;
    let file = File::open(dir.join(FILE))?;
    Ok((dir, file))
}

/// The next lines; waits for the first one.
fn read(mut file: &File) -> Result<Vec<Value>> {
    let mut buffer = vec![0; 64 << 10];
    let length = file.read(&mut buffer)?;
    let lines = buffer[..length].split_inclusive(|byte| *byte == b'\n');
    lines
        .map(|line| serde_json::from_slice(line).with_context(|| format!("{}", line.escape_ascii())))
        .collect()
}

/// Lines until so many have come.
fn read_all(file: &File, count: usize) -> Result<Vec<Value>> {
    let mut lines = Vec::new();
    while lines.len() < count {
        lines.extend(read(file)?);
    }
    ensure!(lines.len() == count, "{lines:?}");
    Ok(lines)
}

fn whats(lines: &[Value]) -> Vec<String> {
    lines
        .iter()
        .map(|line| {
            format!("{} {}", line["what"].as_str().unwrap_or("?"), line["name"].as_str().unwrap_or("?"))
        })
        .collect()
}

/// It is a file for whoever may read the directory, in no listing, and nothing that copies, packs, finds or removes trees
/// sees it; it can't be made, changed, linked, renamed or removed.
#[test]
fn the_watch_is_in_no_bodys_way() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let top = cluster.dir("top")?;
    let tree = top.join("tree");
    fs::create_dir_all(tree.join("a/b"))?;
    fs::write(tree.join("a/file"), "content")?;
    let watch = tree.join("a").join(FILE);
    for at in [cluster.mount().join(FILE), watch.clone(), tree.join("a/b").join(FILE)] {
        let seen = at.metadata()?;
        ensure!(seen.is_file() && seen.len() == 0 && seen.mode() & 0o7777 == 0o444, "{at:?}: {seen:?}");
    }
    let own = tree.join("file");
    fs::write(&own, "")?;
    ensure!(errno(File::create(&watch)) == 1 && errno(fs::write(&watch, "x")) == 1);
    ensure!(errno(File::options().read(true).write(true).open(&watch)) == 1);
    ensure!(errno(File::create_new(tree.join(FILE))) == 17 && errno(fs::create_dir(&watch)) == 17);
    ensure!(errno(fs::hard_link(&own, &watch)) == 17 && errno(std::os::unix::fs::symlink("x", &watch)) == 17);
    ensure!(errno(fs::hard_link(&watch, tree.join("other"))) == 1);
    ensure!(errno(fs::rename(&own, &watch)) == 1 && errno(fs::rename(&watch, tree.join("other"))) == 1);
    ensure!(errno(fs::remove_file(&watch)) == 1 && errno(fs::remove_dir(&watch)) == 20);
    ensure!(errno(fs::set_permissions(&watch, fs::Permissions::from_mode(0o777))) == 1);
    // Whoever may not read the directory may not watch it.
    let reads = |path: &Path| {
        Run::as_user(NOBODY, "sh")
            .arg("-c")
            .arg("exec 3<\"$0\"")
            .arg(path)
            .run()
            .map(|done| done.status.success())
    };
    ensure!(reads(&watch)?, "who may read the directory may not watch it");
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o711))?;
    ensure!(watch.metadata()?.mode() & 0o777 == 0o400);
    ensure!(!reads(&watch)?, "who may not read the directory may watch it");
    Run::new("setfacl").args(["-m", "u:65534:rx"]).arg(tree.join("a")).ok()?;
    ensure!(reads(&watch)?, "who may read the directory by its list may not watch it");
    Run::new("setfacl").arg("-b").arg(tree.join("a")).ok()?;
    // Programs that walk trees.
    let script = format!(
        "find tree | sort > found; ! grep watch found
         ! ls -lAR tree | grep watch
         cp -a tree copy; diff -r tree copy; find copy | sed s/^copy/tree/ | sort | cmp - found
         tar -cf tree.tar tree; ! tar -tf tree.tar | grep watch
         test -e copy/{FILE}; test ! -w copy/{FILE} -o \"$(id -u)\" = 0
         rm -rf copy; test ! -e copy
         rmdir tree/a/b; mkdir tree/a/b; rm -rf tree; test ! -e tree"
    );
    Run::bash(&script).cwd(&top).ok()?;
    cluster.check()?;
    cluster.finish()
}

/// Every change of the directory is told, in order and once to each who has it open, from the moment of opening on; whole lines
/// also in small reads, and names that are no text as bytes.
#[test]
fn a_reader_is_told_each_change() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let (dir, first) = watched(&cluster, "d")?;
    let (elsewhere, _) = watched(&cluster, "elsewhere")?;
    fs::create_dir(dir.join("sub"))?;
    let second = File::open(dir.join(FILE))?;
    fs::write(dir.join("sub/not-told"), "x")?;
    fs::write(dir.join("file"), "content")?;
    fs::rename(dir.join("file"), dir.join("new"))?;
    fs::rename(dir.join("new"), elsewhere.join("there"))?;
    let odd = std::ffi::OsStr::from_bytes(b"odd\"\n\xff");
    std::os::unix::fs::symlink("to", dir.join(odd))?;
    fs::hard_link(elsewhere.join("there"), dir.join("again"))?;
    fs::set_permissions(dir.join("again"), fs::Permissions::from_mode(0o600))?;
    fs::remove_file(dir.join("again"))?;
    fs::remove_file(dir.join("sub/not-told"))?;
    fs::remove_dir(dir.join("sub"))?;
    let expected = [
        "mkdir sub",
        "create file",
        "write file",
        "rename_from file",
        "rename_to new",
        "rename_from new",
        "symlink odd\"\n\u{fffd}",
        "link again",
        "setattr again",
        "unlink again",
        "rmdir sub",
    ];
    let lines = read_all(&first, expected.len())?;
    ensure!(whats(&lines) == expected, "{lines:?}");
    let later = read_all(&second, expected.len() - 1)?;
    ensure!(later == lines[1..], "{later:?}");
    let indexes: Vec<u64> = lines.iter().filter_map(|line| line["index"].as_u64()).collect();
    ensure!(indexes.len() == lines.len() && indexes.is_sorted_by(|a, b| a < b), "{indexes:?}");
    ensure!(lines[6]["name_hex"] == "6f6464220aff" && lines[5]["to"] == "there", "{lines:?}");
    ensure!(lines[5]["to_dir"] == elsewhere.metadata()?.ino() && lines[4]["from"] == "file", "{lines:?}");
    ensure!(lines[7]["inode"] == elsewhere.join("there").metadata()?.ino(), "{lines:?}");
    // A reader with little room gets the same bytes.
    fs::write(dir.join("x".repeat(200)), "")?;
    let mut small = Vec::new();
    while !small.ends_with(b"\n") {
        let mut part = [0; 7];
        let length = (&first).read(&mut part)?;
        small.extend_from_slice(&part[..length]);
    }
    let small: Value = serde_json::from_slice(&small)?;
    ensure!(small == read(&second)?[0] && small["what"] == "create", "{small}");
    // A directory that is removed says so, and ends.
    fs::remove_file(dir.join("x".repeat(200)))?;
    fs::remove_file(dir.join(odd))?;
    fs::remove_dir(&dir)?;
    let last = read_all(&second, 3)?;
    ensure!(last[0]["what"] == "unlink" && last[1]["name_hex"] == "6f6464220aff", "{last:?}");
    ensure!(last[2]["gone"] == true, "{last:?}");
    ensure!(read(&second)?.is_empty() && read(&second)?.is_empty());
    drop((first, second));
    cluster.check()?;
    cluster.finish()
}

/// Without waiting there is either what has happened or nothing; `poll` says which, and wakes.
#[test]
fn polling_and_not_waiting() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let (dir, _) = watched(&cluster, "d")?;
    let file = File::options().read(true).custom_flags(0o4000).open(dir.join(FILE))?;
    let nothing = || {
        read(&file).is_err_and(|e| {
            e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::WouldBlock)
        })
    };
    ensure!(nothing() && nothing());
    fs::create_dir(dir.join("a"))?;
    ensure!(whats(&read(&file)?) == ["mkdir a"] && nothing());
    let script = "import os,select,sys,threading,time
d,f=sys.argv[1],os.open(sys.argv[1]+'/.brickyard.watch',os.O_RDONLY|os.O_NONBLOCK)
p=select.poll(); p.register(f,select.POLLIN)
e=select.epoll(); e.register(f,select.EPOLLIN)
assert p.poll(0)==[] and p.poll(50)==[] and e.poll(0.05)==[]
for n in range(20):
    # What was acknowledged before is seen at once; what comes later wakes.
    os.mkdir(d+'/now%d'%n)
    assert p.poll(0)==[(f,select.POLLIN)], 'not seen at once'
    assert b'now%d'%n in os.read(f,65536)
    assert p.poll(0)==[]
    t=threading.Timer(0.02,os.mkdir,[d+'/later%d'%n]); t.start()
    b=time.monotonic()
    got=p.poll(20000) if n%2 else e.poll(20)
    assert len(got)==1 and time.monotonic()-b<5, (got,time.monotonic()-b)
    t.join()
    assert b'later%d'%n in os.read(f,65536)
# An ordinary file never keeps anybody waiting.
g=os.open(d+'/plain',os.O_RDWR|os.O_CREAT)
q=select.poll(); q.register(g,select.POLLIN|select.POLLOUT)
assert q.poll(0)==[(g,select.POLLIN|select.POLLOUT)]
assert select.select([g],[g],[],0)==([g],[g],[])
os.read(f,65536)
for n in range(20): os.rmdir(d+'/now%d'%n); os.rmdir(d+'/later%d'%n)
os.rmdir(d+'/a'); os.unlink(d+'/plain'); os.rmdir(d)
time.sleep(0)
got=p.poll(20000)
assert got and got[0][1]&select.POLLIN, got
data=b''
while not data.endswith(b'{\"gone\":true}\\n'): data+=os.read(f,65536)
assert os.read(f,65536)==b'' and p.poll(0)[0][1]&select.POLLHUP
print('done')";
    let done = Run::new("python3").arg("-c").arg(script).arg(&dir).limit(Duration::from_secs(60)).ok()?;
    ensure!(done.text() == "done", "{done:?}");
    drop(file);
    cluster.finish()
}

/// A process that reads and waits.
struct Reader(Child);

impl Reader {
    fn start(path: &Path) -> Result<Reader> {
        let child = Command::new("cat").arg(path).stdout(Stdio::piped()).spawn()?;
        let wchan = format!("/proc/{}/wchan", child.id());
        wait::until_true("it waits for a change", LIMIT, || {
            Ok(fs::read_to_string(&wchan)?.contains("request_wait_answer"))
        })?;
        Ok(Reader(child))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.0.id() as i32).context("no process")?;
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Readers wait by the dozen and keep nobody waiting; one that is killed, or sent a signal, ends at once, and nothing of it is
/// left.
#[test]
fn a_blocked_reader_ends_at_a_signal() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let (dir, own) = watched(&cluster, "d")?;
    let mut readers = (0..40).map(|_| Reader::start(&dir.join(FILE))).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    for number in 0..20 {
        let path = cluster.mount().join(format!("other-{number}"));
        fs::write(&path, "content")?;
        ensure!(fs::read(&path)? == b"content");
    }
    ensure!(begun.elapsed() < Duration::from_secs(10), "others waited {:?}", begun.elapsed());
    for (number, signal) in [Signal::KILL, Signal::TERM, Signal::INT].into_iter().enumerate() {
        let reader = &mut readers[number];
        let begun = Instant::now();
        reader.signal(signal)?;
        let ended = reader.0.wait()?;
        ensure!(ended.signal() == Some(signal.as_raw()), "{ended}");
        ensure!(begun.elapsed() < Duration::from_secs(1), "{signal:?} took {:?}", begun.elapsed());
    }
    // A signal that is handled interrupts, and the reader goes on.
    let script = "import os,signal,sys
f=os.open(sys.argv[1],os.O_RDONLY)
class Rung(Exception): pass
def ring(*_): raise Rung
signal.signal(signal.SIGALRM,ring)
signal.setitimer(signal.ITIMER_REAL,0.2)
try:
    os.read(f,4096); print('read')
except Rung: print('interrupted')
os.mkdir(sys.argv[2]); print(os.read(f,4096).decode())";
    let done = Run::new("python3").arg("-c").arg(script).arg(dir.join(FILE)).arg(dir.join("x")).ok()?;
    ensure!(done.text().starts_with("interrupted\n{\"index\":"), "{done:?}");
    // All who still wait are told.
    for reader in &mut readers[3..] {
        let mut line = String::new();
        BufReader::new(reader.0.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line.contains("\"mkdir\""), "{line}");
    }
    ensure!(whats(&read(&own)?) == ["mkdir x"]);
    // Far more than one connection carries calls: all are told, and nobody else is kept waiting.
    let script = "import os,resource,sys,threading
resource.setrlimit(resource.RLIMIT_NOFILE,(4096,4096))
d=sys.argv[1]
files=[os.open(d+'/.brickyard.watch',os.O_RDONLY) for _ in range(1200)]
told=[]
threads=[threading.Thread(target=lambda f=f: told.append(os.read(f,4096))) for f in files]
threading.stack_size(65536)
for t in threads: t.start()
os.mkdir(d+'/many')
for t in threads: t.join()
assert len(told)==1200 and all(b'many' in line for line in told)
print('done')";
    let run = Run::new("python3").arg("-c").arg(script).arg(&dir).limit(Duration::from_secs(60));
    ensure!(run.ok()?.text() == "done");
    drop((readers, own));
    cluster.finish()
}

/// Whoever waits for a change that may never come does not keep the mount from ending.
#[test]
fn a_mount_ends_in_spite_of_watchers() -> Result<()> {
    let mut cluster = Cluster::start(Options::default())?;
    let (dir, own) = watched(&cluster, "d")?;
    let mut reader = Reader::start(&dir.join(FILE))?;
    drop(own);
    let begun = Instant::now();
    cluster.stop()?;
    ensure!(begun.elapsed() < Duration::from_secs(8), "it took {:?}", begun.elapsed());
    ensure!(reader.0.wait()?.code() == Some(1));
    cluster.up()?;
    fs::create_dir(dir.join("x"))?;
    cluster.finish()
}

/// `brickyard watch` on its way, with the lines that it says.
pub(crate) struct Watch {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Watch {
    pub(crate) fn start(dir: &Path, more: &[&str]) -> Result<Watch> {
        let mut command = Command::new(binary()?);
        command.arg("watch").args(more).arg(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().context("no output")?;
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Whoever listened may be gone.
                let _ = sender.send(line);
            }
        });
        Ok(Watch { child, lines })
    }

    pub(crate) fn next(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.lines.recv_timeout(LIMIT)?)?)
    }

    /// Whether it has said something by now; that is taken.
    pub(crate) fn try_next(&self) -> Result<bool> {
        Ok(self.lines.recv_timeout(Duration::from_millis(200)).is_ok())
    }

    /// Ends it by a signal; what it had said and nobody had taken.
    pub(crate) fn end(mut self, signal: Signal) -> Result<Vec<Value>> {
        kill_process(Pid::from_raw(self.child.id() as i32).context("no process")?, signal)?;
        let begun = Instant::now();
        let status = self.child.wait()?;
        ensure!(status.code() == Some(0), "{signal:?}: {status}");
        ensure!(begun.elapsed() < Duration::from_secs(2), "{signal:?} took {:?}", begun.elapsed());
        self.lines.iter().map(|line| Ok(serde_json::from_str(&line)?)).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command begins where it is told to, and ends well by signals, by its reader's end and with its directory; what can't be
/// watched is refused in one line.
#[test]
fn a_watch_ends_well() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let (dir, _) = watched(&cluster, "d")?;
    let command = |args: &[&str], dir: &Path| Run::new(binary()?).arg("watch").args(args).arg(dir).run();
    let index = |dir: &Path| -> Result<u64> { Ok(command(&["--index"], dir)?.success()?.text().parse()?) };
    let before = index(&dir)?;
    fs::create_dir(dir.join("a"))?;
    fs::create_dir(cluster.mount().join("elsewhere"))?;
    fs::create_dir(dir.join("b"))?;
    ensure!(index(&dir)? == before + 3);
    for signal in [Signal::INT, Signal::TERM] {
        let watch = Watch::start(&dir, &["--since", &before.to_string()])?;
        let lines = [watch.next()?, watch.next()?];
        ensure!(whats(&lines) == ["mkdir a", "mkdir b"] && lines[1]["index"] == before + 3, "{lines:?}");
        let goes_on = Watch::start(&dir, &["--since", &lines[0]["index"].to_string()])?;
        ensure!(goes_on.next()? == lines[1]);
        ensure!(goes_on.end(signal)?.is_empty() && watch.end(signal)?.is_empty());
    }
    // From the beginning of everything: the making of the directory is in its parent.
    let all = Watch::start(&dir, &["--since", "0"])?;
    ensure!(whats(&[all.next()?, all.next()?]) == ["mkdir a", "mkdir b"]);
    let of_parent = Watch::start(cluster.mount(), &["--since", "0"])?;
    wait::until_true("the making of the directory", LIMIT, || {
        let line = of_parent.next()?;
        Ok(line["name"] == "d" && line["what"] == "mkdir")
    })?;
    drop((all, of_parent));
    // Nobody reads any more.
    let script = format!("\"$0\" watch --since {before} \"$1\" | head -n 1; exit ${{PIPESTATUS[0]}}");
    let mut piped =
        Command::new("bash").arg("-c").arg(script).arg(binary()?).arg(&dir).stdout(Stdio::piped()).spawn()?;
    let ended = wait::until("the watch without a reader ends", LIMIT, || {
        // It notices when it has something to say.
        let made = dir.join("noise");
        fs::create_dir(&made)?;
        fs::remove_dir(&made)?;
        Ok(piped.try_wait()?)
    })?;
    ensure!(ended.code() == Some(0), "{ended}");
    let refused = |dir: &Path, args: &[&str], says: &str| -> Result<()> {
        let done = command(args, dir)?;
        ensure!(done.status.code() == Some(1) && done.error_text().lines().count() == 1, "{done:?}");
        ensure!(done.error_text().contains(says), "{done:?}");
        Ok(())
    };
    let local = cluster.workshop().dir("local")?;
    refused(&local, &[], "is not on a Brickyard mount")?;
    fs::write(local.join(FILE), "")?;
    refused(&local, &[], "is an ordinary file")?;
    refused(&dir.join("missing"), &["--since", "1"], "missing")?;
    fs::write(dir.join("file"), "")?;
    refused(&dir.join("file"), &[], "is no directory")?;
    let watch = Watch::start(&dir, &["--since", &index(&dir)?.to_string()])?;
    Run::bash("rm -rf \"$0\"").arg(&dir).ok()?;
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line: &Value| line["gone"] != true) {
        lines.push(watch.next()?);
    }
    ensure!(lines.len() == 4, "{lines:?}");
    let mut watch = watch;
    ensure!(watch.child.wait()?.code() == Some(0));
    cluster.finish()
}

/// What the journal does not keep any more is told to who asks for it and to who reads too slowly, with where to go on;
/// the command ends with an exit code of its own.
#[test]
fn changes_that_are_not_kept_are_told() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let (dir, slow) = watched(&cluster, "d")?;
    let set = |args: &[&str]| {
        Run::new(binary()?).args(["namespace", "journal"]).args(args).arg("--data").arg(cluster.data()).run()
    };
    ensure!(!set(&["--entries", "255"])?.status.success() && !set(&["--age", "0s"])?.status.success());
    set(&["--entries", "256", "--age", "1h"])?.success()?;
    for number in 0..400 {
        let path = dir.join(number.to_string());
        fs::create_dir(&path)?;
        fs::remove_dir(&path)?;
    }
    let shown: Value = serde_json::from_slice(&set(&["--json"])?.success()?.stdout)?;
    let (newest, kept) =
        (shown["newest"].as_u64().context("no index")?, shown["kept"].as_u64().context("no number")?);
    ensure!((256..=512).contains(&kept) && shown["most_age_s"] == 3600, "{shown}");
    let lines = read(&slow)?;
    ensure!(
        lines.len() == 1 && lines[0]["lost"] == true && lines[0]["index"].as_u64() >= Some(newest),
        "{lines:?}"
    );
    // It goes on from there.
    fs::create_dir(dir.join("after"))?;
    ensure!(whats(&read(&slow)?) == ["mkdir after"]);
    for since in ["0", "1", "99999999"] {
        let done = Run::new(binary()?).args(["watch", "--since", since]).arg(&dir).run()?;
        ensure!(done.status.code() == Some(3), "{done:?}");
        let line: Value = serde_json::from_str(&done.text())?;
        ensure!(line["lost"] == true && line["index"].as_u64() > Some(newest), "{done:?}");
        let advice = format!("go on with `brickyard watch --since {}", line["index"]);
        ensure!(done.error_text().contains(&advice) && done.error_text().lines().count() == 1, "{done:?}");
    }
    let watch = Watch::start(&dir, &["--since", &(newest - 100).to_string()])?;
    ensure!(watch.next()?["index"].as_u64() == Some(newest - 99));
    ensure!(!watch.end(Signal::TERM)?.is_empty());
    ensure!(slow.as_raw_fd() > 0);
    drop(slow);
    cluster.check()?;
    cluster.finish()
}

/// The example on the users' page does what the page says.
#[test]
fn the_page_on_watching_is_true() -> Result<()> {
    let cluster = Cluster::start(Options::default())?;
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/user.md"))?;
    let section =
        page.split("\n## ").find(|part| part.starts_with("Waiting for changes")).context("no section")?;
    let blocks: Vec<&str> =
        section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    ensure!(blocks.len() == 2, "{blocks:?}");
    let inbox = cluster.dir("inbox")?;
    let bin = cluster.workshop().dir("bin")?;
    std::os::unix::fs::symlink(binary()?, bin.join("brickyard"))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    // A shell that waits for one file, and is told of it.
    let script = blocks[0].to_owned();
    let (dir, with) = (cluster.mount().to_owned(), path.clone());
    let waits = std::thread::spawn(move || Run::bash(&script).cwd(dir).env("PATH", with).limit(LIMIT).run());
    wait::until_true("the shell of the page is told", LIMIT, || {
        // It may not have opened it yet.
        let made = inbox.join("hello");
        fs::write(&made, "hello")?;
        fs::remove_file(&made)?;
        Ok(waits.is_finished())
    })?;
    let done = waits.join().map_err(|_| anyhow::anyhow!("the shell panicked"))??.success()?;
    // It may have begun when the file was there already, and is told that it went.
    let line: Value = serde_json::from_str(&done.text())?;
    ensure!(line["name"] == "hello" && line["inode"].is_u64(), "{done:?}");
    // A mirror: everything once, then what changes.
    for name in ["one", "two"] {
        fs::write(inbox.join(name), name)?;
    }
    let mirror = cluster.workshop().dir("mirror")?;
    let script = blocks[1].to_owned();
    let mut child = Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(cluster.mount())
        .env("PATH", path)
        .env("MIRROR", &mirror)
        .stdin(Stdio::null())
        .spawn()?;
    let same = || Ok(Run::new("diff").arg("-r").arg(&inbox).arg(&mirror).run()?.status.success());
    wait::until_true("the mirror is made", LIMIT, same)?;
    fs::write(inbox.join("three"), "3")?;
    fs::rename(inbox.join("one"), inbox.join("four"))?;
    fs::remove_file(inbox.join("two"))?;
    wait::until_true("the mirror follows", LIMIT, same)?;
    fs::remove_dir_all(&inbox)?;
    wait::until("the mirror ends with its directory", LIMIT, || Ok(child.try_wait()?))?;
    cluster.finish()
}
