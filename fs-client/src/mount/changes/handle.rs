//! An open `.brickyard.watch`: where it has come to, and what it has not given out yet.
//!
//! 1. What was told is given out once and in order, whoever reads, polls or asks at the same time
//!    (`what_two_asked_for_is_given_once`).
//! 2. A read gets whole lines; where not even the first one fits, as much of it as does, and the next read goes on there
//!    (`a_read_gets_whole_lines`).
//! 3. Bytes that nobody heard are given to the next one (`what_nobody_heard_is_given_again`).
//! 4. Whoever polled and was told that there is nothing is woken when there is something (`who_polled_is_woken`).

use std::sync::Mutex;

use tokio::sync::Notify;
use wire::id::{Ino, JournalIndex};
use wire::meta::Changes;

use super::text;
use crate::locked;

/// See the module's head.
#[derive(Debug)]
pub(in crate::mount) struct WatchHandle {
    pub(super) dir: Ino,
    state: Mutex<State>,
    /// Nobody has it open any more.
    pub(super) closed: Notify,
}

#[derive(Debug)]
struct State {
    after: JournalIndex,
    /// Lines, the first of which may have lost its beginning.
    text: Vec<u8>,
    /// Nothing follows after the text.
    ended: bool,
    /// What the kernel calls whoever polled and waits.
    polled: Option<u64>,
    /// Somebody looks out for who polled.
    has_lookout: bool,
}

impl State {
    fn is_ready(&self) -> bool {
        !self.text.is_empty() || self.ended
    }
}

/// What a poll comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Polled {
    /// There is something to read, or nothing will follow.
    Ready {
        /// Nothing will follow.
        ended: bool,
    },
    /// Not yet.
    Nothing {
        /// Whoever asked has to look out, until [`WatchHandle::lookout`] gives whom to wake.
        look_out: bool,
    },
}

impl WatchHandle {
    pub(super) fn new(dir: Ino, after: JournalIndex) -> Self {
        let state = State { after, text: Vec::new(), ended: false, polled: None, has_lookout: false };
        Self { dir, state: Mutex::new(state), closed: Notify::new() }
    }

    /// Where it has come to.
    pub(super) fn after(&self) -> JournalIndex {
        locked(&self.state).after
    }

    /// The entry after which the next read begins: everything up to it has been given out, if nothing is left.
    pub(super) fn begin_after(&self, after: JournalIndex) {
        let mut state = locked(&self.state);
        state.after = after;
        state.text.clear();
        state.ended = false;
    }

    /// Takes in what was told when `asked` was where it had come to. If it has got further since, it was told that already.
    pub(super) fn absorb(&self, asked: JournalIndex, told: &Changes) {
        let mut state = locked(&self.state);
        if state.after != asked || state.ended {
            return;
        }
        state.after = told.until;
        state.ended = told.gone;
        state.text.extend_from_slice(text::lines(told).as_bytes());
    }

    /// Gives out what a reader has room for, if there is anything; nothing at all at the end. `give` says whether anybody
    /// heard it. Whether there was something to give.
    pub(super) fn give(&self, room: usize, give: impl FnOnce(&[u8]) -> bool) -> bool {
        let mut state = locked(&self.state);
        if !state.is_ready() {
            return false;
        }
        let room = room.min(state.text.len());
        let whole = state.text[..room].iter().rposition(|byte| *byte == b'\n').map_or(room, |end| end + 1);
        if give(&state.text[..whole]) {
            state.text.drain(..whole);
        }
        true
    }

    /// Whether there is something. If not, whoever asks is to be woken as `waits`.
    pub(super) fn poll(&self, waits: Option<u64>) -> Polled {
        let mut state = locked(&self.state);
        if state.is_ready() {
            return Polled::Ready { ended: state.ended };
        }
        let look_out = waits.is_some() && !state.has_lookout;
        state.polled = waits.or(state.polled);
        state.has_lookout |= look_out;
        Polled::Nothing { look_out }
    }

