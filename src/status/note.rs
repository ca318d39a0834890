//! What `status` says of a brick beside numbers: what goes on with it, what is wrong, and what to do.

use wire::id::{BootId, BrickId};
use wire::map::BrickInfo;
use wire::meta::{ClusterStatus, RefusedBrick, Stuck};
use wire::status::Status;

use super::{is_full, left_of, report_of, stuck_of, sync_of};
use crate::show::{bytes, counted};

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
        notes.push(why.clone());
    } else if brick.alive && is_full(&report) {
        notes.push(format!("its disk is full, {} left: make room", bytes(report.free_bytes)));
    }
    if report.lost_blocks > 0 {
        notes.push(format!("{} can't be read", counted(report.lost_blocks, "block", "blocks")));
    }
    if let Some(held) = ms_of(&status.held_ms) {
        notes.push(format!("keeps dying, kept out for {} s", held.div_ceil(1000)));
    }
    if !brick.alive
        && brick.boot != BootId(0)
        && left_of(status, brick.id) > 0
        && let Some(missed) = ms_of(&status.missed_ms)
    {
        notes.push(match status.wishes.repair_after_ms.checked_sub(missed) {
            Some(left) if left > 0 => format!("replaced in {} s", left.div_ceil(1000)),
            _ => "being replaced".to_owned(),
        });
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
                 --replace {brick}"
            ),
        ),
        Status::OtherDisk => (
            "a disk",
            "another one has taken its place, or it is another brick's; start the right one, or empty this one to join it anew"
                .to_owned(),
        ),
        other => ("a process", other.to_string()),
    };
    format!("{who} at {endpoint} on {host} is not let in: {why}")
}
