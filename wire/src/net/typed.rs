//! Calls with types: a protocol's requests and replies instead of bytes.
//!
//! The header of a request is the postcard of [`Protocol::Request`]; that of a reply is the
//! postcard of `Result<Protocol::Reply, Status>`. Payloads pass through untouched.

use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::frame::Frame;
use crate::net::{BoxFuture, Delivery, Endpoint, Handler, Net, NetError, Peer, Service};
use crate::status::{Advice, Status};

/// The calls one service understands.
pub trait Protocol: 'static {
    /// The service.
    const SERVICE: Service;
    /// What is asked.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What is answered when it was done.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

/// A typed call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The net could not carry it.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The service answered that it did not do it.
    // The message has the status in it, which is no cause of its own then.
    #[error("the service answered: {0}")]
    Status(Status),
    /// The request could not be encoded, or the reply not decoded.
    #[error("a malformed {what} ({detail})")]
    Malformed {
        /// `request` or `reply`.
        what: &'static str,
        /// What the encoding says.
        detail: String,
    },
}

impl From<Status> for CallError {
    fn from(status: Status) -> CallError {
        CallError::Status(status)
    }
}

impl CallError {
    /// Whether the service may have begun the call. A [`Status`] is an answer: what it means
    /// for the call is the status' own matter, and it counts as sent.
    pub fn delivery(&self) -> Delivery {
        match self {
            CallError::Net(error) => error.delivery(),
            CallError::Status(_) => Delivery::Sent,
            CallError::Malformed { what, .. } => match *what {
                "request" => Delivery::NotSent,
                _ => Delivery::Sent,
            },
        }
    }

    /// The status, if the service gave one.
    pub fn status(&self) -> Option<Status> {
        match self {
            CallError::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// What to do about it. For failures of the net, [`Advice::Retry`] means that another
    /// attempt may reach the service; look at [`CallError::delivery`] before repeating a call
    /// that must not be done twice.
    pub fn advice(&self) -> Advice {
        match self {
            CallError::Net(error) if error.is_transient() => Advice::Retry,
            CallError::Net(_) | CallError::Malformed { .. } => Advice::GiveUp,
            CallError::Status(status) => status.advice(),
        }
    }
}

fn malformed(what: &'static str, error: &postcard::Error) -> CallError {
    CallError::Malformed { what, detail: error.to_string() }
}

impl Net {
    /// Makes one typed call; see [`Net::call`] for what is promised.
    pub async fn request<P: Protocol>(
        &self,
        to: &Endpoint,
        request: &P::Request,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<(P::Reply, Bytes), CallError> {
        let header = postcard::to_stdvec(request).map_err(|e| malformed("request", &e))?;
        let frame = Frame { header: header.into(), payload };
        let reply = self.call(to, P::SERVICE, frame, deadline).await?;
        let decoded: Result<P::Reply, Status> =
            from_whole(&reply.header).map_err(|e| malformed("reply", &e))?;
        Ok((decoded?, reply.payload))
    }
}

/// Decodes a value that must fill the bytes to the end.
fn from_whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

/// Answers the calls of one protocol.
pub trait TypedHandler<P: Protocol>: Send + Sync + 'static {
    /// Answers one call; see [`Handler::handle`]. The payload travels with errors, too, and
    /// should be empty then.
    #[allow(clippy::type_complexity)]
    fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: P::Request,
        payload: Bytes,
    ) -> BoxFuture<'static, (Result<P::Reply, Status>, Bytes)>;
}

/// Makes a [`Handler`] of a [`TypedHandler`]: requests that are no such request are answered
/// with [`Status::Malformed`] and never seen by it.
pub struct Typed<P, H> {
    handler: Arc<H>,
    protocol: PhantomData<fn() -> P>,
}

impl<P: Protocol, H: TypedHandler<P>> Typed<P, H> {
    /// Wraps a handler for [`Net::serve`].
    pub fn handler(handler: Arc<H>) -> Arc<dyn Handler> {
        Arc::new(Typed { handler, protocol: PhantomData })
    }
}

fn reply_frame<R: Serialize>(reply: &Result<R, Status>, payload: Bytes) -> Frame {
    match postcard::to_stdvec(reply) {
        Ok(header) => Frame { header: header.into(), payload },
        Err(error) => {
            // A reply that can't be encoded is a mistake in its type; the caller finds the
            // empty header malformed, and this line says whose fault it was.
            tracing::error!(%error, "could not encode a reply");
            Frame::default()
        }
    }
}

impl<P: Protocol, H: TypedHandler<P>> Handler for Typed<P, H> {
    fn handle(self: Arc<Self>, peer: Arc<Peer>, request: Frame) -> BoxFuture<'static, Frame> {
        let decoded: P::Request = match from_whole(&request.header) {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::info!(service = %P::SERVICE, from = peer.address, %error,
                    "answered a malformed request");
                let refused = reply_frame::<P::Reply>(&Err(Status::Malformed), Bytes::new());
                return Box::pin(std::future::ready(refused));
            }
        };
        let answer = self.handler.clone().handle(peer, decoded, request.payload);
        Box::pin(async move {
            let (reply, payload) = answer.await;
            reply_frame(&reply, payload)
        })
    }
}
