//! Histories of a chain: any events in any order, with an oracle that knows what each disk holds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use wire::id::{BrickId, ChainEpoch, ChainId};
use wire::map::{Chain, Member, MemberState};

use super::*;

fn chain(states: &[MemberState]) -> Chain {
    Chain {
        id: ChainId(1),
        epoch: ChainEpoch(1),
        members: (0..).zip(states).map(|(i, s)| Member { brick: BrickId(i), state: *s }).collect(),
    }
}

fn states(chain: &Chain) -> Vec<(u32, MemberState)> {
    chain.members.iter().map(|m| (m.brick.0, m.state)).collect()
}

#[derive(Debug, Clone)]
enum Event {
    Gone(u32),
    Back(u32),
    Restarted(u32),
    /// All that are up lose their memory at once.
    AllRestarted,
    Replaced(u32),
    Synced(u32),
    /// It is spared, or can't be reached by the head.
    Leaves(u32),
    /// One that is leaving is known to know it.
    Informed(u32),
    Write,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u32..3).prop_map(Event::Gone),
        4 => (0u32..3).prop_map(Event::Back),
        2 => (0u32..3).prop_map(Event::Restarted),
        1 => Just(Event::AllRestarted),
        1 => (0u32..3).prop_map(Event::Replaced),
        4 => (0u32..3).prop_map(Event::Synced),
        3 => (0u32..3).prop_map(Event::Leaves),
        3 => (0u32..3).prop_map(Event::Informed),
        4 => Just(Event::Write),
    ]
}

proptest! {
    /// Invariants 1 and 3: lawful states, and an epoch that grows with every change.
    #[test]
    fn any_history_is_lawful(events in prop::collection::vec(event(), 1..60)) {
        let mut chain = chain(&[MemberState::Serving; 3]);
        let mut up = [true; 3];
        for event in events {
            let before = chain.clone();
            step(&mut chain, &mut up, &event);
            if chain.members != before.members {
                prop_assert!(chain.epoch > before.epoch);
            }
            let serving = chain.serving().count();
            let last = chain.members.iter().filter(|m| m.state == MemberState::LastServing).count();
            prop_assert!(last <= 1 && (last == 0 || serving == 0), "{:?}", states(&chain));
            prop_assert!(chain.members.iter().take(serving).all(|m| m.state == MemberState::Serving));
            prop_assert!(chain.syncing().chain(chain.leaving()).next().is_none() || serving > 0);
            for member in &chain.members {
                let says_up = matches!(
                    member.state,
                    MemberState::Serving
                        | MemberState::Leaving
                        | MemberState::Syncing
                        | MemberState::Waiting
                );
                prop_assert_eq!(says_up, up[member.brick.0 as usize], "{:?} after {:?}", states(&chain), event);
            }
        }
    }

    /// Clients rely on it (`wire::durability`): who stopped serving, and was not the last one, serves again in the
    /// same life only in the third epoch after.
    #[test]
    fn to_leave_and_serve_again_takes_three_epochs(events in prop::collection::vec(event(), 1..80)) {
        let mut chain = chain(&[MemberState::Serving; 3]);
        let mut up = [true; 3];
        let mut served = [(ChainEpoch(1), true); 3];
        for event in events {
            step(&mut chain, &mut up, &event);
            for (brick, (last, same_life)) in (0u32..).zip(&mut served) {
                *same_life &= match event {
                    Event::Restarted(other) | Event::Replaced(other) => other != brick,
                    Event::AllRestarted => false,
                    _ => true,
                };
                match chain.state_of(BrickId(brick)) {
                    Some(MemberState::Serving) => {
                        let gap = chain.epoch.0 - last.0;
                        prop_assert!(gap <= 1 || gap >= 3 || !*same_life, "{brick}: {:?}", states(&chain));
                        (*last, *same_life) = (chain.epoch, true);
                    }
                    Some(MemberState::LastServing) => *last = chain.epoch,
                    _ => {}
                }
            }
        }
    }

    /// Invariants 2 and 4: whoever serves holds every write that was made, on its disk or in a
    /// memory it did not lose, unless the disk that had it was taken away.
    #[test]
    fn only_those_who_hold_everything_serve(events in prop::collection::vec(event(), 1..80)) {
        let mut chain = chain(&[MemberState::Serving; 3]);
        let mut up = [true; 3];
        // Number of the last write each brick holds on disk (writes are committed at once here,
        // as a client that calls fsync makes them).
        let mut held = [0u32; 3];
        let mut written = 0;
        for event in events {
            match event {
                Event::Write if chain.head().is_some() => {
                    written += 1;
                    for brick in chain.serving().chain(chain.leaving()) {
                        held[brick.0 as usize] = written;
                    }
                }
                Event::Synced(brick) if chain.state_of(BrickId(brick)) == Some(MemberState::Syncing) => {
                    held[brick as usize] = written;
                }
                Event::Replaced(brick) => held[brick as usize] = 0,
                _ => {}
            }
            if step(&mut chain, &mut up, &event) {
                // What the heir has is everything from now on.
                let heir = chain.members.iter().find(|m| matches!(m.state, MemberState::Serving | MemberState::LastServing));
                written = held[heir.unwrap().brick.0 as usize];
            }
            for brick in chain.serving() {
                prop_assert_eq!(held[brick.0 as usize], written, "{} serves: {:?}", brick, states(&chain));
            }
        }
    }
}

