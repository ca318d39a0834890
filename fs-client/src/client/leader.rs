//! Whether the member of the namespace that is asked still leads, where its answer takes long.
//!
//! A member that is stopped, or whose machine hangs, keeps its connections and says nothing; the others have long chosen another leader.
//! Whoever waits for an answer for [`DOUBT_AFTER`] asks them who leads, and then asks that one: what was asked for is done once, whoever
//! answers it (`three_mounts_claim_names_while_leaders_die`).
//!
//! 1. One asks for all, and ever less often: most calls that take long wait for something, such as a lock.
//! 2. Who hears of no other leader goes on waiting.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wire::id::{CallSeq, MapEpoch};
use wire::meta::{ClusterRequest, MetaCall, MetaProtocol, MetaReply, MetaRequest};
use wire::net::{CallError, Endpoint};
use wire::status::Status;

use super::Outside;

/// How long an answer may take before others are asked who leads: longer than they take to choose another one.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// Time to the next question, and how long an answer to one counts; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(400);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Longest wait for the others.
const PATIENCE: Duration = Duration::from_millis(500);

/// When the others were asked last.
#[derive(Debug, Default)]
pub(crate) struct LastAsked(Mutex<Option<Instant>>);

impl Outside {
    /// One attempt of one call at the member that leads.
    ///
    /// # Errors
    /// What it says, or the net; [`Status::NotLeader`] if another one is found to lead before it answers.
    pub(crate) async fn ask_leader(
        &self,
        call: &MetaCall,
        deadline: Instant,
    ) -> Result<MetaReply, CallError> {
        let Some(endpoint) = self.members.to_ask() else {
            return Err(CallError::Status(Status::NotLeader(None)));
        };
        let answer = self.net.request::<MetaProtocol>(&endpoint, call, Bytes::new(), deadline);
        tokio::pin!(answer);
        let (mut next, mut pause) = (Instant::now() + DOUBT_AFTER, PAUSE);
        let failed = loop {
            let doubt = async {
                sleep_until(next).await;
                self.another_leader(endpoint).await
            };
            tokio::select! {
                answered = &mut answer => match answered {
                    Ok((reply, _)) => return Ok(reply),
                    Err(failed) => break failed,
                },
                found = doubt, if self.members.count() > 1 => {
                    if let Some(leader) = found {
                        tracing::info!(silent = %endpoint, %leader, "another member of the namespace leads");
                        break CallError::Status(Status::NotLeader(Some(leader)));
                    }
                    next = Instant::now() + pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        };
        self.members.failed(endpoint, &failed);
        Err(failed)
    }

    /// Who leads instead of this member, if somebody does; what others have heard of a leader may be old.
    async fn another_leader(&self, than: Endpoint) -> Option<Endpoint> {
        let mut last = self.last_asked.0.lock().await;
        // Others of this client may have moved on meanwhile.
        let elsewhere = || self.members.to_ask().filter(|now| *now != than);
        if elsewhere().is_some() || last.is_some_and(|last| last.elapsed() < PAUSE) {
            return elsewhere();
        }
        let others = self.members.others(than);
        let mut asked: JoinSet<Option<Endpoint>> =
            others.into_iter().map(|other| self.leads(other)).collect();
        let mut found = None;
        while found.is_none()
            && let Some(said) = asked.join_next().await
        {
            found = said.ok().flatten();
        }
        *last = Some(Instant::now());
        found
    }

    /// This member, if it leads.
    fn leads(&self, member: Endpoint) -> impl Future<Output = Option<Endpoint>> + Send + 'static {
        let net = self.net.clone();
        async move {
            let request = ClusterRequest::GetMap { after: MapEpoch(0), wait_ms: 0 };
            let call = MetaCall {
                session: None,
                seq: CallSeq(0),
                answered_below: CallSeq(0),
                request: MetaRequest::Cluster(request),
            };
            let until = Instant::now() + PATIENCE;
            // Before it answers it asks a majority.
            net.request::<MetaProtocol>(&member, &call, Bytes::new(), until).await.ok().map(|_| member)
        }
    }
}
