//! What tells maps of the same epoch apart: of a cluster whose namespace was set back and went on.
//!
//! ```text
//! mark    the first 8 bytes, little-endian, of BLAKE3, key "brickyard 2026-11 mark of a cluster map", of this:
//! map     cluster 16 | epoch | replicas 1 | n (brick) | n (chain) | n (table) | n (ended) | current | inodes below | reign, unless both are 0
//! brick   number | number | store 16 | node 16 | length host | endpoint | boot | alive 1
//! endpoint  0 address (QUIC) | 1 address (TLS) | 2 number
//! address 0 ip 4 port | 1 ip 16 port
//! chain   number | number | epoch | n (brick state)
//! state   0 serving | 1 syncing | 2 waiting | 3 last-serving | 4 offline | 5 leaving
//! table   version | n (chain)
//! ended   first session | last session | since which epoch
//! current 0 | 1 version
//! ```
//! Numbers, counts and lengths are of seven bits a byte, the lowest first, the eighth bit set where another one follows. Bricks,
//! chains, tables and sessions stand in the order of their numbers; the number that stands twice is that of the list and of the entry.
//!
//! 1. The mark of a map is the same in every version, for marks are remembered and compared with those of other versions, while
//!    the shape in which maps are stored and sent may change (`marks_are_golden`). What a map gets later enters its mark behind all
//!    the rest, and only where it is something else than what is read from a map without it.
//! 2. Whatever a map says now is in its mark (`all_of_a_map_is_in_its_mark`). It began as a hash of the encoding of 0.1.0.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::map::{BrickInfo, Chain, ClusterMap, MemberState};
use crate::net::Endpoint;

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MapMark(pub u64);

impl MapMark {
    /// Of a map.
    pub fn of(map: &ClusterMap) -> MapMark {
        let hash = blake3::derive_key("brickyard 2026-11 mark of a cluster map", &form(map));
        MapMark(u64::from_le_bytes(std::array::from_fn(|at| hash[at])))
    }
}

/// What is hashed.
fn form(map: &ClusterMap) -> Vec<u8> {
    let ClusterMap {
        cluster,
        epoch,
        replicas,
        bricks,
        chains,
        tables,
        blocked,
        current,
        inodes_below,
        reign,
    } = map;
    let mut form = Form(Vec::new());
    form.bytes(&cluster.0);
    form.number(epoch.0);
    form.bytes(&[*replicas]);
    form.count(bricks.len());
    for (number, info) in bricks {
        form.number(number.0.into());
        form.brick(info);
    }
    form.count(chains.len());
    for (number, chain) in chains {
        form.number(number.0.into());
        form.chain(chain);
    }
    form.count(tables.len());
    for (version, chains) in tables {
        form.number(version.0.into());
        form.count(chains.len());
        chains.iter().for_each(|chain| form.number(chain.0.into()));
    }
    let ended: Vec<_> = blocked.each().collect();
    form.count(ended.len());
    for (first, last, since) in ended {
        form.number(first.0);
        form.number(last.0);
        form.number(since.0);
    }
    match current {
        None => form.number(0),
        Some(version) => {
            form.number(1);
            form.number(version.0.into());
        }
    }
    if (*inodes_below, *reign) != (0, 0) {
        form.number(*inodes_below);
        form.number(*reign);
    }
    form.0
}

struct Form(Vec<u8>);

impl Form {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            // The lowest seven bits.
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn brick(&mut self, info: &BrickInfo) {
        let BrickInfo { id, store, node, host, endpoint, boot, alive } = info;
        self.number(id.0.into());
        self.bytes(&store.0);
        self.bytes(&node.0);
        self.count(host.len());
        self.bytes(host.as_bytes());
        match endpoint {
            Endpoint::Quic(address) => {
                self.number(0);
                self.address(address);
            }
            Endpoint::Tls(address) => {
                self.number(1);
                self.address(address);
            }
            Endpoint::Memory(number) => {
                self.number(2);
                self.number(*number);
            }
        }
        self.number(boot.0);
        self.bytes(&[u8::from(*alive)]);
    }

