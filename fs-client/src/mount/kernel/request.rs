//! Requests, understood.

use wire::id::LockOwner;
use wire::meta::{LockKind, LockMode, LockRange, Timestamp};

use super::abi::{self, Input};

/// A request of the kernel.
#[derive(Debug, PartialEq)]
pub(in crate::mount) struct Request<'a> {
    /// Names it; an answer says the same.
    pub(super) unique: u64,
    /// The inode it is about, as the kernel calls it.
    pub(in crate::mount) node: u64,
    /// Who asks.
    pub(in crate::mount) uid: u32,
    pub(in crate::mount) gid: u32,
    /// The thread that waits; 0 if nobody does.
    pub(in crate::mount) pid: u32,
    pub(in crate::mount) operation: Operation<'a>,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::mount) enum When {
    Now,
    At(Timestamp),
}

/// What is to be set.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::mount) struct SetAttr {
    pub(in crate::mount) mode: Option<u32>,
    pub(in crate::mount) uid: Option<u32>,
    pub(in crate::mount) gid: Option<u32>,
    pub(in crate::mount) size: Option<u64>,
    pub(in crate::mount) atime: Option<When>,
    pub(in crate::mount) mtime: Option<When>,
    /// Through an open file.
    pub(in crate::mount) handle: Option<u64>,
}

/// A lock that is asked for, or about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::mount) struct Lock {
    /// The open file.
    pub(in crate::mount) handle: u64,
    pub(in crate::mount) kind: LockKind,
    pub(in crate::mount) owner: LockOwner,
    pub(in crate::mount) range: LockRange,
    /// `None`: what is held is to be given up.
    pub(in crate::mount) mode: Option<LockMode>,
    pub(in crate::mount) pid: u32,
}

/// What is asked for. Handles are what opening answered; flags are those of `open` and its like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::mount) enum Operation<'a> {
    Lookup {
        name: &'a [u8],
    },
    /// Nothing is answered: no numbers are kept that could be forgotten.
    Forget,
    GetAttr,
    StatX,
    SetAttr(SetAttr),
    ReadLink,
    Symlink {
        name: &'a [u8],
        target: &'a [u8],
    },
    MkNod {
        name: &'a [u8],
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    MkDir {
        name: &'a [u8],
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a [u8],
    },
    RmDir {
        name: &'a [u8],
    },
    Rename {
        name: &'a [u8],
        new_parent: u64,
        new_name: &'a [u8],
        flags: u32,
    },
    Link {
        node: u64,
        name: &'a [u8],
    },
    Open {
        flags: u32,
    },
    Create {
        name: &'a [u8],
        flags: u32,
        mode: u32,
        umask: u32,
    },
    /// A file without a name, opened.
    TmpFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
        /// Of the open file, as they are now.
        flags: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
        /// Of the file: see [`abi::WRITE_DROPS_PRIVILEGES`].
        drops_privileges: bool,
    },
    StatFs,
    Release {
        handle: u64,
    },
    Fsync {
        handle: u64,
    },
    Flush {
        handle: u64,
        owner: LockOwner,
    },
    GetLock(Lock),
    SetLock {
        lock: Lock,
        wait: bool,
    },
    SetXattr {
        name: &'a [u8],
        value: &'a [u8],
        flags: u32,
        /// From the file's mode: see [`abi::SETXATTR_DROPS_GROUP_ID`].
        drops_group_id: bool,
    },
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a [u8],
    },
    OpenDir,
    ReadDir {
        handle: u64,
        offset: u64,
        size: u32,
    },
    ReadDirPlus {
        handle: u64,
        offset: u64,
        size: u32,
    },
    ReleaseDir {
        handle: u64,
    },
    FsyncDir,
    FAllocate {
        handle: u64,
        offset: u64,
        len: u64,
        mode: u32,
    },
    LSeek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyRange {
        from: u64,
        from_offset: u64,
        to: u64,
        to_offset: u64,
        len: u64,
    },
    IoCtl {
        handle: u64,
        command: u32,
        data: &'a [u8],
    },
    /// Whether something can be read or written.
    Poll {
        handle: u64,
        /// What is to be told when there is, if there is nothing now.
        waits: Option<u64>,
    },
    Init(Init),
    /// Whoever waits for that request has been sent a signal.
    Interrupt {
        unique: u64,
    },
    /// The mount is over.
    Destroy,
    /// One that is not known here.
    Unknown(u32),
}

/// The kernel introduces itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::mount) struct Init {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) max_readahead: u32,
    pub(super) flags: u64,
}

