//! `brickyard check`: the namespace against itself, and against what lies on the bricks.
//!
//! What it verifies, and under which name a problem is told:
//! 1. names, inodes, link counts, listings agree (the namespace verifies that itself);
//! 2. every chunk belongs to a file that exists, or to one whose name was lost when the namespace was set back (a note), and to the chain its layout gives (*leaked*, *misplaced*);
//! 3. no chunk lies beyond its file's end, unless the file is being written or cut (*beyond the end*);
//! 4. all serving members of a chain hold the same chunks, with the same version, length and digest (*differs*);
//! 5. a file that was written has something on some brick (a note: by its record alone one that was cut to a hole is no other);
//! 6. with `--data-too`: every block matches its checksum, and copies have the same content.
//!
//! 7. all members of the namespace have the same state, as far as that shows (*member*).
//!
//! With `--repair` what can be mended is: see [`repair`]. Else nothing is changed but what follows.
//!
//! A block that fails its checksum is put right from another copy by the brick that was asked; the check waits
//! for that and tells it apart (*repaired*) from one that no copy has any more (*corrupt*).
//!
//! The cluster may be in use. What changes while it is looked at is looked at again, a few
//! times, before it is called a problem.

mod findings;
mod members;
mod repair;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;
use wire::brick::{BrickReply, BrickRequest, ChunkSummary};
use wire::chunk::ChunkKey;
use wire::id::{BrickId, Ino};
use wire::map::ClusterMap;
use wire::meta::{CheckReply, CheckRequest, InodeSummary};

use crate::admin::{self, Admin};
use crate::cli::CheckOptions;
use crate::refusal;
use crate::show::counted;

use findings::{Findings, Problem, Uneven};

/// Looks at the bricks at most, until two in a row tell the same problems.
const ROUNDS: u32 = 6;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(1500);
/// Longest wait for a chunk with bad blocks to be put right.
const REPAIR_LIMIT: Duration = Duration::from_secs(2);
/// Time between two looks whether it is.
const REPAIR_PAUSE: Duration = Duration::from_millis(250);
/// Files or chunks asked for at a time.
const PAGE: u32 = 4096;

/// Checks the cluster that runs on a data directory.
///
/// # Errors
/// Never for problems found (they are an exit code): only for output that fails.
pub fn run(options: &CheckOptions) -> Result<ExitCode> {
    let looked: Result<_> = admin::runtime()?.block_on(async {
        let admin = Admin::of(&options.cluster)?;
        let mut findings = look_until_stable(&admin, options.data_too).await?;
        if options.repair && findings.can_repair() {
            let mended = repair::run(&admin, &findings).await?;
            let before = findings;
            findings = look_until_stable(&admin, options.data_too).await?;
            findings.repaired.extend(before.repaired);
            findings.mended = mended.lines;
            findings.notes.extend(mended.notes);
        }
        let paths = admin.paths(&findings.files()).await?;
        Ok((findings, paths))
    });
    let (findings, paths) = match looked {
        Ok(told) => told,
        Err(error) => {
            eprintln!("brickyard: could not check: {}", refusal::one_line(&error));
            return Ok(ExitCode::from(2));
        }
    };
    if options.cluster.json {
        let object = json!({
            "inodes": findings.inodes, "entries": findings.entries, "chunks": findings.chunks,
            "problems": findings.problem_lines(&paths), "repaired": findings.repaired_lines(&paths),
            "notes": findings.note_lines(&paths), "repairable": findings.can_repair(),
        });
        println!("{object:#}");
    } else {
        for note in findings.note_lines(&paths) {
            println!("note: {note}");
        }
        for repaired in findings.repaired_lines(&paths) {
            println!("repaired: {repaired}");
        }
        for problem in findings.problem_lines(&paths) {
            println!("problem: {problem}");
        }
        println!(
            "{}: {}, {}, {} looked at, {}{}",
            if findings.problems.is_empty() { "consistent" } else { "NOT CONSISTENT" },
            counted(findings.inodes, "inode", "inodes"),
            counted(findings.entries, "name", "names"),
            counted(findings.chunks, "chunk copy", "chunk copies"),
            counted(findings.problems.len(), "problem", "problems"),
            match findings.repaired.len() + findings.mended.len() {
                0 => String::new(),
                n => format!(", {} repaired", counted(n, "thing", "things")),
            }
        );
        if findings.can_repair() && !options.repair {
            println!(
                "`brickyard check --repair` mends what of this can be mended without a guess, and loses no file"
            );
        }
    }
    Ok(ExitCode::from(findings.exit_code()))
}

