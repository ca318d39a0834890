//! `brickyard stuck`: who waits for which lock, and who holds it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use wire::id::{Ino, SessionId};
use wire::meta::{ClusterReply, ClusterRequest, LockKind, LockMode, LockRange, LockWaiter, SessionStatus};

use crate::admin::{self, Admin};
use crate::cli::StuckOptions;
use crate::show::{Table, age};

/// What is known, with what makes it readable.
struct Stuck {
    waiters: Vec<LockWaiter>,
    sessions: BTreeMap<SessionId, SessionStatus>,
    paths: BTreeMap<Ino, String>,
}

/// Shows them.
///
/// # Errors
/// If the namespace does not answer.
pub fn run(options: &StuckOptions) -> Result<ExitCode> {
    let stuck = admin::runtime()?.block_on(async {
        let admin = Admin::of(&options.cluster)?;
        let ClusterReply::LockWaiters(waiters) = admin.cluster(ClusterRequest::LockWaiters).await? else {
            bail!("the namespace is of another version: it does not say who waits for locks");
        };
        let sessions = admin.status().await?.sessions.into_iter().map(|s| (s.session, s)).collect();
        let inodes: Vec<Ino> = waiters.iter().map(|waiter| waiter.wish.ino).collect();
        let paths = admin.paths(&inodes).await?;
        Ok::<_, anyhow::Error>(Stuck { waiters, sessions, paths })
    })?;
    if options.cluster.json {
        println!("{}", as_json(&stuck));
    } else {
        print!("{}", text(&stuck));
    }
    Ok(ExitCode::SUCCESS)
}

fn kind_name(kind: LockKind) -> &'static str {
    match kind {
        LockKind::Flock => "flock",
        LockKind::Range => "range",
    }
}

fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Shared => "shared",
        LockMode::Exclusive => "exclusive",
    }
}

fn lock_name(kind: LockKind, mode: LockMode, range: LockRange) -> String {
    let name = format!("{} {}", mode_name(mode), kind_name(kind));
    match (kind, range.end) {
        (LockKind::Flock, _) => name,
        (LockKind::Range, u64::MAX) => format!("{name} {}-", range.start),
        (LockKind::Range, end) => format!("{name} {}-{end}", range.start),
    }
}

impl Stuck {
    fn path(&self, ino: Ino) -> String {
        self.paths.get(&ino).cloned().unwrap_or_else(|| format!("inode {ino}"))
    }

    fn who(&self, session: SessionId, pid: u32) -> String {
        match self.sessions.get(&session) {
            Some(mount) => format!("process {pid} on {} ({})", mount.host, mount.mount),
            None => format!("process {pid} of session {session}"),
        }
    }
}

fn text(stuck: &Stuck) -> String {
    if stuck.waiters.is_empty() {
        return "nobody waits for a lock\n".to_owned();
    }
    let mut table =
        Table::new(&["file", "wanted", ">for", "by", "held by", ">since", ">generation", ">heard of"]);
    for waiter in &stuck.waiters {
        let LockWaiter { session, wish, waits_ms, by, held_ms } = waiter;
        let holder = match by {
            None => ["nobody any more".to_owned(), String::new(), String::new(), String::new()],
            Some(by) if by.generation.0 == 0 => {
                let who = format!("{}, who waits for longer", stuck.who(by.session, by.pid));
                [who, String::new(), String::new(), String::new()]
            }
            Some(by) => {
                let heard = stuck.sessions.get(&by.session).map_or_else(String::new, |s| age(s.heard_ms));
                [stuck.who(by.session, by.pid), age(*held_ms), by.generation.to_string(), heard]
            }
        };
        let wanted = lock_name(wish.kind, wish.mode, wish.range);
        let first = [stuck.path(wish.ino), wanted, age(*waits_ms), stuck.who(*session, wish.pid)];
        table.row(first.into_iter().chain(holder));
    }
    table.to_string()
}

