//! Which bytes of a chunk were written since a moment: runs, in order, that do not overlap.
//!
//! What was sent again lies beneath what was not, and of what was sent again the later change lies on top, in whatever order it comes
//! (`laws_of_what_is_written_since`, `laid_runs_are_those_of_a_model`).

use std::ops::Range;

use wire::brick::Run;
use wire::id::ChunkVersion;

/// Runs of one chunk; if there are more, all are forgotten.
pub const MOST_OF_A_CHUNK: usize = 1 << 12;

/// A change, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which bytes of the chunk.
    pub range: Range<u32>,
    /// See [`Run::made`].
    pub made: ChunkVersion,
    /// See [`Run::first`].
    pub first: Option<ChunkVersion>,
}

/// A part of a change that is sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which bytes of the chunk.
    pub range: Range<u32>,
    /// Since which version they are there, or what lies above them. Nothing: they have to be done.
    pub there_at: Option<ChunkVersion>,
}

/// Whether these are runs that a lineage can have.
pub fn are_in_order(written: &[Run]) -> bool {
    written.len() <= MOST_OF_A_CHUNK
        && written.iter().all(|run| run.from < run.to)
        && written.windows(2).all(|two| two[0].to <= two[1].from)
}

/// The parts of a range on which something lies that was first written as this version or a later one, or that was never sent again,
/// and those that are bare.
pub fn parted(written: &[Run], range: Range<u32>, first: ChunkVersion) -> Vec<Part> {
    let (mut parts, mut at): (Vec<Part>, u32) = (Vec::new(), range.start);
    let met = written.partition_point(|run| run.to <= range.start);
    let met = written[met..].iter().take_while(|run| run.from < range.end);
    for run in met.filter(|run| run.first.is_none_or(|above| above >= first)) {
        if run.from > at {
            parts.push(Part { range: at..run.from, there_at: None });
        }
        let covered = at.max(run.from)..run.to.min(range.end);
        at = covered.end;
        match parts.last_mut() {
            Some(Part { range, there_at: Some(version) }) => {
                range.end = covered.end;
                *version = run.made.max(*version);
            }
            _ => parts.push(Part { range: covered, there_at: Some(run.made) }),
        }
    }
    if at < range.end {
        parts.push(Part { range: at..range.end, there_at: None });
    }
    parts
}

/// Lays a change on the runs, where nothing later lies.
pub fn lay(written: &mut Vec<Run>, change: &Changed) {
    let Changed { range, made, first } = change;
    let run = |range: Range<u32>| Run { from: range.start, to: range.end, made: *made, first: *first };
    match first {
        None => lay_on_top(written, run(range.clone())),
        Some(first) => parted(written, range.clone(), *first)
            .into_iter()
            .filter(|part| part.there_at.is_none())
            .for_each(|part| lay_on_top(written, run(part.range))),
    }
}

/// Lays a run on all others, and joins it with neighbours of its kind.
fn lay_on_top(written: &mut Vec<Run>, mut new: Run) {
    if new.from >= new.to {
        return;
    }
    // Those it lies on, and those it touches.
    let met =
        written.partition_point(|run| run.to < new.from)..written.partition_point(|run| run.from <= new.to);
    let before = written[met.clone()].first().filter(|run| run.from < new.from).copied();
    let after = written[met.clone()].last().filter(|run| run.to > new.to).copied();
    let (below, above) = (new.from, new.to);
    let mut join = |rest: Option<Run>| {
        let alike = rest.filter(|rest| rest.first == new.first)?;
        new = Run {
            from: new.from.min(alike.from),
            to: new.to.max(alike.to),
            made: new.made.max(alike.made),
            ..new
        };
        Some(())
    };
    let before = if join(before).is_some() { None } else { before.map(|run| Run { to: below, ..run }) };
    let after = if join(after).is_some() { None } else { after.map(|run| Run { from: above, ..run }) };
    written.splice(met, before.into_iter().chain([new]).chain(after));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against an array of what lies on each byte.
        #[test]
        fn laid_runs_are_those_of_a_model(
            changes in prop::collection::vec((0u32..60, 0u32..20, 0u64..5), 0..40)
        ) {
            let mut written = Vec::new();
            let mut model: [Option<(Option<ChunkVersion>, u64)>; 80] = [None; 80];
            for (made, (from, len, first)) in (10u64..).zip(changes) {
                let first = Some(ChunkVersion(first)).filter(|first| first.0 > 0);
                let change = Changed { range: from..from + len, made: ChunkVersion(made), first };
                lay(&mut written, &change);
                for on in &mut model[from as usize..(from + len) as usize] {
                    let lies_above = |on: Option<ChunkVersion>| match (first, on) {
                        (None, _) => false,
                        (Some(_), None) => true,
                        (Some(first), Some(on)) => on >= first,
                    };
                    if !on.is_some_and(|(on, _)| lies_above(on)) {
                        *on = Some((first, made));
                    }
                }
                prop_assert!(are_in_order(&written), "{:?}", written);
                let mut last: Option<Run> = None;
                for (at, on) in (0u32..).zip(model) {
                    let run = written.iter().find(|run| (run.from..run.to).contains(&at));
                    prop_assert_eq!(run.map(|run| run.first), on.map(|(first, _)| first), "{}", at);
                    // What was joined says the latest of all.
                    prop_assert!(run.zip(on).is_none_or(|(run, (_, made))| run.made.0 >= made));
                }
                for run in &written {
                    prop_assert!(last.is_none_or(|last| last.to < run.from || last.first != run.first), "{:?}", written);
                    last = Some(*run);
                }
            }
        }
    }
}