    fn address(&mut self, address: &SocketAddr) {
        match address {
            SocketAddr::V4(address) => {
                self.number(0);
                self.bytes(&address.ip().octets());
            }
            SocketAddr::V6(address) => {
                self.number(1);
                self.bytes(&address.ip().octets());
            }
        }
        self.number(address.port().into());
    }

    fn chain(&mut self, chain: &Chain) {
        let Chain { id, epoch, members } = chain;
        self.number(id.0.into());
        self.number(epoch.0);
        self.count(members.len());
        for member in members {
            self.number(member.brick.0.into());
            self.number(match member.state {
                MemberState::Serving => 0,
                MemberState::Syncing => 1,
                MemberState::Waiting => 2,
                MemberState::LastServing => 3,
                MemberState::Offline => 4,
                MemberState::Leaving => 5,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BootId, BrickId, ChainEpoch, ChainId, ClusterId, MapEpoch, NodeId, SessionId, StoreId};
    use crate::map::Member;

    /// A map with something of everything.
    fn map() -> ClusterMap {
        let mut map = ClusterMap { epoch: MapEpoch(70_000), ..ClusterMap::new(ClusterId([1; 16]), 2) };
        let v4 = SocketAddr::from(([10, 77, 0, 2], 7100));
        let v6 = SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, 2], 443));
        for (brick, endpoint) in [
            (0, Endpoint::Tls(v4)),
            (1, Endpoint::Quic(v4)),
            (2, Endpoint::Tls(v6)),
            (300, Endpoint::Memory(1 << 40)),
        ] {
            let info = BrickInfo {
                id: BrickId(brick),
                store: StoreId([brick as u8; 16]),
                node: NodeId([0xee; 16]),
                host: format!("h\u{f6}st{brick}"),
                endpoint,
                boot: BootId(u64::MAX - u64::from(brick)),
                alive: brick != 1,
            };
            map.bricks.insert(info.id, info);
        }
        use MemberState as S;
        let states = [S::Serving, S::Leaving, S::Syncing, S::Waiting, S::Offline, S::LastServing];
        for (chain, states) in [(1, &states[..4]), (200, &states[4..])] {
            let member = |(brick, state): (u32, &MemberState)| Member {
                brick: BrickId(brick % 3 * 100),
                state: *state,
            };
            let members = (0..).zip(states).map(member).collect();
            map.chains
                .insert(ChainId(chain), Chain { id: ChainId(chain), epoch: ChainEpoch(1 << 33), members });
        }
        map.add_table(vec![ChainId(1)]);
        map.add_table(vec![ChainId(1), ChainId(200)]);
        map.blocked.insert_all(SessionId(5), SessionId(900), MapEpoch(7));
        map.blocked.insert(SessionId(1 << 50), MapEpoch(69_999));
        map
    }

    /// With what maps got later.
    fn newer() -> ClusterMap {
        ClusterMap { inodes_below: 1 << 20, reign: u64::MAX, ..map() }
    }

    /// Invariant 1: numbers that are remembered by clusters.
    #[test]
    fn marks_are_golden() {
        assert_eq!(MapMark::of(&ClusterMap::new(ClusterId([1; 16]), 2)), MapMark(0x210e_54d4_3059_e05d));
        assert_eq!(MapMark::of(&map()), MapMark(0x96a1_699a_151c_6140));
        assert_eq!(MapMark::of(&newer()), MapMark(0x4a7d_e157_386c_baf9));
    }

    /// Invariant 2. This goes when the encoding of maps changes; the marks do not.
    #[test]
    fn all_of_a_map_is_in_its_mark() {
        assert_eq!(postcard::to_allocvec(&newer()), Ok(form(&newer())));
        let older = postcard::to_allocvec(&map());
        assert_eq!(older, Ok([&form(&map())[..], &[0, 0]].concat()), "what was not there counts for nothing");
    }
}
