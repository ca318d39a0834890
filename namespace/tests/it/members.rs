//! Several members: what callers see while members die, are cut off, fill their disks and come back.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use namespace::config::MemberConfig;
use namespace::log::raft::Timing;
use namespace::log::raft::disk::{Disk, RealDisk};
use namespace::store::Read;
use namespace::store::db::Db;
use namespace::verify::verify;
use namespace::{Config, Running, recover, start};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use wire::id::{BootId, BrickId, CallSeq, Ino, MapEpoch, NodeId, SessionId};
use wire::meta::*;
use wire::net::{Authority, CallError, Endpoint, Fate, Identity, MemoryHub, Net, NetConfig, Role, Weather};
use wire::status::{FsError, Status};

use crate::cluster::until;
use crate::harness::{CLUSTER, name, new, registration};

/// Longest wait for a cluster to answer that can.
const LONG: Duration = Duration::from_secs(60);

/// Links that are cut, and messages that are lost and late.
#[derive(Default)]
struct Links {
    cut: Mutex<HashSet<(NodeId, u64)>>,
    /// Of a thousand calls, so many are lost, and as many lose their reply.
    lost: AtomicU64,
    calls: AtomicU64,
}

impl Weather for Links {
    fn fate(&self, from: &Identity, to: u64) -> Fate {
        if self.cut.lock().unwrap().contains(&(from.node, to)) {
            return Fate { arrives_after: None, ..Fate::default() };
        }
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        // The same sequence each time, as far as the order of calls is.
        let dice = call.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33;
        let lost = self.lost.load(Ordering::Relaxed);
        let late = Duration::from_millis(if lost == 0 { 0 } else { dice % 7 });
        match dice % 1000 {
            n if n < lost => {
                Fate { arrives_after: None, breaks_after: Some(Duration::from_millis(20)), ..Fate::default() }
            }
            n if n < 2 * lost => Fate {
                arrives_after: Some(late),
                reply_after: LONG,
                breaks_after: Some(Duration::from_millis(20)),
            },
            _ => Fate { arrives_after: Some(late), ..Fate::default() },
        }
    }
}

/// A disk that is full when it is told to be.
#[derive(Default)]
struct Fillable(AtomicBool);

impl Disk for Fillable {
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        RealDisk.write(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        RealDisk.sync(file)
    }
}

fn node(member: usize) -> NodeId {
    NodeId([100 + member as u8; 16])
}

fn number(member: usize) -> u64 {
    1000 + member as u64
}

pub(crate) struct Members {
    dir: tempfile::TempDir,
    hub: MemoryHub,
    links: Arc<Links>,
    authority: Authority,
    configs: Vec<Config>,
    disks: Vec<Arc<Fillable>>,
    running: Vec<Option<Running>>,
    admin: Arc<Caller>,
}

impl Members {
    pub(crate) async fn new(count: usize, tune: impl Fn(&mut Timing)) -> Self {
        let links = Arc::new(Links::default());
        let hub = MemoryHub::with_weather(links.clone());
        let authority = Authority::create(CLUSTER).unwrap();
        let mut timing = Timing::default();
        tune(&mut timing);
        let dir = tempfile::tempdir().unwrap();
        let mut configs = Vec::new();
        let mut disks = Vec::new();
        for member in 0..count {
            let endpoint = Endpoint::Memory(number(member));
            let mut config = Config::new(dir.path().join(member.to_string()), endpoint);
            config.brick_dead_after = Duration::from_secs(3);
            let disk = Arc::new(Fillable::default());
            let own = MemberConfig::new(1 + member as u64, endpoint, member == 0);
            config.member = Some(MemberConfig { timing, disk: disk.clone(), ..own });
            configs.push(config);
            disks.push(disk);
        }
        let endpoints = (0..count).map(|member| Endpoint::Memory(number(member))).collect();
        let admin = Arc::new(Caller::new(&authority, &hub, Role::Admin, 250, endpoints));
        let running = (0..count).map(|_| None).collect();
        let mut this = Self { dir, hub, links, authority, configs, disks, running, admin };
        this.start(0).await;
        for member in 1..count {
            this.join(member).await;
        }
        this
    }