/// Keeps only what two looks in a row agree on.
async fn look_until_stable(admin: &Admin, data_too: bool) -> Result<Findings> {
    let mut last = look(admin, data_too).await?;
    for _ in 1..ROUNDS {
        if last.problems.is_empty() && last.empty.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        let mut now = look(admin, data_too).await?;
        let stable = now.problems == last.problems && now.empty == last.empty;
        now.problems = now.problems.intersection(&last.problems).cloned().collect();
        now.uneven = now.uneven.intersection(&last.uneven).copied().collect();
        now.empty.retain(|file, _| last.empty.contains_key(file));
        now.repaired.append(&mut last.repaired);
        last = now;
        if stable {
            break;
        }
    }
    Ok(last)
}

async fn look(admin: &Admin, data_too: bool) -> Result<Findings> {
    let mut findings = Findings::default();
    match admin.check(CheckRequest::Survey).await? {
        CheckReply::Surveyed { inodes, entries, problems, mendable } => {
            findings.inodes = inodes;
            findings.entries = entries;
            findings.mendable = mendable;
            members::compare(admin, &problems, &mut findings).await?;
            let of = |p| Problem { what: format!("namespace: {p}"), file: None };
            findings.problems.extend(problems.into_iter().map(of));
        }
        other => bail!("the namespace answered {other:?}"),
    }
    // Chunks before files: a file made in between has no chunk in the list, and a chunk whose
    // file was removed in between is named at most in this look.
    let status = admin.status().await?;
    let (map, lost) = (status.map, status.lost_inodes);
    let mut copies: BTreeMap<ChunkKey, Vec<(BrickId, ChunkSummary)>> = BTreeMap::new();
    for brick in map.bricks.values() {
        if !brick.alive {
            findings.notes.insert(format!("brick {} is away: its copies were not looked at", brick.id));
            continue;
        }
        for chunk in list_chunks(admin, &map, brick.id).await? {
            findings.chunks += 1;
            copies.entry(chunk.key).or_default().push((brick.id, chunk));
        }
    }
    for chain in map.chains.values().filter(|chain| chain.head().is_none()) {
        let what = format!(
            "unavailable: nobody serves chain {}; `brickyard status` says who is waited for",
            chain.id
        );
        findings.problems.insert(Problem { what, file: None });
    }
    let files = list_files(admin).await?;
    for (key, copies) in &copies {
        let is_lost = lost.iter().any(|(first, last)| (*first..=*last).contains(&key.ino));
        if is_lost && !files.contains_key(&key.ino) {
            findings.lost += copies.len() as u64;
            continue;
        }
        judge(&map, &files, *key, copies, &mut findings);
        if data_too {
            compare_content(admin, &map, *key, copies, &mut findings).await?;
        }
    }
    // Of those that can't be asked nothing is known.
    if map.bricks.values().all(|brick| brick.alive) && map.chains.values().all(|chain| chain.head().is_some())
    {
        findings.empty = empty(&files, &copies);
    }
    if findings.lost > 0 {
        findings.notes.insert(format!(
            "{} of files whose names were lost when the namespace was set back, or with their records: kept until `brickyard namespace free-lost`; \
             `brickyard salvage` gets them off a brick",
            counted(findings.lost, "chunk copy is", "chunk copies are")
        ));
    }
    Ok(findings)
}

/// Files that were written and are not being written or cut, of which no brick has anything.
fn empty(
    files: &BTreeMap<Ino, InodeSummary>,
    copies: &BTreeMap<ChunkKey, Vec<(BrickId, ChunkSummary)>>,
) -> BTreeMap<Ino, u64> {
    let there: BTreeSet<Ino> = copies.keys().map(|key| key.ino).collect();
    let is_empty = |file: &&InodeSummary| {
        let written = file.size > 0 && file.allocated_bytes > 0;
        written && !file.open_for_write && !file.trimming && !there.contains(&file.ino)
    };
    files.values().filter(is_empty).map(|file| (file.ino, file.allocated_bytes)).collect()
}

