//! Which changes are in a copy, of those that may be sent again.
//!
//! A client that finds that bricks have restarted sends again what they may have lost. It may be there all the same, made durable by
//! another client's commit, or on a member that went on living; and others may have written over it since. Done as if it came now, it would
//! undo that. So it is done only where it is lost, and beneath what was written since.
//!
//! A copy that was changed since its brick started has a [`Lineage`]: the version it was at then, up to which it has everything that
//! the life before took over (versions are given in order), and what was written since. Who is given a copy whole is given its lineage,
//! too. A copy without one is as it came from the disk, or its brick has lived for so long that nobody sends again what was acknowledged
//! before: then it has all that it seems to have.
//!
//! ```text
//!    sent again: version v,      lineage?
//!    taken over by ...             none: by this life                               -> it has it
//!                                        by the life before, and it is at v or later -> it has it
//!                                        it is at v or later, and lives long         -> it has it
//!                                        by another one: see eras below
//!                                        otherwise                                   -> lost, done whole
//!                                  some: v <= floor, by the life it speaks of        -> it has it
//!                                        by another one: see eras below
//!                                        otherwise                                   -> lost, done where nothing
//!                                                                                       later was written
//!    by another life, of an
//!    era (e) before v's                                                              -> lost
//!        that of v                                                                   -> as if by the same life
//!        after v's                                                                   -> in doubt, refused, unless all of it
//!                                                                                       lies beneath what was written since
//! ```
//!
//! 1. What is in a copy is not done again (`what_is_there_is_not_done_again`).
//! 2. Bytes that were written since are left alone; of what is sent again, the later change wins, in whatever order it comes
//!    (`laws_of_what_is_written_since`).
//! 3. Versions of a chunk that is made anew begin above those of all that this life has removed (`what_is_there_is_not_done_again`).
//! 4. Nor does a copy have more because its number was raised to be above another one's (`a_number_is_no_content`).
//! 5. The members of a chain keep the same lineages: the head passes its floor on with each change, and its lineage with each copy
//!    (`members_keep_what_the_head_keeps`, `what_was_given_is_known_to_the_giver`). Who has no lineage gets it with a copy.
//! 6. Clients find out within [`AGAIN_WITHIN`] and then ask no more. After [`REMEMBERED_FOR`] a lineage is forgotten; beyond [`MOST`] of
//!    them nothing is known for as long, and what is sent again is done (`in_the_end_nothing_is_known`).
//!
//! A life in which copies were taken from others that may have lost something does not vouch for its changes after its end, for as long
//! as lineages are kept: that is noted on the disk ([`crate::store::lives`]).
//!
//! # Eras
//!
//! Bricks may start more than once before a change is sent again. The first change of a chunk in a life, and of a copy whose giver may
//! have lost something, is numbered by the time at which that life began, or the copy was given: its *era*. Copies of the era of a
//! change, or of an earlier one, say by their version whether they have it (`an_era_says_whether_somebody_wrote_since`). If somebody has
//! written to the chunk in a later era, nobody knows where: it is refused, and its writer is told that it may be lost. What was never
//! made durable may be lost; what was may not be undone.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use wire::brick::{AGAIN_WITHIN, Again, Floor, Lineage};
use wire::chunk::ChunkKey;
use wire::id::{BootId, BrickId, ChunkVersion};

use crate::chain::runs::{self, Changed, Part};

/// How long lineages are kept.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// What lineages may cost at most, in runs of 16 bytes: some 70 MB.
const MOST: usize = 1 << 22;
/// What a lineage costs without its runs.
const OF_A_LINEAGE: usize = 8;

const _: () = assert!(AGAIN_WITHIN.as_secs() < REMEMBERED_FOR.as_secs());

/// Versions that a life makes are above the time at which it began, in milliseconds, with so many bits for their number: no brick makes a
/// million changes of a chunk in one, so those of a later life are higher.
const ERA_BITS: u32 = 20;

fn era_of(version: ChunkVersion) -> u64 {
    version.0 >> ERA_BITS
}

