//! Answers.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::Notify;
use wire::meta::{Attr, FileKind, LockHeld, LockMode, StatFs};

use super::abi::{self, OUT_HEAD, OpenFlags, Output};
use super::device::Device;
use super::interrupts::Interrupts;

/// Something the kernel waits for: answered once.
#[derive(Debug)]
pub(super) struct Asked {
    unique: u64,
    device: Arc<Device>,
    answered: AtomicBool,
}

impl Asked {
    /// Answers, unless that was done; whether anybody heard it.
    fn send(&self, error: i32, parts: &[&[u8]]) -> bool {
        if self.answered.swap(true, Ordering::AcqRel) {
            return false;
        }
        let len = OUT_HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut head = Output(Vec::with_capacity(OUT_HEAD));
        // An answer is at most as long as a read, far below 4 GiB.
        head.u32(len as u32).u32(error as u32).u64(self.unique);
        let mut slices = [IoSlice::new(&head.0), IoSlice::new(&[]), IoSlice::new(&[])];
        for (slice, part) in slices.iter_mut().skip(1).zip(parts) {
            *slice = IoSlice::new(part);
        }
        self.device.write(&slices[..=parts.len().min(2)])
    }

    pub(super) fn error(&self, errno: Errno) -> bool {
        self.send(-errno.raw_os_error(), &[])
    }
}

/// What is owed to one request. One that is forgotten is answered with `EIO`.
#[derive(Debug)]
pub(in crate::mount) struct Reply {
    asked: Arc<Asked>,
    pid: u32,
    /// Where it is known as one that waits.
    waits: Option<Arc<Interrupts>>,
}

impl Reply {
    pub(super) fn new(unique: u64, pid: u32, device: &Arc<Device>) -> Reply {
        let asked = Asked { unique, device: device.clone(), answered: AtomicBool::new(false) };
        Reply { asked: Arc::new(asked), pid, waits: None }
    }

    /// It is going to take a while: from now on a process that is killed does not wait for it.
    pub(in crate::mount) fn later(mut self, interrupts: &Arc<Interrupts>) -> Reply {
        interrupts.waits(self.asked.unique, self.pid, self.asked.clone(), None);
        self.waits = Some(interrupts.clone());
        self
    }

    /// The same, for what programs expect to be interrupted: any signal is told by what is returned.
    pub(in crate::mount) fn later_unless_interrupted(
        mut self,
        interrupts: &Arc<Interrupts>,
    ) -> (Reply, Arc<Notify>) {
        let cancel = Arc::new(Notify::new());
        interrupts.waits(self.asked.unique, self.pid, self.asked.clone(), Some(cancel.clone()));
        self.waits = Some(interrupts.clone());
        (self, cancel)
    }

    fn send(self, parts: &[&[u8]]) -> bool {
        self.asked.send(0, parts)
    }

    fn give(self, output: &Output) -> bool {
        self.send(&[&output.0])
    }

    pub(in crate::mount) fn error(self, errno: Errno) {
        self.asked.error(errno);
    }

    /// Done, and nothing to tell.
    pub(in crate::mount) fn ok(self) {
        self.send(&[]);
    }

    pub(in crate::mount) fn data(self, bytes: &[u8]) {
        self.send(&[bytes]);
    }

    /// The same; whether anybody heard it. What comes later is not sent.
    pub(in crate::mount) fn try_data(&self, bytes: &[u8]) -> bool {
        self.asked.send(0, &[bytes])
    }

    /// To a poll: there is something to read, or the end.
    pub(in crate::mount) fn readable(self, ended: bool) {
        let end = if ended { abi::POLL_HANG_UP } else { 0 };
        self.count(abi::POLL_IN | abi::POLL_READ | end);
    }

    /// To a poll: there is nothing to read.
    pub(in crate::mount) fn not_readable(self) {
        self.count(0);
    }

    /// To a poll of what never has to be waited for.
    pub(in crate::mount) fn always_ready(self) {
        self.count(abi::POLL_ANY);
    }

    /// An order was carried out, and this is its answer.
    pub(in crate::mount) fn ordered(self, data: &[u8]) {
        self.send(&[&[0; 16], data]);
    }

    /// What wakes those who were answered that there is nothing to read.
    pub(in crate::mount) fn waker(&self) -> Waker {
        Waker(self.asked.device.clone())
    }

    /// What a name stands for, and how long the name and the attributes may be used. `node`: what the kernel
    /// is to call it.
    pub(in crate::mount) fn entry(self, node: u64, name: Duration, valid: Duration, attr: &Attr) {
        self.give(Output::default().entry(node, name, valid, attr));
    }

