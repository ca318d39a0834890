//! Who may do what in a chain.
//!
//! 1. A call with another chain epoch than this brick's is refused
//!    (`calls_in_another_epoch_are_refused`).
//! 2. Only the head takes changes, only serving members that are sure of their copies take
//!    reads (`roles_in_a_chain_decide`).
//! 3. A brick is sure of its copies in a chain if it is the only serving member, or has
//!    compared them in this life and served without a break since
//!    (`sureness_needs_an_unbroken_service`).

use std::collections::BTreeMap;

use wire::brick::ChainRef;
use wire::id::{BrickId, ChainEpoch, ChainId};
use wire::map::{Chain, ClusterMap, MemberState};
use wire::status::Status;

/// What a caller wants of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Bytes for a client.
    Read,
    /// To change a chunk, as head.
    Change,
    /// To take over what the head sends.
    Follow,
    /// To look at this copy, as it is.
    Look,
}

/// How sure a brick is of its copies in one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Epoch of the chain it stands in.
    pub epoch: ChainEpoch,
    /// It serves.
    pub serving: bool,
    /// It was the head.
    pub head: bool,
    /// Its copies are those of the chain.
    pub sure: bool,
}

/// The standings of a brick.
pub type Standings = BTreeMap<ChainId, Standing>;

/// What a new map makes of a brick's standings.
pub fn next_standings(old: &Standings, map: &ClusterMap, me: BrickId) -> Standings {
    map.chains_of(me)
        .map(|chain| {
            let serving = chain.state_of(me) == Some(MemberState::Serving);
            let head = chain.head() == Some(me);
            let alone = serving && chain.serving().count() == 1;
            let before = old.get(&chain.id).filter(|s| s.serving && s.sure);
            let unbroken = before.is_some_and(|s| {
                // With more than one step in between somebody may have served without us. And
                // a new head may hold what not all others have.
                s.epoch == chain.epoch || (s.epoch.0 + 1 == chain.epoch.0 && (s.head || !head))
            });
            let sure = alone || (serving && unbroken);
            (chain.id, Standing { epoch: chain.epoch, serving, head, sure })
        })
        .collect()
}

/// The chain a caller means, if it is the one this brick knows.
///
/// # Errors
/// What the caller has to learn.
pub fn find(map: &ClusterMap, wanted: ChainRef) -> Result<&Chain, Status> {
    let chain = map.chains.get(&wanted.id).ok_or(Status::OldMap(map.epoch))?;
    match chain.epoch.cmp(&wanted.epoch) {
        std::cmp::Ordering::Equal => Ok(chain),
        std::cmp::Ordering::Greater => Err(Status::ChainChanged(chain.epoch)),
        std::cmp::Ordering::Less => Err(Status::MapBehind),
    }
}

/// Whether a member in this state gets every change.
pub fn takes_changes(state: MemberState) -> bool {
    matches!(state, MemberState::Serving | MemberState::Leaving | MemberState::Syncing)
}