/// A life of a brick.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// This one.
    pub boot: BootId,
    /// It had no life before, so it has lost nothing.
    pub is_first: bool,
    /// The one before, if it vouches for what it took over.
    pub vouching: Option<BootId>,
    /// When it began, by the clock, in milliseconds since 1970.
    pub began_ms: u64,
}

/// Whether a change that is sent again is lost can't be told, nor what was written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InDoubt;

#[derive(Debug)]
struct Kept {
    lineage: Lineage,
    /// Versions made on this copy are above this.
    era: ChunkVersion,
    until: Instant,
}

/// The lineages a brick keeps; see the module's head.
#[derive(Debug)]
pub struct Lineages {
    began: Instant,
    me: (BrickId, BootId),
    /// The life before.
    before: (BrickId, BootId),
    is_first: bool,
    began_ms: u64,
    kept: HashMap<ChunkKey, Kept>,
    /// The highest version of a chunk that was removed: those of one that is made anew begin above it.
    removed: ChunkVersion,
    /// Of those in `kept`.
    cost: usize,
    blind_until: Option<Instant>,
    /// Until when copies matter that were taken from others which may have lost something.
    doubtful_until: Option<Instant>,
}

impl Lineages {
    /// Of a life that begins.
    pub fn new(brick: BrickId, life: Beginning, now: Instant) -> Lineages {
        Lineages {
            began: now,
            me: (brick, life.boot),
            before: (brick, life.vouching.unwrap_or(BootId(0))),
            is_first: life.is_first,
            began_ms: life.began_ms,
            kept: HashMap::new(),
            removed: ChunkVersion(0),
            cost: 0,
            blind_until: None,
            doubtful_until: None,
        }
    }

    fn kept(&self, key: ChunkKey, now: Instant) -> Option<&Kept> {
        self.kept.get(&key).filter(|kept| now < kept.until)
    }

    fn find(&self, key: ChunkKey, now: Instant) -> Option<&Lineage> {
        self.kept(key, now).map(|kept| &kept.lineage)
    }

