//! Writes down that time has passed while there are join tokens, so that one that has expired
//! stays so whatever becomes of the machine's clock. Period: `token_sweep`.

use std::sync::Arc;

use tokio::time::sleep;
use tracing::warn;

use crate::background::{Stop, stopped};
use crate::error::Error;
use crate::machine::command::Op;
use crate::namespace::Namespace;
use crate::store::Read;
use crate::store::records::{TokenRecord, decode};
use wire::meta::Timestamp;

/// Runs until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    let mut noted = Timestamp::default();
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = sleep(namespace.config.token_sweep) => {}
        }
        let now = namespace.steady_now();
        match ended_since(&namespace, noted, now) {
            Ok(false) => {}
            Ok(true) => match namespace.propose(Op::ForgetTokens { now }).await {
                Ok(_) => noted = now,
                Err(status) => warn!(%status, "could not note that a join token has expired; trying again"),
            },
            Err(error) => {
                namespace.failed(&error);
            }
        }
    }
}

/// Whether a token has ended since then, or is to be forgotten.
fn ended_since(namespace: &Namespace, noted: Timestamp, now: Timestamp) -> Result<bool, Error> {
    for (key, value) in namespace.db.all(b"K")? {
        let token: TokenRecord = decode(&key, &value)?;
        let kept_until = token.expires.secs.saturating_add(crate::config::TOKEN_KEPT_S);
        if (token.expires > noted && token.expires <= now) || kept_until <= now.secs {
            return Ok(true);
        }
    }
    Ok(false)
}
