//! Who is taken into the cluster: join tokens are made and redeemed.

use std::sync::{Arc, Weak};
use std::time::Instant;

use wire::handshake::Role;
use wire::join::{JoinAnswer, JoinRefusal, JoinRequest, TokenHash};
use wire::meta::{ClusterReply, Timestamp};
use wire::net::{BoxFuture, Joiner};
use wire::status::Status;

use crate::config::{TOKEN_TTL_MOST_S, TOKEN_USES_MOST};
use crate::machine::command::{Op, Outcome};
use crate::machine::tokens::NewToken;
use crate::namespace::{Namespace, lock};
use crate::store::{Read, keys};

impl Namespace {
    /// The present that tokens expire by.
    pub fn steady_now(&self) -> Timestamp {
        let mut wall = Timestamp::now();
        wall.secs = wall.secs.saturating_add(self.config.clock_offset_s);
        lock(&self.watchers.clock).now(wall, Instant::now())
    }

    /// Makes a join token.
    pub async fn make_token(
        &self,
        hash: TokenHash,
        role: Role,
        ttl_s: u32,
        uses: u32,
    ) -> Result<ClusterReply, Status> {
        if role == Role::Admin
            || !(1..=TOKEN_TTL_MOST_S).contains(&ttl_s)
            || !(1..=TOKEN_USES_MOST).contains(&uses)
        {
            return Err(Status::Malformed);
        }
        let token = NewToken { hash, role, ttl_s, uses };
        self.propose(Op::MakeToken { token, now: self.steady_now() }).await?;
        tracing::info!(%role, ttl_s, uses, "made a join token");
        Ok(ClusterReply::Done)
    }

    /// Takes somebody in who has a token.
    async fn take_in(&self, request: JoinRequest, from: &str) -> JoinAnswer {
        let JoinRequest { secret, role, key, host } = request;
        let answer = self.certify(secret.hash(), role, &key).await;
        match &answer {
            JoinAnswer::Granted { .. } => {
                tracing::info!(%role, node = %key.node(), host, from, "took a new node into the cluster");
            }
            JoinAnswer::Refused(refusal) => {
                tracing::info!(%role, host, from, %refusal, "turned away somebody who wanted to join");
            }
        }
        answer
    }

    async fn certify(&self, hash: TokenHash, role: Role, key: &wire::join::PublicKey) -> JoinAnswer {
        let refused = JoinAnswer::Refused;
        let Some(authority) = &self.config.authority else { return refused(JoinRefusal::Busy) };
        if role == Role::Admin || !key.is_well_formed() {
            return refused(JoinRefusal::Malformed);
        }
        // Who does not lead knows no token for sure; another member may.
        if self.leads().is_err() || self.log.read_barrier().await.is_err() {
            return refused(JoinRefusal::Busy);
        }
        // Guessing costs those who guess a connection, and us no flush of the disk.
        match self.db.get(&keys::token(hash)) {
            Ok(Some(_)) => {}
            Ok(None) => return refused(JoinRefusal::Unknown),
            Err(error) => {
                self.failed(&error);
                return refused(JoinRefusal::Busy);
            }
        }
        let redeem = Op::RedeemToken { hash, role, node: key.node(), now: self.steady_now() };
        match self.propose(redeem).await {
            Ok(Outcome::Joined(None)) => {}
            Ok(Outcome::Joined(Some(refusal))) => return refused(refusal),
            Ok(_) | Err(_) => return refused(JoinRefusal::Busy),
        }
        match authority.certify(role, key) {
            Ok(certificate) => {
                JoinAnswer::Granted { certificate, authority: authority.certificate_pem().to_owned() }
            }
            Err(error) => {
                tracing::error!(%error, "could not sign a certificate");
                refused(JoinRefusal::Busy)
            }
        }
    }
}

/// Where joiners come in; it does not own the service.
pub struct Doorway(pub Weak<Namespace>);

impl Joiner for Doorway {
    fn join(self: Arc<Self>, request: JoinRequest, from: String) -> BoxFuture<'static, JoinAnswer> {
        let namespace = self.0.upgrade();
        Box::pin(async move {
            match namespace {
                Some(namespace) => namespace.take_in(request, &from).await,
                None => JoinAnswer::Refused(JoinRefusal::Busy),
            }
        })
    }
}
