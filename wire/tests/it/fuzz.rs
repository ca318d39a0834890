//! Bytes of strangers: understood or refused, and never more than that.

use wire::brick::{Again, BrickCall, BrickReply, BrickRequest, ChainRef, Change, WriterId};
use wire::chunk::ChunkKey;
use wire::fuzz::Campaign;
use wire::handshake::{Answer, Hello, Identity};
use wire::id::{
    BootId, BrickId, CallSeq, ChainEpoch, ChainId, ChunkVersion, ClusterId, Ino, MapEpoch, NodeId, SessionId,
};
use wire::map::ClusterMap;
use wire::meta::{ClusterReply, MetaReply};
use wire::net::{Role, Service};
use wire::status::Status;

const VERSION: u16 = wire::handshake::PROTOCOL_VERSION;

/// What is understood says the same when it is said again.
fn round_trip<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok((value, _)) = postcard::take_from_bytes::<T>(bytes) else { return };
    let again = postcard::to_stdvec(&value).unwrap();
    assert_eq!(postcard::from_bytes::<T>(&again).unwrap(), value);
}

#[test]
fn mangled_messages_are_understood_or_refused() {
    let chain = ChainRef { id: ChainId(3), epoch: ChainEpoch(300) };
    let key = ChunkKey { ino: Ino(70_000), index: 5 };
    let writer = WriterId { session: SessionId(9), seq: CallSeq(1 << 40) };
    let change = Change::Write { offset: 4096 };
    let requests = [
        BrickRequest::Read { chain, key, offset: 1, len: 1 << 20 },
        BrickRequest::Change {
            chain,
            key,
            writer,
            answered_below: CallSeq(7),
            change,
            again: Some(Again {
                version: ChunkVersion(8),
                first: ChunkVersion(7),
                took: vec![(BrickId(1), BootId(2))],
            }),
        },
        BrickRequest::Commit,
        BrickRequest::Settled { chain, keys: vec![key; 3], wait: true },
        BrickRequest::Ping.to_be_relayed(BrickId(4)).unwrap(),
    ];
    let calls = requests.map(|request| BrickCall { brick: BrickId(1), map: MapEpoch(5), request });
    let mut messages: Vec<Vec<u8>> = calls.iter().map(|call| postcard::to_stdvec(call).unwrap()).collect();
    let map = ClusterMap::new(ClusterId([1; 16]), 2);
    messages.push(postcard::to_stdvec(&Ok::<_, Status>(MetaReply::Cluster(ClusterReply::Map(map)))).unwrap());
    messages.push(postcard::to_stdvec(&Err::<BrickReply, _>(Status::MapBehind)).unwrap());
    let caller = Identity { cluster: ClusterId([1; 16]), node: NodeId([2; 16]), role: Role::Client };
    let hello = Hello { version: VERSION, service: Service::Brick, caller }.encode();
    messages.push(hello);
    let mut campaign = Campaign::of(200_000);
    while campaign.goes_on() {
        let bytes = campaign.spoil(&messages);
        round_trip::<BrickCall>(&bytes);
        round_trip::<Result<BrickReply, Status>>(&bytes);
        round_trip::<Result<MetaReply, Status>>(&bytes);
        // Understood or not: neither may panic, nor take memory for what is not there.
        let _ = Hello::decode(&bytes, VERSION);
        let _ = Answer::decode(&bytes, VERSION);
    }
}
