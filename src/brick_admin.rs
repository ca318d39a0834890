//! `brickyard brick list|drain|remove|take-back|rebalance|scrub|settings`: orders about bricks, and how far they
//! are. Who moves where is the namespace's matter; this asks and shows.

use std::collections::BTreeSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::Instant;
use wire::brick::{BrickReply, BrickRequest, ScrubReport};
use wire::id::{BrickId, ChainId};
use wire::map::ClusterMap;
use wire::meta::{BrickRefusal, ClusterReply, ClusterRequest, ClusterStatus, SettingsChange, Stuck};

use crate::admin::{self, Admin};
use crate::cli::ClusterOptions;
use crate::progress::{Emptying, Progress};
use crate::show::{self, counted};
use crate::{status, times};

/// Wait between two looks at what is under way.
const PAUSE: Duration = Duration::from_millis(250);
/// A drain that moves nothing for so long, since nobody can take the rest, is not waited for any longer.
const STUCK_FOR: Duration = Duration::from_secs(10);
/// A drain of which no byte gets on for so long, since who takes copies is full, neither.
const STANDS_FOR: Duration = Duration::from_secs(20);
/// Shortest time until a dead brick's chains get other members: a brick that is restarted is away for about as long.
const SHORTEST_REPAIR: Duration = Duration::from_secs(3);
/// A namespace that does not answer for so long while its work is waited for is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// What can be asked of a running cluster's bricks.
#[derive(Debug, Clone, Subcommand)]
pub enum Order {
    /// Show all bricks
    List(ClusterOptions),
    /// Empty a brick, so that it can be removed: everything it holds is copied to others first
    Drain(DrainOptions),
    /// Forget a brick that holds nothing any more, or one that will not come back
    Remove(RemoveOptions),
    /// Let in a brick whose disk was set back to an earlier state, with what it has: where others have more, it is brought up to date
    TakeBack(TakeBackOptions),
    /// Give every brick its share of the chains, for example after bricks were added
    Rebalance(RebalanceOptions),
    /// Read every block against its checksum now, and put right what is bad
    Scrub(ScrubOptions),
    /// Show or change how bricks are repaired
    Settings(SettingsOptions),
}

