//! Comparing all copies of a chain with another member's, and making them equal.
//!
//! Both list their chunks in order with version, length and digest; only what differs is
//! looked at one by one, under its gate. Equal copies cost a listing: thousands a second.

use bytes::Bytes;
use wire::brick::{BrickReply, BrickRequest, ChunkSummary};
use wire::chunk::ChunkKey;
use wire::id::{BrickId, ChunkVersion};
use wire::status::Status;

use crate::brick::{Brick, Place};
use crate::config::LIST_MAX;
use crate::ops::{copy, inspect, settle};

/// Whose copy counts where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The one with the higher version; of equal versions, and if only one has the chunk, the
    /// one that is there, this brick's before the other's.
    Higher,
    /// The other's, which is the head: it is asked to level this copy.
    Theirs,
    /// This brick's.
    Ours,
}

/// What a comparison did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compared {
    /// Chunks looked at.
    pub chunks: u64,
    /// Chunks that differed.
    pub different: u64,
}

/// One side's list, page by page.
struct Pages {
    page: std::vec::IntoIter<ChunkSummary>,
    after: Option<ChunkKey>,
    end: bool,
}

impl Pages {
    fn new() -> Pages {
        Pages { page: Vec::new().into_iter(), after: None, end: false }
    }

    fn fill(&mut self, chunks: Vec<ChunkSummary>, end: bool) {
        self.after = chunks.last().map(|c| c.key).or(self.after);
        // A page that is neither full nor the last would make this loop for ever.
        self.end = end || chunks.is_empty();
        self.page = chunks.into_iter();
    }

    fn is_dry(&self) -> bool {
        self.page.len() == 0 && !self.end
    }

    fn peek(&self) -> Option<&ChunkSummary> {
        self.page.as_slice().first()
    }
}

/// Compares with `other` and makes the copies equal; `passed` is told the bytes of each chunk
/// of this brick that is through.
///
/// # Errors
/// As a status; what was levelled until then stays so.
pub async fn compare(
    brick: &Brick,
    place: &Place,
    other: BrickId,
    rule: Rule,
    passed: impl Fn(u64),
) -> Result<Compared, Status> {
    let chain = place.chain.id;
    let (mut ours, mut theirs) = (Pages::new(), Pages::new());
    let mut done = Compared::default();
    loop {
        if ours.is_dry() {
            let after = ours.after;
            let (page, end) =
                brick.disk(move |store| store.list(Some(chain), after, LIST_MAX as usize)).await?;
            ours.fill(page.iter().map(|(key, header)| inspect::summary(*key, header)).collect(), end);
            continue;
        }
        if theirs.is_dry() {
            let request = BrickRequest::List { chain: Some(chain), after: theirs.after, max: LIST_MAX };
            match brick.ask(place, other, request, Bytes::new()).await {
                Ok((BrickReply::Chunks { chunks, end }, _)) => theirs.fill(chunks, end),
                Ok(_) => return Err(Status::Busy),
                Err(error) => return Err(copy::status_of_call(&error)),
            }
            continue;
        }
        let key = match (ours.peek(), theirs.peek()) {
            (None, None) => return Ok(done),
            (Some(a), Some(b)) => a.key.min(b.key),
            (Some(a), None) | (None, Some(a)) => a.key,
        };
        let a = ours.page.as_slice().first().filter(|c| c.key == key).copied();
        let b = theirs.page.as_slice().first().filter(|c| c.key == key).copied();
        if a.is_some() {
            ours.page.next();
        }
        if b.is_some() {
            theirs.page.next();
        }
        done.chunks += 1;
        let same =
            |a: &ChunkSummary, b: &ChunkSummary| (a.version, a.len, a.digest) == (b.version, b.len, b.digest);
        if !a.zip(b).is_some_and(|(a, b)| same(&a, &b)) && level(brick, place, other, key, rule).await? {
            done.different += 1;
        }
        passed(a.map_or(0, |chunk| chunk.allocated_bytes.into()));
    }
}

/// Levels one chunk. Says whether there was anything to do.
async fn level(
    brick: &Brick,
    place: &Place,
    other: BrickId,
    key: ChunkKey,
    rule: Rule,
) -> Result<bool, Status> {
    if rule == Rule::Theirs {
        // Under its gate, since changes of the chunk may be on their way here.
        settle::ask_to_level(brick, place, key).await?;
        return Ok(true);
    }
    let before = brick.metrics.resync_bytes.get();
    let done = level_gated(brick, place, other, key, rule).await?;
    brick.copying.passed(brick.metrics.resync_bytes.get() - before).await;
    Ok(done)
}

async fn level_gated(
    brick: &Brick,
    place: &Place,
    other: BrickId,
    key: ChunkKey,
    rule: Rule,
) -> Result<bool, Status> {
    let _gate = brick.alone(key).await?;
    let mine = brick.chunk(key).await?;
    let found = copy::theirs(brick, place, key, other).await?;
    if copy::equal(mine.as_ref(), found.as_ref()) {
        return Ok(false);
    }
    let take = rule == Rule::Higher && {
        let mine = mine.map(|header| inspect::summary(key, &header));
        higher_is_theirs(place, mine.as_ref(), found.as_ref())
    };
    if take {
        copy::pull(brick, place, key, other).await?;
    }
    // If the lower version was taken, its number is raised here.
    copy::equalise(brick, place, key, other).await?;
    Ok(true)
}

/// Whether the other's copy counts of two that both members hold in good faith. A version that
/// not all have was not acknowledged, or some have lost it: the higher one counts. But what a
/// session that is blocked by now had under way may have been looked for already and not
/// found: it does not count.
fn higher_is_theirs(place: &Place, mine: Option<&ChunkSummary>, theirs: Option<&ChunkSummary>) -> bool {
    let version = |copy: Option<&ChunkSummary>| copy.map_or(ChunkVersion(0), |copy| copy.version);
    let of_blocked = |copy: Option<&ChunkSummary>| {
        let writer = copy.and_then(|copy| copy.writer);
        writer.is_some_and(|writer| place.map.blocked.contains_key(&writer.session))
    };
    match version(mine).cmp(&version(theirs)) {
        std::cmp::Ordering::Less => !of_blocked(theirs),
        std::cmp::Ordering::Equal => false,
        std::cmp::Ordering::Greater => of_blocked(mine),
    }
}
