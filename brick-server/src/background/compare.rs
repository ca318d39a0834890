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
use crate::ops::{copy, inspect};

/// Whose copy counts where they differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The one with the higher version; of equal versions, and if only one has the chunk, the
    /// one that is there, this brick's before the other's.
    Higher,
    /// The other's.
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

/// Compares with `other` and makes the copies equal.
///
/// # Errors
/// As a status; what was levelled until then stays so.
pub async fn compare(brick: &Brick, place: &Place, other: BrickId, rule: Rule) -> Result<Compared, Status> {
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
    let _gate = brick.alone(key).await?;
    let mine = brick.chunk(key).await?;
    let found = copy::theirs(brick, place, key, other).await?;
    if copy::equal(mine.as_ref(), found.as_ref()) {
        return Ok(false);
    }
    tracing::debug!(brick = %brick.id, %other, chunk = %key, ?rule, ?mine, ?found, "copies differ");
    let take = match rule {
        Rule::Theirs => true,
        Rule::Ours => false,
        Rule::Higher => match (&mine, &found) {
            (Some(mine), Some(found)) => found.version > mine.version,
            (None, _) => true,
            (Some(_), None) => false,
        },
    };
    if take {
        copy::pull(brick, place, key, other).await?;
        return Ok(true);
    }
    match (mine, found) {
        (None, found) => {
            let version = found.map_or(ChunkVersion(0), |f| f.version);
            copy::drop_there(brick, place, key, other, version).await?;
        }
        (Some(mine), Some(found)) if found.version >= mine.version => {
            // The number must not stand for two contents.
            let (chain, next) = (place.chain.id, ChunkVersion(found.version.0 + 1));
            brick.disk(move |store| store.set_version(key, chain, next)).await?;
            copy::push(brick, place, key, other).await?;
        }
        _ => copy::push(brick, place, key, other).await?,
    }
    Ok(true)
}