    pub(crate) async fn start(&mut self, member: usize) {
        let credential = self.authority.issue(Role::Namespace, node(member)).unwrap();
        let net = Net::new(&credential, self.hub.clone(), NetConfig::default()).unwrap();
        self.running[member] = Some(start(self.configs[member].clone(), net).await.unwrap());
    }

    async fn join(&mut self, member: usize) {
        self.start(member).await;
        let request =
            ClusterRequest::AddMember { id: 1 + member as u64, endpoint: Endpoint::Memory(number(member)) };
        assert_eq!(self.admin.cluster(request).await, Ok(ClusterReply::Done));
    }

    pub(crate) async fn kill(&mut self, member: usize) {
        self.running[member].take().unwrap().kill().await;
    }

    pub(crate) async fn leader(&self) -> usize {
        until("somebody leads", async || {
            self.running.iter().position(|running| running.as_ref().is_some_and(Running::leads))
        })
        .await
    }

    pub(crate) async fn caller(&self, number_of: u8) -> Caller {
        let endpoints = self.configs.iter().map(|config| config.listen).collect();
        let mut caller = Caller::new(&self.authority, &self.hub, Role::Client, number_of, endpoints);
        let request = ClusterRequest::OpenSession {
            client: NodeId([number_of; 16]),
            host: format!("host{number_of}"),
            mount: "/mnt".into(),
            sharing: Sharing::Shared,
            class: SessionClass::Standard,
        };
        let ClusterReply::Session(grant) = caller.cluster(request).await.unwrap() else { panic!() };
        caller.session = Some(grant.session);
        caller
    }

    /// Cuts or mends all links between a member and the other members.
    fn isolate(&self, member: usize, cut: bool) {
        let mut links = self.links.cut.lock().unwrap();
        for other in (0..self.configs.len()).filter(|other| *other != member) {
            for link in [(node(member), number(other)), (node(other), number(member))] {
                if cut {
                    links.insert(link);
                } else {
                    links.remove(&link);
                }
            }
        }
    }

    /// Returns when all that run have applied everything.
    async fn settle(&self) {
        let leader = self.leader().await;
        until("all members have everything", async || {
            let progress: Vec<_> =
                self.running.iter().flatten().map(|running| running.raft().unwrap().progress()).collect();
            let last = self.running[leader].as_ref()?.raft()?.progress().1;
            progress.iter().all(|(_, has, applied)| *has == last && *applied == last).then_some(())
        })
        .await;
    }

    /// Stops all, and compares their states byte for byte and with what was acknowledged.
    pub(crate) async fn agree(mut self, acknowledged: &BTreeSet<String>) {
        self.settle().await;
        let mut dumps: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = Vec::new();
        let members: Vec<usize> = (0..self.running.len()).filter(|m| self.running[*m].is_some()).collect();
        let stopping: JoinSet<()> = self.running.drain(..).flatten().map(Running::stop).collect();
        stopping.join_all().await;
        for member in members {
            let db = Db::open(&self.configs[member].dir).unwrap();
            let report = verify(&db).unwrap();
            assert_eq!(report.problems, Vec::<String>::new(), "member {member}");
            for name in acknowledged {
                let key = namespace::store::keys::entry(Ino::ROOT, &crate::harness::name(name));
                assert!(db.get(&key).unwrap().is_some(), "member {member} lost {name}");
            }
            assert_eq!(
                report.entries as usize,
                acknowledged.len(),
                "member {member} has more than was asked for"
            );
            let records = (0..=255u8).flat_map(|tag| db.all(&[tag]).unwrap_or_default());
            // Those who stop last may have elected another leader, whose first entry says nothing.
            dumps.push(records.filter(|(key, _)| key != namespace::store::keys::RAFT).collect());
        }
        let first = dumps.remove(0);
        for (at, dump) in dumps.iter().enumerate() {
            for (key, value) in &first {
                assert_eq!(dump.get(key), Some(value), "members differ ({at}) at {}", key.escape_ascii());
            }
            assert_eq!(dump.len(), first.len());
        }
    }
}

