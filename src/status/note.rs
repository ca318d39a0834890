//! What `status` says of a brick beside numbers: what goes on with it, what is wrong, and what to do.

use std::time::Duration;

use wire::id::{BootId, BrickId, ChainId};
use wire::map::{BrickInfo, Chain, ClusterMap, MemberState};
use wire::meta::{ClusterStatus, RefusedBrick, Stuck};
use wire::status::Status;

use super::{left_of, report_of, stuck_of, sync_of};
use crate::brick_admin::named;
use crate::show::{bytes, counted};

/// A disk that has not answered for so long is worth a note: longer than most need for anything.
const SILENT_MS: u32 = 5000;

/// Whether new files are laid out by a chain.
pub fn takes_new_files(map: &ClusterMap, chain: ChainId) -> bool {
    map.current_table().is_some_and(|table| table.contains(&chain))
}

/// What else is to be said of a brick.
pub fn brick_note(status: &ClusterStatus, brick: &BrickInfo) -> String {
    let ms_of = |list: &[(BrickId, u64)]| list.iter().find(|(b, _)| *b == brick.id).map(|(_, ms)| *ms);
    let mut notes = Vec::new();
    if status.wishes.draining.contains(&brick.id) {
        notes.push(match left_of(status, brick.id) {
            0 => "drained".to_owned(),
            left => {
                format!("draining, {} left{}", counted(left, "chain", "chains"), hindrance(status, brick.id))
            }
        });
    }
    let report = report_of(status, brick.id);
    if let Some(why) = &report.failed {
        notes.push(format!(
            "{why}; it serves again by itself when that is mended; a disk that is lost is replaced with --replace {}",
            brick.id
        ));
    } else if brick.alive && report.is_full() {
        notes.push(format!("its disk is full, {} left: make room", bytes(report.free_bytes)));
    } else if brick.alive
        && status.map.chains_of(brick.id).any(|chain| !takes_new_files(&status.map, chain.id))
    {
        notes.push("short of room: new files go to other chains".to_owned());
    }
    if report.failed.is_none() && brick.alive && report.silent_ms >= SILENT_MS {
        notes.push(format!(
            "its disk has not answered for {} s: look at it and at its cable",
            report.silent_ms / 1000
        ));
    }
    if let Some(ms) = ms_of(&status.unreached_ms) {
        notes.push(format!(
            "can't be reached at {} for {} s, though it is heard: check its firewall",
            brick.endpoint,
            ms / 1000
        ));
    }
    if report.lost_blocks > 0 {
        notes.push(format!("{} can't be read", counted(report.lost_blocks, "block", "blocks")));
    }
    if let Some(held) = ms_of(&status.held_ms) {
        notes.push(format!("keeps dying, kept out for {} s", held.div_ceil(1000)));
    }
    if !brick.alive
        && brick.boot != BootId(0)
        && let Some(missed) = ms_of(&status.missed_ms)
    {
        notes.extend(absence(status, brick.id, Duration::from_millis(missed)));
    }
    let percent = |done: u64, total: u64| u128::from(done.min(total)) * 100 / u128::from(total.max(1));
    if let Some(sync) = sync_of(status, brick) {
        notes.push(format!("brings others up to date, {} %, {sync}", percent(sync.done, sync.total)));
    }
    if brick.alive && report.scrub_total_bytes > 0 {
        notes.push(format!("scrubbing, {} %", percent(report.scrub_done_bytes, report.scrub_total_bytes)));
    }
    notes.extend(status.refused.iter().filter(|refused| refused.brick == brick.id).map(refusal));
    notes.join("; ")
}

