//! `brickyard status`: bricks, chains and mounts, for people or as JSON.

mod note;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use wire::id::{BootId, BrickId, ChainId, MapEpoch};
use wire::map::{BrickInfo, Chain, MemberState};
use wire::meta::{Behind, BrickReport, ClusterStatus, Stuck};

use crate::admin::{self, Admin};
use crate::cli::StatusOptions;
use crate::progress::Progress;
use crate::session_admin::{as_json as sessions_as_json, table};
use crate::show::{Table, bytes, counted};
use note::brick_note;

/// Shows the cluster that runs on a data directory.
///
/// # Errors
/// If none runs or it does not answer.
pub fn run(options: &StatusOptions) -> Result<ExitCode> {
    let runtime = admin::runtime()?;
    let status = runtime.block_on(async { Admin::of(&options.cluster)?.status().await })?;
    if options.cluster.json {
        println!("{:#}", as_json(&status));
    } else {
        print!("{}", as_text(&status));
    }
    Ok(ExitCode::SUCCESS)
}

fn report_of(status: &ClusterStatus, brick: wire::id::BrickId) -> BrickReport {
    status.bricks.iter().find(|(id, _)| *id == brick).map(|(_, report)| report.clone()).unwrap_or_default()
}

fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Serving => "serving",
        MemberState::Syncing => "syncing",
        MemberState::Waiting => "waiting",
        MemberState::LastServing => "last-serving",
        MemberState::Offline => "offline",
        MemberState::Leaving => "leaving",
    }
}

fn brick_state(status: &ClusterStatus, brick: &BrickInfo) -> &'static str {
    match (brick.alive, report_of(status, brick.id).failed.is_some()) {
        (_, true) => "failed",
        (true, false) => "alive",
        (false, false) if brick.boot == BootId(0) => "new",
        (false, false) => "dead",
    }
}

/// Chains that a brick to be emptied is still in.
fn left_of(status: &ClusterStatus, brick: BrickId) -> usize {
    status.map.chains_of(brick).count()
}

/// How far a brick is with bringing others up to date, if it does.
fn sync_of(status: &ClusterStatus, brick: &BrickInfo) -> Option<Progress> {
    let report = report_of(status, brick.id);
    let total = report.sync_total_bytes;
    (brick.alive && total > 0).then(|| Progress {
        total,
        done: report.sync_done_bytes.min(total),
        elapsed: Duration::from_millis(report.sync_ms),
    })
}

/// Chains of a brick that find nobody to take its place, and why.
pub fn stuck_of(status: &ClusterStatus, brick: BrickId) -> Vec<(ChainId, Stuck)> {
    let mine = |chain: &ChainId| status.map.chains.get(chain).is_some_and(|c| c.state_of(brick).is_some());
    status.stuck.iter().filter(|(chain, _)| mine(chain)).copied().collect()
}

/// Members of a chain that serve and can be reached.
fn copies(status: &ClusterStatus, chain: &Chain) -> usize {
    let is_reached = |brick: &BrickId| !status.unreached_ms.iter().any(|(unreached, _)| unreached == brick);
    chain.serving().filter(is_reached).count()
}

/// A chain with as many of them as the map wants copies.
fn is_whole(status: &ClusterStatus, chain: &Chain) -> bool {
    copies(status, chain) >= usize::from(status.map.replicas)
}

/// The first line of a status: how the cluster is.
fn health(status: &ClusterStatus) -> (&'static str, String) {
    let map = &status.map;
    if let Some(behind) = &status.behind {
        return ("behind", behind_as_text(map.epoch, behind));
    }
    let all = map.chains.len();
    let unserved = map.chains.values().filter(|c| copies(status, c) == 0).count();
    let short = map.chains.values().filter(|c| !is_whole(status, c)).count();
    if all == 0 {
        let up = map.bricks.values().filter(|b| b.alive).count();
        let text = match status.wishes.birth_bricks {
            0 => format!(
                "waiting for bricks on {}; {} come up",
                counted(map.replicas, "machine", "machines"),
                counted(up, "brick has", "bricks have")
            ),
            wanted => format!("waiting for bricks: {up} of {wanted} have come up"),
        };
        return ("waiting", text);
    }
    match (short, unserved) {
        (0, _) => ("healthy", "healthy: every chain has all its copies".to_owned()),
        (_, 0) => ("degraded", format!("degraded: {short} of {all} chains lack a copy")),
        (_, n) => ("unavailable", format!("DATA UNAVAILABLE: {n} of {all} chains have no serving copy")),
    }
}

