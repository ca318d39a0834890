//! `brickyard token`: a join token for one more machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use wire::join::{Secret, Token};
use wire::meta::{ClusterReply, ClusterRequest};
use wire::net::Role;
use wire::net::pki::random_id;

use crate::admin::{self, Admin};
use crate::times;

/// Options of `brickyard token`.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What whoever uses it becomes: namespace, brick, client or agent
    pub role: Role,
    /// The administrator's credential
    #[arg(long, value_name = "FILE")]
    pub cred: PathBuf,
    /// Where the namespace is, if not where the credential says
    #[arg(long, value_name = "ADDR:PORT,...")]
    pub join: Option<String>,
    /// How long it is valid: a number with s, m, h or d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = times::some, allow_hyphen_values = true)]
    pub ttl: Duration,
    /// How many machines may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub uses: u32,
}

/// Makes a token and prints it.
///
/// # Errors
/// If the credential is not an administrator's, or the cluster does not answer.
pub fn run(options: &Options) -> Result<ExitCode> {
    if options.role == Role::Admin {
        bail!(
            "there are no tokens for administrators: copy the file {} to them instead",
            options.cred.display()
        );
    }
    let credential = admin::credential(&options.cred)?;
    let Ok(ttl_s) = u32::try_from(options.ttl.as_secs()) else { bail!("--ttl: at most a year (365d)") };
    let token = Token {
        cluster: credential.identity().cluster,
        authority: credential.fingerprint(),
        secret: Secret(random_id()?),
    };
    let request = ClusterRequest::MakeToken {
        hash: token.secret.hash(),
        role: options.role,
        ttl_s,
        uses: options.uses,
    };
    let reply = admin::runtime()?.block_on(async {
        Admin::new(&credential, options.join.as_deref())
            .with_context(|| format!("{}", options.cred.display()))?
            .cluster(request)
            .await
    })?;
    match reply {
        ClusterReply::Done => println!("{token}"),
        other => bail!("the namespace answered something else than was asked: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}
