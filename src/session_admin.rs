//! `brickyard session list|end`: the mounts of a cluster, and what becomes of one that is gone for good.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use wire::id::SessionId;
use wire::meta::{ClusterReply, ClusterRequest, SessionClass, SessionStatus};

use crate::admin::{self, Admin};
use crate::cli::ClusterOptions;
use crate::show::{self, Table};

/// What can be asked.
#[derive(Debug, Clone, Subcommand)]
pub enum Order {
    /// Show all mounts, and when each was heard of last
    List(ClusterOptions),
    /// End the session of a mount whose machine is gone: at once, not when somebody needs what it holds
    ///
    /// Its locks are given up, and files that were removed while it had them open are freed. What it has not written yet is lost to
    /// it. A mount that is alive all the same begins a new session; programs that held locks there get errors when they write.
    End(EndOptions),
}

/// Options of `brickyard session end`.
#[derive(Debug, Clone, Args)]
pub struct EndOptions {
    /// Number of the session, as `brickyard session list` shows it
    #[arg(value_name = "SESSION")]
    pub session: u64,
    /// Also of a mount that was heard of just now
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub cluster: ClusterOptions,
}

/// Does it.
///
/// # Errors
/// If the namespace does not answer, or it is refused.
pub fn run(order: Order) -> Result<ExitCode> {
    let done = match order {
        Order::List(cluster) => admin::runtime()?.block_on(async {
            let sessions = Admin::of(&cluster)?.status().await?.sessions;
            Ok::<_, anyhow::Error>(match cluster.json {
                true => format!("{}\n", json!({ "sessions": as_json(&sessions) })),
                false => table(&sessions).to_string(),
            })
        })?,
        Order::End(options) => admin::runtime()?.block_on(end(options))?,
    };
    print!("{done}");
    Ok(ExitCode::SUCCESS)
}

async fn end(EndOptions { session, force, cluster }: EndOptions) -> Result<String> {
    let admin = Admin::of(&cluster)?;
    let sessions = admin.status().await?.sessions;
    let Some(known) = sessions.into_iter().find(|known| known.session.0 == session) else {
        bail!("there is no session {session}; `brickyard session list` shows all");
    };
    let mount = format!("session {session}, {} mounted on {}", known.host, known.mount);
    ensure!(
        force || !known.lives,
        "{mount}, was heard of {} ago: unmount it there, or add --force if its programs may get errors",
        show::age(known.heard_ms)
    );
    match admin.cluster(ClusterRequest::EndSession(SessionId(session))).await? {
        ClusterReply::Done => Ok(match cluster.json {
            true => format!("{}\n", json!({ "ended": session })),
            false => format!("{mount}, is ended\n"),
        }),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
}

fn class_name(class: SessionClass) -> &'static str {
    match class {
        SessionClass::Standard => "standard",
        SessionClass::Ha => "ha",
    }
}

/// For people.
pub fn table(sessions: &[SessionStatus]) -> Table {
    let mut table = Table::new(&["session", "host", "mounted on", "class", ">heard of"]);
    for session in sessions {
        table.row([
            session.session.to_string(),
            session.host.clone(),
            session.mount.clone(),
            class_name(session.class).to_owned(),
            format!("{} ago", show::age(session.heard_ms)),
        ]);
    }
    table
}

/// For programs.
pub fn as_json(sessions: &[SessionStatus]) -> Vec<Value> {
    let one = |s: &SessionStatus| {
        json!({
            "id": s.session.0,
            "host": s.host,
            "mount": s.mount,
            "class": class_name(s.class),
            "heard_ms": s.heard_ms,
            "lives": s.lives,
        })
    };
    sessions.iter().map(one).collect()
}
