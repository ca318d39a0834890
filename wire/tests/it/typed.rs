//! Calls with types.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::frame::Frame;
use wire::net::typed::Typed;
use wire::net::{BoxFuture, CallError, Delivery, Peer, Protocol, Role, Service, TypedHandler};
use wire::status::{Advice, Status};

use crate::support::*;

struct Sums;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum Ask {
    Add(u32, u32),
    Fail,
}

impl Protocol for Sums {
    const SERVICE: Service = Service::Brick;
    type Request = Ask;
    type Reply = u32;
}

struct Adder;

impl TypedHandler<Sums> for Adder {
    fn handle(
        self: Arc<Self>,
        _peer: Arc<Peer>,
        request: Ask,
        payload: Bytes,
    ) -> BoxFuture<'static, (Result<u32, Status>, Bytes)> {
        Box::pin(async move {
            match request {
                Ask::Add(a, b) => (Ok(a + b), payload),
                Ask::Fail => (Err(Status::DiskFailed), Bytes::new()),
            }
        })
    }
}

/// Replies and statuses come back as what they are; bytes that are no request are answered
/// as malformed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_calls_carry_replies_and_statuses() {
    for listen in everywhere() {
        let cluster = Cluster::new(1);
        let (brick, client) = (cluster.net(Role::Brick), cluster.net(Role::Client));
        let handler = Typed::<Sums, _>::handler(Arc::new(Adder));
        let serving = brick.serve(&listen, Service::Brick, handler).await.unwrap();
        let to = serving.endpoint();
        let payload = Bytes::from_static(b"untouched");
        let (sum, back) =
            client.request::<Sums>(&to, &Ask::Add(2, 40), payload.clone(), deadline()).await.unwrap();
        assert_eq!((sum, back), (42, payload));

        let failed = client.request::<Sums>(&to, &Ask::Fail, Bytes::new(), deadline()).await;
        let failed = failed.unwrap_err();
        assert_eq!(failed.status(), Some(Status::DiskFailed));
        assert_eq!(failed.advice(), Advice::TryOtherCopy);

        let garbage = Frame::new(vec![0xff; 40]);
        let reply = client.call(&to, Service::Brick, garbage, deadline()).await.unwrap();
        let reply: Result<u32, Status> = postcard::from_bytes(&reply.header).unwrap();
        assert_eq!(reply, Err(Status::Malformed));
    }
}

/// A reply that is no reply is the caller's error, and counts as carried out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbled_reply_is_malformed() {
    let pair = pair(any_memory()).await;
    // The echo of a request is no reply.
    let error =
        pair.client.request::<Sums>(&pair.to, &Ask::Add(1, 2), Bytes::new(), deadline()).await.unwrap_err();
    assert!(matches!(error, CallError::Malformed { what: "reply", .. }), "{error}");
    assert_eq!(error.delivery(), Delivery::Sent);
}
