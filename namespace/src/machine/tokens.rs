//! Join tokens: made by an administrator, redeemed by machines.
//!
//! The state knows a token by a hash of its secret. Times are compared with the latest time the
//! state has ever seen, so a clock that was set back revives nothing.
//!
//! 1. A token is redeemed at most as often as it says, and never after its time
//!    (`tokens_are_used_up`, `an_expired_token_stays_expired`).
//! 2. The same node may redeem it again while it lives without using it up further: its first answer
//!    was lost (`a_lost_answer_costs_no_second_use`).

use wire::handshake::Role;
use wire::id::NodeId;
use wire::join::{JoinRefusal, TokenHash};
use wire::meta::Timestamp;
use wire::status::Status;

use crate::config::{TOKEN_KEPT_S, TOKENS};
use crate::machine::txn::{Do, Txn};
use crate::store::records::{TokenRecord, decode};
use crate::store::{Read, keys};

/// What a new token is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NewToken {
    /// What it is known by.
    pub hash: TokenHash,
    /// What its users become.
    pub role: Role,
    /// When it ends, seen from the present of the command, in seconds.
    pub ttl_s: u32,
    /// How often it may be used.
    pub uses: u32,
}

/// The latest time the state knows, moved on to `now`.
fn present(txn: &mut Txn<'_>, now: Timestamp) -> Do<Timestamp> {
    let seen: Option<Timestamp> = txn.load(keys::CLOCK)?;
    match seen {
        Some(seen) if seen >= now => Ok(seen),
        _ => {
            txn.put(keys::CLOCK.to_vec(), &now)?;
            Ok(now)
        }
    }
}

fn later(time: Timestamp, seconds: i64) -> Timestamp {
    Timestamp { secs: time.secs.saturating_add(seconds), nanos: time.nanos }
}

/// Makes a token.
pub fn make(txn: &mut Txn<'_>, token: &NewToken, now: Timestamp) -> Do<()> {
    let now = present(txn, now)?;
    forget(txn, now)?;
    if token.uses == 0 || token.role == Role::Admin {
        return Err(Status::Malformed.into());
    }
    if txn.all(b"K")?.len() >= TOKENS {
        return Err(Status::Busy.into());
    }
    let record = TokenRecord {
        role: token.role,
        expires: later(now, i64::from(token.ttl_s)),
        uses_left: token.uses,
        redeemed: Vec::new(),
    };
    txn.put(keys::token(token.hash), &record)
}

/// Uses a token for a node; `None` if that is right.
pub fn redeem(
    txn: &mut Txn<'_>,
    hash: TokenHash,
    role: Role,
    node: NodeId,
    now: Timestamp,
) -> Do<Option<JoinRefusal>> {
    let now = present(txn, now)?;
    let key = keys::token(hash);
    let Some(mut token) = txn.load::<TokenRecord>(&key)? else { return Ok(Some(JoinRefusal::Unknown)) };
    if token.role != role {
        return Ok(Some(JoinRefusal::OtherRole { theirs: token.role }));
    }
    if now >= token.expires {
        return Ok(Some(JoinRefusal::Expired));
    }
    if token.redeemed.contains(&node) {
        return Ok(None);
    }
    if token.uses_left == 0 {
        return Ok(Some(JoinRefusal::UsedUp));
    }
    token.uses_left -= 1;
    token.redeemed.push(node);
    txn.put(key, &token)?;
    Ok(None)
}

/// Takes note of the time, and forgets tokens that ended long ago.
pub fn forget(txn: &mut Txn<'_>, now: Timestamp) -> Do<()> {
    let now = present(txn, now)?;
    for (key, value) in txn.all(b"K")? {
        let token: TokenRecord = decode(&key, &value)?;
        if now >= later(token.expires, TOKEN_KEPT_S) {
            txn.delete(key);
        }
    }
    Ok(())
}
