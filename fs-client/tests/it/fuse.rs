//! A real mount over the cluster in memory. Skipped, aloud, where there is no FUSE.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brickyard_fs_client::{Client, ClientConfig, Error, Mount, MountConfig, MountProblem, Sharing};
use rustix::fs::{FallocateFlags, RenameFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use wire::brick::BrickRequest;
use wire::status::Status;

use crate::cluster::{Cluster, Fault, pattern, until};

/// A mount in a directory of its own that goes away whatever happens.
struct Mounted {
    cluster: Cluster,
    client: Client,
    mount: Mount,
    dir: Guard,
}

struct Guard(tempfile::TempDir);

impl Drop for Guard {
    fn drop(&mut self) {
        // Fails when it is unmounted already, which is as good.
        let _ = rustix::mount::unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

impl Guard {
    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

fn config() -> MountConfig {
    MountConfig { stop_timeout: Duration::from_secs(3), ..MountConfig::default() }
}

fn usable() -> bool {
    let usable = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !usable {
        eprintln!("skipped: no FUSE here");
    }
    usable
}

async fn mounted() -> Option<Mounted> {
    if !usable() {
        return None;
    }
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let dir = Guard(tempfile::tempdir().unwrap());
    let mount = Mount::start(client.clone(), &dir.path(), config()).await.unwrap();
    Some(Mounted { cluster, client, mount, dir })
}

impl Mounted {
    /// Runs what programs would do, outside the runtime's own threads.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let path = self.dir.path();
        let work = tokio::task::spawn_blocking(move || work(&path));
        tokio::time::timeout(Duration::from_secs(60), work).await.expect("the mount hangs").unwrap()
    }

    async fn end(self) {
        self.mount.stop().await.unwrap();
        self.client.shutdown().await.unwrap();
        assert!(!list_of_mounts().contains(&*self.dir.path().to_string_lossy()));
        drop(self.cluster);
    }
}

fn list_of_mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap()
}

/// Files and names through the kernel.
#[tokio::test(flavor = "multi_thread")]
async fn files_and_names_through_the_kernel() {
    let Some(m) = mounted().await else { return };
    let line =
        list_of_mounts().lines().find(|l| l.contains(&*m.dir.path().to_string_lossy())).unwrap().to_owned();
    assert!(line.starts_with("brickyard ") && line.contains(" fuse.brickyard "), "{line}");
    assert!(!line.contains("nodev") && !line.contains("nosuid") && line.contains("allow_other"), "{line}");
    m.run(|dir| {
        let data = pattern(1, 5_000_000);
        fs::write(dir.join("file"), &data).unwrap();
        assert!(fs::read(dir.join("file")).unwrap() == data);
        let meta = fs::metadata(dir.join("file")).unwrap();
        assert_eq!((meta.len(), meta.nlink(), meta.mode() & 0o170_000), (5_000_000, 1, 0o100_000));
        assert!(meta.blocks() * 512 >= 5_000_000);

        fs::create_dir(dir.join("sub")).unwrap();
        fs::hard_link(dir.join("file"), dir.join("sub/link")).unwrap();
        assert_eq!(fs::metadata(dir.join("file")).unwrap().nlink(), 2);
        std::os::unix::fs::symlink("../file", dir.join("sub/symlink")).unwrap();
        assert!(fs::read(dir.join("sub/symlink")).unwrap() == data);
        assert_eq!(fs::read_link(dir.join("sub/symlink")).unwrap(), Path::new("../file"));
        fs::rename(dir.join("file"), dir.join("sub/moved")).unwrap();
        assert!(!dir.join("file").exists());
        fs::set_permissions(dir.join("sub/moved"), fs::Permissions::from_mode(0o4711)).unwrap();
        assert_eq!(fs::metadata(dir.join("sub/moved")).unwrap().mode() & 0o7777, 0o4711);
        fs::remove_file(dir.join("sub/link")).unwrap();
        assert_eq!(fs::remove_dir(dir.join("sub")).unwrap_err().raw_os_error(), Some(39));

        let names = 1500;
        fs::create_dir(dir.join("many")).unwrap();
        for nth in 0..names {
            fs::write(dir.join(format!("many/{nth}")), nth.to_string()).unwrap();
        }
        let mut listed: Vec<String> = fs::read_dir(dir.join("many"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        listed.sort();
        let mut expected: Vec<String> = (0..names).map(|nth| nth.to_string()).collect();
        expected.sort();
        assert_eq!(listed, expected);
        fs::remove_dir_all(dir.join("many")).unwrap();
        assert_eq!(fs::metadata(dir.join("nothing")).unwrap_err().raw_os_error(), Some(2));
        let long = dir.join("x".repeat(256));
        assert_eq!(fs::write(long, "x").unwrap_err().raw_os_error(), Some(36));
    })
    .await;
    m.end().await;
}

/// Append, truncate, holes, copies, locks, attributes, direct and synchronous writes.
#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_read_and_write() {
    let Some(m) = mounted().await else { return };
    m.run(|dir| {
        let path = dir.join("f");
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let mut file = open();
        file.write_all(b"hello").unwrap();
        let mut append = OpenOptions::new().append(true).open(&path).unwrap();
        append.write_all(b" world").unwrap();
        file.write_at(b"J", 0).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"Jello world");
        file.set_len(4).unwrap();
        file.set_len(8).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"Jell\0\0\0\0");
        OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);

        // A sparse file: data at 3 MiB.
        let data = pattern(2, 200_000);
        file.write_all_at(&data, 3 << 20).unwrap();
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap(), 3 << 20);
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 0);
        let copy = OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("copy")).unwrap();
        let (mut from, mut to) = (0, 0);
        let len = (3 << 20) + 200_000;
        let mut left = len;
        while left > 0 {
            let copied =
                rustix::fs::copy_file_range(&file, Some(&mut from), &copy, Some(&mut to), left).unwrap();
            assert!(copied > 0);
            left -= copied;
        }
        let mut all = Vec::new();
        let mut copy = copy;
        copy.seek(SeekFrom::Start(0)).unwrap();
        copy.read_to_end(&mut all).unwrap();
        assert!(all.len() == len && all[3 << 20..] == data && all[..3 << 20].iter().all(|b| *b == 0));
        copy.sync_all().unwrap();
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20, "the hole was filled");

        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&copy, punch, 3 << 20, 100_000).unwrap();
        let mut part = vec![1; 100_001];
        copy.read_exact_at(&mut part, 3 << 20).unwrap();
        assert!(part[..100_000].iter().all(|b| *b == 0) && part[100_000] == data[100_000]);
        rustix::fs::fallocate(&copy, FallocateFlags::empty(), 0, 5 << 20).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 5 << 20);
        let refused = rustix::fs::fallocate(&copy, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
        assert_eq!(refused.unwrap_err(), Errno::OPNOTSUPP);

        let cwd = rustix::fs::CWD;
        let noreplace = rustix::fs::renameat_with(cwd, &path, cwd, dir.join("copy"), RenameFlags::NOREPLACE);
        assert_eq!(noreplace.unwrap_err(), Errno::EXIST);
        rustix::fs::renameat_with(cwd, &path, cwd, dir.join("copy"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 5 << 20);

        rustix::fs::setxattr(&path, "user.color", b"blue", rustix::fs::XattrFlags::empty()).unwrap();
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(&path, "user.color", &mut value).unwrap();
        assert_eq!(&value[..len], b"blue");
        let mut short = [0; 2];
        assert_eq!(rustix::fs::getxattr(&path, "user.color", &mut short[..]).unwrap_err(), Errno::RANGE);
        let foreign = rustix::fs::setxattr(&path, "system.other", b"", rustix::fs::XattrFlags::empty());
        assert_eq!(foreign.unwrap_err(), Errno::OPNOTSUPP);

        let lock = open();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let other = open();
        let busy = rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        assert_eq!(busy.unwrap_err(), Errno::WOULDBLOCK);

        let direct = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags((rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC).bits() as i32)
            .open(dir.join("direct"))
            .unwrap();
        direct.write_all_at(&[7; 8192], 0).unwrap();
        let mut back = [0; 10000];
        assert_eq!(direct.read_at(&mut back, 0).unwrap(), 8192);

        // Deleted while open.
        let mut ghost =
            OpenOptions::new().read(true).write(true).create_new(true).open(dir.join("ghost")).unwrap();
        fs::remove_file(dir.join("ghost")).unwrap();
        ghost.write_all(b"boo").unwrap();
        ghost.sync_all().unwrap();
        ghost.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        ghost.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), ghost.metadata().unwrap().nlink()), ("boo", 0));

        // Times that were set survive closing after a write.
        let mut timed = OpenOptions::new().write(true).create_new(true).open(dir.join("timed")).unwrap();
        timed.write_all(b"x").unwrap();
        let then = std::time::UNIX_EPOCH - Duration::from_millis(1_500);
        timed.set_modified(then).unwrap();
        drop(timed);
        assert_eq!(fs::metadata(dir.join("timed")).unwrap().modified().unwrap(), then);
    })
    .await;
    m.end().await;
}