    pub(in crate::mount) fn attr(self, valid: Duration, attr: &Attr) {
        let mut output = Output::default();
        self.give(output.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0).attr(attr));
    }

    pub(in crate::mount) fn statx(self, valid: Duration, attr: &Attr) {
        let mut output = Output::default();
        self.give(output.u64(valid.as_secs()).u32(valid.subsec_nanos()).u32(0).zeros(16).statx(attr));
    }

    /// It is open; whether anybody heard it, since what nobody knows to be open nobody closes.
    #[must_use]
    pub(in crate::mount) fn opened(self, handle: u64, flags: OpenFlags) -> bool {
        self.give(Output::default().u64(handle).u32(flags).u32(0))
    }

    /// It was made or found, and is open; the same.
    #[must_use]
    pub(in crate::mount) fn created(
        self,
        attr: &Attr,
        (name, valid): (Duration, Duration),
        handle: u64,
        flags: OpenFlags,
    ) -> bool {
        self.give(Output::default().entry(attr.ino.0, name, valid, attr).u64(handle).u32(flags).u32(0))
    }

    /// So many bytes were written, or copied, or are what there is to tell.
    pub(in crate::mount) fn count(self, bytes: u32) {
        self.give(Output::default().u32(bytes).u32(0));
    }

    pub(in crate::mount) fn position(self, offset: u64) {
        self.give(Output::default().u64(offset));
    }

    /// `block`: what space is counted in; `inodes_free`: how many more there may be; `name`: longest name.
    pub(in crate::mount) fn statfs(self, space: &StatFs, block: u32, inodes_free: u64, name: u32) {
        let blocks = |bytes: u64| bytes / u64::from(block);
        let mut output = Output::default();
        output.u64(blocks(space.total_bytes)).u64(blocks(space.free_bytes)).u64(blocks(space.free_bytes));
        output.u64(space.inodes.saturating_add(inodes_free)).u64(inodes_free);
        self.give(output.u32(block).u32(name).u32(block).zeros(4 + 6 * 4));
    }

    /// A lock that is in the way, or none; `pid` as processes here are to see it.
    pub(in crate::mount) fn lock(self, held: Option<&LockHeld>, pid: u32) {
        let mut output = Output::default();
        match held {
            Some(LockHeld { range, mode, .. }) => {
                let mode = match mode {
                    LockMode::Shared => abi::LOCK_SHARED,
                    LockMode::Exclusive => abi::LOCK_EXCLUSIVE,
                };
                output.u64(range.start).u64(range.end.min(abi::LAST_BYTE)).u32(mode).u32(pid)
            }
            None => output.u64(0).u64(0).u32(abi::LOCK_NONE).u32(0),
        };
        self.give(&output);
    }

    pub(in crate::mount) fn listing(self, listing: &Listing) {
        self.give(&listing.output);
    }

    pub(super) fn raw(self, output: &Output) {
        self.give(output);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.asked.error(Errno::IO);
        if let Some(interrupts) = self.waits.take() {
            interrupts.over(self.asked.unique);
        }
    }
}

/// Wakes who polled.
#[derive(Debug)]
pub(in crate::mount) struct Waker(Arc<Device>);

impl Waker {
    /// Those of an open file, by what the kernel calls them.
    pub(in crate::mount) fn wake(&self, polled: u64) {
        let mut output = Output::default();
        // No request has number 0: the kernel is told something by itself.
        output.u32(OUT_HEAD as u32 + 8).u32(abi::NOTIFY_POLL).u64(0).u64(polled);
        // If nobody waits any more, nobody is woken.
        self.0.write(&[IoSlice::new(&output.0)]);
    }
}

/// A part of a listing, as long as the kernel has room for.
#[derive(Debug)]
pub(in crate::mount) struct Listing {
    output: Output,
    most: usize,
}

impl Listing {
    pub(in crate::mount) fn new(most: u32) -> Listing {
        Listing { output: Output(Vec::with_capacity(most as usize)), most: most as usize }
    }

    /// Adds a line; whether there was no room for it.
    pub(in crate::mount) fn add(&mut self, ino: u64, position: u64, kind: FileKind, name: &[u8]) -> bool {
        self.fill(|output| {
            output.line(ino, position, kind, name);
        })
    }

    /// Adds a line with attributes, if they are known, and for how long they may be used.
    pub(in crate::mount) fn add_with(
        &mut self,
        (ino, position): (u64, u64),
        (kind, name): (FileKind, &[u8]),
        known: Option<(Duration, &Attr)>,
    ) -> bool {
        self.fill(|output| {
            match known {
                Some((valid, attr)) => output.entry(ino, valid, valid, attr),
                None => output.zeros(128),
            };
            output.line(ino, position, kind, name);
        })
    }