/// Rules 2 to 4 for one chunk.
fn judge(
    map: &ClusterMap,
    files: &BTreeMap<Ino, InodeSummary>,
    key: ChunkKey,
    copies: &[(BrickId, ChunkSummary)],
    findings: &mut Findings,
) {
    let on = || copies.iter().map(|(b, _)| b.to_string()).collect::<Vec<_>>().join(", ");
    let Some(file) = files.get(&key.ino) else {
        findings.wrong(key.ino, format!("leaked: chunk {key} on bricks {} belongs to no file", on()));
        return;
    };
    if file.trimming {
        return;
    }
    let chunk_bytes = u64::from(file.layout.chunk_bytes);
    if !file.open_for_write {
        let start = key.index.saturating_mul(chunk_bytes);
        for (brick, copy) in copies {
            if start.saturating_add(u64::from(copy.len)) > file.size {
                let (end, size) = (start + u64::from(copy.len), file.size);
                findings.wrong(
                    key.ino,
                    format!("beyond the end: chunk {key} on brick {brick} ends at {end}, its file at {size}"),
                );
            }
        }
    }
    let Some(chain) = file.layout.chain(map, key.index).and_then(|id| map.chains.get(&id)) else {
        let what = format!("misplaced: the layout of file {} has no chain for chunk {key}", key.ino);
        findings.wrong(key.ino, what);
        return;
    };
    for (brick, _) in copies {
        if chain.state_of(*brick).is_none() {
            let what = format!("misplaced: chunk {key} is on brick {brick}, not of chain {}", chain.id);
            findings.wrong(key.ino, what);
        }
    }
    let serving: Vec<BrickId> = chain.serving().collect();
    if serving.len() < chain.members.len() {
        findings.notes.insert(format!(
            "chain {} has {} of {} copies in sync",
            chain.id,
            serving.len(),
            chain.members.len()
        ));
    }
    let of =
        |brick: BrickId| copies.iter().find(|(b, _)| *b == brick).map(|(_, c)| (c.version, c.len, c.digest));
    let Some((first, rest)) = serving.split_first() else { return };
    for brick in rest {
        if of(*brick) != of(*first) {
            // Only what an older one lacks is no guess.
            if of(*brick).map(|(version, ..)| version) < of(*first).map(|(version, ..)| version) {
                findings.uneven.insert(Uneven {
                    key,
                    chain: (chain.id, chain.epoch),
                    head: *first,
                    member: *brick,
                });
            }
            let (one, other) = (version(of(*first)), version(of(*brick)));
            findings.wrong(
                key.ino,
                format!("differs: chunk {key} is {one} on brick {first} and {other} on brick {brick}"),
            );
        }
    }
}

fn version(of: Option<(wire::id::ChunkVersion, u32, u64)>) -> String {
    of.map_or_else(
        || "missing".to_owned(),
        |(version, len, digest)| format!("at version {version} with {len} bytes (digest {digest:016x})"),
    )
}

/// Rule 6 for one chunk.
async fn compare_content(
    admin: &Admin,
    map: &ClusterMap,
    key: ChunkKey,
    copies: &[(BrickId, ChunkSummary)],
    findings: &mut Findings,
) -> Result<()> {
    let mut first: Option<(BrickId, [u8; 32])> = None;
    for (brick, _) in copies {
        let Some(hash) = sound(admin, map, key, *brick, findings).await? else { continue };
        match first {
            Some((other, theirs)) if theirs != hash => {
                findings
                    .wrong(key.ino, format!("differs: content of chunk {key} on bricks {other} and {brick}"));
            }
            Some(_) => {}
            None => first = Some((*brick, hash)),
        }
    }
    Ok(())
}

/// The hash of a copy without bad blocks: bad ones are waited for to be put right. `None`, and a problem, if they
/// are not.
async fn sound(
    admin: &Admin,
    map: &ClusterMap,
    key: ChunkKey,
    brick: BrickId,
    findings: &mut Findings,
) -> Result<Option<[u8; 32]>> {
    let until = Instant::now() + REPAIR_LIMIT;
    let mut found = 0;
    loop {
        let reply = admin.brick(map, brick, BrickRequest::Verify { key }).await?;
        let BrickReply::Verified { hash, corrupt_blocks } = reply else {
            bail!("brick {brick} answered something else than was asked")
        };
        if corrupt_blocks == 0 {
            if found > 0 {
                findings.repaired.insert((key, brick), found);
            }
            return Ok(Some(hash));
        }
        found = found.max(corrupt_blocks);
        if Instant::now() > until {
            let bad = counted(corrupt_blocks, "bad block", "bad blocks");
            let what =
                format!("corrupt: chunk {key} on brick {brick} has {bad} that no other copy could put right");
            findings.wrong(key.ino, what);
            return Ok(None);
        }
        tokio::time::sleep(REPAIR_PAUSE).await;
    }
}