/// A full disk reaches the program that writes, by close or fsync.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_reaches_the_program() {
    let Some(m) = mounted().await else { return };
    m.cluster.world.fault(|_, request| {
        matches!(request, wire::brick::BrickRequest::Change { .. })
            .then_some(Fault::Refuse(wire::status::Status::Fs(wire::status::FsError::NoSpace)))
    });
    m.run(|dir| {
        let mut file = fs::File::create(dir.join("f")).unwrap();
        file.write_all(b"too much").unwrap();
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(28));
    })
    .await;
    m.cluster.world.heal();
    m.end().await;
}

/// A second mount at a live one's place is refused; the remains of a dead one are replaced.
#[tokio::test(flavor = "multi_thread")]
async fn dead_mounts_are_replaced_and_live_ones_kept() {
    let Some(m) = mounted().await else { return };
    let second = Mount::start(m.client.clone(), &m.dir.path(), config()).await;
    match second {
        Err(Error::MountPoint { problem: MountProblem::AlreadyMounted, .. }) => {}
        other => panic!("{other:?}"),
    }
    // A daemon that died leaves its mount behind without a connection.
    let used = m.run(|dir| fs::File::open(dir).unwrap()).await;
    let busy = m.run(|dir| rustix::mount::unmount(dir, UnmountFlags::FORCE)).await;
    assert_eq!(busy.unwrap_err(), Errno::BUSY);
    m.mount.wait().await;
    let dead = m.run(|dir| fs::metadata(dir).map(drop)).await;
    assert_eq!(dead.unwrap_err().raw_os_error(), Some(107));
    let new = Mount::start(m.client.clone(), &m.dir.path(), config()).await.unwrap();
    m.run(|dir| fs::write(dir.join("alive"), "yes").unwrap()).await;
    new.stop().await.unwrap();
    drop(used);
    m.end().await;
}