/// Somebody who calls whoever leads, and asks again until there is an answer.
pub(crate) struct Caller {
    net: Net,
    endpoints: Vec<Endpoint>,
    at: Mutex<Endpoint>,
    session: Option<SessionId>,
    seq: AtomicU64,
}

impl Caller {
    fn new(authority: &Authority, hub: &MemoryHub, role: Role, node: u8, endpoints: Vec<Endpoint>) -> Self {
        let credential = authority.issue(role, NodeId([node; 16])).unwrap();
        let net = Net::new(&credential, hub.clone(), NetConfig::default()).unwrap();
        let at = Mutex::new(endpoints[0]);
        Self { net, endpoints, at, session: None, seq: AtomicU64::new(0) }
    }

    async fn once(&self, to: Endpoint, seq: u64, request: MetaRequest) -> Result<MetaReply, CallError> {
        let call = MetaCall { session: self.session, seq: CallSeq(seq), answered_below: CallSeq(0), request };
        let deadline = Instant::now() + Duration::from_secs(2);
        Ok(self.net.request::<MetaProtocol>(&to, &call, Bytes::new(), deadline).await?.0)
    }

    async fn call(&self, seq: u64, request: MetaRequest) -> Result<MetaReply, Status> {
        let deadline = Instant::now() + LONG;
        loop {
            let to = *self.at.lock().unwrap();
            let failed = match self.once(to, seq, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            let next = match failed.status() {
                Some(Status::NotLeader(Some(leader))) => leader,
                Some(Status::NotLeader(None) | Status::Busy | Status::NoMajority) | None => {
                    let at = self.endpoints.iter().position(|e| *e == to).unwrap_or(0);
                    self.endpoints[(at + 1) % self.endpoints.len()]
                }
                Some(status) => return Err(status),
            };
            *self.at.lock().unwrap() = next;
            assert!(Instant::now() < deadline, "nobody answered for too long: {failed}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn cluster(&self, request: ClusterRequest) -> Result<ClusterReply, Status> {
        match self.call(0, MetaRequest::Cluster(request)).await? {
            MetaReply::Cluster(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn fs(&self, request: FsRequest) -> Result<FsReply, Status> {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        match self.call(seq, MetaRequest::Fs(request)).await? {
            MetaReply::Fs(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn mkdir(&self, text: &str) -> Result<FsReply, Status> {
        self.fs(FsRequest::Mkdir { parent: Ino::ROOT, name: name(text), new: new(0o755) }).await
    }

    async fn lookup(&self, text: &str) -> Result<FsReply, Status> {
        self.fs(FsRequest::Lookup { parent: Ino::ROOT, name: name(text) }).await
    }
}

/// Makes directories until told to stop, each once, and looks at what was made.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    made: Arc<Mutex<Vec<String>>>,
    longest: Arc<Mutex<Duration>>,
    workers: JoinSet<()>,
}

impl Load {
    pub(crate) async fn begin(members: &Members, workers: u8) -> Self {
        let this = Self {
            stop: Arc::default(),
            made: Arc::default(),
            longest: Arc::default(),
            workers: JoinSet::new(),
        };
        let mut this = this;
        for worker in 0..workers {
            let caller = members.caller(1 + worker).await;
            let (stop, made, longest) = (this.stop.clone(), this.made.clone(), this.longest.clone());
            this.workers.spawn(async move {
                for n in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    // What was answered before this read began, to anybody, is seen by it.
                    let seen = made.lock().unwrap().last().cloned();
                    if let Some(seen) = seen {
                        assert!(caller.lookup(&seen).await.is_ok(), "a read did not see {seen}");
                    }
                    let text = format!("w{worker}-{n}");
                    let begun = Instant::now();
                    // A second execution would find the name taken.
                    assert!(matches!(caller.mkdir(&text).await, Ok(FsReply::Attr(_))), "{text}");
                    let mut longest = longest.lock().unwrap();
                    *longest = begun.elapsed().max(*longest);
                    made.lock().unwrap().push(text);
                }
            });
        }
        this
    }

    /// Returns when so many more were made.
    pub(crate) async fn more(&self, count: usize) {
        let goal = self.made.lock().unwrap().len() + count;
        let deadline = Instant::now() + LONG;
        while self.made.lock().unwrap().len() < goal {
            assert!(Instant::now() < deadline, "the load does not get on");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        self.workers.join_all().await;
        println!("longest call: {:?}", self.longest.lock().unwrap());
        let made = self.made.lock().unwrap();
        let all: BTreeSet<String> = made.iter().cloned().collect();
        assert_eq!(all.len(), made.len());
        all
    }
}

/// The leader is killed again and again: what was answered stays, each call is done once, reads see
/// all answers, and in the end all members are equal to the byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_command_is_lost() {
    let mut members = Members::new(3, |_| {}).await;
    let load = Load::begin(&members, 4).await;
    for _ in 0..3 {
        load.more(50).await;
        let leader = members.leader().await;
        members.kill(leader).await;
        load.more(50).await;
        members.start(leader).await;
    }
    load.more(50).await;
    let made = load.end().await;
    members.agree(&made).await;
}

/// The leader cannot talk to the others, and does not know that it leads no more: it answers nothing
/// that is not so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_nothing_old() {
    let members = Members::new(3, |_| {}).await;
    let load = Load::begin(&members, 4).await;
    for _ in 0..2 {
        load.more(30).await;
        let leader = members.leader().await;
        members.isolate(leader, true);
        load.more(100).await;
        let newest = load.made.lock().unwrap().last().cloned().unwrap();
        let caller = members.caller(99).await;
        let look = MetaRequest::Fs(FsRequest::Lookup { parent: Ino::ROOT, name: name(&newest) });
        let told = caller.once(Endpoint::Memory(number(leader)), 0, look).await;
        assert!(told.is_err(), "a leader without a majority answered {told:?}");
        members.isolate(leader, false);
    }
    let made = load.end().await;
    members.agree(&made).await;
}

/// One call in ten is lost or its reply is, the rest come late and out of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_messages_lose_nothing() {
    let members = Members::new(3, |_| {}).await;
    members.links.lost.store(50, Ordering::SeqCst);
    let load = Load::begin(&members, 4).await;
    load.more(300).await;
    members.links.lost.store(0, Ordering::SeqCst);
    let made = load.end().await;
    members.agree(&made).await;
}

/// A member comes back when its part of the log is gone, and another one joins, while commands go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_join_while_commands_go_on() {
    let few = |timing: &mut Timing| {
        timing.snapshot_every = 100;
        timing.keep_entries = 20;
    };
    let mut members = Members::new(3, few).await;
    let load = Load::begin(&members, 4).await;
    load.more(50).await;
    let away = (members.leader().await + 1) % 3;
    let had = members.running[away].as_ref().unwrap().raft().unwrap().progress().1;
    members.kill(away).await;
    load.more(400).await;
    let leader = members.leader().await;
    let raft = members.running[leader].as_ref().unwrap().raft().unwrap().clone();
    until("the log is cut", async || (raft.progress().0 > had).then_some(())).await;
    drop(raft);
    members.start(away).await;
    load.more(100).await;
    members.settle_one(away).await;
    // A member that lost its disk comes back as another one.
    let leader = members.leader().await;
    let lost = (leader + 1) % 3;
    members.kill(lost).await;
    std::fs::remove_dir_all(&members.configs[lost].dir).unwrap();
    let remove = ClusterRequest::RemoveMember { id: 1 + lost as u64 };
    assert_eq!(members.admin.cluster(remove).await, Ok(ClusterReply::Done));
    let own = members.configs[lost].member.as_mut().unwrap();
    (own.id, own.founder) = (77, false);
    members.start(lost).await;
    let add = ClusterRequest::AddMember { id: 77, endpoint: Endpoint::Memory(number(lost)) };
    assert_eq!(members.admin.cluster(add).await, Ok(ClusterReply::Done));
    load.more(50).await;
    let made = load.end().await;
    members.agree(&made).await;
}

impl Members {
    async fn settle_one(&self, member: usize) {
        let leader = self.leader().await;
        let goal = self.running[leader].as_ref().unwrap().raft().unwrap().progress().1;
        until("a member has caught up", async || {
            (self.running[member].as_ref()?.raft()?.progress().2 >= goal).then_some(())
        })
        .await;
    }
}

/// The disk of a follower is full, then that of the leader: the others go on, and when there is
/// room again, both come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_one_member_only() {
    let mut members = Members::new(3, |_| {}).await;
    let load = Load::begin(&members, 4).await;
    for leads in [false, true] {
        load.more(30).await;
        let leader = members.leader().await;
        let full = if leads { leader } else { (leader + 1) % 3 };
        members.disks[full].0.store(true, Ordering::SeqCst);
        load.more(100).await;
        members.disks[full].0.store(false, Ordering::SeqCst);
        members.kill(full).await;
        members.start(full).await;
        members.settle_one(full).await;
    }
    let made = load.end().await;
    members.agree(&made).await;
}

/// Two of five may go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_go_on_without_two() {
    let mut members = Members::new(5, |_| {}).await;
    let load = Load::begin(&members, 4).await;
    load.more(50).await;
    for _ in 0..2 {
        let leader = members.leader().await;
        members.kill(leader).await;
        load.more(50).await;
    }
    let made = load.end().await;
    members.agree(&made).await;
}

/// Without a majority nothing is answered, and callers are told why; then all goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_answered() {
    let mut members = Members::new(3, |_| {}).await;
    let caller = members.caller(1).await;
    caller.mkdir("before").await.unwrap();
    let leader = members.leader().await;
    for other in (0..3).filter(|other| *other != leader) {
        members.kill(other).await;
    }
    let to = Endpoint::Memory(number(leader));
    until("the last member knows that it is the last", async || {
        let look = MetaRequest::Fs(FsRequest::Lookup { parent: Ino::ROOT, name: name("before") });
        let told = caller.once(to, 0, look).await.err().and_then(|error| error.status());
        (told == Some(Status::NoMajority)).then_some(())
    })
    .await;
    let known = caller.once(to, 0, MetaRequest::Cluster(ClusterRequest::Members)).await.unwrap();
    let MetaReply::Cluster(ClusterReply::Members(known)) = known else { panic!("{known:?}") };
    assert_eq!(known.len(), 3);
    for other in (0..3).filter(|other| *other != leader) {
        members.start(other).await;
    }
    caller.mkdir("after").await.unwrap();
    members.agree(&["before", "after"].map(str::to_owned).into()).await;
}

/// Two of three are lost for good: of the third a cluster of one is made, which has everything that was
/// answered, goes on, and grows again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_becomes_a_cluster() {
    let mut members = Members::new(3, |_| {}).await;
    let load = Load::begin(&members, 4).await;
    load.more(100).await;
    let mut made = load.end().await;
    members.settle().await;
    for member in 0..3 {
        members.kill(member).await;
    }
    // One that joined: its state came as a snapshot.
    let config = &mut members.configs[1];
    recover(config, CLUSTER).await.unwrap();
    assert_eq!(recover(config, CLUSTER).await.unwrap(), 0, "doing it again changes nothing");
    let own = config.member.as_mut().unwrap();
    (own.id, own.founder) = (50, true);
    members.start(1).await;
    let caller = members.caller(1).await;
    for name in &made {
        assert!(caller.lookup(name).await.is_ok(), "{name} is lost");
    }
    caller.mkdir("after").await.unwrap();
    made.insert("after".to_owned());
    std::fs::remove_dir_all(&members.configs[2].dir).unwrap();
    members.configs[2].member.as_mut().unwrap().id = 51;
    members.start(2).await;
    let add = ClusterRequest::AddMember { id: 51, endpoint: Endpoint::Memory(number(2)) };
    assert_eq!(members.admin.cluster(add).await, Ok(ClusterReply::Done));
    members.agree(&made).await;
}

