//! Keys: a tag byte, then big-endian numbers, then a name, so that the order of bytes is the
//! order of things (`keys_sort_as_their_numbers`).

use wire::id::{CallSeq, DirCookie, Ino, JournalIndex, MapEpoch, SessionId};
use wire::join::TokenHash;
use wire::meta::{LockKind, Name};

/// The cluster map.
pub const MAP: &[u8] = b"Cmap";
/// Numbers given out and numbers of things.
pub const COUNTERS: &[u8] = b"Ccounters";
/// The latest time that join tokens were judged by.
pub const CLOCK: &[u8] = b"Cclock";
/// What is wanted of the bricks.
pub const WISHES: &[u8] = b"Cwishes";
/// Disks that others have taken the place of.
pub const FORMER_STORES: &[u8] = b"Cformer";
/// Disks that may take the place of another one though data is lost by that, by the numbers of their bricks.
pub const GIVEN_UP: &[u8] = b"Cgivenup";
/// How far the journals of bricks' disks have come.
pub const RECORDS: &[u8] = b"Crecords";
/// Disks that were set back and are to be let in with what they have, by the numbers of their bricks.
pub const TAKEN_BACK: &[u8] = b"Ctakenback";
/// Numbers of inodes that states may have given which were lost.
pub const LOST_INODES: &[u8] = b"Clostinodes";
/// The session that has the cluster for itself, if there is one.
pub const SOLE: &[u8] = b"Csole";
/// The generation of the last lock that was granted.
pub const LOCK_GENERATION: &[u8] = b"Cgeneration";
/// What the change journal holds, and what it may.
pub const JOURNAL: &[u8] = b"Cjournal";
/// Index of the last command whose effects are here.
pub const APPLIED: &[u8] = b"Capplied";
/// Last entry of the replicated log whose effects are here, and the members as of then.
pub const RAFT: &[u8] = b"Craft";

/// How often numbers of things were counted right.
pub const TALLIES: &[u8] = b"Ctallies";

/// Before every mark of a map.
pub const MARKS: &[u8] = b"M";

fn numbered(tag: u8, number: u64, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + rest.len());
    key.push(tag);
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

/// `I ino`.
pub fn inode(ino: Ino) -> Vec<u8> {
    numbered(b'I', ino.0, &[])
}

/// `D parent name`.
pub fn entry(parent: Ino, name: &Name) -> Vec<u8> {
    numbered(b'D', parent.0, name.as_bytes())
}

/// `D parent`, before every name.
pub fn names(parent: Ino) -> Vec<u8> {
    numbered(b'D', parent.0, &[])
}

/// `R parent cookie`.
pub fn listed(parent: Ino, cookie: DirCookie) -> Vec<u8> {
    numbered(b'R', parent.0, &cookie.0.to_be_bytes())
}

/// `R parent`, before every cookie.
pub fn listing(parent: Ino) -> Vec<u8> {
    numbered(b'R', parent.0, &[])
}

/// `P ino`.
pub fn place(ino: Ino) -> Vec<u8> {
    numbered(b'P', ino.0, &[])
}

/// `X ino name`; with an empty name the prefix of all of an inode.
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    numbered(b'X', ino.0, name)
}

/// `O ino`.
pub fn orphan(ino: Ino) -> Vec<u8> {
    numbered(b'O', ino.0, &[])
}

/// `S session`.
pub fn session(session: SessionId) -> Vec<u8> {
    numbered(b'S', session.0, &[])
}

/// `V session`: its class, where it is not the standard one.
pub fn class(session: SessionId) -> Vec<u8> {
    numbered(b'V', session.0, &[])
}

/// `A session`.
pub fn answered(session: SessionId) -> Vec<u8> {
    numbered(b'A', session.0, &[])
}

/// `U session seq`.
pub fn answer(session: SessionId, seq: CallSeq) -> Vec<u8> {
    numbered(b'U', session.0, &seq.0.to_be_bytes())
}

/// `U session`, the prefix of all its answers.
pub fn answers(session: SessionId) -> Vec<u8> {
    numbered(b'U', session.0, &[])
}

/// `W ino session`.
pub fn writer(ino: Ino, session: SessionId) -> Vec<u8> {
    numbered(b'W', ino.0, &session.0.to_be_bytes())
}

/// `W ino`, the prefix of all its writers.
pub fn writers(ino: Ino) -> Vec<u8> {
    numbered(b'W', ino.0, &[])
}

/// `L ino kind`: who holds locks of a kind on an inode.
pub fn locks(ino: Ino, kind: LockKind) -> Vec<u8> {
    let kind = match kind {
        LockKind::Flock => 0,
        LockKind::Range => 1,
    };
    numbered(b'L', ino.0, &[kind])
}

/// `L ino`, the prefix of locks of all kinds.
pub fn all_locks(ino: Ino) -> Vec<u8> {
    numbered(b'L', ino.0, &[])
}

/// `H session ino`: the session holds locks on the inode.
pub fn holds(session: SessionId, ino: Ino) -> Vec<u8> {
    numbered(b'H', session.0, &ino.0.to_be_bytes())
}

/// `H session`, the prefix of all inodes it holds locks on.
pub fn held_by(session: SessionId) -> Vec<u8> {
    numbered(b'H', session.0, &[])
}

/// `B session ino`: open files that are to give up their locks on the inode.
pub fn recalled(session: SessionId, ino: Ino) -> Vec<u8> {
    numbered(b'B', session.0, &ino.0.to_be_bytes())
}