/// Carries out an event if it can happen; returns whether data were lost by it.
fn step(chain: &mut Chain, up: &mut [bool; 3], event: &Event) -> bool {
    match *event {
        Event::Gone(brick) => {
            up[brick as usize] = false;
            gone(chain, BrickId(brick));
        }
        Event::Back(brick) if !up[brick as usize] => {
            up[brick as usize] = true;
            back(chain, BrickId(brick));
        }
        Event::Restarted(brick) if up[brick as usize] => {
            let stayed: BTreeSet<BrickId> =
                (0..3).filter(|b| *b != brick && up[*b as usize]).map(BrickId).collect();
            restarted(chain, BrickId(brick), &stayed);
        }
        Event::AllRestarted => {
            for brick in (0..3).filter(|b| up[*b as usize]) {
                restarted(chain, BrickId(brick), &BTreeSet::new());
            }
        }
        Event::Replaced(brick) => {
            up[brick as usize] = true;
            return replaced(chain, BrickId(brick)) == Replaced::Lost;
        }
        Event::Synced(brick) => {
            let epoch = chain.epoch;
            let was = chain.state_of(BrickId(brick));
            let done = sync_done(chain, epoch, BrickId(brick));
            assert_eq!(
                done.is_ok(),
                matches!(was, Some(MemberState::Syncing | MemberState::Serving)),
                "{was:?}"
            );
        }
        Event::Leaves(brick) if chain.head().is_some() => {
            let (head, out) = (chain.head().unwrap(), BrickId(brick));
            let member = if out == head { chain.serving().nth(1).unwrap_or(head) } else { out };
            let alone = chain.serving().count() == 1;
            let serves = chain.state_of(member) == Some(MemberState::Serving);
            assert_eq!(cut_off(chain, head, member, out), serves && !alone);
        }
        Event::Informed(brick) => {
            let was = chain.state_of(BrickId(brick));
            assert_eq!(fell_behind(chain, BrickId(brick)), was == Some(MemberState::Leaving));
        }
        _ => {}
    }
    false
}

/// Law 6: one that serves is leaving first, and goes, or is brought up to date, in a step of its own.
#[test]
fn who_serves_leaves_in_two_steps() {
    use MemberState::*;
    let [zero, one, two] = [0, 1, 2].map(BrickId);
    let mut spared = chain(&[Serving, Serving, Serving]);
    assert!(left(&mut spared, zero, 2));
    assert_eq!(states(&spared), [(1, Serving), (2, Serving), (0, Leaving)]);
    assert_eq!(spared.epoch, ChainEpoch(2));
    assert!(!left(&mut spared, one, 2), "two copies are wanted");
    assert!(left(&mut spared, zero, 2));
    assert_eq!(states(&spared), [(1, Serving), (2, Serving)]);
    let mut parted = chain(&[Serving, Serving]);
    assert!(!cut_off(&mut parted, one, zero, zero), "it is not the head");
    assert!(!cut_off(&mut parted, zero, one, two), "it is none of them");
    assert!(cut_off(&mut parted, zero, one, zero));
    assert_eq!(states(&parted), [(1, Serving), (0, Leaving)]);
    assert!(!cut_off(&mut parted, one, zero, one), "nobody else serves");
    assert!(!left(&mut parted, zero, 2), "its copy is wanted");
    let mut restarts = parted.clone();
    restarted(&mut restarts, zero, &BTreeSet::new());
    assert_eq!(
        states(&restarts),
        [(1, Serving), (0, Syncing)],
        "its new life has the map, and lost what it had in memory"
    );
    let mut alone = parted.clone();
    gone(&mut alone, one);
    assert_eq!(states(&alone), [(1, LastServing), (0, Waiting)]);
    assert!(fell_behind(&mut parted, zero));
    assert_eq!(states(&parted), [(1, Serving), (0, Syncing)]);
    assert!(!fell_behind(&mut parted, zero));
}

