//! `brickyard status`: bricks, chains and mounts, for people or as JSON.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use wire::map::{Chain, MemberState};
use wire::meta::{BrickReport, ClusterStatus};

use crate::admin::{self, Admin};
use crate::cli::StatusOptions;
use crate::show::{Table, bytes};

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
    status.bricks.iter().find(|(id, _)| *id == brick).map(|(_, report)| *report).unwrap_or_default()
}

fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Serving => "serving",
        MemberState::Syncing => "syncing",
        MemberState::Waiting => "waiting",
        MemberState::LastServing => "last-serving",
        MemberState::Offline => "offline",
    }
}

fn brick_state(alive: bool, report: &BrickReport) -> &'static str {
    match (alive, report.failed) {
        (_, true) => "failed",
        (true, false) => "alive",
        (false, false) => "dead",
    }
}

/// A chain with as many serving members as the map wants copies.
fn is_whole(chain: &Chain) -> bool {
    chain.members.iter().all(|m| m.state == MemberState::Serving)
}

fn as_json(status: &ClusterStatus) -> Value {
    let map = &status.map;
    let bricks: Vec<Value> = map
        .bricks
        .values()
        .map(|brick| {
            let report = report_of(status, brick.id);
            json!({
                "id": brick.id.0,
                "host": brick.host,
                "endpoint": brick.endpoint.to_string(),
                "state": brick_state(brick.alive, &report),
                "total_bytes": report.total_bytes,
                "free_bytes": report.free_bytes,
                "chunks": report.chunks,
                "corrupt_blocks": report.corrupt_blocks,
                "repaired_blocks": report.repaired_blocks,
            })
        })
        .collect();
    let chains: Vec<Value> = map
        .chains
        .values()
        .map(|chain| {
            let members: Vec<Value> = chain
                .members
                .iter()
                .map(|m| json!({ "brick": m.brick.0, "state": state_name(m.state) }))
                .collect();
            json!({ "id": chain.id.0, "epoch": chain.epoch.0, "whole": is_whole(chain), "members": members })
        })
        .collect();
    let sessions: Vec<Value> = status
        .sessions
        .iter()
        .map(|s| json!({ "id": s.session.0, "host": s.host, "mount": s.mount, "heard_ms": s.heard_ms }))
        .collect();
    json!({
        "cluster": map.cluster.to_string(),
        "map_epoch": map.epoch.0,
        "replicas": map.replicas,
        "bricks": bricks,
        "chains": chains,
        "sessions": sessions,
        "inodes": status.inodes,
        "orphans": status.orphans,
        "trims": status.trims,
    })
}

fn as_text(status: &ClusterStatus) -> String {
    let map = &status.map;
    let whole = map.chains.values().filter(|c| is_whole(c)).count();
    let unserved = map.chains.values().filter(|c| c.head().is_none()).count();
    let health = match (whole == map.chains.len(), unserved) {
        (true, _) => "healthy: every chain has all its copies".to_owned(),
        (false, 0) => {
            format!("degraded: {} of {} chains lack a copy", map.chains.len() - whole, map.chains.len())
        }
        (false, n) => format!("DATA UNAVAILABLE: {n} of {} chains have no serving copy", map.chains.len()),
    };
    let mut text = format!(
        "cluster {}, {health}\n{} copies, map epoch {}, {} inodes, {} unlinked but kept, {} being freed\n\n",
        map.cluster, map.replicas, map.epoch, status.inodes, status.orphans, status.trims
    );
    let mut bricks = Table::new(&[
        "brick",
        "host",
        "state",
        ">used",
        ">free",
        ">chunks",
        ">corrupt",
        ">repaired",
        "endpoint",
    ]);
    for brick in map.bricks.values() {
        let report = report_of(status, brick.id);
        bricks.row([
            brick.id.to_string(),
            brick.host.clone(),
            brick_state(brick.alive, &report).to_owned(),
            bytes(report.total_bytes.saturating_sub(report.free_bytes)),
            bytes(report.free_bytes),
            report.chunks.to_string(),
            report.corrupt_blocks.to_string(),
            report.repaired_blocks.to_string(),
            brick.endpoint.to_string(),
        ]);
    }
    text.push_str(&bricks.to_string());
    if whole < map.chains.len() {
        let mut chains = Table::new(&["chain", ">epoch", "members"]);
        for chain in map.chains.values().filter(|c| !is_whole(c)) {
            let members: Vec<_> =
                chain.members.iter().map(|m| format!("{} {}", m.brick, state_name(m.state))).collect();
            chains.row([chain.id.to_string(), chain.epoch.to_string(), members.join(", ")]);
        }
        text.push_str("\nchains that lack a copy:\n");
        text.push_str(&chains.to_string());
    }
    let mut sessions = Table::new(&["session", "host", "mounted on", ">heard of"]);
    for session in &status.sessions {
        sessions.row([
            session.session.to_string(),
            session.host.clone(),
            session.mount.clone(),
            format!("{} ms ago", session.heard_ms),
        ]);
    }
    text.push('\n');
    text.push_str(&sessions.to_string());
    text
}
