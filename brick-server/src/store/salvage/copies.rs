//! Which of several copies of a chunk is the newest, and what is known of all of them together.
//!
//! A version counts the changes of a chunk on one brick. Across bricks it orders nothing by itself: a chunk that was
//! removed and came anew begins at 1, and a head may raise a number alone and leave (`docs/design`, "Who stops serving").
//! Only together with who made the last change does it tell:
//!
//! | the last change of both | the newer one |
//! |---|---|
//! | is of one session | has the higher version and the higher call |
//! | is the same call | has the higher version and is shorter: it was cut since |
//! | anything else | can't be told |
//!
//! 1. The result depends on the set of copies, not on their order (`the_order_of_copies_does_not_matter`).
//! 2. Of copies that can't be compared none is dropped (`what_cannot_be_compared_is_kept`).

use serde::{Deserialize, Serialize};

/// Who a copy is from: number of the brick, and what was drawn when its disk was formatted.
pub type Source = (u32, u64);

/// What one brick knows of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Whose it is.
    pub source: Source,
    /// Its chain, version and last call, if all of it is as the brick had it. `None`: put together from what was left.
    pub known: Option<Known>,
    /// Something newer may be lost.
    pub older: bool,
}

/// What orders copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    pub chain: u32,
    pub version: u64,
    /// Session and call of the last change.
    pub writer: Option<(u64, u64)>,
}

/// Where the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// In the file.
    Main,
    /// Beside.
    Side,
    /// Dropped: there is a newer one, or it was not written yet.
    None,
}

/// One content, and who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    pub len: u32,
    pub digest: u64,
    pub copies: Vec<Copy>,
    /// Blocks that nobody could read yet.
    pub bad: Vec<u32>,
    pub place: Place,
}

impl Class {
    /// The highest version.
    pub fn version(&self) -> u64 {
        self.copies.iter().filter_map(|copy| copy.known).map(|known| known.version).max().unwrap_or(0)
    }

    fn best(&self) -> Option<Known> {
        self.copies.iter().filter_map(|copy| copy.known).max_by_key(|known| (known.version, known.writer))
    }
}

/// Whether `a`, of this length, is certainly newer than `b`.
fn is_newer((a, a_len): (Known, u32), (b, b_len): (Known, u32)) -> bool {
    let (Some(one), Some(other)) = (a.writer, b.writer) else { return false };
    let later = one.0 == other.0 && one.1 > other.1 || one == other && a_len < b_len;
    a.version > b.version && later
}

/// Where each content is to be: the likeliest in the file, what can't be told from it beside.
pub fn places(classes: &[Class]) -> Vec<Place> {
    let all = || classes.iter().flat_map(|class| class.copies.iter().map(|copy| (copy.known, class.len)));
    let beaten =
        |known: Known, len| all().any(|(other, by)| other.is_some_and(|o| is_newer((o, by), (known, len))));
    let lives = |class: &Class| {
        class.copies.iter().any(|copy| copy.known.is_none_or(|known| !beaten(known, class.len)))
    };
    let mut living: Vec<usize> = (0..classes.len()).filter(|n| lives(&classes[*n])).collect();
    living.sort_by_key(|n| {
        let class = &classes[*n];
        (std::cmp::Reverse((class.best().is_some(), class.version())), class.digest, class.len)
    });
    let mut out = vec![Place::None; classes.len()];
    living.iter().for_each(|n| out[*n] = Place::Side);
    let Some(mut first) = living.first().copied() else { return out };
    // A later call of the same session is likelier than a higher number: the chunk came anew.
    for n in &living {
        let calls = (classes[first].best().and_then(|k| k.writer), classes[*n].best().and_then(|k| k.writer));
        if let (Some(now), Some(other)) = calls
            && now.0 == other.0
            && other.1 > now.1
        {
            first = *n;
        }
    }
    out[first] = Place::Main;
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Brick, version, and who made the last change.
    type One = (u32, u64, Option<(u64, u64)>);

    fn class(digest: u64, len: u32, copies: &[One]) -> Class {
        let copy = |&(brick, version, writer): &One| Copy {
            source: (brick, 0),
            known: Some(Known { chain: 1, version, writer }),
            older: false,
        };
        let copies = copies.iter().map(copy).collect();
        Class { len, digest, copies, bad: Vec::new(), place: Place::None }
    }

    /// Overwritten, cut: the newer one alone. Anything else: both, the likelier one first.
    #[test]
    fn what_cannot_be_compared_is_kept() {
        use Place::{Main, None as Gone, Side};
        let one = |digest, len, version, writer| class(digest, len, &[(1, version, writer)]);
        let old = one(1, 100, 5, Some((7, 20)));
        for (new, wanted) in [
            (one(2, 100, 6, Some((7, 30))), [Gone, Main]),
            (one(2, 50, 6, Some((7, 20))), [Gone, Main]),
            // Put together from two times.
            (one(2, 150, 6, Some((7, 20))), [Side, Main]),
            (one(2, 100, 6, Some((8, 3))), [Side, Main]),
            (one(2, 100, 6, None), [Side, Main]),
            // One that came anew, or one whose number was raised.
            (one(2, 100, 1, Some((7, 30))), [Side, Main]),
            (one(2, 100, 1, Some((8, 30))), [Main, Side]),
            (one(2, 100, 5, Some((7, 30))), [Side, Main]),
        ] {
            assert_eq!(places(&[old.clone(), new.clone()]), wanted, "{new:?}");
            assert_eq!(places(&[new.clone(), old.clone()]), [wanted[1], wanted[0]], "{new:?}");
        }
    }

    proptest! {
        /// Whatever comes last, the same contents are kept, and the same one is the first.
        #[test]
        fn the_order_of_copies_does_not_matter(
            copies in prop::collection::vec((0..4_u64, 0..3_u64, 0..6_u64, 1..3_u64), 1..6), seed in any::<u64>()
        ) {
            let mut classes: Vec<Class> = Vec::new();
            for (n, (content, version, call, session)) in copies.into_iter().enumerate() {
                let new = class(content, 10 + content as u32, &[(n as u32, version, Some((session, call)))]);
                match classes.iter_mut().find(|class| class.digest == content) {
                    Some(class) => class.copies.extend(new.copies),
                    None => classes.push(new),
                }
            }
            let found: Vec<(Place, u64)> = places(&classes).into_iter().zip(classes.iter().map(|c| c.digest)).collect();
            prop_assert_eq!(found.iter().filter(|(place, _)| *place == Place::Main).count(), 1);
            let turn = seed as usize % classes.len();
            classes.rotate_left(turn);
            classes.iter_mut().for_each(|class| class.copies.reverse());
            let mut again: Vec<_> = places(&classes).into_iter().zip(classes.iter().map(|c| c.digest)).collect();
            again.rotate_right(turn);
            prop_assert_eq!(found, again);
        }
    }
}