/// A dead mount is known as such though the kernel still answers questions about it from memory, as it does on the
/// only mount of a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mount_the_kernel_remembers_is_replaced() {
    if !usable() {
        return;
    }
    let cluster = Cluster::start().await;
    let client = cluster.client_with(ClientConfig { sharing: Sharing::Sole, ..cluster.config() }).await;
    let dir = Guard(tempfile::tempdir().unwrap());
    let mount = Mount::start(client.clone(), &dir.path(), config()).await.unwrap();
    let m = Mounted { cluster, client, mount, dir };
    // Used, so that it stays; looked at, so that the kernel remembers it.
    let used = m.run(|dir| fs::File::open(dir).unwrap()).await;
    m.run(|dir| fs::metadata(dir).map(drop).unwrap()).await;
    let busy = m.run(|dir| rustix::mount::unmount(dir, UnmountFlags::FORCE)).await;
    assert_eq!(busy.unwrap_err(), Errno::BUSY);
    m.mount.wait().await;
    let remembered = m.run(|dir| fs::metadata(dir).map(|meta| meta.is_dir())).await;
    assert!(remembered.unwrap(), "the kernel does not remember it: this proves nothing");
    let new = Mount::start(m.client.clone(), &m.dir.path(), config()).await.unwrap();
    m.run(|dir| fs::write(dir.join("alive"), "yes").unwrap()).await;
    new.stop().await.unwrap();
    drop(used);
    m.end().await;
}

/// Emptying a file at opening takes the set-user-id and set-group-id bits away, as writing does, from whoever
/// has no right to keep them.
#[tokio::test(flavor = "multi_thread")]
async fn truncating_at_open_clears_set_user_id() {
    let Some(m) = mounted().await else { return };
    m.run(|dir| {
        const NOBODY: u32 = 65534;
        let path = dir.join("f");
        for change in [": > f", "echo more >> f"] {
            fs::write(&path, "content").unwrap();
            std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
            // The directory of the mount is below one that is root's alone: entered before the rights go.
            let script = format!(
                "cd '{}' && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups sh -c '{change}'",
                dir.display()
            );
            let status = std::process::Command::new("sh").args(["-c", &script]).status().unwrap();
            assert!(status.success(), "{change}");
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "{change}");
        }
    })
    .await;
    m.end().await;
}