/// Whether `me` may do what is wished in `chain`.
///
/// # Errors
/// What the caller is told.
pub fn may(chain: &Chain, standing: Option<&Standing>, me: BrickId, wish: Wish) -> Result<(), Status> {
    let state = chain.state_of(me).ok_or(Status::WrongMember)?;
    let sure = standing.is_some_and(|s| s.sure && s.epoch == chain.epoch);
    let is_head = chain.head() == Some(me);
    match wish {
        Wish::Look => Ok(()),
        Wish::Follow if is_head => Err(Status::WrongMember),
        Wish::Follow if takes_changes(state) => Ok(()),
        Wish::Change if !is_head => Err(Status::WrongMember),
        Wish::Read if state != MemberState::Serving => Err(Status::WrongMember),
        Wish::Change | Wish::Read if !sure => Err(Status::Busy),
        Wish::Change | Wish::Read => Ok(()),
        Wish::Follow => Err(Status::WrongMember),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use wire::id::{ClusterId, MapEpoch};
    use wire::map::Member;

    use super::*;

    const ME: BrickId = BrickId(1);
    const OTHER: BrickId = BrickId(2);
    const CHAIN: ChainId = ChainId(5);

    fn map(epoch: u64, members: &[(BrickId, MemberState)]) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([0; 16]), 2);
        let members = members.iter().map(|&(brick, state)| Member { brick, state }).collect();
        map.chains.insert(CHAIN, Chain { id: CHAIN, epoch: ChainEpoch(epoch), members });
        map
    }

    fn sure(standings: &Standings) -> bool {
        standings[&CHAIN].sure
    }

    /// After a restart or a break a brick must compare before it is sure, unless it is alone.
    #[test]
    fn sureness_needs_an_unbroken_service() {
        use MemberState::{Offline, Serving, Syncing};
        let both = map(3, &[(ME, Serving), (OTHER, Serving)]);
        let fresh = next_standings(&Standings::new(), &both, ME);
        assert!(!sure(&fresh));
        let mut compared = fresh;
        compared.get_mut(&CHAIN).unwrap().sure = true;
        let alone = map(4, &[(ME, Serving), (OTHER, Offline)]);
        assert!(sure(&next_standings(&compared, &alone, ME)));
        assert!(sure(&next_standings(&Standings::new(), &alone, ME)));
        let syncing = map(4, &[(OTHER, Serving), (ME, Syncing)]);
        let gone = next_standings(&compared, &syncing, ME);
        assert!(!sure(&gone));
        let back = map(5, &[(OTHER, Serving), (ME, Serving)]);
        assert!(!sure(&next_standings(&gone, &back, ME)), "what came before it synced is not sure");
        assert!(!sure(&next_standings(&compared, &back, ME)), "it missed an epoch");
        assert!(sure(&next_standings(&compared, &map(4, &[(ME, Serving), (OTHER, Serving)]), ME)));
        let mut follower = next_standings(&Standings::new(), &map(3, &[(OTHER, Serving), (ME, Serving)]), ME);
        follower.get_mut(&CHAIN).unwrap().sure = true;
        let third = (BrickId(3), Serving);
        assert!(
            !sure(&next_standings(&follower, &map(4, &[(ME, Serving), third]), ME)),
            "a new head compares"
        );
    }

    /// The caller learns what to refresh.
    #[test]
    fn calls_in_another_epoch_are_refused() {
        let mut map = map(3, &[(ME, MemberState::Serving)]);
        map.epoch = MapEpoch(9);
        let at = |epoch| ChainRef { id: CHAIN, epoch: ChainEpoch(epoch) };
        assert!(find(&map, at(3)).is_ok());
        assert_eq!(find(&map, at(2)).unwrap_err(), Status::ChainChanged(ChainEpoch(3)));
        assert_eq!(find(&map, at(4)).unwrap_err(), Status::MapBehind);
        let unknown = ChainRef { id: ChainId(6), epoch: ChainEpoch(1) };
        assert_eq!(find(&map, unknown).unwrap_err(), Status::OldMap(MapEpoch(9)));
    }

    /// Head, member, syncing member and stranger: each may do its own.
    #[test]
    fn roles_in_a_chain_decide() {
        use MemberState::{Leaving, Offline, Serving, Syncing};
        let leaves = (BrickId(6), Leaving);
        let map =
            map(3, &[(OTHER, Serving), (ME, Serving), (BrickId(3), Syncing), (BrickId(4), Offline), leaves]);
        let chain = &map.chains[&CHAIN];
        let standing = |sure| Standing { epoch: ChainEpoch(3), serving: true, head: false, sure };
        let (yes, no) = (standing(true), standing(false));
        assert_eq!(may(chain, Some(&yes), OTHER, Wish::Change), Ok(()));
        assert_eq!(may(chain, Some(&no), OTHER, Wish::Change), Err(Status::Busy));
        assert_eq!(may(chain, Some(&yes), OTHER, Wish::Follow), Err(Status::WrongMember));
        assert_eq!(may(chain, Some(&yes), ME, Wish::Change), Err(Status::WrongMember));
        assert_eq!(may(chain, Some(&no), ME, Wish::Read), Err(Status::Busy));
        assert_eq!(may(chain, Some(&no), ME, Wish::Follow), Ok(()));
        assert_eq!(may(chain, None, BrickId(3), Wish::Read), Err(Status::WrongMember));
        assert_eq!(may(chain, None, BrickId(3), Wish::Follow), Ok(()));
        assert_eq!(may(chain, None, BrickId(4), Wish::Follow), Err(Status::WrongMember));
        assert_eq!(may(chain, None, BrickId(6), Wish::Follow), Ok(()));
        assert_eq!(may(chain, Some(&yes), BrickId(6), Wish::Read), Err(Status::WrongMember));
        assert_eq!(may(chain, None, BrickId(4), Wish::Look), Ok(()));
        assert_eq!(may(chain, None, BrickId(5), Wish::Look), Err(Status::WrongMember));
    }
}