async fn list_chunks(admin: &Admin, map: &ClusterMap, brick: BrickId) -> Result<Vec<ChunkSummary>> {
    let mut all: Vec<ChunkSummary> = Vec::new();
    loop {
        let after = all.last().map(|c| c.key);
        let reply = admin.brick(map, brick, BrickRequest::List { chain: None, after, max: PAGE }).await?;
        let BrickReply::Chunks { chunks, end } = reply else {
            bail!("brick {brick} answered something else than was asked")
        };
        if chunks.is_empty() && !end {
            bail!("brick {brick} lists nothing and says there is more");
        }
        all.extend(chunks);
        if end {
            return Ok(all);
        }
    }
}

async fn list_files(admin: &Admin) -> Result<BTreeMap<Ino, InodeSummary>> {
    let mut all = BTreeMap::new();
    let mut after = Ino(0);
    loop {
        let reply = admin.check(CheckRequest::Files { after, max: PAGE }).await?;
        let CheckReply::Inodes { inodes, end } = reply else { bail!("the namespace answered {reply:?}") };
        match inodes.last() {
            Some(last) => after = last.ino,
            None if !end => bail!("the namespace lists nothing and says there is more"),
            None => {}
        }
        all.extend(inodes.into_iter().map(|i| (i.ino, i)));
        if end {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::findings::{Paths, REPAIRED};
    use super::*;
    use wire::id::{ChainEpoch, ChainId, ChunkVersion, ClusterId};
    use wire::layout::FileLayout;
    use wire::map::{Chain, Member, MemberState};
    use wire::meta::FileKind;

    fn copy(ino: u64, version: u64, len: u32, digest: u64) -> ChunkSummary {
        ChunkSummary {
            key: ChunkKey { ino: Ino(ino), index: 0 },
            chain: ChainId(1),
            version: ChunkVersion(version),
            len,
            allocated_bytes: 4096,
            digest,
            writer: None,
        }
    }

    fn file(ino: u64) -> InodeSummary {
        InodeSummary {
            ino: Ino(ino),
            kind: FileKind::File,
            size: 4096,
            allocated_bytes: 4096,
            layout: FileLayout::default(),
            open_for_write: false,
            trimming: false,
        }
    }

    /// What is being changed, was never written or has anything somewhere is not told.
    #[test]
    fn files_of_which_nothing_is_left_are_named() {
        let files = [
            file(2),
            file(3),
            InodeSummary { open_for_write: true, ..file(4) },
            InodeSummary { trimming: true, ..file(5) },
            InodeSummary { allocated_bytes: 0, ..file(6) },
            InodeSummary { size: 0, ..file(7) },
        ];
        let files = files.into_iter().map(|file| (file.ino, file)).collect();
        let there = BTreeMap::from([(chunk(2, 1, 1).key, vec![(BrickId(0), chunk(2, 1, 1))])]);
        let findings = Findings { empty: empty(&files, &there), ..Findings::default() };
        assert_eq!((findings.files(), findings.exit_code()), (vec![Ino(3)], 0));
        let lines = findings.note_lines(&Paths::from([(Ino(3), "/a".to_owned())]));
        assert!(
            lines[0].starts_with("nothing is left of file 3, 4.0 KiB of which were written"),
            "{lines:?}"
        );
        assert!(lines.len() == 1 && lines[0].ends_with(": /a"), "{lines:?}");
    }

    fn chunk(ino: u64, version: u64, len: u32) -> ChunkSummary {
        copy(ino, version, len, 7)
    }

    fn judged(copies: &[(BrickId, ChunkSummary)], size: u64) -> Findings {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        let members = [0, 1].map(|b| Member { brick: BrickId(b), state: MemberState::Serving }).to_vec();
        map.chains.insert(ChainId(1), Chain { id: ChainId(1), epoch: ChainEpoch(1), members });
        map.add_table(vec![ChainId(1)]);
        let file = InodeSummary { size, ..file(2) };
        let mut findings = Findings::default();
        judge(&map, &BTreeMap::from([(Ino(2), file)]), copies[0].1.key, copies, &mut findings);
        findings
    }

    fn problems(copies: &[(BrickId, ChunkSummary)], size: u64) -> Vec<String> {
        judged(copies, size).problem_lines(&Paths::new())
    }

    /// A copy is made equal to its head's only where that has what it lacks: everything else would be a guess.
    #[test]
    fn only_older_copies_are_made_equal() {
        let (zero, one) = (BrickId(0), BrickId(1));
        for (copies, can) in [
            (vec![(zero, chunk(2, 5, 100)), (one, chunk(2, 4, 100))], true),
            (vec![(zero, chunk(2, 5, 100))], true),
            (vec![(zero, chunk(2, 4, 100)), (one, chunk(2, 5, 100))], false),
            (vec![(one, chunk(2, 5, 100))], false),
            (vec![(zero, chunk(2, 5, 100)), (one, copy(2, 5, 100, 8))], false),
        ] {
            let found = judged(&copies, 100);
            let of: Vec<_> = found.uneven.iter().map(|uneven| (uneven.head, uneven.member)).collect();
            assert_eq!((of, found.can_repair()), (if can { vec![(zero, one)] } else { vec![] }, can));
            assert_eq!(found.problem_lines(&Paths::new()).len(), 1);
        }
    }

    /// What was mended is told, and is enough for its own exit code only where nothing is left.
    #[test]
    fn what_was_mended_is_told() {
        let mut findings = Findings { mended: vec!["namespace: a: /b".to_owned()], ..Findings::default() };
        assert_eq!((findings.repaired_lines(&Paths::new()).len(), findings.exit_code()), (1, REPAIRED));
        assert!(!findings.can_repair());
        findings.wrong(Ino(3), "leaked".to_owned());
        assert_eq!((findings.exit_code(), findings.can_repair()), (1, false));
        findings.mendable = 1;
        assert!(findings.can_repair());
        findings.differs = true;
        assert!(!findings.can_repair());
    }

    /// What was put right is told, and is neither consistent from the start nor a problem.
    #[test]
    fn what_was_repaired_has_its_own_exit_code() {
        let mut findings = Findings::default();
        assert_eq!(findings.exit_code(), 0);
        findings.repaired.insert((ChunkKey { ino: Ino(2), index: 0 }, BrickId(1)), 3);
        assert_eq!(findings.exit_code(), REPAIRED);
        assert_eq!(findings.files(), [Ino(2)]);
        let lines = findings.repaired_lines(&Paths::from([(Ino(2), "/home/two".to_owned())]));
        let line = "chunk 2.0 on brick 1 had 3 bad blocks, put right from another copy: /home/two";
        assert_eq!(lines, [line]);
        findings.wrong(Ino(3), "leaked".to_owned());
        assert_eq!(findings.problem_lines(&Paths::new()), ["leaked"]);
        assert_eq!(findings.exit_code(), 1);
    }

    /// Equal copies of an existing file are fine; each kind of mistake is found under its name.
    #[test]
    fn each_mistake_is_named() {
        let (zero, one) = (BrickId(0), BrickId(1));
        assert!(problems(&[(zero, chunk(2, 5, 100)), (one, chunk(2, 5, 100))], 100).is_empty());
        for (copies, size, word) in [
            (vec![(zero, chunk(3, 5, 100)), (one, chunk(3, 5, 100))], 100, "leaked"),
            (vec![(zero, chunk(2, 5, 100)), (one, chunk(2, 5, 100))], 99, "beyond the end"),
            (vec![(zero, chunk(2, 5, 100)), (one, chunk(2, 4, 100))], 100, "differs"),
            (vec![(zero, chunk(2, 5, 100)), (one, copy(2, 5, 100, 8))], 100, "differs"),
            (vec![(zero, chunk(2, 5, 100))], 100, "missing"),
            (
                vec![(zero, chunk(2, 5, 100)), (one, chunk(2, 5, 100)), (BrickId(4), chunk(2, 5, 1))],
                100,
                "misplaced",
            ),
        ] {
            let found = problems(&copies, size);
            // Where each copy is wrong by itself, each is named.
            let count = if word == "beyond the end" { copies.len() } else { 1 };
            assert!(found.len() == count && found.iter().all(|f| f.contains(word)), "{word}: {found:?}");
        }
    }
}