/// Why bytes are no request.
#[derive(Debug, PartialEq)]
pub(super) enum Malformed {
    /// Not even its head is there, so it can't be answered.
    Head,
    /// What follows is shorter than its operation takes.
    Body {
        /// The request.
        unique: u64,
        /// Its operation.
        opcode: u32,
    },
}

impl<'a> Request<'a> {
    /// Understands what was read from the device; `agreed`: which of [`abi::init`] hold, for some requests are longer by them.
    pub(super) fn parse(bytes: &'a [u8], agreed: u64) -> Result<Request<'a>, Malformed> {
        let mut head = Input(bytes.get(..abi::IN_HEAD).ok_or(Malformed::Head)?);
        let mut field = || head.u32().ok_or(Malformed::Head);
        let (len, opcode) = (field()? as usize, field()?);
        let mut wide = || head.u64().ok_or(Malformed::Head);
        let (unique, node) = (wide()?, wide()?);
        let mut field = || head.u32().ok_or(Malformed::Head);
        let (uid, gid, pid) = (field()?, field()?, field()?);
        let body = Malformed::Body { unique, opcode };
        let Some(arguments) = bytes.get(abi::IN_HEAD..len) else { return Err(body) };
        match operation(opcode, Input(arguments), agreed) {
            Some(operation) => Ok(Request { unique, node, uid, gid, pid, operation }),
            None => Err(body),
        }
    }
}

fn operation<'a>(opcode: u32, mut input: Input<'a>, agreed: u64) -> Option<Operation<'a>> {
    use Operation as O;
    Some(match opcode {
        abi::LOOKUP => O::Lookup { name: input.name()? },
        abi::FORGET | abi::BATCH_FORGET => O::Forget,
        abi::GETATTR => O::GetAttr,
        abi::STATX => O::StatX,
        abi::SETATTR => O::SetAttr(set_attr(input)?),
        abi::READLINK => O::ReadLink,
        abi::SYMLINK => O::Symlink { name: input.name()?, target: input.name()? },
        abi::MKNOD => {
            let (mode, rdev, umask) = (input.u32()?, input.u32()?, input.u32()?);
            input.skip(4)?;
            O::MkNod { name: input.name()?, mode, rdev, umask }
        }
        abi::MKDIR => {
            let (mode, umask) = (input.u32()?, input.u32()?);
            O::MkDir { name: input.name()?, mode, umask }
        }
        abi::UNLINK => O::Unlink { name: input.name()? },
        abi::RMDIR => O::RmDir { name: input.name()? },
        abi::RENAME => {
            let new_parent = input.u64()?;
            O::Rename { name: input.name()?, new_parent, new_name: input.name()?, flags: 0 }
        }
        abi::RENAME2 => {
            let (new_parent, flags) = (input.u64()?, input.u32()?);
            input.skip(4)?;
            O::Rename { name: input.name()?, new_parent, new_name: input.name()?, flags }
        }
        abi::LINK => {
            let node = input.u64()?;
            O::Link { node, name: input.name()? }
        }
        abi::OPEN => O::Open { flags: input.u32()? },
        abi::CREATE => {
            let (flags, mode, umask) = (input.u32()?, input.u32()?, input.u32()?);
            input.skip(4)?;
            O::Create { name: input.name()?, flags, mode, umask }
        }
        abi::TMPFILE => {
            let (flags, mode, umask) = (input.u32()?, input.u32()?, input.u32()?);
            O::TmpFile { flags, mode, umask }
        }
        abi::READ => {
            let (handle, offset, size) = (input.u64()?, input.u64()?, input.u32()?);
            input.skip(12)?;
            O::Read { handle, offset, size, flags: input.u32()? }
        }
        abi::WRITE => {
            let (handle, offset, size) = (input.u64()?, input.u64()?, input.u32()?);
            let drops_privileges = input.u32()? & abi::WRITE_DROPS_PRIVILEGES != 0;
            input.skip(16)?;
            O::Write { handle, offset, data: input.bytes(size as usize)?, drops_privileges }
        }
        abi::STATFS => O::StatFs,
        abi::RELEASE => O::Release { handle: input.u64()? },
        abi::FSYNC => O::Fsync { handle: input.u64()? },
        abi::FLUSH => {
            let handle = input.u64()?;
            input.skip(8)?;
            O::Flush { handle, owner: LockOwner(input.u64()?) }
        }
        abi::GETLK => O::GetLock(lock(input)?),
        abi::SETLK | abi::SETLKW => O::SetLock { lock: lock(input)?, wait: opcode == abi::SETLKW },
        abi::SETXATTR => {
            let (size, flags) = (input.u32()?, input.u32()?);
            let more = if agreed & abi::init::SETXATTR_EXT == 0 { 0 } else { input.u64()? as u32 };
            let drops_group_id = more & abi::SETXATTR_DROPS_GROUP_ID != 0;
            let name = input.name()?;
            O::SetXattr { name, value: input.bytes(size as usize)?, flags, drops_group_id }
        }
        abi::GETXATTR => {
            let size = input.u32()?;
            input.skip(4)?;
            O::GetXattr { name: input.name()?, size }
        }
        abi::LISTXATTR => O::ListXattr { size: input.u32()? },
        abi::REMOVEXATTR => O::RemoveXattr { name: input.name()? },
        abi::OPENDIR => O::OpenDir,
        abi::READDIR => O::ReadDir { handle: input.u64()?, offset: input.u64()?, size: input.u32()? },
        abi::READDIRPLUS => O::ReadDirPlus { handle: input.u64()?, offset: input.u64()?, size: input.u32()? },
        abi::RELEASEDIR => O::ReleaseDir { handle: input.u64()? },
        abi::FSYNCDIR => O::FsyncDir,
        abi::FALLOCATE => {
            O::FAllocate { handle: input.u64()?, offset: input.u64()?, len: input.u64()?, mode: input.u32()? }
        }
        abi::LSEEK => O::LSeek { handle: input.u64()?, offset: input.u64()?, whence: input.u32()? },
        abi::COPY_FILE_RANGE | abi::COPY_FILE_RANGE_64 => {
            let (from, from_offset) = (input.u64()?, input.u64()?);
            input.skip(8)?;
            O::CopyRange { from, from_offset, to: input.u64()?, to_offset: input.u64()?, len: input.u64()? }
        }
        abi::IOCTL => {
            let handle = input.u64()?;
            input.skip(4)?;
            let command = input.u32()?;
            input.skip(8)?;
            let size = input.u32()?;
            input.skip(4)?;
            O::IoCtl { handle, command, data: input.bytes(size as usize)? }
        }
        abi::POLL => {
            let (handle, asker, flags) = (input.u64()?, input.u64()?, input.u32()?);
            O::Poll { handle, waits: (flags & abi::POLL_WAITS != 0).then_some(asker) }
        }
        abi::INIT => O::Init(init(input)?),
        abi::INTERRUPT => O::Interrupt { unique: input.u64()? },
        abi::DESTROY => O::Destroy,
        other => O::Unknown(other),
    })
}

