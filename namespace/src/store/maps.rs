//! The record of the cluster map.
//!
//! | format | since | why |
//! |---|---|---|
//! | 1 | 0.1.0 | the first: ended sessions one by one, the oldest forgotten |
//! | 2 | 0.1.0 | ended sessions as ranges, none forgotten |
//! | 3 | 0.1.0 | which table is for new files; it was the last one |
//! | 4 | 0.1.0 | how far numbers of inodes go, and the last reign; they were not known |
//!
//! Older formats are read, and become the newest with the next change (`old_maps_are_read`).

use std::collections::BTreeMap;

use serde::Deserialize;

use wire::ended::EndedSessions;
use wire::id::{BrickId, ChainId, ClusterId, MapEpoch, SessionId};
use wire::layout::TableVersion;
use wire::map::{BrickInfo, Chain, ClusterMap};

use crate::error::Error;

/// The format this program writes.
pub const MAP_FORMAT: u8 = 4;

/// A map of format 1 or 2, which differ in how sessions are kept that have ended.
#[derive(Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
struct Old<Blocked> {
    cluster: ClusterId,
    epoch: MapEpoch,
    replicas: u8,
    bricks: BTreeMap<BrickId, BrickInfo>,
    chains: BTreeMap<ChainId, Chain>,
    tables: BTreeMap<TableVersion, Vec<ChainId>>,
    blocked: Blocked,
}

/// Of format 1.
type OneByOne = BTreeMap<SessionId, MapEpoch>;

fn ranges(sessions: OneByOne) -> EndedSessions {
    let mut ended = EndedSessions::default();
    for (session, since) in sessions {
        ended.insert(session, since);
    }
    ended
}

impl<Blocked> Old<Blocked> {
    fn renew(self, ended: impl FnOnce(Blocked) -> EndedSessions) -> ClusterMap {
        ClusterMap {
            cluster: self.cluster,
            epoch: self.epoch,
            replicas: self.replicas,
            bricks: self.bricks,
            chains: self.chains,
            current: self.tables.keys().next_back().copied(),
            tables: self.tables,
            blocked: ended(self.blocked),
            inodes_below: 0,
            reign: 0,
        }
    }
}

/// The bytes of a map.
///
/// # Errors
/// Never for a map; the encoder's signature allows it.
pub fn encode_map(map: &ClusterMap) -> Result<Vec<u8>, Error> {
    postcard::to_extend(map, vec![MAP_FORMAT]).map_err(|error| Error::Encode { detail: error.to_string() })
}

/// The map of bytes found under `key`.
///
/// # Errors
/// If the format is unknown or the bytes are none of it.
pub fn decode_map(key: &[u8], bytes: &[u8]) -> Result<ClusterMap, Error> {
    let corrupt = |detail: String| Error::Corrupt { key: key.escape_ascii().to_string(), detail };
    match bytes.split_first() {
        Some((1, body)) => whole::<Old<OneByOne>>(body).map(|old| old.renew(ranges)),
        Some((2, body)) => whole::<Old<EndedSessions>>(body).map(|old| old.renew(|ended| ended)),
        // It ends before the last two fields of today's.
        Some((3, body)) => whole(&[body, &[0, 0]].concat()),
        Some((&MAP_FORMAT, body)) => whole(body),
        Some((format, _)) => Err(format!("record format {format} is not known")),
        None => Err("empty".to_owned()),
    }
    .map_err(corrupt)
}

/// Bytes that are one value and nothing else.
fn whole<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes).map_err(|error| error.to_string())? {
        (value, []) => Ok(value),
        (_, more) => Err(format!("{} bytes too many", more.len())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use wire::id::{BootId, ChainEpoch, NodeId, StoreId};
    use wire::map::{Member, MemberState};
    use wire::net::Endpoint;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn map() -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId([1; 16]), 2);
        let brick = BrickInfo {
            id: BrickId(3),
            store: StoreId([2; 16]),
            node: NodeId([3; 16]),
            host: "h".into(),
            endpoint: Endpoint::Memory(7),
            boot: BootId(9),
            alive: true,
        };
        map.bricks.insert(brick.id, brick);
        let members = vec![Member { brick: BrickId(3), state: MemberState::LastServing }];
        map.chains.insert(ChainId(1), Chain { id: ChainId(1), epoch: ChainEpoch(5), members });
        map.add_table(vec![ChainId(1)]);
        map
    }

    /// The bytes of format 4, for good.
    #[test]
    fn maps_are_golden() {
        let mut map = map();
        map.blocked.insert(SessionId(4), MapEpoch(6));
        map.blocked.insert(SessionId(5), MapEpoch(7));
        (map.inodes_below, map.reign) = (300, 7);
        let bytes = encode_map(&map).unwrap();
        assert_eq!(
            hex(&bytes),
            format!(
                "04{}0102010303{}{}0168020709010101010501030301000101010405070100ac0207",
                "01".repeat(16),
                "02".repeat(16),
                "03".repeat(16)
            )
        );
        assert_eq!(decode_map(b"Cmap", &bytes).unwrap(), map);
        assert!(decode_map(b"Cmap", &bytes[..bytes.len() - 1]).is_err());
        let mut unknown = bytes;
        unknown[0] = 5;
        assert!(decode_map(b"Cmap", &unknown).unwrap_err().to_string().contains("format 5"));
    }

    /// A map of a directory of before is the same map now.
    #[test]
    fn old_maps_are_read() {
        let new = map();
        let old = Old {
            cluster: new.cluster,
            epoch: new.epoch,
            replicas: new.replicas,
            bricks: new.bricks.clone(),
            chains: new.chains.clone(),
            tables: new.tables.clone(),
            blocked: BTreeMap::from([(SessionId(4), MapEpoch(6)), (SessionId(9), MapEpoch(8))]),
        };
        let read = decode_map(b"Cmap", &postcard::to_extend(&old, vec![1]).unwrap()).unwrap();
        assert_eq!(read.blocked.since(SessionId(4)), Some(MapEpoch(6)));
        assert_eq!(read.blocked.since(SessionId(9)), Some(MapEpoch(8)));
        assert!(!read.blocked.contains_key(&SessionId(5)));
        assert_eq!(ClusterMap { blocked: EndedSessions::default(), ..read }, new);
        let third = postcard::to_extend(&new, vec![3]).unwrap();
        assert_eq!(decode_map(b"Cmap", &third[..third.len() - 2]).unwrap(), new);
        assert!(decode_map(b"Cmap", &third).is_err());
        let mut tables = new.tables.clone();
        tables.insert(TableVersion(7), vec![ChainId(1), ChainId(1)]);
        let old = Old {
            cluster: new.cluster,
            epoch: new.epoch,
            replicas: new.replicas,
            bricks: new.bricks.clone(),
            chains: new.chains.clone(),
            tables: tables.clone(),
            blocked: new.blocked.clone(),
        };
        let read = decode_map(b"Cmap", &postcard::to_extend(&old, vec![2]).unwrap()).unwrap();
        assert_eq!(read, ClusterMap { tables, current: Some(TableVersion(7)), ..new });
    }
}