/// A member alone, killed: what it answered is there again, and a retried call has its first answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_member_takes_up_its_state() {
    let mut members = Members::new(1, |_| {}).await;
    let caller = members.caller(1).await;
    let mkdir = |text: &str| {
        MetaRequest::Fs(FsRequest::Mkdir { parent: Ino::ROOT, name: name(text), new: new(0o755) })
    };
    let mut made = BTreeSet::new();
    for round in 0..3 {
        let first = caller.call(1000 + round, mkdir(&format!("d{round}"))).await.unwrap();
        made.insert(format!("d{round}"));
        members.kill(0).await;
        members.start(0).await;
        assert_eq!(caller.call(1000 + round, mkdir(&format!("d{round}"))).await.unwrap(), first);
    }
    assert_eq!(caller.mkdir("d0").await, Err(Status::Fs(FsError::Exists)));
    members.agree(&made).await;
}

/// Another member's log, and a log where there must be none, are refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_another_member_is_refused() {
    let mut members = Members::new(1, |_| {}).await;
    members.caller(1).await.mkdir("d").await.unwrap();
    members.running[0].take().unwrap().stop().await;
    let net = || {
        let credential = members.authority.issue(Role::Namespace, node(0)).unwrap();
        Net::new(&credential, members.hub.clone(), NetConfig::default()).unwrap()
    };
    let mut config = members.configs[0].clone();
    config.member.as_mut().unwrap().id = 5;
    let refused = start(config, net()).await.err().unwrap().to_string();
    assert!(refused.contains("the log of member 0000000000000001"), "{refused}");
    let alone = Config { member: None, ..members.configs[0].clone() };
    let refused = start(alone, net()).await.err().unwrap().to_string();
    assert!(refused.contains("a member of several"), "{refused}");
    assert!(members.dir.path().join("0/log").exists());
}