/// A directory of the filesystem is mounted as if it were all of it; what is no directory is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_mounted_as_the_root() {
    let Some(whole) = mounted().await else { return };
    whole
        .run(|mnt| {
            fs::create_dir_all(mnt.join("home/ann")).unwrap();
            fs::write(mnt.join("home/ann/thesis"), "years").unwrap();
            fs::write(mnt.join("secret"), "of others").unwrap();
        })
        .await;
    let client = whole.cluster.client().await;
    let dir = Guard(tempfile::tempdir().unwrap());
    let mount = async |root: &str| {
        Mount::start(client.clone(), &dir.path(), MountConfig { root: root.into(), ..config() }).await
    };
    for (root, problem) in
        [("/home/bob", MountProblem::RootMissing), ("/secret", MountProblem::RootNotDirectory)]
    {
        let error = mount(root).await.unwrap_err();
        assert!(matches!(&error, Error::MountPoint { problem: found, .. } if *found == problem), "{error}");
    }
    let part = mount("/home/ann").await.unwrap();
    let work = |mnt: PathBuf| {
        let names = |dir: &Path| {
            let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&mnt), ["thesis"]);
        assert_eq!(fs::read(mnt.join("thesis")).unwrap(), b"years");
        assert!(!mnt.join("secret").exists() && !mnt.join("home").exists());
        // Everything that names the root itself.
        fs::create_dir(mnt.join("sub")).unwrap();
        fs::rename(mnt.join("thesis"), mnt.join("sub/thesis")).unwrap();
        fs::hard_link(mnt.join("sub/thesis"), mnt.join("again")).unwrap();
        fs::rename(mnt.join("sub/thesis"), mnt.join("thesis")).unwrap();
        assert_eq!(names(&mnt), ["again", "sub", "thesis"]);
        assert_eq!(fs::metadata(mnt.join("sub/..")).unwrap().ino(), fs::metadata(&mnt).unwrap().ino());
        fs::set_permissions(&mnt, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(fs::metadata(&mnt).unwrap().mode() & 0o777, 0o711);
        fs::remove_file(mnt.join("again")).unwrap();
        fs::remove_dir(mnt.join("sub")).unwrap();
    };
    let path = dir.path();
    tokio::task::spawn_blocking(move || work(path)).await.unwrap();
    part.stop().await.unwrap();
    client.shutdown().await.unwrap();
    whole.run(|mnt| assert_eq!(fs::read(mnt.join("home/ann/thesis")).unwrap(), b"years")).await;
    whole.end().await;
}

/// Somebody's `umount` ends the mount.
#[tokio::test(flavor = "multi_thread")]
async fn umount_ends_the_mount() {
    let Some(m) = mounted().await else { return };
    m.run(|dir| fs::write(dir.join("f"), "x").unwrap()).await;
    m.run(|dir| rustix::mount::unmount(dir, UnmountFlags::empty()).unwrap()).await;
    tokio::time::timeout(Duration::from_secs(10), m.mount.wait()).await.expect("still serving");
    m.end().await;
}

/// A file that stays open keeps nobody from stopping.
#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_though_a_file_is_open() {
    let Some(m) = mounted().await else { return };
    let file = m.run(|dir| {
        let mut file = fs::File::create(dir.join("f")).unwrap();
        file.write_all(b"data").unwrap();
        file
    });
    let file = file.await;
    let begun = Instant::now();
    m.mount.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15));
    // The kernel's threads are gone, too: the connection was cut off.
    tokio::time::timeout(Duration::from_secs(1), m.mount.wait()).await.expect("still serving");
    assert!(!list_of_mounts().contains(&*m.dir.path().to_string_lossy()));
    let attr = m.client.resolve(b"f", true).await.unwrap();
    assert_eq!(attr.size, 4);
    drop(file);
    m.end().await;
}

/// Many programs at once, in one directory and in one file.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once() {
    let Some(m) = mounted().await else { return };
    let mut workers = Vec::new();
    for worker in 0..6u64 {
        let dir = m.dir.path();
        workers.push(tokio::task::spawn_blocking(move || {
            let shared =
                OpenOptions::new().write(true).create(true).truncate(false).open(dir.join("shared")).unwrap();
            for nth in 0..40u64 {
                let data = pattern(worker * 1000 + nth, 3000 + (nth as usize * 977) % 9000);
                let path = dir.join(format!("{worker}-{nth}"));
                let temporary = dir.join(format!("{worker}-{nth}.tmp"));
                fs::write(&temporary, &data).unwrap();
                fs::rename(&temporary, &path).unwrap();
                assert!(fs::read(&path).unwrap() == data);
                shared.write_all_at(&[worker as u8 + 1; 1000], (nth * 6 + worker) * 1000).unwrap();
            }
            shared.sync_all().unwrap();
        }));
    }
    for worker in workers {
        worker.await.unwrap();
    }
    m.run(|dir| {
        let shared = fs::read(dir.join("shared")).unwrap();
        assert_eq!(shared.len(), 240_000);
        for (place, part) in shared.chunks(1000).enumerate() {
            assert!(part.iter().all(|b| usize::from(*b) == place % 6 + 1), "place {place}");
        }
        assert_eq!(fs::read_dir(dir).unwrap().count(), 241);
    })
    .await;
    until("no operation to be left", || m.client.stuck().is_empty()).await;
    m.end().await;
}