    /// Whom to wake, if there is something; then nobody looks out any more.
    pub(super) fn lookout(&self) -> Option<u64> {
        let mut state = locked(&self.state);
        if !state.is_ready() {
            return None;
        }
        state.has_lookout = false;
        state.polled.take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::meta::{Change, FileKind, Name, Timestamp, What};

    use super::*;

    fn told(indexes: std::ops::Range<u64>, gone: bool) -> Changes {
        let until = JournalIndex(indexes.end - 1);
        let change = |index: u64| {
            let name = Name::new(index.to_string().into_bytes()).unwrap();
            let at = Timestamp::default();
            (JournalIndex(index), Change { at, name, ino: Ino(1), kind: FileKind::File, what: What::Create })
        };
        Changes { changes: indexes.map(change).collect(), until, lost: false, gone }
    }

    fn handle() -> WatchHandle {
        WatchHandle::new(Ino(1), JournalIndex(9))
    }

    fn read(handle: &WatchHandle, room: usize) -> Option<String> {
        let mut given = None;
        let any = handle.give(room, |bytes| {
            given = Some(String::from_utf8(bytes.to_vec()).unwrap());
            true
        });
        assert_eq!(any, given.is_some());
        given
    }

    fn all(handle: &WatchHandle) -> String {
        std::iter::from_fn(|| read(handle, 4096)).collect()
    }

    /// Two who asked from the same place: the second one's answer says nothing new. What was asked before the place was
    /// changed is not taken for an answer to it.
    #[test]
    fn what_two_asked_for_is_given_once() {
        let handle = handle();
        handle.absorb(JournalIndex(9), &told(10..12, false));
        handle.absorb(JournalIndex(9), &told(10..13, false));
        assert_eq!(handle.after(), JournalIndex(11));
        handle.absorb(JournalIndex(11), &told(12..13, false));
        let expected = text::lines(&told(10..13, false));
        assert_eq!(all(&handle), expected);
        assert_eq!(read(&handle, 4096), None);
        handle.begin_after(JournalIndex(3));
        handle.absorb(JournalIndex(12), &told(13..14, false));
        assert_eq!(read(&handle, 4096), None);
        handle.absorb(JournalIndex(3), &told(4..5, true));
        handle.absorb(JournalIndex(4), &told(5..6, true));
        assert_eq!(read(&handle, 4096).unwrap(), text::lines(&told(4..5, true)));
        // The end.
        assert_eq!(read(&handle, 4096).unwrap(), "");
    }

    /// With every room that a reader may have, the same text comes, in whole lines where there is room for one.
    #[test]
    fn a_read_gets_whole_lines() {
        let expected = text::lines(&told(10..14, false));
        let longest = expected.lines().map(str::len).max().unwrap() + 1;
        for room in 1..expected.len() + 9 {
            let handle = handle();
            handle.absorb(JournalIndex(9), &told(10..14, false));
            let mut parts = Vec::new();
            while let Some(part) = read(&handle, room) {
                assert!(!part.is_empty() && part.len() <= room);
                assert!(room < longest || part.ends_with('\n'), "{room}: {part:?}");
                parts.push(part);
            }
            assert_eq!(parts.concat(), expected);
        }
    }

    /// A reader that is gone when it is to be answered takes nothing away.
    #[test]
    fn what_nobody_heard_is_given_again() {
        let handle = handle();
        handle.absorb(JournalIndex(9), &told(10..12, false));
        assert!(handle.give(4096, |_| false));
        assert_eq!(all(&handle), text::lines(&told(10..12, false)));
    }

    /// The first one who finds nothing looks out; all who asked are woken once by what comes.
    #[test]
    fn who_polled_is_woken() {
        let handle = handle();
        assert_eq!(handle.poll(None), Polled::Nothing { look_out: false });
        assert_eq!(handle.poll(Some(5)), Polled::Nothing { look_out: true });
        assert_eq!(handle.poll(Some(5)), Polled::Nothing { look_out: false });
        assert_eq!(handle.lookout(), None);
        handle.absorb(JournalIndex(9), &told(10..11, false));
        assert_eq!(handle.lookout(), Some(5));
        assert_eq!(handle.poll(Some(5)), Polled::Ready { ended: false });
        all(&handle);
        assert_eq!(handle.poll(Some(5)), Polled::Nothing { look_out: true });
        handle.absorb(JournalIndex(10), &told(11..12, true));
        assert_eq!(handle.poll(None), Polled::Ready { ended: true });
    }
}