    fn is_blind(&self, now: Instant) -> bool {
        self.blind_until.is_some_and(|until| now < until)
    }

    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) < REMEMBERED_FOR
    }

    /// What of a change that is sent again has to be done, in order; `now_at`: the version of the chunk.
    ///
    /// # Errors
    /// [`InDoubt`].
    pub fn judge(
        &self,
        key: ChunkKey,
        again: &Again,
        range: Range<u32>,
        now_at: ChunkVersion,
        now: Instant,
    ) -> Result<Vec<Part>, InDoubt> {
        let took = |life| again.took.contains(&life);
        let there = |range| vec![Part { range, there_at: Some(again.version) }];
        let lost = |range| vec![Part { range, there_at: None }];
        if self.is_blind(now) {
            return Ok(lost(range));
        }
        // A copy that is at `at`, and has all up to there that `of` took over.
        let has =
            |at: ChunkVersion, of: Option<(BrickId, BootId)>| match era_of(at).cmp(&era_of(again.version)) {
                _ if of.is_none_or(took) => Ok(again.version <= at),
                // Nothing was lost between the two.
                Ordering::Equal => Ok(again.version <= at),
                // Nothing was written since it was.
                Ordering::Less => Ok(false),
                Ordering::Greater => Err(InDoubt),
            };
        match self.find(key, now) {
            None if took(self.me) || !self.is_young(now) && again.version <= now_at => Ok(there(range)),
            None => has(now_at, Some(self.before)).map(|has| if has { there(range) } else { lost(range) }),
            Some(Lineage { floor, written }) => {
                let has = has(floor.version, floor.of);
                if has == Ok(true) {
                    return Ok(there(range));
                }
                let parts = runs::parted(written, range, again.first);
                // It may lie beneath what was written since in any case.
                let is_beneath = || parts.iter().all(|part| part.there_at.is_some());
                if has.is_ok() || is_beneath() { Ok(parts) } else { Err(InDoubt) }
            }
        }
    }

    /// Whether this life would not vouch for its changes if it ended now.
    pub fn is_doubtful(&self) -> bool {
        self.doubtful_until.is_some()
    }

    /// A copy is taken from one that may have lost something.
    pub fn doubt(&mut self, now: Instant) {
        self.doubtful_until = Some(now + REMEMBERED_FOR);
    }

    /// [`Lineages::doubt`], if it is in doubt already; whether it is.
    pub fn doubt_longer(&mut self, now: Instant) -> bool {
        let is_doubtful = self.is_doubtful();
        if is_doubtful {
            self.doubt(now);
        }
        is_doubtful
    }

    /// Whether it may vouch again from now on, since nobody sends again what was acknowledged before the last such copy.
    pub fn vouch_again(&mut self, now: Instant) -> bool {
        self.doubtful_until.take_if(|until| *until <= now).is_some()
    }

    /// The version that a change makes of `base`; 0: the chunk is new. The first one of a life begins an era.
    pub fn next(&self, key: ChunkKey, base: ChunkVersion, now: Instant) -> ChunkVersion {
        let least = if base.0 == 0 { self.removed } else { base };
        let era = self.kept(key, now).map(|kept| kept.era).or(self.is_young(now).then(|| self.era()));
        ChunkVersion(1 + least.max(era.unwrap_or_default()).0)
    }

    /// The era of changes of what came from the disk: the first life of a brick has lost nothing.
    fn era(&self) -> ChunkVersion {
        ChunkVersion(if self.is_first { 0 } else { self.began_ms << ERA_BITS })
    }

    /// The era of changes of what is given by others now.
    fn era_now(&self, now: Instant) -> ChunkVersion {
        let lived = now.saturating_duration_since(self.began).as_millis() as u64;
        ChunkVersion((self.began_ms + lived) << ERA_BITS)
    }

    /// Whether something may be sent again that is lost and not there: then also a hole where nothing is has to be known.
    pub fn keeps_traces(&self, key: ChunkKey, now: Instant) -> bool {
        self.find(key, now).is_some() || self.is_young(now) && !self.is_first
    }

    /// The floor of a chunk at version `base` that is about to be changed by the head, if its lineage is kept.
    pub fn floor(&self, key: ChunkKey, base: ChunkVersion, now: Instant) -> Option<Floor> {
        let of_disk = Floor { version: base, of: Some(self.before).filter(|_| !self.is_first) };
        self.find(key, now).map(|lineage| lineage.floor).or(self.is_young(now).then_some(of_disk))
    }

    /// Whether a member that is as the head was at `base` has the head's lineage, which has this floor, or it has only begun. One that knows
    /// nothing for now would not keep it.
    pub fn can_follow(&self, key: ChunkKey, base: ChunkVersion, floor: Floor, now: Instant) -> bool {
        floor.version == base || self.find(key, now).is_some() || self.is_blind(now)
    }

    /// A chunk was changed; `floor`: what [`Lineages::floor`] said before, at the head.
    pub fn changed(&mut self, key: ChunkKey, change: &Changed, floor: Option<Floor>, now: Instant) {
        if self.find(key, now).is_none() {
            let Some(floor) = floor else { return };
            self.put(key, Lineage { floor, written: Vec::new() }, self.era(), now);
        }
        let Some(kept) = self.kept.get_mut(&key) else { return };
        let written = &mut kept.lineage.written;
        let before = written.len();
        runs::lay(written, change);
        if written.len() > runs::MOST_OF_A_CHUNK {
            written.clear();
        }
        self.cost = self.cost + written.len() - before;
        if self.cost > MOST {
            self.go_blind(now);
        }
    }

    fn go_blind(&mut self, now: Instant) {
        self.kept = HashMap::new();
        self.cost = 0;
        self.blind_until = Some(now + REMEMBERED_FOR);
    }

    /// A copy at version `base` gets a higher number, and stays as it is: what others made that number with is not in it.
    pub fn raised(&mut self, key: ChunkKey, base: ChunkVersion, now: Instant) {
        if self.find(key, now).is_none()
            && let Some(floor) = self.floor(key, base, now)
        {
            self.put(key, Lineage { floor, written: Vec::new() }, self.era(), now);
        }
    }

    /// A chunk was cut to `len` bytes, 0: removed, by the namespace; it was at version `base`.
    pub fn cut(&mut self, key: ChunkKey, len: u32, base: ChunkVersion, now: Instant) {
        let floor = self.floor(key, base, now);
        self.changed(key, &Changed { range: len..u32::MAX, made: base, first: None }, floor, now);
        if len == 0 {
            self.removed(base);
        }
    }

    /// A chunk at this version was removed.
    pub fn removed(&mut self, version: ChunkVersion) {
        self.removed = self.removed.max(version);
    }

    /// A copy was taken whole, at `version`, with what is known of it; nothing: that it has everything.
    pub fn taken(&mut self, key: ChunkKey, lineage: Option<Lineage>, version: ChunkVersion, now: Instant) {
        self.remove(key);
        if let Some(lineage) = lineage {
            self.put(key, lineage, self.era_now(now), now);
        } else if self.is_young(now) {
            let everything = Lineage { floor: Floor { version, of: None }, written: Vec::new() };
            self.put(key, everything, self.era(), now);
        }
    }

    /// What is known of a copy at `version`, for who is given it.
    pub fn of(&self, key: ChunkKey, version: ChunkVersion, now: Instant) -> Option<Lineage> {
        if self.is_blind(now) {
            // Better to have too much done again than to miss something.
            return Some(Lineage::default());
        }
        if self.is_first && self.find(key, now).is_none() {
            return None;
        }
        self.floor(key, version, now).map(|floor| {
            let written = self.find(key, now).map_or_else(Vec::new, |lineage| lineage.written.clone());
            Lineage { floor, written }
        })
    }

    fn put(&mut self, key: ChunkKey, lineage: Lineage, era: ChunkVersion, now: Instant) {
        self.remove(key);
        if self.is_blind(now) {
            return;
        }
        let cost = cost_of(&lineage);
        if self.cost + cost > MOST {
            self.kept.retain(|_, kept| now < kept.until);
            self.cost = self.kept.values().map(|kept| cost_of(&kept.lineage)).sum();
        }
        if self.cost + cost > MOST {
            self.go_blind(now);
            return;
        }
        self.cost += cost;
        self.kept.insert(key, Kept { lineage, era, until: now + REMEMBERED_FOR });
    }

    fn remove(&mut self, key: ChunkKey) {
        if let Some(kept) = self.kept.remove(&key) {
            self.cost -= cost_of(&kept.lineage);
        }
    }
}