/// `B session`, the prefix of all of a session.
pub fn recalled_of(session: SessionId) -> Vec<u8> {
    numbered(b'B', session.0, &[])
}

/// `J index`.
pub fn journal(index: JournalIndex) -> Vec<u8> {
    numbered(b'J', index.0, &[])
}

/// `E dir index`.
pub fn change(dir: Ino, index: JournalIndex) -> Vec<u8> {
    numbered(b'E', dir.0, &index.0.to_be_bytes())
}

/// `E dir`, the prefix of all that changed in it.
pub fn changes(dir: Ino) -> Vec<u8> {
    numbered(b'E', dir.0, &[])
}

/// `Q ino`.
pub fn cut(ino: Ino) -> Vec<u8> {
    numbered(b'Q', ino.0, &[])
}

/// `T ino`.
pub fn trim(ino: Ino) -> Vec<u8> {
    numbered(b'T', ino.0, &[])
}

/// `M epoch`.
pub fn mark(epoch: MapEpoch) -> Vec<u8> {
    numbered(b'M', epoch.0, &[])
}

/// `K hash`.
pub fn token(hash: TokenHash) -> Vec<u8> {
    let mut key = Vec::with_capacity(33);
    key.push(b'K');
    key.extend_from_slice(&hash.0);
    key
}

/// The least key that is greater than all that begin with `prefix`, whose first byte is a tag.
pub fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// The number after a key's tag.
pub fn first(key: &[u8]) -> Option<u64> {
    key.get(1..9)?.try_into().ok().map(u64::from_be_bytes)
}

/// The number after the first one.
pub fn second(key: &[u8]) -> Option<u64> {
    key.get(9..17)?.try_into().ok().map(u64::from_be_bytes)
}

/// What follows the first number: a name.
pub fn rest(key: &[u8]) -> &[u8] {
    key.get(9..).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The bytes of every key, for good.
    #[test]
    fn keys_are_golden() {
        let name = Name::new(&b"ab"[..]).unwrap();
        let text = |key: Vec<u8>| key.escape_ascii().to_string();
        assert_eq!(text(inode(Ino(0x41))), r"I\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(entry(Ino(0x41), &name)), r"D\x00\x00\x00\x00\x00\x00\x00Aab");
        assert_eq!(
            text(listed(Ino(0x41), DirCookie(0x42))),
            r"R\x00\x00\x00\x00\x00\x00\x00A\x00\x00\x00\x00\x00\x00\x00B"
        );
        assert_eq!(text(place(Ino(0x41))), r"P\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(xattr(Ino(0x41), b"user.a")), r"X\x00\x00\x00\x00\x00\x00\x00Auser.a");
        assert_eq!(text(orphan(Ino(0x41))), r"O\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(session(SessionId(0x41))), r"S\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(class(SessionId(0x41))), r"V\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(answered(SessionId(0x41))), r"A\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(
            text(answer(SessionId(0x41), CallSeq(0x42))),
            r"U\x00\x00\x00\x00\x00\x00\x00A\x00\x00\x00\x00\x00\x00\x00B"
        );
        assert_eq!(
            text(writer(Ino(0x41), SessionId(0x42))),
            r"W\x00\x00\x00\x00\x00\x00\x00A\x00\x00\x00\x00\x00\x00\x00B"
        );
        assert_eq!(text(token(TokenHash([0x61; 32]))), format!("K{}", "a".repeat(32)));
        assert_eq!(text(locks(Ino(0x41), LockKind::Flock)), r"L\x00\x00\x00\x00\x00\x00\x00A\x00");
        assert_eq!(text(locks(Ino(0x41), LockKind::Range)), r"L\x00\x00\x00\x00\x00\x00\x00A\x01");
        assert_eq!(
            text(holds(SessionId(0x41), Ino(0x42))),
            r"H\x00\x00\x00\x00\x00\x00\x00A\x00\x00\x00\x00\x00\x00\x00B"
        );
        assert_eq!(
            text(recalled(SessionId(0x41), Ino(0x42))),
            r"B\x00\x00\x00\x00\x00\x00\x00A\x00\x00\x00\x00\x00\x00\x00B"
        );
        assert_eq!(text(journal(JournalIndex(0x41))), r"J\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(
            text(change(Ino(0x41), JournalIndex(0x42))),
            r"E\x00\x00\x00\x00\x00\x00\x00A\x00\x00\x00\x00\x00\x00\x00B"
        );
        assert_eq!(text(mark(MapEpoch(0x41))), r"M\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(cut(Ino(0x41))), r"Q\x00\x00\x00\x00\x00\x00\x00A");
        assert_eq!(text(trim(Ino(0x41))), r"T\x00\x00\x00\x00\x00\x00\x00A");
    }

    /// Order of bytes is order of numbers, and the end of a prefix is right at its end.
    #[test]
    fn keys_sort_as_their_numbers() {
        assert!(inode(Ino(255)) < inode(Ino(256)));
        assert!(listed(Ino(1), DirCookie(u64::MAX)) < after(&listing(Ino(1))));
        assert_eq!(after(&listing(Ino(1))), listing(Ino(2)));
        assert_eq!(after(b"I"), b"J");
        assert_eq!(after(&inode(Ino(u64::MAX))), b"J");
        assert_eq!(first(&writer(Ino(7), SessionId(9))), Some(7));
        assert_eq!(second(&writer(Ino(7), SessionId(9))), Some(9));
        assert_eq!(first(b"Cmap"), None);
    }
}