/// What becomes of the chains of a brick that is away.
fn absence(status: &ClusterStatus, brick: BrickId, missed: Duration) -> Vec<String> {
    let chains = left_of(status, brick);
    if chains == 0 {
        // Who is to be emptied is told to be empty already.
        let text =
            "no data is missing without it: start it again, or take it out with `brickyard brick remove";
        let draining = status.wishes.draining.contains(&brick);
        return if draining { Vec::new() } else { vec![format!("{text} {brick}`")] };
    }
    let last = |chain: &&Chain| chain.state_of(brick) == Some(MemberState::LastServing);
    let only: Vec<ChainId> = status.map.chains_of(brick).filter(last).map(|chain| chain.id).collect();
    let mine = status.irreplaceable.iter().filter(|(of, chain, _)| *of == brick && !only.contains(chain));
    let stuck: Vec<Stuck> = mine.map(|(_, _, why)| *why).collect();
    let mut notes = Vec::new();
    if !only.is_empty() {
        notes.push(format!("nobody else has all data of {}: bring it back", named(&only)));
    }
    if let Some(why) = stuck.first() {
        let chains = counted(stuck.len(), "chain", "chains");
        notes.push(format!("can't be replaced in {chains}: {}", stuck_advice(*why)));
    }
    let free = chains.saturating_sub(only.len() + stuck.len());
    if free > 0 {
        let where_ =
            if free < chains { format!(" in {}", counted(free, "chain", "chains")) } else { String::new() };
        let limit = Duration::from_millis(status.wishes.repair_after_ms);
        notes.push(match limit.checked_sub(missed).filter(|left| !left.is_zero()) {
            Some(left) => format!("replaced{where_} in {} s", left.as_millis().div_ceil(1000)),
            None => format!("being replaced{where_}"),
        });
    }
    notes
}

/// Why nobody takes the place of a brick that is away, and what helps.
fn stuck_advice(why: Stuck) -> String {
    match why {
        Stuck::NoBrick => {
            "every other brick has a copy already, or is to be emptied or away; bring it back, or add a brick"
                .to_owned()
        }
        Stuck::NoRoom { needed_bytes, .. } => format!(
            "no other brick has room for about {}; bring it back, make room, or add a brick",
            bytes(needed_bytes)
        ),
        Stuck::Away => "the bricks with room are not up; start them, or bring this one back".to_owned(),
        Stuck::Unserved => {
            "nobody serves what would have to be copied; bring back the bricks that are `last-serving`"
                .to_owned()
        }
    }
}

/// What is said of a brick that cannot be emptied any further now.
fn hindrance(status: &ClusterStatus, brick: BrickId) -> String {
    let stuck = stuck_of(status, brick);
    let why = match stuck.first() {
        None => return String::new(),
        Some((_, Stuck::Unserved)) => "nobody serves",
        Some((_, Stuck::NoBrick)) => "there is no other brick for",
        Some((_, Stuck::NoRoom { .. })) => "no other brick has room for",
        Some((_, Stuck::Away)) => "no brick with room is up for",
    };
    format!(": {why} {}", stuck.len())
}

/// Why a process is not let in as a brick, in a word for programs.
pub fn refusal_name(why: Status) -> &'static str {
    match why {
        Status::Rival => "rival",
        Status::SetBack => "set-back",
        Status::OtherDisk => "other-disk",
        Status::OnlyDisk => "only-disk",
        Status::Unreached => "unreached",
        _ => "refused",
    }
}

/// Who is not let in as the brick, why, and what to do.
fn refusal(refused: &RefusedBrick) -> String {
    let RefusedBrick { brick, why, host, endpoint, .. } = refused;
    let (who, why) = match why {
        Status::Rival => (
            "a second process",
            "the first one is heard; stop it, and if its directory is a copy, remove that".to_owned(),
        ),
        Status::SetBack => (
            "the disk",
            format!(
                "it was set back to an earlier state; put the right disk back, or, if that is lost, empty this one and prepare it with \
                 --replace {brick}; where nobody has more than it: `brickyard brick take-back {brick}`"
            ),
        ),
        Status::OtherDisk => (
            "a disk",
            "another one has taken its place, or it is another brick's; start the right one, or empty this one to join it anew"
                .to_owned(),
        ),
        Status::OnlyDisk => (
            "the new disk",
            format!(
                "nobody but the one that it is to replace has all data of some chains; bring that one back, or give that data up: empty \
                 the new one and prepare it with --replace {brick} --lose-data"
            ),
        ),
        Status::Unreached => (
            "the brick",
            "the namespace can't reach it there: check its --listen and firewalls in between".to_owned(),
        ),
        other => ("a process", other.to_string()),
    };
    format!("{who} at {endpoint} on {host} is not let in: {why}")
}
