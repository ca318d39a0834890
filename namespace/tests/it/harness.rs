//! A machine with a clock of its own, one call a line.

use std::sync::Arc;

use bytes::Bytes;
use namespace::machine::Machine;
use namespace::machine::command::{Answer, Applied, Caller, Command, LogIndex, Op, Outcome};
use namespace::machine::looks::{look, path};
use namespace::machine::txn::Fail;
use namespace::store::Write;
use namespace::verify::verify;
use wire::id::{BootId, BrickId, CallSeq, ClusterId, Ino, NodeId, SessionId, StoreId};
use wire::meta::*;
use wire::net::Endpoint;
use wire::status::{FsError, Status};

use crate::store::MemStore;

pub const CLUSTER: ClusterId = ClusterId([9; 16]);
pub const ROOT: Ino = Ino::ROOT;

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

pub fn new(mode: u16) -> NewInode {
    NewInode { mode, umask: 0, uid: 10, gid: 20 }
}

pub fn registration(id: u32, boot: u64, endpoint: Endpoint) -> BrickRegistration {
    BrickRegistration {
        brick: BrickId(id),
        store: StoreId([id as u8 + 1; 16]),
        boot: BootId(boot),
        node: NodeId([id as u8; 16]),
        host: "host".into(),
        endpoint,
    }
}

pub struct World<S: Write = MemStore> {
    pub machine: Machine<S>,
    pub now: i64,
    pub seq: u64,
    pub session: SessionId,
}

impl World {
    pub fn new() -> Self {
        World::over(Arc::new(MemStore::default()))
    }
}

impl<S: Write> World<S> {
    pub fn over(store: Arc<S>) -> Self {
        let at = Timestamp { secs: 1000, nanos: 0 };
        let machine = Machine::open(store, CLUSTER, 2, at).unwrap();
        let mut world = Self { machine, now: 1000, seq: 1, session: SessionId(0) };
        world.session = world.open_session(1);
        world
    }

    pub fn reopen(&mut self) {
        let at = Timestamp { secs: self.now, nanos: 0 };
        self.machine = Machine::open(self.machine.store().clone(), CLUSTER, 2, at).unwrap();
    }

    pub fn at(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp { secs: self.now, nanos: 0 }
    }

    pub fn batch(&mut self, commands: Vec<Command>) -> Applied {
        let first = self.machine.applied().0 + 1;
        let entries: Vec<_> = (first..).map(LogIndex).zip(commands).collect();
        self.machine.apply(&entries).unwrap()
    }

    pub fn op(&mut self, op: Op) -> Answer {
        let at = self.at();
        self.batch(vec![Command { at, who: None, op }]).answers.remove(0)
    }

    pub fn open_session(&mut self, client: u8) -> SessionId {
        self.try_session(client, Sharing::Shared).unwrap()
    }

    pub fn try_session(&mut self, client: u8, sharing: Sharing) -> Result<SessionId, Status> {
        let client = NodeId([client; 16]);
        match self.op(Op::OpenSession { client, host: "h".into(), mount: "/m".into(), sharing })? {
            Outcome::Session(session) => Ok(session),
            other => panic!("{other:?}"),
        }
    }

    pub fn command(&mut self, request: FsRequest) -> Command {
        self.seq += 1;
        let who = Caller { session: self.session, seq: CallSeq(self.seq), answered_below: CallSeq(0) };
        Command { at: self.at(), who: Some(who), op: Op::Fs(request) }
    }

    /// One verb, whether it changes or looks.
    pub fn fs(&mut self, request: FsRequest) -> Result<FsReply, Status> {
        if !request.is_change() {
            return look(&**self.machine.store(), &request).map_err(|fail| match fail {
                Fail::Status(status) => status,
                Fail::Store(error) => panic!("{error}"),
            });
        }
        let command = self.command(request);
        match self.batch(vec![command]).answers.remove(0)? {
            Outcome::Fs(reply) => Ok(reply),
            other => panic!("{other:?}"),
        }
    }

    /// A verb that fails by a rule.
    pub fn err(&mut self, request: FsRequest) -> FsError {
        match self.fs(request) {
            Err(Status::Fs(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    pub fn attr_of(&mut self, request: FsRequest) -> Attr {
        match self.fs(request) {
            Ok(FsReply::Attr(attr) | FsReply::Created { attr, .. }) => attr,
            other => panic!("{other:?}"),
        }
    }

    pub fn attr(&mut self, ino: Ino) -> Attr {
        self.attr_of(FsRequest::GetAttr { ino })
    }

    pub fn lookup(&mut self, parent: Ino, text: &str) -> Result<Attr, Status> {
        match self.fs(FsRequest::Lookup { parent, name: name(text) })? {
            FsReply::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    pub fn mkdir(&mut self, parent: Ino, text: &str) -> Ino {
        self.attr_of(FsRequest::Mkdir { parent, name: name(text), new: new(0o755) }).ino
    }

    pub fn file(&mut self, parent: Ino, text: &str) -> Ino {
        let (kind, rdev) = (FileKind::File, 0);
        self.attr_of(FsRequest::Mknod { parent, name: name(text), new: new(0o644), kind, rdev }).ino
    }

    pub fn written_file(&mut self, parent: Ino, text: &str, end: u64) -> Ino {
        let ino = self.file(parent, text);
        self.fs(FsRequest::Open { ino, access: Access::Write }).unwrap();
        let mtime = Timestamp { secs: self.now, nanos: 5 };
        let report = WriteReport { end, mtime, allocated_delta_bytes: end as i64, ..WriteReport::NOTHING };
        self.fs(FsRequest::ReportWrite { ino, report, then: None, closes: true }).unwrap();
        ino
    }

    pub fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) -> Result<(), Status> {
        let request = FsRequest::Rename {
            parent: from.0,
            name: name(from.1),
            new_parent: to.0,
            new_name: name(to.1),
            mode,
        };
        self.fs(request).map(|_| ())
    }

    pub fn unlink(&mut self, parent: Ino, text: &str) -> Result<(), Status> {
        self.fs(FsRequest::Unlink { parent, name: name(text) }).map(|_| ())
    }

    pub fn set_size(&mut self, ino: Ino, size: u64) -> Attr {
        let changes = AttrChanges { size: Some(size), ..AttrChanges::default() };
        self.attr_of(FsRequest::SetAttr { ino, changes })
    }

    pub fn set_xattr(&mut self, ino: Ino, text: &str, value: &[u8]) -> Result<(), Status> {
        let request = FsRequest::SetXattr {
            ino,
            name: Bytes::copy_from_slice(text.as_bytes()),
            value: Bytes::copy_from_slice(value),
            mode: XattrMode::Any,
        };
        self.fs(request).map(|_| ())
    }

    pub fn page(&mut self, ino: Ino, after: wire::id::DirCookie, max: u32) -> (Vec<DirEntry>, bool) {
        match self.fs(FsRequest::ReadDir { ino, after, max, with_attrs: true }) {
            Ok(FsReply::Entries { entries, end }) => (entries, end),
            other => panic!("{other:?}"),
        }
    }

    /// Paths of inodes; `?` where none is known.
    pub fn paths(&self, inodes: &[Ino]) -> Vec<String> {
        let mut dirs = Default::default();
        let mut of = |ino: &Ino| path(&**self.machine.store(), *ino, &mut dirs).unwrap();
        inodes.iter().map(|ino| of(ino).map_or("?".into(), |path| String::from_utf8(path).unwrap())).collect()
    }

    pub fn sound(&self) {
        let report = verify(&**self.machine.store()).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
    }
}