fn init(mut input: Input<'_>) -> Option<Init> {
    let (major, minor, max_readahead) = (input.u32()?, input.u32()?, input.u32()?);
    let low = u64::from(input.u32()?);
    // Kernels before 5.17 have no more than these.
    let high = if low & abi::init::INIT_EXT != 0 { u64::from(input.u32()?) } else { 0 };
    Some(Init { major, minor, max_readahead, flags: high << 32 | low })
}

fn lock(mut input: Input<'_>) -> Option<Lock> {
    let (handle, owner) = (input.u64()?, LockOwner(input.u64()?));
    let (start, end) = (input.u64()?, input.u64()?);
    let (mode, pid, flags) = (input.u32()?, input.u32()?, input.u32()?);
    // To the end, wherever that will be.
    let range = LockRange { start, end: if end >= abi::LAST_BYTE { u64::MAX } else { end } };
    let is_flock = flags & abi::LOCK_IS_FLOCK != 0;
    let mode = match mode {
        abi::LOCK_SHARED => Some(LockMode::Shared),
        abi::LOCK_EXCLUSIVE => Some(LockMode::Exclusive),
        _ => None,
    };
    let (kind, range) = if is_flock { (LockKind::Flock, LockRange::ALL) } else { (LockKind::Range, range) };
    Some(Lock { handle, kind, owner, range, mode, pid })
}