/// The last one to serve is the one the chain waits for.
#[test]
fn the_last_to_serve_comes_back_serving() {
    use MemberState::*;
    let mut chain = chain(&[Serving, Serving]);
    assert!(gone(&mut chain, BrickId(0)));
    assert_eq!(states(&chain), [(1, Serving), (0, Offline)]);
    assert!(gone(&mut chain, BrickId(1)));
    assert_eq!(states(&chain), [(1, LastServing), (0, Offline)]);
    assert!(back(&mut chain, BrickId(0)));
    assert_eq!(states(&chain), [(1, LastServing), (0, Waiting)]);
    assert!(back(&mut chain, BrickId(1)));
    assert_eq!(states(&chain), [(1, Serving), (0, Syncing)]);
    assert_eq!(sync_done(&mut chain, ChainEpoch(1), BrickId(0)), Err(NotSynced::OtherEpoch));
    let epoch = chain.epoch;
    assert_eq!(sync_done(&mut chain, epoch, BrickId(0)), Ok(true));
    assert_eq!(states(&chain), [(1, Serving), (0, Serving)]);
    assert_eq!(sync_done(&mut chain, epoch, BrickId(0)), Ok(false));
}

/// One that restarts is synced from one that stayed; when all restart, all go on serving.
#[test]
fn a_restart_alone_and_a_restart_of_all() {
    use MemberState::*;
    let mut alone = chain(&[Serving, Serving]);
    restarted(&mut alone, BrickId(0), &BTreeSet::from([BrickId(1)]));
    assert_eq!(states(&alone), [(1, Serving), (0, Syncing)]);
    let mut all = chain(&[Serving, Serving]);
    restarted(&mut all, BrickId(0), &BTreeSet::new());
    restarted(&mut all, BrickId(1), &BTreeSet::new());
    assert_eq!(states(&all), [(0, Serving), (1, Serving)]);
    assert_eq!(all.epoch, ChainEpoch(3));
}

/// The only disk that had everything is replaced: whoever else has some of it goes on, now or when it is back; where nobody
/// is left, the empty one.
#[test]
fn a_chain_that_was_given_up_goes_on() {
    use MemberState::*;
    let [zero, one] = [BrickId(0), BrickId(1)];
    let mut there = chain(&[Serving, Serving]);
    gone(&mut there, zero);
    gone(&mut there, one);
    back(&mut there, zero);
    assert_eq!(states(&there), [(1, LastServing), (0, Waiting)]);
    assert_eq!(replaced(&mut there, one), Replaced::Lost);
    assert_eq!(states(&there), [(0, Serving), (1, Syncing)]);
    let mut away = chain(&[Serving, Serving]);
    gone(&mut away, zero);
    assert_eq!(replaced(&mut away, one), Replaced::Lost);
    assert_eq!(states(&away), [(1, Waiting), (0, LastServing)]);
    let mut both = away.clone();
    back(&mut away, zero);
    assert_eq!(states(&away), [(0, Serving), (1, Syncing)]);
    assert_eq!(replaced(&mut both, zero), Replaced::Lost);
    assert_eq!(states(&both), [(1, Serving), (0, Syncing)]);
    let mut alone = chain(&[Serving]);
    assert_eq!(replaced(&mut alone, zero), Replaced::Lost);
    assert_eq!(states(&alone), [(0, Serving)]);
}
