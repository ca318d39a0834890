//! Calls that nobody in their right mind makes: a service answers or refuses each, and its state stays sound.

use std::collections::BTreeSet;

use tokio::time::{Duration, Instant};
use wire::frame::Frame;
use wire::fuzz::Campaign;
use wire::id::{
    BootId, CallSeq, ChainEpoch, ChainId, DirCookie, Ino, LockHandle, LockOwner, MapEpoch, NodeId, SessionId,
};
use wire::meta::*;
use wire::net::{NetError, Role, Service};

use crate::cluster::{Client, Cluster};
use crate::harness::{name, new};

/// Calls of a mount, about inodes that exist.
fn of_a_mount(dir: Ino, file: Ino) -> Vec<FsRequest> {
    let lock = LockWish {
        ino: file,
        handle: LockHandle(1),
        owner: LockOwner(2),
        kind: LockKind::Range,
        mode: LockMode::Exclusive,
        range: LockRange { start: 5, end: 900 },
        pid: 3,
    };
    let report = WriteReport {
        end: 5000,
        mtime: Timestamp { secs: 5, nanos: 6 },
        allocated_delta_bytes: 8192,
        knew: Timestamp { secs: 7, nanos: 8 },
    };
    let changes = AttrChanges { mode: Some(0o755), uid: Some(1), size: Some(70), ..AttrChanges::default() };
    vec![
        FsRequest::Lookup { parent: dir, name: name("file") },
        FsRequest::LookupParent { ino: dir },
        FsRequest::GetAttr { ino: file },
        FsRequest::SetAttr { ino: file, changes },
        FsRequest::Create {
            parent: dir,
            name: name("new"),
            new: new(0o644),
            exclusive: true,
            access: Access::Write,
        },
        FsRequest::Mkdir { parent: dir, name: name("sub"), new: new(0o755) },
        FsRequest::Link { ino: file, parent: dir, name: name("other") },
        FsRequest::Unlink { parent: dir, name: name("other") },
        FsRequest::Rmdir { parent: dir, name: name("sub") },
        FsRequest::Rename {
            parent: dir,
            name: name("new"),
            new_parent: Ino::ROOT,
            new_name: name("moved"),
            mode: RenameMode::Exchange,
        },
        FsRequest::ReadDir { ino: dir, after: DirCookie(0), max: 100, with_attrs: true },
        FsRequest::SetXattr {
            ino: file,
            name: b"user.a"[..].into(),
            value: b"value"[..].into(),
            mode: XattrMode::Any,
        },
        FsRequest::SetXattr {
            ino: dir,
            name: ACL_DEFAULT.into(),
            value: vec![2, 0, 0, 0, 1, 0, 7, 0].into(),
            mode: XattrMode::Any,
        },
        FsRequest::GetXattr { ino: file, name: b"user.a"[..].into() },
        FsRequest::ListXattr { ino: file },
        FsRequest::StatFs,
        FsRequest::Open { ino: file, access: Access::Write },
        FsRequest::Close { ino: file, access: Access::Write },
        FsRequest::ReportWrite { ino: file, report, then: None, closes: false },
        FsRequest::Lock(lock),
        FsRequest::TestLock(lock),
        FsRequest::ListLocks { ino: file },
    ]
}

/// Calls about the cluster.
fn of_the_cluster(cluster: &Cluster) -> Vec<ClusterRequest> {
    let (brick, boot) = (wire::id::BrickId(0), BootId(1));
    let map = MapEpoch(1);
    let up = crate::harness::registration(0, 1, cluster.serving[0].endpoint());
    vec![
        ClusterRequest::OpenSession {
            client: NodeId([1; 16]),
            host: "h".into(),
            mount: "/m".into(),
            sharing: Sharing::Shared,
            class: SessionClass::Standard,
        },
        ClusterRequest::Renew { map, open: Some(vec![(Ino(2), Access::Read)]) },
        ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 },
        ClusterRequest::Heartbeat {
            brick,
            boot,
            map,
            report: BrickReport { total_bytes: 1 << 40, free_bytes: 1 << 39, ..BrickReport::default() },
        },
        ClusterRequest::SyncDone { chain: ChainId(1), epoch: ChainEpoch(1), brick },
        ClusterRequest::Status,
        ClusterRequest::AddBricks(vec![up]),
        ClusterRequest::Suspect { brick, boot },
        ClusterRequest::DrainBrick { brick, drain: true },
        ClusterRequest::Rebalance { on: true },
        ClusterRequest::Paths(vec![Ino(1), Ino(2)]),
        ClusterRequest::Holdings { brick, boot, bytes: vec![(ChainId(1), 1 << 30)] },
        ClusterRequest::Adopt { without: BTreeSet::from([brick]) },
    ]
}

fn encoded(session: Option<SessionId>, request: MetaRequest) -> Vec<u8> {
    let call = MetaCall { session, seq: CallSeq(1), answered_below: CallSeq(0), request };
    postcard::to_stdvec(&call).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mangled_calls_are_answered_or_refused() {
    let cluster = Cluster::new(3, |_| {}).await;
    let client: Client = cluster.client(1).await;
    let dir = client
        .attr(FsRequest::Mkdir { parent: Ino::ROOT, name: name("dir"), new: new(0o755) })
        .await
        .unwrap()
        .ino;
    let file = client.create("file", Access::Write).await;
    let session = Some(client.session);
    let mut messages: Vec<Vec<u8>> =
        of_a_mount(dir, file).into_iter().map(|r| encoded(session, MetaRequest::Fs(r))).collect();
    messages.extend(of_the_cluster(&cluster).into_iter().map(|r| encoded(session, MetaRequest::Cluster(r))));
    messages.push(encoded(None, MetaRequest::Check(CheckRequest::Files { after: Ino(0), max: 10 })));
    let nets = [Role::Client, Role::Brick, Role::Admin].map(|role| cluster.net(role, 9));
    let mut campaign = Campaign::of(3_000);
    let (mut understood, mut waiting) = (0u64, 0u64);
    while campaign.goes_on() {
        let header = campaign.spoil(&messages);
        let net = campaign.pick(&nets);
        let deadline = Instant::now() + Duration::from_millis(200);
        match net.call(&cluster.endpoint(), Service::Namespace, Frame::new(header.clone()), deadline).await {
            Ok(_) => (understood, waiting) = (understood + 1, 0),
            // Some calls wait for something to happen.
            Err(NetError::Deadline { .. }) => waiting += 1,
            Err(error) => panic!("{error}: {header:?}"),
        }
        assert!(waiting < 100, "the service does not answer any more");
    }
    assert!(understood > 0);
    let again = cluster.client(2).await;
    again.fs(FsRequest::StatFs).await.unwrap();
    cluster.sound().await;
}