fn set_attr(mut input: Input<'_>) -> Option<SetAttr> {
    let said = input.u32()?;
    let has = |flag: u32| said & flag != 0;
    input.skip(4)?;
    let (handle, size) = (input.u64()?, input.u64()?);
    input.skip(8)?;
    let (atime, mtime) = (input.u64()?, input.u64()?);
    input.skip(8)?;
    let (atime_nanos, mtime_nanos) = (input.u32()?, input.u32()?);
    input.skip(4)?;
    let mode = input.u32()?;
    input.skip(4)?;
    let (uid, gid) = (input.u32()?, input.u32()?);
    let when = |set: u32, now: u32, secs: u64, nanos: u32| {
        // The bits of a number that may be below zero: before 1970.
        let at = When::At(Timestamp { secs: secs as i64, nanos });
        has(set).then_some(if has(now) { When::Now } else { at })
    };
    Some(SetAttr {
        mode: has(abi::SET_MODE).then_some(mode),
        uid: has(abi::SET_UID).then_some(uid),
        gid: has(abi::SET_GID).then_some(gid),
        size: has(abi::SET_SIZE).then_some(size),
        atime: when(abi::SET_ATIME, abi::SET_ATIME_NOW, atime, atime_nanos),
        mtime: when(abi::SET_MTIME, abi::SET_MTIME_NOW, mtime, mtime_nanos),
        handle: has(abi::SET_HANDLE).then_some(handle),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A request as the kernel sends it: numbers of 32 and of 64 bits, and bytes.
    struct Sent(Vec<u8>);

    impl Sent {
        fn n32(mut self, values: &[u32]) -> Sent {
            self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
            self
        }

        fn n64(mut self, values: &[u64]) -> Sent {
            self.0.extend(values.iter().flat_map(|value| value.to_ne_bytes()));
            self
        }

        fn bytes(mut self, bytes: &[u8]) -> Sent {
            self.0.extend_from_slice(bytes);
            self
        }

        fn with_head(self, opcode: u32) -> Vec<u8> {
            let head = Sent(Vec::new()).n32(&[(40 + self.0.len()) as u32, opcode]).n64(&[0x77, 5]);
            head.n32(&[10, 20, 30, 0]).bytes(&self.0).0
        }
    }

    fn sent() -> Sent {
        Sent(Vec::new())
    }

    fn parsed(opcode: u32, arguments: Sent, expected: Operation<'_>) {
        parsed_as(0, opcode, arguments, expected);
    }

    fn parsed_as(agreed: u64, opcode: u32, arguments: Sent, expected: Operation<'_>) {
        let whole = arguments.with_head(opcode);
        let request = Request { unique: 0x77, node: 5, uid: 10, gid: 20, pid: 30, operation: expected };
        assert_eq!(Request::parse(&whole, agreed), Ok(request));
        // Whatever is cut off, it is not understood as something else, or is not needed.
        for len in 0..whole.len() {
            match Request::parse(&whole[..len], agreed) {
                Err(Malformed::Head) => assert!(len < abi::IN_HEAD),
                Err(Malformed::Body { unique, opcode: of }) => assert_eq!((unique, of), (0x77, opcode)),
                Ok(_) => panic!("{opcode} of {len} bytes was understood"),
            }
        }
    }

    /// The bytes of every request, as the kernel's header has them.
    #[test]
    fn requests_are_golden() {
        use Operation as O;
        let at = |secs| Some(When::At(Timestamp { secs, nanos: 6 }));
        parsed(abi::LOOKUP, sent().bytes(b"name\0"), O::Lookup { name: b"name" });
        parsed(abi::FORGET, sent().n64(&[1]), O::Forget);
        parsed(abi::GETATTR, sent().n64(&[0, 0]), O::GetAttr);
        let set =
            sent().n32(&[0x7f, 0]).n64(&[9, 1000, 8, u64::MAX, 3, 0]).n32(&[6, 6, 0, 0o644, 0, 1, 2, 0]);
        let all = SetAttr {
            mode: Some(0o644),
            uid: Some(1),
            gid: Some(2),
            size: Some(1000),
            atime: at(-1),
            mtime: at(3),
            handle: Some(9),
        };
        parsed(abi::SETATTR, set, O::SetAttr(all));
        let now = sent().n32(&[0x1b0, 0]).n64(&[0; 6]).n32(&[0; 8]);
        let (atime, mtime) = (Some(When::Now), Some(When::Now));
        parsed(abi::SETATTR, now, O::SetAttr(SetAttr { atime, mtime, ..SetAttr::default() }));
        parsed(abi::READLINK, sent(), O::ReadLink);
        let symlink = O::Symlink { name: b"name", target: b"to" };
        parsed(abi::SYMLINK, sent().bytes(b"name\0to\0"), symlink);
        let node = O::MkNod { name: b"n", mode: 1, rdev: 2, umask: 3 };
        parsed(abi::MKNOD, sent().n32(&[1, 2, 3, 0]).bytes(b"n\0"), node);
        parsed(abi::MKDIR, sent().n32(&[1, 3]).bytes(b"n\0"), O::MkDir { name: b"n", mode: 1, umask: 3 });
        parsed(abi::UNLINK, sent().bytes(b"n\0"), O::Unlink { name: b"n" });
        parsed(abi::RMDIR, sent().bytes(b"n\0"), O::RmDir { name: b"n" });
        let rename = |flags| O::Rename { name: b"a", new_parent: 9, new_name: b"b", flags };
        parsed(abi::RENAME, sent().n64(&[9]).bytes(b"a\0b\0"), rename(0));
        parsed(abi::RENAME2, sent().n64(&[9]).n32(&[2, 0]).bytes(b"a\0b\0"), rename(2));
        parsed(abi::LINK, sent().n64(&[9]).bytes(b"n\0"), O::Link { node: 9, name: b"n" });
        let create = O::Create { name: b"n", flags: 1, mode: 2, umask: 3 };
        parsed(abi::CREATE, sent().n32(&[1, 2, 3, 0]).bytes(b"n\0"), create);
        let write = sent().n64(&[1, 2]).n32(&[4, 0]).n64(&[3]).n32(&[0, 0]).bytes(b"data");
        let whole = |drops_privileges| O::Write { handle: 1, offset: 2, data: b"data", drops_privileges };
        parsed(abi::WRITE, write, whole(false));
        let write = sent().n64(&[1, 2]).n32(&[4, 4]).n64(&[3]).n32(&[0, 0]).bytes(b"data");
        parsed(abi::WRITE, write, whole(true));
        let set = sent().n32(&[3, 1]).bytes(b"user.a\0xyz");
        let expected =
            |drops_group_id| O::SetXattr { name: b"user.a", value: b"xyz", flags: 1, drops_group_id };
        parsed(abi::SETXATTR, set, expected(false));
        for drops in [false, true] {
            let set = sent().n32(&[3, 1, u32::from(drops), 0]).bytes(b"user.a\0xyz");
            parsed_as(abi::init::SETXATTR_EXT, abi::SETXATTR, set, expected(drops));
        }
        let get = sent().n32(&[64, 0]).bytes(b"user.a\0");
        parsed(abi::GETXATTR, get, O::GetXattr { name: b"user.a", size: 64 });
        parsed(abi::REMOVEXATTR, sent().bytes(b"user.a\0"), O::RemoveXattr { name: b"user.a" });
        let copy = O::CopyRange { from: 1, from_offset: 2, to: 4, to_offset: 5, len: 6 };
        for opcode in [abi::COPY_FILE_RANGE, abi::COPY_FILE_RANGE_64] {
            let mut whole = sent().n64(&[1, 2, 3, 4, 5, 6, 0]).with_head(opcode);
            assert_eq!(Request::parse(&whole, 0).unwrap().operation, copy);
            whole.truncate(80);
            assert!(Request::parse(&whole, 0).is_err());
        }
        parsed(abi::FLUSH, sent().n64(&[1, 0, 3]), O::Flush { handle: 1, owner: LockOwner(3) });
        let part = LockRange { start: 5, end: 9 };
        let range = Lock {
            handle: 1,
            kind: LockKind::Range,
            owner: LockOwner(2),
            range: part,
            mode: Some(LockMode::Exclusive),
            pid: 30,
        };
        let sent_lock =
            |end: u64, mode: u32, flags: u32| sent().n64(&[1, 2, 5, end]).n32(&[mode, 30, flags, 0]);
        let asked = |opcode: u32, arguments: Sent| match Request::parse(&arguments.with_head(opcode), 0)
            .unwrap()
            .operation
        {
            O::GetLock(lock) => (lock, None),
            O::SetLock { lock, wait } => (lock, Some(wait)),
            other => panic!("{other:?}"),
        };
        assert_eq!(asked(abi::GETLK, sent_lock(9, 1, 0)), (range, None));
        assert_eq!(asked(abi::SETLK, sent_lock(9, 1, 0)), (range, Some(false)));
        assert_eq!(asked(abi::SETLKW, sent_lock(9, 1, 0)), (range, Some(true)));
        let rest = LockRange { start: 5, end: u64::MAX };
        let open = Lock { range: rest, mode: None, ..range };
        assert_eq!(asked(abi::SETLK, sent_lock(i64::MAX as u64, 2, 0)), (open, Some(false)));
        let flock =
            Lock { kind: LockKind::Flock, range: LockRange::ALL, mode: Some(LockMode::Shared), ..range };
        assert_eq!(asked(abi::SETLKW, sent_lock(9, 0, 1)), (flock, Some(true)));
        assert!(Request::parse(&sent().n64(&[1, 2, 5, 9]).n32(&[1, 30]).with_head(abi::SETLK), 0).is_err());
        let order = sent().n64(&[1]).n32(&[0, 0x4008_4201]).n64(&[7]).n32(&[8, 0]).bytes(b"12345678");
        parsed(abi::IOCTL, order, O::IoCtl { handle: 1, command: abi::WATCH_FROM, data: b"12345678" });
        parsed(abi::INTERRUPT, sent().n64(&[0x76]), O::Interrupt { unique: 0x76 });
        parsed(99, sent().n64(&[1]), O::Unknown(99));
    }

    /// Requests that end with numbers which are not looked at.
    #[test]
    fn requests_with_more_than_is_needed() {
        use Operation as O;
        for (opcode, arguments, expected) in [
            (abi::OPEN, sent().n32(&[1, 0]), O::Open { flags: 1 }),
            (
                abi::TMPFILE,
                sent().n32(&[1, 2, 3, 0]).bytes(b"/\0"),
                O::TmpFile { flags: 1, mode: 2, umask: 3 },
            ),
            (
                abi::READ,
                sent().n64(&[1, 2]).n32(&[3, 0]).n64(&[4]).n32(&[5, 0]),
                O::Read { handle: 1, offset: 2, size: 3, flags: 5 },
            ),
            (abi::RELEASE, sent().n64(&[1]).n32(&[2, 0]).n64(&[3]), O::Release { handle: 1 }),
            (abi::FSYNC, sent().n64(&[1]).n32(&[1, 0]), O::Fsync { handle: 1 }),
            (abi::LISTXATTR, sent().n32(&[64, 0]), O::ListXattr { size: 64 }),
            (
                abi::READDIR,
                sent().n64(&[1, 2]).n32(&[3, 0]).n64(&[4]).n32(&[5, 0]),
                O::ReadDir { handle: 1, offset: 2, size: 3 },
            ),
            (
                abi::FALLOCATE,
                sent().n64(&[1, 2, 3]).n32(&[4, 0]),
                O::FAllocate { handle: 1, offset: 2, len: 3, mode: 4 },
            ),
            (abi::POLL, sent().n64(&[1, 2]).n32(&[1, 5]), O::Poll { handle: 1, waits: Some(2) }),
            (abi::POLL, sent().n64(&[1, 2]).n32(&[0, 5]), O::Poll { handle: 1, waits: None }),
            (abi::LSEEK, sent().n64(&[1, 2]).n32(&[3, 0]), O::LSeek { handle: 1, offset: 2, whence: 3 }),
        ] {
            let whole = arguments.with_head(opcode);
            assert_eq!(Request::parse(&whole, 0).unwrap().operation, expected);
        }
        let old = sent().n32(&[7, 31, 100, 1 << 20]).with_head(abi::INIT);
        let introduced = |bytes: &[u8]| match Request::parse(bytes, 0).unwrap().operation {
            O::Init(init) => init,
            other => panic!("{other:?}"),
        };
        let expected = Init { major: 7, minor: 31, max_readahead: 100, flags: 1 << 20 };
        assert_eq!(introduced(&old), expected);
        let new = sent().n32(&[7, 45, 100, 1 << 30 | 1, 2]).bytes(&[0; 44]).with_head(abi::INIT);
        let expected = Init { major: 7, minor: 45, max_readahead: 100, flags: 1 << 33 | 1 << 30 | 1 };
        assert_eq!(introduced(&new), expected);
    }

    /// Whatever the bytes are, they are understood or refused.
    #[test]
    fn mangled_requests_are_understood_or_refused() {
        let numbers = || sent().n64(&[1, 2, 3, 4, 5, 6, 7]).bytes(b"name\0other\0data");
        let messages: Vec<Vec<u8>> = (0..60).map(|opcode| numbers().with_head(opcode)).collect();
        let mut campaign = wire::fuzz::Campaign::of(200_000);
        while campaign.goes_on() {
            let bytes = campaign.spoil(&messages);
            match Request::parse(&bytes, u64::MAX) {
                Ok(request) => assert_eq!(request.unique.to_ne_bytes(), bytes[8..16]),
                Err(Malformed::Body { unique, .. }) => assert_eq!(unique.to_ne_bytes(), bytes[8..16]),
                Err(Malformed::Head) => {}
            }
        }
    }
}
