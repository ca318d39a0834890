//! Has the change journal begin where the state is of before there was one. Once, and then it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};
use wire::meta::JournalChange;

use crate::background::{Stop, stopped};
use crate::machine::command::Op;
use crate::machine::journal;
use crate::namespace::Namespace;

/// Pause before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until that is done, or until told to stop.
pub async fn run(namespace: Arc<Namespace>, mut stop: Stop) {
    loop {
        match journal::read(&*namespace.db) {
            Ok(known) if journal::has_begun(&known) => return,
            Ok(_) => match namespace.propose(Op::Journal(JournalChange::default())).await {
                Ok(_) => {
                    info!("the change journal begins; what happened before is not in it");
                    return;
                }
                Err(status) => warn!(%status, "the change journal could not begin; trying again"),
            },
            Err(error) => {
                namespace.failed(&error);
            }
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = sleep(PAUSE) => {}
        }
    }
}