fn cost_of(lineage: &Lineage) -> usize {
    OF_A_LINEAGE + lineage.written.len()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use wire::brick::Run;
    use wire::id::Ino;

    use super::*;

    const KEY: ChunkKey = ChunkKey { ino: Ino(1), index: 0 };
    const ME: BrickId = BrickId(1);
    /// This life, the one before, and one of another brick.
    const NOW: (BrickId, BootId) = (ME, BootId(3));
    const BEFORE: (BrickId, BootId) = (ME, BootId(2));
    const OTHER: (BrickId, BootId) = (BrickId(2), BootId(7));

    fn at(version: u64) -> ChunkVersion {
        ChunkVersion(version)
    }

    fn lineages(now: Instant) -> Lineages {
        let life = Beginning { boot: NOW.1, is_first: false, vouching: Some(BEFORE.1), began_ms: 5 };
        Lineages::new(ME, life, now)
    }

    fn new(range: Range<u32>) -> Changed {
        Changed { range, made: at(1), first: None }
    }

    /// A change at the head.
    fn change(lineages: &mut Lineages, range: Range<u32>, base: u64, now: Instant) {
        let floor = lineages.floor(KEY, at(base), now);
        lineages.changed(KEY, &new(range), floor, now);
    }

    /// What of ten bytes is lacking that these took over at that version, where the chunk is at `now_at`.
    fn lacks(
        lineages: &Lineages,
        version: u64,
        took: &[(BrickId, BootId)],
        now_at: u64,
        now: Instant,
    ) -> Vec<Range<u32>> {
        let again = Again { version: at(version), first: at(version), took: took.to_vec() };
        bare(lineages.judge(KEY, &again, 0..10, at(now_at), now).unwrap())
    }

    fn bare(parts: Vec<Part>) -> Vec<Range<u32>> {
        parts.into_iter().filter(|part| part.there_at.is_none()).map(|part| part.range).collect()
    }

    fn whole(floor: u64) -> Lineage {
        Lineage { floor: Floor { version: at(floor), of: None }, written: Vec::new() }
    }

    const NOTHING: [Range<u32>; 0] = [];
    const ALL: Range<u32> = 0..10;

    #[test]
    fn what_is_there_is_not_done_again() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        let lost = [ALL];
        for now_at in [7, 9] {
            assert_eq!(lacks(&lineages, 7, &[OTHER, BEFORE], now_at, start), NOTHING);
            assert_eq!(lacks(&lineages, 7, &[OTHER], now_at, start), NOTHING, "of the same era");
            assert_eq!(lacks(&lineages, 7, &[OTHER], now_at, start + REMEMBERED_FOR), NOTHING);
        }
        assert_eq!(lacks(&lineages, 7, &[BEFORE], 6, start), lost);
        assert_eq!(lacks(&lineages, 7, &[NOW], 2, start), NOTHING, "removed since");
        change(&mut lineages, 4..6, 6, start);
        assert_eq!(lacks(&lineages, 7, &[BEFORE], 7, start), [0..4, 6..10], "others have come as far since");
        assert_eq!(lacks(&lineages, 6, &[BEFORE], 7, start), NOTHING);
        assert_eq!(lacks(&lineages, 6, &[OTHER], 7, start), NOTHING);
        assert_eq!(lineages.floor(KEY, at(9), start).map(|floor| floor.version), Some(at(6)));
        lineages.cut(KEY, 8, at(8), start);
        assert_eq!(lacks(&lineages, 7, &[BEFORE], 9, start), [0..4, 6..8]);
        let above = at((5 << ERA_BITS) + 1);
        assert_eq!(lineages.next(KEY, at(8), start), above);
        lineages.cut(KEY, 0, above, start);
        assert_eq!(lacks(&lineages, 7, &[BEFORE], 1, start), NOTHING, "removed since");
        assert_eq!(lineages.next(KEY, at(0), start), at(above.0 + 1), "no number comes twice");
    }

    #[test]
    fn what_was_given_is_known_to_the_giver() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        lineages.taken(KEY, Some(whole(3)), at(9), start);
        assert_eq!(lacks(&lineages, 4, &[NOW], 9, start), [ALL], "that one had lost it");
        assert_eq!(lacks(&lineages, 3, &[OTHER], 9, start), NOTHING);
        lineages.taken(KEY, None, at(9), start);
        assert_eq!(lacks(&lineages, 9, &[OTHER], 9, start), NOTHING, "that one had everything");
        assert_eq!(lacks(&lineages, 10, &[OTHER], 10, start), [ALL]);
        let later = start + REMEMBERED_FOR;
        lineages.taken(KEY, None, at(9), later);
        assert!(lineages.kept.is_empty() && lineages.of(KEY, at(9), later).is_none());
    }

    /// What lies beneath something later need not be done when that is on the disk.
    #[test]
    fn what_lies_above_says_when_it_is_there() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        for (range, version, first) in [(0..4, 8, None), (4..6, 9, None), (9..30, 12, Some(at(6)))] {
            let floor = lineages.floor(KEY, at(7), start);
            lineages.changed(KEY, &Changed { range, made: at(version), first }, floor, start);
        }
        let judge = |version| {
            let again = Again { version: at(version), first: at(version), took: vec![BEFORE] };
            let parts = lineages.judge(KEY, &again, 0..10, at(12), start).unwrap();
            parts.into_iter().map(|part| (part.range, part.there_at.map(|at| at.0))).collect::<Vec<_>>()
        };
        assert_eq!(judge(8), [(0..6, Some(9)), (6..10, None)]);
        assert_eq!(judge(5), [(0..10, Some(5))]);
        let again = Again { version: at(8), first: at(5), took: vec![BEFORE] };
        let parts = lineages.judge(KEY, &again, 5..20, at(12), start).unwrap();
        let parts: Vec<_> =
            parts.into_iter().map(|part| (part.range, part.there_at.map(|at| at.0))).collect();
        assert_eq!(parts, [(5..6, Some(9)), (6..9, None), (9..20, Some(12))]);
    }

    /// Also of what earlier lives took over it is known whether it was lost, unless somebody has written since.
    #[test]
    fn an_era_says_whether_somebody_wrote_since() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        let version = |era: u64, number| at(era << ERA_BITS | number);
        let judge = |lineages: &Lineages, took, made, now_at| {
            let again = Again { version: made, first: made, took: vec![took] };
            lineages.judge(KEY, &again, 0..10, now_at, start).map(bare)
        };
        assert_eq!(judge(&lineages, OTHER, version(3, 7), version(3, 7)), Ok(Vec::new()));
        assert_eq!(judge(&lineages, OTHER, version(3, 7), version(3, 6)), Ok([ALL].to_vec()));
        assert_eq!(judge(&lineages, OTHER, version(3, 7), version(2, 9)), Ok([ALL].to_vec()));
        assert_eq!(judge(&lineages, OTHER, version(3, 7), version(4, 1)), Err(InDoubt));
        assert_eq!(judge(&lineages, BEFORE, version(3, 7), version(4, 1)), Ok(Vec::new()));
        // This life's own.
        assert_eq!(lineages.next(KEY, version(4, 1), start), version(5, 1));
        assert_eq!(lineages.next(KEY, version(6, 1), start), version(6, 2), "its clock was set back");
        let floor = lineages.floor(KEY, version(4, 1), start);
        let change = |range| Changed { range, made: version(5, 1), first: None };
        lineages.changed(KEY, &change(0..6), floor, start);
        assert_eq!(lineages.next(KEY, version(5, 1), start), version(5, 2));
        let other = ChunkKey { ino: Ino(2), index: 0 };
        lineages.taken(other, Some(Lineage::default()), version(4, 1), start + Duration::from_millis(2));
        assert_eq!(
            lineages.next(other, version(4, 1), start),
            version(7, 1),
            "its giver may have lost something"
        );
        lineages.taken(other, None, version(4, 1), start);
        assert_eq!(lineages.next(other, version(4, 1), start), version(5, 1));
        assert_eq!(judge(&lineages, OTHER, version(3, 7), version(5, 1)), Err(InDoubt));
        assert_eq!(judge(&lineages, OTHER, version(4, 2), version(5, 1)), Ok(vec![6..10; 1]));
        lineages.changed(KEY, &change(6..10), floor, start);
        assert_eq!(judge(&lineages, OTHER, version(3, 7), version(5, 1)), Ok(Vec::new()), "beneath it all");
        // The first life of a brick has lost nothing.
        let first = Beginning { boot: NOW.1, is_first: true, vouching: None, began_ms: 5 };
        assert_eq!(Lineages::new(ME, first, start).next(KEY, at(0), start), at(1));
    }

    #[test]
    fn doubts_pass() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        assert!(!lineages.doubt_longer(start) && !lineages.vouch_again(start));
        lineages.doubt(start);
        assert!(lineages.doubt_longer(start + REMEMBERED_FOR / 2) && lineages.is_doubtful());
        assert!(!lineages.vouch_again(start + REMEMBERED_FOR));
        assert!(lineages.vouch_again(start + REMEMBERED_FOR * 3 / 2) && !lineages.is_doubtful());
    }

    #[test]
    fn a_number_is_no_content() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        lineages.raised(KEY, at(2), start);
        assert_eq!(lacks(&lineages, 3, &[BEFORE], 5, start), [ALL]);
        assert_eq!(lacks(&lineages, 2, &[BEFORE], 5, start), NOTHING);
    }

    fn new_run(from: u32, to: u32) -> Run {
        Run { from, to, made: at(1), first: None }
    }

    #[test]
    fn members_keep_what_the_head_keeps() {
        let start = Instant::now();
        let later = start + REMEMBERED_FOR;
        let (mut head, mut member) = (lineages(later), lineages(start));
        for (range, base) in [(0..4, 6), (8..12, 7), (2..6, 8)] {
            let floor = head.floor(KEY, at(base), later);
            head.changed(KEY, &new(range.clone()), floor, later);
            member.changed(KEY, &new(range), floor, later);
        }
        assert_eq!(member.of(KEY, at(9), later), head.of(KEY, at(9), later));
        // Who has lost it gets it with a copy.
        let floor = head.floor(KEY, at(9), later).unwrap();
        assert!(member.can_follow(KEY, at(9), floor, later));
        assert!(!lineages(later).can_follow(KEY, at(9), floor, later));
        assert!(lineages(later).can_follow(KEY, at(6), floor, later), "it has only begun");
        let wanted = [new_run(0, 6), new_run(8, 12)];
        assert_eq!(member.of(KEY, at(9), later).map(|lineage| lineage.written), Some(wanted.to_vec()));
    }

    #[test]
    fn in_the_end_nothing_is_known() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        change(&mut lineages, 0..4, 6, start);
        let end = start + REMEMBERED_FOR;
        assert_eq!(lineages.of(KEY, at(7), end), None);
        change(&mut lineages, 0..4, 6, end);
        assert_eq!(lineages.of(KEY, at(7), end), None, "nobody asks any more");
        for number in 0..=(MOST / OF_A_LINEAGE) as u64 {
            let key = ChunkKey { ino: Ino(2), index: number };
            lineages.taken(key, Some(Lineage::default()), at(1), end);
        }
        assert!(lineages.cost <= MOST && lineages.kept.len() <= MOST / OF_A_LINEAGE);
        assert_eq!(lacks(&lineages, 7, &[NOW], 9, end), [ALL]);
        assert!(lineages.can_follow(KEY, at(9), Floor::default(), end));
        assert_eq!(lineages.of(KEY, at(9), end), Some(Lineage::default()));
        assert_eq!(lacks(&lineages, 7, &[NOW], 9, end + REMEMBERED_FOR), NOTHING);
    }

    #[test]
    fn a_chunk_of_many_runs_is_forgotten() {
        let start = Instant::now();
        let mut lineages = lineages(start);
        for number in 0..=runs::MOST_OF_A_CHUNK as u32 {
            change(&mut lineages, 2 * number..2 * number + 1, 1, start);
        }
        assert_eq!(lineages.of(KEY, at(9), start).map(|lineage| lineage.written), Some(Vec::new()));
        assert_eq!(lineages.cost, OF_A_LINEAGE);
    }

    proptest! {
        /// Against an array of orders; what lies on top is the latest, whatever comes first.
        #[test]
        fn laws_of_what_is_written_since(
            changes in prop::collection::vec((0u32..60, 1u32..20, 1u64..8), 0..30)
        ) {
            let now = Instant::now();
            let mut lineages = lineages(now);
            // New ones are all alike.
            const NEW: u64 = 7;
            let mut model = [0u64; 80];
            for (version, (from, len, order)) in (10..).zip(changes) {
                let range = from..from + len;
                let first = Some(order).filter(|order| *order != NEW).map(at);
                if let Some(first) = first {
                    let again = Again { version: first, first, took: vec![BEFORE] };
                    let parts = lineages.judge(KEY, &again, range.clone(), at(0), now).unwrap();
                    let ends = parts.iter().map(|part| part.range.end);
                    prop_assert!(parts.iter().map(|part| part.range.start).eq([from].into_iter().chain(ends)
                        .take(parts.len())), "in order: {:?}", parts);
                    prop_assert_eq!(parts.last().map(|part| part.range.end), Some(from + len));
                    let done: Vec<u32> = bare(parts).into_iter().flatten().collect();
                    let wanted: Vec<u32> =
                        range.clone().filter(|byte| model[*byte as usize] < order).collect();
                    prop_assert_eq!(done, wanted);
                }
                let floor = lineages.floor(KEY, at(0), now);
                let change = Changed { range: range.clone(), made: at(version), first };
                lineages.changed(KEY, &change, floor, now);
                for byte in range {
                    model[byte as usize] = model[byte as usize].max(order);
                }
                let lineage = lineages.of(KEY, at(0), now).unwrap_or_default();
                prop_assert!(runs::are_in_order(&lineage.written));
                prop_assert_eq!(lineages.cost, cost_of(&lineage));
                let mut shown = [0u64; 80];
                for run in lineage.written {
                    let order = run.first.map_or(NEW, |first| first.0);
                    shown[run.from as usize..run.to as usize].fill(order);
                }
                prop_assert_eq!(shown, model);
            }
        }
    }
}