    fn fill(&mut self, add: impl FnOnce(&mut Output)) -> bool {
        let before = self.output.0.len();
        add(&mut self.output);
        let full = self.output.0.len() > self.most;
        if full {
            self.output.0.truncate(before);
        }
        full
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::io::{PipeReader, Read};

    use wire::id::{Ino, LockGeneration, LockHandle, LockOwner, SessionId};
    use wire::layout::FileLayout;
    use wire::meta::{LockRange, Timestamp};

    use super::*;

    fn device() -> (Arc<Device>, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        (Arc::new(Device::of(writer.into())), reader)
    }

    /// Something that is waited for, and what hears the answer.
    pub(in super::super) fn asked() -> (Arc<Asked>, PipeReader) {
        let (device, reader) = device();
        (Arc::new(Asked { unique: 2, device, answered: AtomicBool::new(false) }), reader)
    }

    /// What the kernel hears of it: the error, and what follows the head.
    fn heard(answer: impl FnOnce(Reply)) -> (i32, Vec<u8>) {
        let (device, mut reader) = device();
        answer(Reply::new(0x1122, 1, &device));
        drop(device);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let number = |at: usize| i32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((number(0) as usize, number(8), number(12)), (bytes.len(), 0x1122, 0));
        (number(4), bytes.split_off(OUT_HEAD))
    }

    fn attr() -> Attr {
        let time = |secs| Timestamp { secs, nanos: secs.unsigned_abs() as u32 };
        Attr {
            ino: Ino(7),
            kind: FileKind::CharDevice,
            mode: 0o4755,
            nlink: 3,
            uid: 10,
            gid: 20,
            rdev: 0x1_0203,
            size: 1000,
            allocated_bytes: 4096,
            atime: time(-1),
            mtime: time(2),
            ctime: time(3),
            btime: time(4),
            layout: FileLayout::default(),
            xattrs: 0,
        }
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        bytes.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect()
    }

    /// An answer that a task has forgotten is an error, and one is not given twice.
    #[test]
    fn what_is_forgotten_is_answered() {
        assert_eq!(heard(drop), (-Errno::IO.raw_os_error(), vec![]));
        assert_eq!(heard(|reply| reply.error(Errno::NOENT)), (-Errno::NOENT.raw_os_error(), vec![]));
        assert_eq!(heard(|reply| reply.data(b"bytes")), (0, b"bytes".to_vec()));
        let (asked, mut reader) = asked();
        assert!(asked.error(Errno::INTR) && !asked.error(Errno::IO));
        drop(asked);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), OUT_HEAD);
    }

    /// One that waits is known as such until it is answered.
    #[test]
    fn who_waits_is_known_until_the_answer() {
        let interrupts = Arc::<Interrupts>::default();
        let waits = heard(|reply| {
            let reply = reply.later(&interrupts);
            assert!(format!("{interrupts:?}").contains("4386: Waiting"), "{interrupts:?}");
            reply.ok();
        });
        assert_eq!(waits, (0, vec![]));
        assert!(!format!("{interrupts:?}").contains("Waiting {"), "{interrupts:?}");
    }

    /// The bytes of every answer, as the kernel's header has them.
    #[cfg(target_endian = "little")]
    #[test]
    fn answers_are_golden() {
        let second = Duration::new(1, 5);
        let attr_words = [
            7,
            0,
            1000,
            0,
            8,
            0,
            u32::MAX,
            u32::MAX,
            2,
            0,
            3,
            0,
            1,
            2,
            3,
            0o02_4755,
            3,
            10,
            20,
            0x1_0203,
            128 << 10,
            0,
        ];
        let entry = [&[9, 0, 0, 0, 1, 0, 2, 0, 5, 6][..], &attr_words].concat();
        let (name, valid) = (second, Duration::new(2, 6));
        assert_eq!(words(&heard(|reply| reply.entry(9, name, valid, &attr())).1), entry);
        let given = words(&heard(|reply| reply.attr(second, &attr())).1);
        assert_eq!(given, [&[1, 0, 5, 0][..], &attr_words].concat());
        let created = heard(|reply| assert!(reply.created(&attr(), (name, valid), 5, OPEN)));
        assert_eq!(words(&created.1), [&[7][..], &entry[1..], &[5, 0, 1, 0]].concat());
        assert_eq!(words(&heard(|reply| assert!(reply.opened(5, OPEN))).1), [5, 0, 1, 0]);
        assert_eq!(words(&heard(|reply| reply.count(5)).1), [5, 0]);
        assert_eq!(words(&heard(|reply| reply.position(1 << 32)).1), [0, 1]);
        assert_eq!(words(&heard(|reply| assert!(reply.try_data(b"data"))).1), words(b"data"));
        assert_eq!(words(&heard(|reply| reply.readable(false)).1), [0x41, 0]);
        assert_eq!(words(&heard(|reply| reply.readable(true)).1), [0x51, 0]);
        assert_eq!(words(&heard(Reply::not_readable).1), [0, 0]);
        assert_eq!(words(&heard(Reply::always_ready).1), [0x145, 0]);
        assert_eq!(words(&heard(|reply| reply.ordered(&7u64.to_ne_bytes())).1), [0, 0, 0, 0, 7, 0]);
        let (device, mut reader) = device();
        Waker(device).wake(5);
        let mut told = Vec::new();
        reader.read_to_end(&mut told).unwrap();
        assert_eq!(words(&told), [24, 1, 0, 0, 5, 0]);
        let held = |mode, end| LockHeld {
            session: SessionId(1),
            owner: LockOwner(2),
            handle: LockHandle(3),
            range: LockRange { start: 5, end },
            mode,
            pid: 4,
            generation: LockGeneration(6),
            since: Timestamp::default(),
        };
        let given = words(&heard(|reply| reply.lock(Some(&held(LockMode::Shared, 9)), 7)).1);
        assert_eq!(given, [5, 0, 9, 0, 0, 7]);
        let given = words(&heard(|reply| reply.lock(Some(&held(LockMode::Exclusive, u64::MAX)), 7)).1);
        assert_eq!(given, [5, 0, u32::MAX, u32::MAX >> 1, 1, 7]);
        assert_eq!(words(&heard(|reply| reply.lock(None, 7)).1), [0, 0, 0, 0, 2, 0]);
        let space = StatFs { total_bytes: 8192, free_bytes: 4096, inodes: 3 };
        let given = words(&heard(|reply| reply.statfs(&space, 4096, 4, 255)).1);
        assert_eq!(given, [&[2, 0, 1, 0, 1, 0, 7, 0, 4, 0, 4096, 255, 4096][..], &[0; 7]].concat());
        let given = words(&heard(|reply| reply.statx(second, &attr())).1);
        let time = |secs: u32| [secs, 0, secs, 0];
        let times = [[u32::MAX, u32::MAX, 1, 0], time(4), time(3), time(2)].concat();
        let expected = [
            &[
                1,
                0,
                5,
                0,
                0,
                0,
                0,
                0,
                0xfff,
                128 << 10,
                0,
                0,
                3,
                10,
                20,
                0o02_4755,
                7,
                0,
                1000,
                0,
                8,
                0,
                0,
                0,
            ][..],
            &times,
            &[0x102, 3, 0, 0],
            &[0; 28],
        ];
        assert_eq!(given, expected.concat());
    }

    const OPEN: OpenFlags = 1;

    /// Lines fill a part of a listing up to its size and no further.
    #[cfg(target_endian = "little")]
    #[test]
    fn listings_are_golden() {
        let mut listing = Listing::new(40 + 24 + 8 + 20);
        assert!(!listing.add(7, 9, FileKind::Directory, b"twelve_chars"));
        assert!(!listing.add(8, 10, FileKind::File, b"12345678"));
        assert!(listing.add(9, 11, FileKind::File, b""));
        let bytes = heard(|reply| reply.listing(&listing)).1;
        assert_eq!(words(&bytes[..24]), [7, 0, 9, 0, 12, 4]);
        assert_eq!(&bytes[24..40], b"twelve_chars\0\0\0\0");
        assert_eq!(words(&bytes[40..64]), [8, 0, 10, 0, 8, 8]);
        assert_eq!(&bytes[64..], b"12345678");
        let mut listing = Listing::new(1000);
        let line = ((7, 9), (FileKind::File, &b"x"[..]));
        assert!(!listing.add_with(line.0, line.1, Some((Duration::ZERO, &attr()))));
        assert!(!listing.add_with(line.0, line.1, None));
        let bytes = heard(|reply| reply.listing(&listing)).1;
        assert_eq!(bytes.len(), 2 * (128 + 24 + 8));
        assert_eq!(words(&bytes[..8]), [7, 0]);
        assert!(bytes[160..288].iter().all(|byte| *byte == 0));
        assert_eq!(bytes[128..160], bytes[288..]);
    }
}
