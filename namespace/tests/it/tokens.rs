//! Join tokens: who is taken in, and until when.

use namespace::config::TOKEN_KEPT_S;
use namespace::machine::command::{Op, Outcome};
use namespace::machine::tokens::NewToken;
use namespace::store::{Read, keys};
use proptest::prelude::*;
use wire::id::NodeId;
use wire::join::{JoinRefusal, TokenHash};
use wire::meta::Timestamp;
use wire::net::Role;
use wire::status::Status;

use crate::harness::World;

const HASH: TokenHash = TokenHash([7; 32]);

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

fn make(world: &mut World, hash: TokenHash, role: Role, now: i64, ttl_s: u32, uses: u32) {
    let token = NewToken { hash, role, ttl_s, uses };
    assert_eq!(world.op(Op::MakeToken { token, now: at(now) }), Ok(Outcome::Done));
}

fn redeem(world: &mut World, hash: TokenHash, role: Role, node: u8, now: i64) -> Option<JoinRefusal> {
    match world.op(Op::RedeemToken { hash, role, node: NodeId([node; 16]), now: at(now) }) {
        Ok(Outcome::Joined(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

/// As often as it says, for the role it says, and not at all if nobody made it.
#[test]
fn tokens_are_used_up() {
    let mut world = World::new();
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 1, 10), Some(JoinRefusal::Unknown));
    make(&mut world, HASH, Role::Brick, 10, 100, 2);
    let other = Some(JoinRefusal::OtherRole { theirs: Role::Brick });
    assert_eq!(redeem(&mut world, HASH, Role::Client, 1, 11), other);
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 1, 12), None);
    world.reopen();
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 2, 13), None);
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 3, 14), Some(JoinRefusal::UsedUp));
    for token in [
        NewToken { hash: TokenHash([8; 32]), role: Role::Admin, ttl_s: 1, uses: 1 },
        NewToken { hash: TokenHash([8; 32]), role: Role::Client, ttl_s: 1, uses: 0 },
    ] {
        assert_eq!(world.op(Op::MakeToken { token, now: at(20) }), Err(Status::Malformed));
    }
}

/// The node whose answer was lost asks again and is taken in again, without a second use.
#[test]
fn a_lost_answer_costs_no_second_use() {
    let mut world = World::new();
    make(&mut world, HASH, Role::Brick, 10, 100, 1);
    for now in [11, 12] {
        assert_eq!(redeem(&mut world, HASH, Role::Brick, 1, now), None);
    }
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 2, 13), Some(JoinRefusal::UsedUp));
    // Not for ever, though.
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 1, 110), Some(JoinRefusal::Expired));
}

/// A clock set back revives nothing, also not over a restart; long after, it is unknown.
#[test]
fn an_expired_token_stays_expired() {
    let mut world = World::new();
    make(&mut world, HASH, Role::Brick, 1000, 100, 5);
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 1, 1099), None);
    assert_eq!(world.op(Op::ForgetTokens { now: at(1100) }), Ok(Outcome::Done));
    for now in [1099, 1000, 0, 1100, 1200] {
        assert_eq!(redeem(&mut world, HASH, Role::Brick, 2, now), Some(JoinRefusal::Expired), "at {now}");
        world.reopen();
    }
    // A token that is made after the clock was set back lives as long as it should.
    let young = TokenHash([9; 32]);
    make(&mut world, young, Role::Brick, 500, 100, 1);
    assert_eq!(redeem(&mut world, young, Role::Brick, 2, 1299), None);
    assert_eq!(world.op(Op::ForgetTokens { now: at(1100 + TOKEN_KEPT_S) }), Ok(Outcome::Done));
    assert_eq!(redeem(&mut world, HASH, Role::Brick, 2, 0), Some(JoinRefusal::Unknown));
    assert!(world.machine.store().get(&keys::token(HASH)).unwrap().is_none());
}

proptest! {
    /// Whatever the clock does: no more nodes than uses, and none after the latest time seen has
    /// passed the end.
    #[test]
    fn no_history_takes_in_too_many(
        uses in 1u32..4, ttl in 1u32..50, steps in prop::collection::vec((0u8..6, 0i64..100), 0..30),
    ) {
        let mut world = World::new();
        make(&mut world, HASH, Role::Client, 20, ttl, uses);
        let mut latest = 20;
        let mut taken = std::collections::BTreeSet::new();
        for (node, now) in steps {
            latest = latest.max(now);
            let refusal = redeem(&mut world, HASH, Role::Client, node, now);
            if refusal.is_none() {
                prop_assert!(latest < 20 + i64::from(ttl));
                taken.insert(node);
            } else if latest < 20 + i64::from(ttl) {
                prop_assert_eq!(refusal, Some(JoinRefusal::UsedUp));
                prop_assert!(!taken.contains(&node));
            }
            prop_assert!(taken.len() <= uses as usize);
        }
    }
}
