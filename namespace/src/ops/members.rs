//! Who the members of the namespace are: told, and changed while it serves.

use wire::meta::{AuthorityText, ClusterReply, MemberInfo, MemberRefusal};
use wire::net::Endpoint;
use wire::status::Status;

use crate::log::raft::{MemberError, MemberId, RaftLog};
use crate::namespace::Namespace;

impl Namespace {
    /// The members, as this one knows.
    pub fn members(&self) -> ClusterReply {
        let alone =
            || vec![MemberInfo { id: 0, endpoint: self.config.listen, votes: true, leads: true, has: None }];
        ClusterReply::Members(self.raft.as_ref().map_or_else(alone, |raft| raft.members()))
    }

    /// What certifies those who join.
    pub fn authority(&self) -> Result<ClusterReply, Status> {
        let authority = self.config.authority.as_ref().ok_or(Status::Forbidden)?;
        Ok(ClusterReply::Authority(AuthorityText(authority.to_pem())))
    }

    /// Takes a member in.
    pub async fn add_member(&self, id: MemberId, endpoint: Endpoint) -> Result<ClusterReply, Status> {
        let Some(raft) = &self.raft else { return Ok(ClusterReply::MemberRefused(MemberRefusal::Alone)) };
        told("add", id, raft.add(id, endpoint).await)
    }

    /// Takes a member out.
    pub async fn remove_member(&self, id: MemberId) -> Result<ClusterReply, Status> {
        let Some(raft) = &self.raft else { return Ok(ClusterReply::MemberRefused(MemberRefusal::Alone)) };
        told("remove", id, raft.remove(id).await)
    }

    /// Has a member lead.
    pub async fn have_lead(&self, id: MemberId) -> Result<ClusterReply, Status> {
        let Some(raft) = &self.raft else { return Ok(ClusterReply::MemberRefused(MemberRefusal::Alone)) };
        told("lead", id, hand_over(raft, id).await)
    }
}

async fn hand_over(raft: &RaftLog, id: MemberId) -> Result<(), MemberError> {
    if raft.members().iter().any(|member| member.id == id && member.leads) {
        return Ok(());
    }
    raft.hand_over(id).await
}

fn told(order: &str, id: MemberId, done: Result<(), MemberError>) -> Result<ClusterReply, Status> {
    match done {
        Ok(()) => {
            tracing::info!(order, member = format!("{id:016x}"), "an order about a member was carried out");
            Ok(ClusterReply::Done)
        }
        Err(MemberError::Status(status)) => Err(status),
        Err(MemberError::Refused(why)) => Ok(ClusterReply::MemberRefused(why)),
        Err(MemberError::Failed(error)) => {
            tracing::warn!(
                order,
                member = format!("{id:016x}"),
                error,
                "an order about a member was not carried out"
            );
            Ok(ClusterReply::MemberRefused(MemberRefusal::TimedOut))
        }
    }
}
