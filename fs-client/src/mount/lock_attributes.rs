//! Locks as extended attributes of every file. They are never listed, so that no tool copies them.
//!
//! | attribute | |
//! |---|---|
//! | `user.brickyard.lock` | who holds locks on the file: one JSON object a line |
//! | `user.brickyard.lock.token` | the number of the lock that the asking process holds |
//! | `user.brickyard.lock.break` | set to a number by the file's owner or root: breaks that lock |
//!
//! The kernel does not say through which open file somebody asks, only which thread it is: a token is that of its process.

use std::fmt::Write;

use bytes::Bytes;
use wire::id::{Ino, LockGeneration};
use wire::meta::{LockHeld, LockKind, LockMode, LockPlace, MAX_XATTR_VALUE_BYTES, OWN_XATTRS};
use wire::status::FsError;

use super::changes::add_text;
use crate::client::{Client, LockList};
use crate::error::Error;

const LOCKS: &[u8] = b"user.brickyard.lock";
const TOKEN: &[u8] = b"user.brickyard.lock.token";
const BREAK: &[u8] = b"user.brickyard.lock.break";
/// What the line takes that says how many locks are not told.
const MORE_BYTES: usize = 32;

/// Whether an attribute is one of the filesystem's own.
pub(super) fn is_own(attribute: &[u8]) -> bool {
    attribute.starts_with(OWN_XATTRS)
}

/// Its value, for a thread that asks.
pub(super) async fn get(client: &Client, ino: Ino, attribute: &[u8], thread: u32) -> Result<Bytes, Error> {
    match attribute {
        LOCKS => Ok(lines(&client.locks_on(ino).await?).into()),
        TOKEN => Ok(client.lock_token(ino, process_of(thread)).await?.0.to_string().into()),
        _ => Err(FsError::NoAttribute.into()),
    }
}

/// Sets it, for a user.
pub(super) async fn set(
    client: &Client,
    ino: Ino,
    attribute: &[u8],
    value: &[u8],
    uid: u32,
) -> Result<(), Error> {
    if attribute != BREAK {
        return Err(FsError::NotPermitted.into());
    }
    let generation = number(value).ok_or(FsError::Invalid)?;
    // Whoever may write the file may ask; more is needed to stop somebody else's writes.
    if uid != 0 && client.getattr(ino).await?.uid != uid {
        return Err(FsError::NotPermitted.into());
    }
    client.break_lock(ino, generation).await
}

fn number(value: &[u8]) -> Option<LockGeneration> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches(['\n', '\0']);
    // No signs: what is not what was told is nothing.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map(LockGeneration)
}

/// The process that a thread belongs to.
fn process_of(thread: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    process.unwrap_or(thread)
}

fn line(kind: LockKind, lock: &LockHeld, place: Option<&LockPlace>) -> String {
    let kind = match kind {
        LockKind::Flock => "flock",
        LockKind::Range => "range",
    };
    let mode = match lock.mode {
        LockMode::Shared => "shared",
        LockMode::Exclusive => "exclusive",
    };
    // Writing to a string cannot fail.
    let mut line = format!("{{\"generation\":{},\"kind\":\"{kind}\",\"mode\":\"{mode}\"", lock.generation.0);
    let _ = write!(line, ",\"start\":{}", lock.range.start);
    match lock.range.end {
        u64::MAX => line.push_str(",\"end\":null"),
        end => {
            let _ = write!(line, ",\"end\":{end}");
        }
    }
    if let Some(place) = place {
        add_text(&mut line, "host", place.host.as_bytes());
        add_text(&mut line, "mount", place.mount.as_bytes());
    }
    let since = lock.since.secs.saturating_mul(1000).saturating_add(i64::from(lock.since.nanos / 1_000_000));
    let _ = writeln!(line, ",\"pid\":{},\"since_ms\":{since}}}", lock.pid);
    line
}

/// One line a lock, as many as an attribute may have.
fn lines(list: &LockList) -> String {
    let mut text = String::new();
    for (told, (kind, lock)) in list.locks.iter().enumerate() {
        let place = list.places.iter().find(|place| place.session == lock.session);
        let line = line(*kind, lock, place);
        if text.len() + line.len() + MORE_BYTES > MAX_XATTR_VALUE_BYTES {
            let _ = writeln!(text, "{{\"more\":{}}}", list.locks.len() - told);
            break;
        }
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::id::{LockHandle, LockOwner, SessionId};
    use wire::meta::{LockRange, Timestamp};

    use super::*;

    fn held(session: u64, range: LockRange, generation: u64) -> LockHeld {
        LockHeld {
            session: SessionId(session),
            owner: LockOwner(1),
            handle: LockHandle(1),
            range,
            mode: LockMode::Exclusive,
            pid: 77,
            generation: LockGeneration(generation),
            since: Timestamp { secs: 12, nanos: 345_678_901 },
        }
    }

    /// What programs read.
    #[test]
    fn lines_are_golden() {
        let place = LockPlace { session: SessionId(3), host: "a\"b".into(), mount: "/mnt".into() };
        let shared = LockHeld { mode: LockMode::Shared, ..held(4, LockRange { start: 5, end: 9 }, 8) };
        let locks = vec![(LockKind::Flock, held(3, LockRange::ALL, 7)), (LockKind::Range, shared)];
        let expected = r#"{"generation":7,"kind":"flock","mode":"exclusive","start":0,"end":null,"host":"a\"b","mount":"/mnt","pid":77,"since_ms":12345}
{"generation":8,"kind":"range","mode":"shared","start":5,"end":9,"pid":77,"since_ms":12345}
"#;
        assert_eq!(lines(&LockList { locks, places: vec![place] }), expected);
        assert_eq!(lines(&LockList { locks: vec![], places: vec![] }), "");
    }

    /// However many there are, the value is one that the kernel takes, and says what is missing.
    #[test]
    fn there_is_a_last_line() {
        let locks: Vec<_> = (0..4000)
            .map(|n| (LockKind::Range, held(3, LockRange { start: 2 * n, end: 2 * n }, n)))
            .collect();
        let text = lines(&LockList { locks, places: vec![] });
        assert!(text.len() <= MAX_XATTR_VALUE_BYTES);
        let told = text.lines().count() - 1;
        assert_eq!(text.lines().last().unwrap(), format!("{{\"more\":{}}}", 4000 - told));
    }

    /// A number, and nothing that only looks like one.
    #[test]
    fn numbers_are_numbers() {
        assert_eq!(number(b"17"), Some(LockGeneration(17)));
        assert_eq!(number(b"17\n"), Some(LockGeneration(17)));
        for nonsense in [&b""[..], b"+1", b"-1", b"1 2", b"0x1", b"99999999999999999999", b"\xff"] {
            assert_eq!(number(nonsense), None, "{nonsense:?}");
        }
    }

    /// A thread is known by its process.
    #[test]
    fn threads_have_processes() {
        let thread =
            std::thread::spawn(|| process_of(rustix::thread::gettid().as_raw_nonzero().get() as u32));
        assert_eq!(thread.join().unwrap(), std::process::id());
        assert_eq!(process_of(u32::MAX), u32::MAX);
    }
}
