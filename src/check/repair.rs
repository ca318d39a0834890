//! `check --repair`: what is mended, and how.
//!
//! 1. The namespace mends itself, by commands that judge again in the moment they are carried out, until it finds nothing more to mend.
//! 2. A copy that lacks what its chain's head has, by its version, is made equal to the head's, by the head and under its gate, where
//!    the head's own copy is sound.
//!
//! Everything else is told only: a copy of the same version and other content is as good as the other one, and a head that lacks what
//! a member has may be the one that lost it.

use anyhow::{Result, bail};
use wire::brick::{BrickReply, BrickRequest};
use wire::map::ClusterMap;
use wire::meta::{CheckReply, CheckRequest};

use super::findings::{Findings, Uneven};
use crate::admin::Admin;
use crate::{refusal, show};

/// Calls that have the namespace mend itself: each mends 4,096 things of a kind at most.
const CALLS: u32 = 10_000;

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Mended {
    pub lines: Vec<String>,
    pub notes: Vec<String>,
}

/// Mends what can be.
pub(super) async fn run(admin: &Admin, findings: &Findings) -> Result<Mended> {
    let mut mended = Mended::default();
    if findings.mendable > 0
        && !findings.differs
        && let Err(error) = namespace(admin, &mut mended).await
    {
        // What was done until then is done, and told.
        mended
            .notes
            .push(format!("the namespace was not repaired to the end: {}", refusal::one_line(&error)));
    }
    if !findings.uneven.is_empty() {
        let map = admin.map().await?;
        for uneven in &findings.uneven {
            copy(admin, &map, uneven, &mut mended).await;
        }
    }
    Ok(mended)
}

async fn namespace(admin: &Admin, mended: &mut Mended) -> Result<()> {
    let mut is_sole = false;
    for _ in 0..CALLS {
        let CheckReply::Repaired { repairs, untold, more, sole } = admin.check(CheckRequest::Repair).await?
        else {
            bail!("the namespace answered something else than what it repaired")
        };
        is_sole |= sole && !repairs.is_empty();
        mended.lines.extend(repairs.into_iter().map(|repair| {
            let path = repair.path.map(|path| show::path(&path));
            let place = path.map(|path| if path.is_empty() { "/".to_owned() } else { path });
            match place {
                Some(place) => format!("namespace: {}: {place}", repair.what),
                None => format!("namespace: {}", repair.what),
            }
        }));
        if untold > 0 {
            mended.lines.push(format!("namespace: and {untold} more, which its log tells"));
        }
        if !more {
            break;
        }
    }
    if is_sole {
        mended.notes.push(
            "the mount of `brickyard up` may go on showing names as they were: start it anew".to_owned(),
        );
    }
    Ok(())
}

/// Has the head make a copy equal to its own.
async fn copy(admin: &Admin, map: &ClusterMap, uneven: &Uneven, mended: &mut Mended) {
    let Uneven { key, head, member, .. } = *uneven;
    let done = async {
        let verified = admin.brick(map, head, BrickRequest::Verify { key }).await?;
        if !matches!(verified, BrickReply::Verified { corrupt_blocks: 0, .. }) {
            bail!("its copy has bad blocks");
        }
        let level = BrickRequest::Level { chain: uneven.chain(), key, member };
        admin.brick(map, head, level).await
    };
    match done.await {
        Ok(_) => mended
            .lines
            .push(format!("chunk {key} on brick {member} was made equal to the one on brick {head}")),
        Err(error) => mended.notes.push(format!(
            "chunk {key} on brick {member} was not made equal to the one on brick {head}: {}",
            refusal::one_line(&error)
        )),
    }
}