/// A program that may wait for the mount for long; killed if the test fails.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(script: &str, file: &Path) -> Program {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", script, "bash"]).arg(file);
        Program(command.stdout(std::process::Stdio::piped()).spawn().unwrap())
    }

    fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.0)
    }

    /// Whether a thread of it waits for an answer of the mount.
    fn waits_for_the_mount(&self) -> bool {
        let place = fs::read_to_string(format!("/proc/{}/wchan", self.0.id())).unwrap();
        place.contains("request_wait_answer") || place.contains("fuse")
    }

    fn ends_within(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

/// No brick takes a change until this is healed.
fn refuse_changes(cluster: &Cluster) {
    cluster.world.fault(|_, request| match request {
        BrickRequest::Change { .. } => Some(Fault::Refuse(Status::Busy)),
        _ => None,
    });
}

/// Whatever a process waits for, it ends when it is killed; what it had asked for goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_ends_during_an_outage() {
    let Some(m) = mounted().await else { return };
    refuse_changes(&m.cluster);
    let mut program = Program::start(
        "exec dd if=/dev/zero of=\"$1\" bs=4096 count=1 oflag=direct",
        &m.dir.path().join("f"),
    );
    until("the program waits", || program.waits_for_the_mount()).await;
    // One that it handles or ignores, first: the kernel tells of the first one only.
    rustix::process::kill_process(program.pid(), rustix::process::Signal::CONT).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(program.0.try_wait().unwrap().is_none(), "it did not wait");
    rustix::process::kill_process(program.pid(), rustix::process::Signal::KILL).unwrap();
    let status = m.run(move |_| program.ends_within(Duration::from_secs(5))).await;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status.expect("it does not end")), Some(9));
    m.cluster.world.heal();
    let written = |dir: &Path| fs::read(dir.join("f")).unwrap() == [0; 4096];
    m.run(move |dir| {
        let begun = Instant::now();
        while !written(dir) {
            assert!(begun.elapsed() < Duration::from_secs(20), "what it had asked for was given up");
            std::thread::sleep(Duration::from_millis(10));
        }
    })
    .await;
    m.end().await;
}

/// A signal that a program handles interrupts no call on a file: it waits on, and all is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_handled_signal_disturbs_nothing() {
    let Some(m) = mounted().await else { return };
    refuse_changes(&m.cluster);
    let script = "trap handled=yes USR1; printf data >\"$1\" && echo \"written, handled: $handled\"";
    let mut program = Program::start(script, &m.dir.path().join("f"));
    until("the program waits", || program.waits_for_the_mount()).await;
    rustix::process::kill_process(program.pid(), rustix::process::Signal::USR1).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(program.0.try_wait().unwrap().is_none(), "it did not wait");
    m.cluster.world.heal();
    let (said, status) = m
        .run(move |_| {
            let status = program.ends_within(Duration::from_secs(20));
            let mut said = String::new();
            program.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
            (said, status)
        })
        .await;
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    assert_eq!(said, "written, handled: yes\n");
    assert_eq!(m.run(|dir| fs::read(dir.join("f")).unwrap()).await, b"data");
    m.end().await;
}

/// When a file was made is told.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_birth_is_told() {
    let Some(m) = mounted().await else { return };
    m.run(|dir| {
        let path = dir.join("f");
        fs::write(&path, "old").unwrap();
        let born = fs::metadata(&path).unwrap().created().unwrap();
        let age = std::time::SystemTime::now().duration_since(born).unwrap();
        assert!(age < Duration::from_secs(60), "{age:?}");
        fs::write(&path, "new").unwrap();
        fs::File::open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.created().unwrap(), meta.modified().unwrap()), (born, std::time::UNIX_EPOCH));
        assert_eq!((meta.len(), meta.mode() & 0o170_000), (3, 0o100_000));
    })
    .await;
    m.end().await;
}