/// Leading is handed over without an error to anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leading_is_handed_over() {
    let members = Members::new(3, |_| {}).await;
    let load = Load::begin(&members, 4).await;
    for _ in 0..3 {
        load.more(30).await;
        let next = (members.leader().await + 1) % 3;
        let lead = ClusterRequest::Lead { id: 1 + next as u64 };
        assert_eq!(members.admin.cluster(lead).await, Ok(ClusterReply::Done));
        until("it leads", async || members.running[next].as_ref()?.leads().then_some(())).await;
    }
    let made = load.end().await;
    members.agree(&made).await;
}

/// A new leader has heard nobody yet: bricks and sessions have their time to be heard in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_declares_nobody_dead() {
    let mut members = Members::new(3, |_| {}).await;
    let endpoints: Vec<_> = members.configs.iter().map(|config| config.listen).collect();
    let brick = Arc::new(Caller::new(&members.authority, &members.hub, Role::Brick, 9, endpoints));
    let registrations =
        (0..2).map(|id| registration(id, 1, Endpoint::Memory(9000 + u64::from(id)))).collect();
    members.admin.cluster(ClusterRequest::AddBricks(registrations)).await.unwrap();
    let beating = tokio::spawn(async move {
        loop {
            for id in 0..2 {
                let beat = ClusterRequest::Heartbeat {
                    brick: BrickId(id),
                    boot: BootId(1),
                    map: MapEpoch(0),
                    report: BrickReport::default(),
                };
                assert_eq!(
                    brick
                        .cluster(beat)
                        .await
                        .map(|reply| matches!(reply, ClusterReply::Heartbeat { register: false, .. })),
                    Ok(true)
                );
            }
            sleep(Duration::from_millis(200)).await;
        }
    });
    let caller = members.caller(1).await;
    let map = async |members: &Members| match members
        .admin
        .cluster(ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 })
        .await
    {
        Ok(ClusterReply::Map(map)) => map,
        other => panic!("{other:?}"),
    };
    let before = map(&members).await;
    for _ in 0..2 {
        let leader = members.leader().await;
        members.kill(leader).await;
        caller.mkdir(&format!("after {leader}")).await.unwrap();
        let until = Instant::now() + Duration::from_secs(4);
        // Longer than a brick may be silent.
        while Instant::now() < until {
            let now = map(&members).await;
            assert!(now.bricks.values().all(|brick| brick.alive), "a brick was declared dead");
            sleep(Duration::from_millis(100)).await;
        }
        members.start(leader).await;
        members.settle_one(leader).await;
    }
    let after = map(&members).await;
    assert_eq!((after.bricks, after.chains), (before.bricks, before.chains));
    assert!(
        after.inodes_below > before.inodes_below,
        "a state that is set back is never led again as it was"
    );
    assert!(!beating.is_finished());
    beating.abort();
    assert!(caller.lookup("after 9").await.is_err());
}
