//! Whether all members of the namespace have the same state: whoever leads is asked first, and any of the others may lead next.
//!
//! A state that only some members have is not mended: commands go to all, and what mends one would damage the others.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use wire::meta::{CheckReply, CheckRequest, ClusterReply, ClusterRequest, MemberInfo};

use super::findings::{Findings, Problem};
use crate::admin::Admin;
use crate::refusal;

/// Compares what other members find with what the leader found.
pub(super) async fn compare(admin: &Admin, leader: &[String], findings: &mut Findings) -> Result<()> {
    let members = match admin.cluster(ClusterRequest::Members).await? {
        ClusterReply::Members(members) => members,
        other => bail!("the namespace answered something else than its members: {other:?}"),
    };
    for member in members.iter().filter(|member| !member.leads && members.len() > 1) {
        match admin.check_of(member.endpoint, CheckRequest::OwnSurvey).await {
            Ok(CheckReply::Surveyed { problems, .. }) => tell(member, leader, &problems, findings),
            Ok(other) => bail!("the namespace answered {other:?}"),
            Err(error) => {
                findings.differs = true;
                findings.notes.insert(format!(
                    "member {:016x} of the namespace at {} was not looked at, so nothing of the namespace is repaired: {}",
                    member.id,
                    member.endpoint,
                    refusal::one_line(&error)
                ));
            }
        }
    }
    Ok(())
}

fn tell(member: &MemberInfo, leader: &[String], own: &[String], findings: &mut Findings) {
    let (theirs, ours): (BTreeSet<String>, BTreeSet<String>) =
        (leader.iter().map(gist).collect(), own.iter().map(gist).collect());
    if theirs == ours {
        return;
    }
    findings.differs = true;
    let alone = own.iter().filter(|problem| !theirs.contains(&gist(problem)));
    let of = |problem: &String| format!("member {:016x} alone: namespace: {problem}", member.id);
    findings.problems.extend(alone.map(|problem| Problem { what: of(problem), file: None }));
    let what = format!(
        "member {:016x} of the namespace has another state than the one that leads: the one with problems is to be replaced, not repaired",
        member.id
    );
    findings.problems.insert(Problem { what, file: None });
}

/// A problem without the numbers that may have changed between two looks.
fn gist(problem: impl AsRef<str>) -> String {
    let problem = problem.as_ref();
    let (what, numbers) = match problem.split_once(": ") {
        Some(parts) if !problem.starts_with("counted") => parts,
        _ => ("", problem),
    };
    let numbers: String = numbers.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{what}: {numbers}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::net::Endpoint;

    /// What changes while it is looked at is no difference, and what only one has is told as such.
    #[test]
    fn a_member_with_another_state_is_named() {
        let member =
            MemberInfo { id: 0xab, endpoint: Endpoint::Memory(1), votes: true, leads: false, has: None };
        let leader =
            ["directory 7: size 9, 2 entries".to_owned(), "counted inodes (4), found (5)".to_owned()];
        let mut findings = Findings { mendable: 2, ..Findings::default() };
        let own = ["directory 7: size 9, 3 entries".to_owned(), "counted inodes (6), found (7)".to_owned()];
        tell(&member, &leader, &own, &mut findings);
        assert!(findings.problems.is_empty() && !findings.differs);
        let own = ["directory 8: size 9, 3 entries".to_owned()];
        tell(&member, &leader, &own, &mut findings);
        assert_eq!((findings.problems.len(), findings.differs, findings.can_repair()), (2, true, false));
    }
}