fn as_json(stuck: &Stuck) -> Value {
    let place = |session: &SessionId, pid: u32| {
        let mount = stuck.sessions.get(session);
        json!({
            "session": session.0,
            "host": mount.map(|m| m.host.as_str()),
            "mount": mount.map(|m| m.mount.as_str()),
            "heard_ms": mount.map(|m| m.heard_ms),
            "pid": pid,
        })
    };
    let end = |range: LockRange| Some(range.end).filter(|end| *end != u64::MAX);
    let waiters: Vec<Value> = stuck
        .waiters
        .iter()
        .map(|LockWaiter { session, wish, waits_ms, by, held_ms }| {
            let by = by.map(|by| {
                json!({
                    "who": place(&by.session, by.pid),
                    "mode": mode_name(by.mode),
                    "start": by.range.start,
                    "end": end(by.range),
                    "generation": by.generation.0,
                    "held_ms": held_ms,
                })
            });
            json!({
                "path": stuck.paths.get(&wish.ino),
                "inode": wish.ino.0,
                "kind": kind_name(wish.kind),
                "mode": mode_name(wish.mode),
                "start": wish.range.start,
                "end": end(wish.range),
                "who": place(session, wish.pid),
                "waits_ms": waits_ms,
                "by": by,
            })
        })
        .collect();
    json!({ "lock_waiters": waiters })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::id::{LockGeneration, LockHandle, LockOwner};
    use wire::meta::{LockHeld, LockWish, SessionClass, Timestamp};

    use super::*;

    /// What people and programs read.
    #[test]
    fn it_says_who_holds_what() {
        let (owner, handle, range) = (LockOwner(1), LockHandle(1), LockRange { start: 5, end: u64::MAX });
        let (kind, mode) = (LockKind::Range, LockMode::Exclusive);
        let wish = LockWish { ino: Ino(9), kind, owner, handle, range, mode, pid: 70 };
        let (generation, since) = (LockGeneration(17), Timestamp::default());
        let by = LockHeld { session: SessionId(2), owner, handle, range, mode, pid: 80, generation, since };
        let mount = |session, host: &str| SessionStatus {
            session,
            host: host.to_owned(),
            mount: "/mnt".to_owned(),
            since,
            class: SessionClass::Standard,
            heard_ms: 300,
            lives: true,
        };
        let before = LockHeld { generation: LockGeneration(0), ..by };
        let waiter =
            |by| LockWaiter { session: SessionId(1), wish, waits_ms: 12_345, by, held_ms: 7_200_000 };
        let stuck = Stuck {
            waiters: vec![waiter(Some(by)), waiter(Some(before)), waiter(None)],
            sessions: BTreeMap::from([
                (SessionId(1), mount(SessionId(1), "a")),
                (SessionId(2), mount(SessionId(2), "b")),
            ]),
            paths: BTreeMap::from([(Ino(9), "/db".to_owned())]),
        };
        let expected = "\
file  wanted              for   by                        held by                                         since  generation  heard of
/db   exclusive range 5-  12 s  process 70 on a (/mnt)  process 80 on b (/mnt)                          2 h          17     0.3 s
";
        let shown = text(&stuck);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[..2].iter().map(|l| words(l)).collect::<Vec<_>>(),
            expected.lines().map(words).collect::<Vec<_>>()
        );
        assert!(lines[2].ends_with("process 80 on b (/mnt), who waits for longer"), "{shown}");
        assert!(lines[3].ends_with("nobody any more"), "{shown}");
        let json = as_json(&stuck);
        assert_eq!(json["lock_waiters"][0]["by"]["generation"], 17);
        assert_eq!(json["lock_waiters"][0]["who"]["host"], "a");
        assert_eq!(json["lock_waiters"][0]["end"], Value::Null);
        assert_eq!(text(&Stuck { waiters: vec![], ..stuck }), "nobody waits for a lock\n");
    }
}