/// Numbers of bricks, as options take them.
pub fn numbers<'a>(bricks: impl IntoIterator<Item = &'a BrickId>) -> String {
    bricks.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Whether a brick was removed from the cluster: a number that was given and is not there was taken back, and is never given again.
pub fn is_removed(now: &ClusterStatus, brick: BrickId) -> bool {
    // A state that was set back does not know who was added since.
    now.behind.is_none() && brick.0 < now.wishes.next_brick && !now.map.bricks.contains_key(&brick)
}

/// That the namespace was set back, who is waited for, and what to do.
pub fn behind_as_text(here: MapEpoch, behind: &Behind) -> String {
    let Behind { newest, by, waits_for } = behind;
    let waits = match waits_for.len() {
        0 => "what they know is adopted in a moment".to_owned(),
        n => format!(
            "nothing is read or changed before {} {} said what {} seen: start {}; if {}: `brickyard namespace adopt --without {}`",
            if n == 1 { "brick" } else { "bricks" },
            numbers(waits_for) + if n == 1 { " has" } else { " have" },
            if n == 1 { "it has" } else { "they have" },
            if n == 1 { "it" } else { "them" },
            if n == 1 { "it is lost" } else { "they are lost" },
            numbers(waits_for)
        ),
    };
    format!(
        "SET BACK: the namespace's state is older than what brick {by} has seen (map {here}, brick {by} had {newest}): {waits}"
    )
}

/// Copies that are being made, and how much of them is done.
pub fn under_way(status: &ClusterStatus) -> String {
    let copies: usize = status.map.chains.values().map(|c| c.syncing().count()).sum();
    let all = status.map.bricks.values().filter_map(|brick| sync_of(status, brick));
    // Those who copy do it at the same time: the longest is the time of all.
    let sum = all.reduce(|a, b| Progress {
        total: a.total + b.total,
        done: a.done + b.done,
        elapsed: a.elapsed.max(b.elapsed),
    });
    match (copies, sum) {
        (0, _) => "no copy under way".to_owned(),
        (n, None) => format!("{} under way", counted(n, "copy", "copies")),
        (n, Some(sum)) => format!("{} under way, {sum}", counted(n, "copy", "copies")),
    }
}

/// How many members stand where they are too many: a measure of what rebalancing has to do.
pub fn unevenness(status: &ClusterStatus) -> usize {
    let keeps = |b: &&BrickInfo| !status.wishes.draining.contains(&b.id);
    let loads: Vec<usize> = status.map.bricks.values().filter(keeps).map(|b| left_of(status, b.id)).collect();
    let share = loads.iter().sum::<usize>().div_ceil(loads.len().max(1));
    loads.iter().map(|load| load.saturating_sub(share)).sum()
}

/// All bricks, for programs.
pub fn bricks_as_json(status: &ClusterStatus) -> Value {
    let one = |brick: &BrickInfo| {
        let report = report_of(status, brick.id);
        let refused = status.refused.iter().filter(|refused| refused.brick == brick.id);
        let refused: Vec<Value> = refused
            .map(|r| {
                json!({
                    "why": note::refusal_name(r.why),
                    "host": r.host,
                    "endpoint": r.endpoint.to_string(),
                    "heard_ms": r.heard_ms,
                })
            })
            .collect();
        json!({
            "id": brick.id.0,
            "host": brick.host,
            "endpoint": brick.endpoint.to_string(),
            "state": brick_state(status, brick),
            "draining": status.wishes.draining.contains(&brick.id),
            "note": brick_note(status, brick),
            "refused": refused,
            "chains": left_of(status, brick.id),
            "total_bytes": report.total_bytes,
            "free_bytes": report.free_bytes,
            "disk_bytes": report.disk_bytes,
            "disk_silent_ms": report.silent_ms,
            "chunks": report.chunks,
            "corrupt_blocks": report.corrupt_blocks,
            "repaired_blocks": report.repaired_blocks,
            "lost_blocks": report.lost_blocks,
            "sync_done_bytes": report.sync_done_bytes,
            "sync_total_bytes": report.sync_total_bytes,
            "sync_bytes_per_second": sync_of(status, brick).and_then(|sync| sync.rate()),
            "sync_left_s": sync_of(status, brick).and_then(|sync| sync.left()).map(|left| left.as_secs()),
            "scrub_done_bytes": report.scrub_done_bytes,
            "scrub_total_bytes": report.scrub_total_bytes,
        })
    };
    status.map.bricks.values().map(one).collect()
}

/// All bricks, for people.
pub fn bricks_as_text(status: &ClusterStatus) -> String {
    let mut table = Table::new(&[
        "brick",
        "host",
        "state",
        ">chains",
        ">used",
        ">free",
        ">chunks",
        ">corrupt",
        ">repaired",
        "endpoint",
        "note",
    ]);
    for brick in status.map.bricks.values() {
        let report = report_of(status, brick.id);
        table.row([
            brick.id.to_string(),
            brick.host.clone(),
            brick_state(status, brick).to_owned(),
            left_of(status, brick.id).to_string(),
            bytes(report.total_bytes.saturating_sub(report.free_bytes)),
            bytes(report.free_bytes),
            report.chunks.to_string(),
            report.corrupt_blocks.to_string(),
            report.repaired_blocks.to_string(),
            brick.endpoint.to_string(),
            brick_note(status, brick),
        ]);
    }
    table.to_string()
}

fn as_json(status: &ClusterStatus) -> Value {
    let map = &status.map;
    let chains: Vec<Value> = map
        .chains
        .values()
        .map(|chain| {
            let members: Vec<Value> = chain
                .members
                .iter()
                .map(|m| json!({ "brick": m.brick.0, "state": state_name(m.state) }))
                .collect();
            json!({
                "id": chain.id.0,
                "epoch": chain.epoch.0,
                "whole": is_whole(status, chain),
                "takes_new_files": note::takes_new_files(map, chain.id),
                "members": members,
            })
        })
        .collect();
    let apart: Vec<Value> =
        status.apart_ms.iter().map(|([a, b], ms)| json!({ "bricks": [a.0, b.0], "since_ms": ms })).collect();
    json!({
        "cluster": map.cluster.to_string(),
        "map_epoch": map.epoch.0,
        "replicas": map.replicas,
        "health": health(status).0,
        "behind": status.behind.as_ref().map(|behind| json!({
            "newest_map": behind.newest.0,
            "brick": behind.by.0,
            "waits_for": behind.waits_for.iter().map(|brick| brick.0).collect::<Vec<_>>(),
        })),
        "rebalancing": status.wishes.rebalancing,
        "repair_after_ms": status.wishes.repair_after_ms,
        "apart": apart,
        "copies_under_way": map.chains.values().map(|c| c.syncing().count()).sum::<usize>(),
        "bricks": bricks_as_json(status),
        "chains": chains,
        "sessions": sessions_as_json(&status.sessions),
        "inodes": status.inodes,
        "orphans": status.orphans,
        "trims": status.trims,
    })
}

/// Two bricks that can't reach each other, and what to do.
fn apart_as_text(status: &ClusterStatus, [a, b]: [BrickId; 2], since: Duration) -> String {
    let name = |brick: BrickId| match status.map.bricks.get(&brick) {
        Some(info) => format!("brick {brick} ({} on {})", info.endpoint, info.host),
        None => format!("brick {brick}"),
    };
    format!(
        "\n{} and {} can't reach each other for {} s, though both reach the namespace: look at the network and at firewalls between \
         them. Chains of both keep one of the two up to date until they can.\n",
        name(a),
        name(b),
        since.as_secs()
    )
}

fn as_text(status: &ClusterStatus) -> String {
    let map = &status.map;
    let mut text = format!(
        "cluster {}, {}\n{}, map epoch {}, {}, {} unlinked but kept, {} being freed\n\n",
        map.cluster,
        health(status).1,
        counted(map.replicas, "copy", "copies"),
        map.epoch,
        counted(status.inodes, "inode", "inodes"),
        status.orphans,
        status.trims
    );
    text.push_str(&bricks_as_text(status));
    for (pair, ms) in &status.apart_ms {
        text.push_str(&apart_as_text(status, *pair, Duration::from_millis(*ms)));
    }
    let moving = map.chains.values().any(|c| c.syncing().next().is_some());
    if moving || status.wishes.rebalancing {
        let why = if status.wishes.rebalancing { "; rebalancing" } else { "" };
        text.push_str(&format!("\n{}{why}\n", under_way(status)));
    }
    if map.chains.values().any(|c| !is_whole(status, c)) {
        let mut chains = Table::new(&["chain", ">epoch", "members"]);
        for chain in map.chains.values().filter(|c| !is_whole(status, c)) {
            let members: Vec<_> =
                chain.members.iter().map(|m| format!("{} {}", m.brick, state_name(m.state))).collect();
            chains.row([chain.id.to_string(), chain.epoch.to_string(), members.join(", ")]);
        }
        text.push_str("\nchains that lack a copy:\n");
        text.push_str(&chains.to_string());
    }
    text.push('\n');
    text.push_str(&table(&status.sessions).to_string());
    text
}
