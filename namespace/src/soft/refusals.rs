//! Who came under a brick's number and was not let in, for people: the brick itself knows only that it was refused.
//!
//! 1. Whoever is refused asks again all the time; one that does so no more is forgotten, except where its
//!    service ends over it (`who_stops_trying_is_forgotten`).
//! 2. Who is let in after all, or another brick at its address, is not told of any more
//!    (`who_is_let_in_is_not_told_of`).
//! 3. So many of a number are remembered, the newest ones ([`MOST_OF_A_BRICK`]; `the_newest_are_remembered`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use wire::id::{BootId, BrickId};
use wire::meta::{BrickRegistration, RefusedBrick};
use wire::net::Endpoint;
use wire::status::Status;

/// Who is not heard for so long has stopped trying. Bricks try twice a second.
pub const STILL_TRIES: Duration = Duration::from_secs(10);
/// The same of disks that are refused for good: their service ends when it hears that.
pub const TOLD_FOR: Duration = Duration::from_secs(600);
/// See 3 in the module's head.
pub const MOST_OF_A_BRICK: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    boot: BootId,
    why: Status,
    host: String,
    endpoint: Endpoint,
    last: Instant,
}

impl Refused {
    fn is_over(&self, now: Instant) -> bool {
        let patience = if self.why == Status::OtherDisk { TOLD_FOR } else { STILL_TRIES };
        now.saturating_duration_since(self.last) >= patience
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Refusals {
    by_brick: BTreeMap<BrickId, Vec<Refused>>,
}

/// Whether this says that a disk is not the one it is taken for, or nobody reaches it: no matter of waiting a little.
pub fn is_refusal(status: Status) -> bool {
    matches!(
        status,
        Status::Rival | Status::OtherDisk | Status::SetBack | Status::OnlyDisk | Status::Unreached
    )
}

impl Refusals {
    /// Somebody was refused. Whether that is news.
    pub fn refused(&mut self, brick: &BrickRegistration, why: Status, now: Instant) -> bool {
        let (boot, host, endpoint) = (brick.boot, brick.host.clone(), brick.endpoint);
        let list = self.by_brick.entry(brick.brick).or_default();
        list.retain(|one| !one.is_over(now));
        let known = list.iter().any(|one| one.boot == boot && one.why == why);
        // Of one address only the last counts: two can't be there.
        list.retain(|one| one.boot != boot && one.endpoint != endpoint);
        list.push(Refused { boot, why, host, endpoint, last: now });
        let over = list.len().saturating_sub(MOST_OF_A_BRICK);
        list.drain(..over);
        !known
    }

    /// Somebody was let in.
    pub fn let_in(&mut self, brick: &BrickRegistration) {
        if let Some(list) = self.by_brick.get_mut(&brick.brick) {
            list.retain(|one| one.boot != brick.boot && one.endpoint != brick.endpoint);
        }
    }

    /// All that were refused lately, by their numbers.
    pub fn lately(&self, now: Instant) -> Vec<RefusedBrick> {
        let all = self.by_brick.iter().flat_map(|(brick, list)| list.iter().map(|one| (*brick, one)));
        let told = |(brick, one): (BrickId, &Refused)| RefusedBrick {
            brick,
            why: one.why,
            host: one.host.clone(),
            endpoint: one.endpoint,
            heard_ms: u64::try_from(now.saturating_duration_since(one.last).as_millis()).unwrap_or(u64::MAX),
        };
        all.filter(|(_, one)| !one.is_over(now)).map(told).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{NodeId, StoreId};

    fn brick(boot: u64, port: u16) -> BrickRegistration {
        BrickRegistration {
            brick: BrickId(3),
            store: StoreId([1; 16]),
            boot: BootId(boot),
            node: NodeId([1; 16]),
            host: format!("host{port}"),
            endpoint: Endpoint::Memory(port.into()),
        }
    }

    fn told(refusals: &Refusals, now: Instant) -> Vec<(String, Status)> {
        refusals.lately(now).into_iter().map(|one| (one.host, one.why)).collect()
    }

    #[test]
    fn who_stops_trying_is_forgotten() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        assert!(refusals.refused(&brick(1, 1), Status::SetBack, at(0)));
        assert!(refusals.refused(&brick(2, 2), Status::OtherDisk, at(0)));
        assert!(!refusals.refused(&brick(1, 1), Status::SetBack, at(9)), "it was told already");
        assert_eq!(refusals.lately(at(18))[1].heard_ms, 9000);
        let both = [("host2".to_owned(), Status::OtherDisk), ("host1".to_owned(), Status::SetBack)];
        assert_eq!(told(&refusals, at(18)), both);
        assert_eq!(told(&refusals, at(19)), both[..1]);
        assert_eq!(told(&refusals, at(600)), []);
        assert!(refusals.refused(&brick(1, 1), Status::SetBack, at(601)), "it has begun again");
    }

    #[test]
    fn who_is_let_in_is_not_told_of() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        refusals.refused(&brick(1, 1), Status::Rival, now);
        refusals.refused(&brick(2, 2), Status::SetBack, now);
        refusals.let_in(&brick(1, 7));
        assert_eq!(told(&refusals, now), [("host2".to_owned(), Status::SetBack)], "the first was let in");
        refusals.let_in(&brick(9, 2));
        assert_eq!(told(&refusals, now), [], "another one is at the second one's place");
    }

    #[test]
    fn the_newest_are_remembered() {
        let (mut refusals, now) = (Refusals::default(), Instant::now());
        for n in 0..100 {
            refusals.refused(&brick(n.into(), n), Status::Rival, now);
        }
        let hosts: Vec<String> = told(&refusals, now).into_iter().map(|(host, _)| host).collect();
        assert_eq!(hosts, ["host96", "host97", "host98", "host99"]);
    }
}