/// Options of `brickyard brick drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainOptions {
    /// Its number
    #[arg(value_name = "BRICK", allow_negative_numbers = true)]
    pub brick: u32,
    /// Take it back: the brick stays
    #[arg(long)]
    pub undo: bool,
    /// Return when the brick is empty, and show how far it is until then; fails when no other brick can take
    /// what is left
    #[arg(long, conflicts_with = "undo")]
    pub wait: bool,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard brick remove`.
#[derive(Debug, Clone, Args)]
pub struct RemoveOptions {
    /// Its number; it is never given to another brick
    #[arg(value_name = "BRICK", allow_negative_numbers = true)]
    pub brick: u32,
    /// Though it is in chains: it must be dead and everything it holds be served by others
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard brick take-back`.
#[derive(Debug, Clone, Args)]
pub struct TakeBackOptions {
    /// Its number
    #[arg(value_name = "BRICK", allow_negative_numbers = true)]
    pub brick: u32,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard brick rebalance`.
#[derive(Debug, Clone, Args)]
pub struct RebalanceOptions {
    /// Stop moving; what is under way is finished
    #[arg(long)]
    pub stop: bool,
    /// Return when every brick has its share, and show how far it is until then
    #[arg(long, conflicts_with = "stop")]
    pub wait: bool,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard brick scrub`.
#[derive(Debug, Clone, Args)]
pub struct ScrubOptions {
    /// Their numbers [default: all that are alive]
    #[arg(value_name = "BRICK", allow_negative_numbers = true)]
    pub bricks: Vec<u32>,
    /// Return when they are through, and show how far they are until then
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Options of `brickyard brick settings`.
#[derive(Debug, Clone, Args)]
pub struct SettingsOptions {
    /// Give the chains of a brick that is dead for so long other members, such as 90s, 5m, 2h, 1d; 3s at least
    #[arg(long, value_name = "TIME", value_parser = repair_after)]
    pub repair_after: Option<Duration>,
    /// Copies that one brick takes part in making at a time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub copies_at_a_time: Option<u32>,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// The time until a dead brick's chains get other members.
fn repair_after(text: &str) -> Result<Duration, String> {
    let time = times::any(text)?;
    if time < SHORTEST_REPAIR {
        return Err(format!(
            "give {}s or more: a brick that is only restarted is away for so long, and with less everything it holds would \
             be copied to others each time",
            SHORTEST_REPAIR.as_secs()
        ));
    }
    Ok(time)
}

/// Carries out an order.
///
/// # Errors
/// Why the cluster did not, in one line.
pub fn run(order: Order) -> Result<ExitCode> {
    admin::runtime()?.block_on(async {
        match order {
            Order::List(cluster) => list(&cluster).await,
            Order::Drain(options) => drain(&options).await,
            Order::Remove(options) => remove(&options).await,
            Order::TakeBack(options) => take_back(&options).await,
            Order::Rebalance(options) => rebalance(&options).await,
            Order::Scrub(options) => scrub(&options).await,
            Order::Settings(options) => settings(&options).await,
        }
    })
}

async fn list(cluster: &ClusterOptions) -> Result<ExitCode> {
    let found = Admin::of(cluster)?.status().await?;
    if cluster.json {
        println!("{:#}", status::bricks_as_json(&found));
    } else {
        print!("{}", status::bricks_as_text(&found));
    }
    Ok(ExitCode::SUCCESS)
}

async fn take_back(options: &TakeBackOptions) -> Result<ExitCode> {
    let admin = Admin::of(&options.cluster)?;
    let brick = BrickId(options.brick);
    if admin.status().await?.map.bricks.get(&brick).is_some_and(|info| info.alive) {
        bail!("brick {brick} is alive: nothing keeps it out");
    }
    order(&admin, brick, ClusterRequest::TakeBack(brick)).await?;
    let text = format!(
        "brick {brick} is let in with what its disk has when it asks next; what only a later state of it had is lost"
    );
    tell(&options.cluster, json!({ "taken_back": true }), &text)
}

async fn drain(options: &DrainOptions) -> Result<ExitCode> {
    let admin = Admin::of(&options.cluster)?;
    let brick = BrickId(options.brick);
    order(&admin, brick, ClusterRequest::DrainBrick { brick, drain: !options.undo }).await?;
    if options.undo {
        return tell(&options.cluster, json!({ "draining": false }), &format!("brick {brick} stays"));
    }
    if options.wait {
        let mut emptying = Emptying::default();
        let mut hindered = None;
        watch(&admin, &options.cluster, |status| empty(status, brick, &mut emptying, &mut hindered)).await?;
        let text = format!("brick {brick} is empty: `brickyard brick remove {brick}` forgets it");
        return tell(&options.cluster, json!({ "empty": true }), &text);
    }
    let left = admin.map().await?.chains_of(brick).count();
    let text = format!(
        "brick {brick} is being emptied: {} to move; `brickyard status` shows how far it is",
        counted(left, "chain", "chains")
    );
    tell(&options.cluster, json!({ "draining": true, "chains_left": left }), &text)
}

/// What is left of the emptying of a brick. Fails when nothing moves any more, though not at once:
/// who can take something may only be restarting.
fn empty(
    status: &ClusterStatus,
    brick: BrickId,
    emptying: &mut Emptying,
    hindered: &mut Option<Instant>,
) -> Result<Option<Left>> {
    let chains = status.map.chains_of(brick).count();
    if chains == 0 {
        return Ok(None);
    }
    let stuck = status::stuck_of(status, brick);
    if stuck.len() < chains {
        *hindered = None;
    } else if hindered.get_or_insert_with(Instant::now).elapsed() >= STUCK_FOR {
        bail!("{}", stuck_text(brick, &stuck));
    }
    let report = status.bricks.iter().find(|(id, _)| *id == brick);
    let used = report.map_or(0, |(_, r)| r.total_bytes.saturating_sub(r.free_bytes));
    let copied = status.bricks.iter().map(|(id, report)| (id.0, report.sync_done_bytes));
    let done = emptying.see(used, copied);
    let full = full_targets(status, brick);
    if emptying.stands_for((chains, done.1), Instant::now()) >= STANDS_FOR && !full.is_empty() {
        bail!("{}", full_text(brick, chains, &full));
    }
    Ok(Some(Left { steps: chains, bytes: Some(done) }))
}

/// Bricks that are to get copies of chains of this one, and are full.
fn full_targets(status: &ClusterStatus, brick: BrickId) -> BTreeSet<BrickId> {
    let full = |id: &BrickId| status.bricks.iter().any(|(of, report)| of == id && report.is_full());
    status.map.chains_of(brick).flat_map(|chain| chain.syncing()).filter(full).collect()
}

/// Why a brick is not emptied though copies are being made, and what to do.
fn full_text(brick: BrickId, chains: usize, full: &BTreeSet<BrickId>) -> String {
    let full: Vec<String> = full.iter().map(BrickId::to_string).collect();
    format!(
        "brick {brick} is not empty: {} left, and nothing gets on, since {} full that take copies: {}; add a brick, or make room. \
         It goes on by itself then, and `brickyard brick drain {brick} --undo` takes the order back",
        counted(chains, "chain is", "chains are"),
        if full.len() == 1 { "a brick is" } else { "bricks are" },
        full.join(", ")
    )
}

/// Why a brick cannot be emptied, and what to do.
fn stuck_text(brick: BrickId, stuck: &[(ChainId, Stuck)]) -> String {
    let chains: Vec<ChainId> = stuck.iter().map(|(chain, _)| *chain).collect();
    let mut whys: Vec<String> = Vec::new();
    let needs = |why: &Stuck| if let Stuck::NoRoom { needed_bytes, .. } = why { *needed_bytes } else { 0 };
    // Of those for which there is no room, the one that needs most says what has to be done for all.
    if let Some((_, Stuck::NoRoom { most_bytes, needed_bytes })) =
        stuck.iter().max_by_key(|(_, why)| needs(why))
    {
        whys.push(format!(
            "no other brick has room: one needs about {}, and the most that can be had is {}; add a brick, or make room",
            show::bytes(*needed_bytes),
            show::bytes(*most_bytes)
        ));
    }
    for (what, text) in [
        (Stuck::NoBrick, "every other brick has a copy already, or is to be emptied too; add a brick"),
        (Stuck::Away, "the bricks that have room are not up; start them"),
        (
            Stuck::Unserved,
            "nobody serves what would have to be copied; bring back the bricks that `brickyard status` calls last-serving",
        ),
    ] {
        if stuck.iter().any(|(_, why)| *why == what) {
            whys.push(text.to_owned());
        }
    }
    let why = whys.join("; and ");
    format!(
        "brick {brick} is not empty: {} cannot move: {why}. It goes on by itself then, and \
         `brickyard brick drain {brick} --undo` takes the order back",
        named(&chains)
    )
}

async fn remove(options: &RemoveOptions) -> Result<ExitCode> {
    let admin = Admin::of(&options.cluster)?;
    let brick = BrickId(options.brick);
    order(&admin, brick, ClusterRequest::RemoveBrick { brick, force: options.force }).await?;
    tell(&options.cluster, json!({ "removed": brick.0 }), &format!("brick {brick} is forgotten"))
}

async fn rebalance(options: &RebalanceOptions) -> Result<ExitCode> {
    let admin = Admin::of(&options.cluster)?;
    match admin.cluster(ClusterRequest::Rebalance { on: !options.stop }).await? {
        ClusterReply::Done => {}
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
    if options.stop {
        return tell(&options.cluster, json!({ "rebalancing": false }), "no more is moved");
    }
    if options.wait {
        watch(&admin, &options.cluster, |status| {
            let left = || Left { steps: status::unevenness(status).max(1), bytes: None };
            Ok(status.wishes.rebalancing.then(left))
        })
        .await?;
        return tell(&options.cluster, json!({ "even": true }), "every brick has its share");
    }
    let text = "members of chains are being moved; `brickyard status` shows how far it is";
    tell(&options.cluster, json!({ "rebalancing": true }), text)
}

async fn scrub(options: &ScrubOptions) -> Result<ExitCode> {
    let admin = Admin::of(&options.cluster)?;
    let map = admin.map().await?;
    let bricks = to_scrub(&map, &options.bricks)?;
    let mut rounds = Vec::with_capacity(bricks.len());
    for brick in &bricks {
        rounds.push(scrubbed(&admin, &map, *brick, true).await?.rounds);
    }
    if !options.wait {
        let text = format!(
            "all of {} is being read; `brickyard brick list` counts what is bad",
            counted(bricks.len(), "brick", "bricks")
        );
        return tell(&options.cluster, json!({ "scrubbing": bricks.len() }), &text);
    }
    let reports = until_scrubbed(&admin, &map, &bricks, &rounds, !options.cluster.json).await?;
    until_told(&admin, &bricks, &reports).await;
    let bad: u64 = reports.iter().map(|r| r.bad_chunks).sum();
    let lost: u64 = reports.iter().map(|r| r.lost_blocks).sum();
    let text = format!(
        "{} read: {} had bad blocks, {} could not be put right",
        counted(bricks.len(), "brick", "bricks"),
        counted(bad, "chunk", "chunks"),
        counted(lost, "block", "blocks")
    );
    let value = json!({ "bricks": bricks.len(), "bad_chunks": bad, "lost_blocks": lost });
    tell(&options.cluster, value, &text)?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The bricks that were named, all of which can be asked; without any name all that live.
fn to_scrub(map: &ClusterMap, named: &[u32]) -> Result<Vec<BrickId>> {
    let named: BTreeSet<BrickId> = named.iter().copied().map(BrickId).collect();
    for brick in &named {
        match map.bricks.get(brick) {
            None => bail!("{}", refusal(*brick, &BrickRefusal::Unknown)),
            Some(info) if !info.alive => {
                bail!(
                    "brick {brick} on {} is not alive, so nothing of it can be read: `brickyard status` says more",
                    info.host
                )
            }
            Some(_) => {}
        }
    }
    let living: Vec<BrickId> = map.bricks.values().filter(|info| info.alive).map(|info| info.id).collect();
    if living.is_empty() {
        bail!("there is no living brick: see `brickyard status`");
    }
    Ok(if named.is_empty() { living } else { named.into_iter().collect() })
}

/// Waits until every brick has ended a round, and shows how far they are on a terminal.
async fn until_scrubbed(
    admin: &Admin,
    map: &ClusterMap,
    bricks: &[BrickId],
    rounds: &[u64],
    show: bool,
) -> Result<Vec<ScrubReport>> {
    let mut out = std::io::stderr();
    let bar = show && out.is_terminal();
    loop {
        let mut reports = Vec::with_capacity(bricks.len());
        for brick in bricks {
            reports.push(scrubbed(admin, map, *brick, false).await?);
        }
        let ended =
            reports.iter().zip(rounds).all(|(report, before)| !report.running && report.rounds > *before);
        if bar {
            let sum = |of: fn(&ScrubReport) -> u64| reports.iter().map(of).sum::<u64>();
            let (done, all) = (sum(|r| r.done_bytes), sum(|r| r.total_bytes).max(1));
            let line = format!("{}  {} read", show::bar(done as usize, all as usize), show::bytes(done));
            write!(out, "\r\x1b[K{}", if ended { "" } else { &line })?;
            out.flush()?;
        }
        if ended {
            return Ok(reports);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until `status` knows that these rounds have ended, too: bricks tell it with their heartbeats. A brick that has died or is
/// silent meanwhile is not waited for.
async fn until_told(admin: &Admin, bricks: &[BrickId], reports: &[ScrubReport]) {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        // Where it can't be asked, nobody can read there what would be wrong.
        let Ok(status) = admin.status().await else { return };
        let told = |brick: BrickId, ended: &ScrubReport| {
            let alive = status.map.bricks.get(&brick).is_some_and(|info| info.alive);
            let known = status.bricks.iter().find(|(of, _)| *of == brick);
            !alive || known.is_some_and(|(_, report)| report.scrub_rounds >= ended.rounds)
        };
        if bricks.iter().zip(reports).all(|(brick, ended)| told(*brick, ended)) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// How far a brick's scrubber is.
async fn scrubbed(admin: &Admin, map: &ClusterMap, brick: BrickId, begin: bool) -> Result<ScrubReport> {
    match admin.brick(map, brick, BrickRequest::Scrub { begin }).await? {
        BrickReply::Scrub(report) => Ok(report),
        other => bail!("brick {brick} answered something else than was asked: {other:?}"),
    }
}

async fn settings(options: &SettingsOptions) -> Result<ExitCode> {
    let admin = Admin::of(&options.cluster)?;
    let change = SettingsChange {
        repair_after_ms: options.repair_after.map(|t| t.as_secs() * 1000),
        syncs_a_brick: options.copies_at_a_time,
    };
    if change != SettingsChange::default() {
        match admin.cluster(ClusterRequest::Configure(change)).await? {
            ClusterReply::Done => {}
            other => bail!("the namespace answered something else than was asked: {other:?}"),
        }
    }
    let wishes = admin.status().await?.wishes;
    let text = format!(
        "repair after {} s, {} copies at a time on a brick",
        wishes.repair_after_ms / 1000,
        wishes.syncs_a_brick
    );
    let value =
        json!({ "repair_after_ms": wishes.repair_after_ms, "copies_at_a_time": wishes.syncs_a_brick });
    tell(&options.cluster, value, &text)
}

fn tell(cluster: &ClusterOptions, value: serde_json::Value, text: &str) -> Result<ExitCode> {
    if cluster.json {
        println!("{value:#}");
    } else {
        println!("{text}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Gives an order about one brick.
async fn order(admin: &Admin, brick: BrickId, request: ClusterRequest) -> Result<()> {
    match admin.cluster(request).await? {
        ClusterReply::Done => Ok(()),
        ClusterReply::Refused(why) => bail!("{}", refusal(brick, &why)),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

/// Chains by their numbers, the first few of them.
pub fn named(chains: &[ChainId]) -> String {
    const SHOWN: usize = 8;
    let mut text = chains.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if chains.len() > SHOWN {
        text.push_str(&format!(" and {} more", chains.len() - SHOWN));
    }
    let noun = if chains.len() == 1 { "chain" } else { "chains" };
    format!("{noun} {text}")
}

/// What the administrator reads, with what to do.
fn refusal(brick: BrickId, why: &BrickRefusal) -> String {
    match why {
        BrickRefusal::Unknown => format!("there is no brick {brick}: see `brickyard brick list`"),
        BrickRefusal::HoldsChains(chains) => format!(
            "brick {brick} holds copies of {}: empty it first with `brickyard brick drain {brick} --wait`, or give \
             --force if it is dead and will not come back",
            named(chains)
        ),
        BrickRefusal::Alive => {
            format!(
                "brick {brick} is alive: empty it with `brickyard brick drain {brick} --wait`; --force is for dead ones"
            )
        }
        BrickRefusal::OnlyCopy(chains) => format!(
            "nobody else has all data of {}: removing brick {brick} would lose them; bring it back, or the brick whose \
             member says `last-serving`",
            named(chains)
        ),
        BrickRefusal::TooFewBricks { left, replicas } => {
            format!(
                "{} would be left for {}: add a brick first",
                counted(*left, "brick", "bricks"),
                counted(*replicas, "copy", "copies")
            )
        }
    }
}

/// What is left of something that is waited for.
struct Left {
    /// Steps to do.
    steps: usize,
    /// All bytes and those that are done, where that is known.
    bytes: Option<(u64, u64)>,
}

/// Shows how far something is until `left` says that nothing is left; on a terminal as a bar.
async fn watch(
    admin: &Admin,
    cluster: &ClusterOptions,
    mut left: impl FnMut(&ClusterStatus) -> Result<Option<Left>>,
) -> Result<()> {
    let mut out = std::io::stderr();
    let bar = out.is_terminal() && !cluster.json;
    let mut most = 0;
    let begun = Instant::now();
    let mut answered = begun;
    let wipe = || {
        if bar {
            eprint!("\r\x1b[K")
        }
    };
    loop {
        match admin.status().await {
            Ok(status) => {
                answered = Instant::now();
                let Some(left) = left(&status).inspect_err(|_| wipe())? else { break };
                most = most.max(left.steps);
                if bar {
                    write!(out, "\r\x1b[K{}", how_far(&left, most, begun.elapsed(), &status))?;
                    out.flush()?;
                }
            }
            // It may be restarting, and goes on then.
            Err(error) if answered.elapsed() >= PATIENCE => {
                return Err(error).context("what was ordered goes on, but how far it is can't be seen");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
    wipe();
    Ok(())
}

/// One line on how far something is: by bytes where those are known, else by steps.
fn how_far(left: &Left, most: usize, elapsed: Duration, status: &ClusterStatus) -> String {
    match left.bytes {
        Some((total, done)) if total > 0 => {
            let bar = show::bar(done as usize, total as usize);
            let progress = Progress { total, done, elapsed };
            format!("{bar}  {progress}; {} left", counted(left.steps, "chain", "chains"))
        }
        _ => format!("{}  {}", show::bar(most - left.steps, most), status::under_way(status)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A brick that is only restarted is not replaced.
    #[test]
    fn repair_has_its_time() {
        assert_eq!(repair_after("2d").unwrap(), Duration::from_secs(172_800));
        assert!(repair_after("5").unwrap_err().contains("s, m, h or d"));
        assert_eq!(repair_after("3s").unwrap(), Duration::from_secs(3));
        for short in ["0s", "0h", "2s"] {
            assert!(repair_after(short).unwrap_err().contains("3s or more"), "{short}");
        }
    }

    /// Every refusal is one line that names the brick or says what to do.
    #[test]
    fn refusals_say_what_to_do() {
        let chains: Vec<ChainId> = (1..20).map(ChainId).collect();
        let text = refusal(BrickId(7), &BrickRefusal::HoldsChains(chains.clone()));
        assert!(text.contains("brick drain 7") && text.contains("and 11 more"), "{text}");
        let text = refusal(BrickId(7), &BrickRefusal::OnlyCopy(chains[..1].to_vec()));
        assert!(text.contains("data of chain 1:"), "{text}");
        for (why, says) in [
            (
                Stuck::NoRoom { most_bytes: 1 << 30, needed_bytes: 3 << 30 },
                "3.0 GiB, and the most that can be had is 1.0 GiB",
            ),
            (Stuck::NoBrick, "add a brick"),
            (Stuck::Away, "start them"),
            (Stuck::Unserved, "last-serving"),
        ] {
            let text = stuck_text(BrickId(7), &[(ChainId(4), why), (ChainId(9), Stuck::NoBrick)]);
            assert!(text.contains("chains 4, 9 cannot move") && text.contains("drain 7 --undo"), "{text}");
            assert!(text.contains(says) && text.contains("every other brick has a copy"), "{text}");
        }
        let text = refusal(BrickId(7), &BrickRefusal::TooFewBricks { left: 1, replicas: 2 });
        assert!(text.contains("1 brick would") && text.contains("add a brick"), "{text}");
    }

    /// Nothing is begun where one of the bricks can't be asked.
    #[test]
    fn bricks_to_scrub_are_there() {
        use wire::id::{BootId, ClusterId, NodeId, StoreId};
        use wire::map::BrickInfo;
        let mut map = ClusterMap::new(ClusterId([1; 16]), 1);
        assert!(to_scrub(&map, &[]).unwrap_err().to_string().contains("no living brick"));
        for brick in 0..3 {
            let info = BrickInfo {
                id: BrickId(brick),
                store: StoreId([0; 16]),
                node: NodeId([0; 16]),
                host: "shelf".to_owned(),
                endpoint: wire::net::Endpoint::Memory(1),
                boot: BootId(1),
                alive: brick != 1,
            };
            map.bricks.insert(BrickId(brick), info);
        }
        assert_eq!(to_scrub(&map, &[]).unwrap(), [BrickId(0), BrickId(2)]);
        assert_eq!(to_scrub(&map, &[2, 0, 2]).unwrap(), [BrickId(0), BrickId(2)]);
        for (named, words) in
            [(99, "there is no brick 99: see `brickyard brick list`"), (1, "brick 1 on shelf is not alive")]
        {
            let said = to_scrub(&map, &[0, named]).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    /// Copies that can't get on since who takes them is full are told as that.
    #[test]
    fn full_bricks_that_take_copies_are_named() {
        use wire::id::{BootId, ChainEpoch, ClusterId, NodeId, StoreId};
        use wire::map::{BrickInfo, Chain, Member, MemberState};
        use wire::meta::{BrickReport, Wishes};
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        for brick in 0..3 {
            let info = BrickInfo {
                id: BrickId(brick),
                store: StoreId([0; 16]),
                node: NodeId([0; 16]),
                host: String::new(),
                endpoint: wire::net::Endpoint::Memory(1),
                boot: BootId(1),
                alive: true,
            };
            map.bricks.insert(BrickId(brick), info);
        }
        let states = [(0, MemberState::Serving), (1, MemberState::Serving), (2, MemberState::Syncing)];
        let members = states.map(|(brick, state)| Member { brick: BrickId(brick), state }).to_vec();
        map.chains.insert(ChainId(4), Chain { id: ChainId(4), epoch: ChainEpoch(1), members });
        let report = |free_bytes| BrickReport { total_bytes: 1 << 40, free_bytes, ..BrickReport::default() };
        let mut status = ClusterStatus {
            behind: None,
            lost_inodes: Vec::new(),
            map,
            bricks: vec![(BrickId(0), report(0)), (BrickId(2), report(1 << 39))],
            sessions: Vec::new(),
            inodes: 0,
            orphans: 0,
            trims: 0,
            wishes: Wishes::new(0),
            missed_ms: Vec::new(),
            held_ms: Vec::new(),
            stuck: Vec::new(),
            apart_ms: Vec::new(),
            unreached_ms: Vec::new(),
            refused: Vec::new(),
            irreplaceable: Vec::new(),
        };
        assert!(full_targets(&status, BrickId(0)).is_empty());
        status.bricks[1].1 = report(4096);
        let full = full_targets(&status, BrickId(0));
        assert_eq!(full, BTreeSet::from([BrickId(2)]));
        assert!(
            full_targets(&status, BrickId(2)).contains(&BrickId(2))
                && full_targets(&status, BrickId(9)).is_empty()
        );
        let text = full_text(BrickId(0), 3, &full);
        assert!(
            text.contains("3 chains are left")
                && text.contains("copies: 2;")
                && text.contains("drain 0 --undo"),
            "{text}"
        );
    }
}
