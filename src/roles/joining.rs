//! From a join token to a credential on disk.
//!
//! 1. What is joined with is made durable before it is used: the key before the request, the
//!    credential before anything is done with it. So a crash costs at most asking again.
//! 2. A token never stands in a log or a message.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use tokio::time::Instant;
use wire::join::Token;
use wire::net::{Credential, JoinKey, Role};

/// How long a namespace that does not answer is asked again, where nobody says how long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Wait before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// A join token on a command line.
#[derive(Debug, Clone, Args)]
pub struct TokenOptions {
    /// Join token, the first time; @FILE reads it from a file
    #[arg(long, value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<TokenText>,
    /// File with the join token
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
}

/// A token as it was given: not to be shown.
#[derive(Clone)]
pub struct TokenText(String);

impl std::fmt::Debug for TokenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenText(...)")
    }
}

impl std::str::FromStr for TokenText {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl TokenText {
    /// The token it stands for.
    ///
    /// # Errors
    /// If it is none, or its file can't be read.
    pub fn read(&self) -> Result<Token> {
        match self.0.strip_prefix('@') {
            Some(file) => read_file(Path::new(file)),
            None => Ok(self.0.parse()?),
        }
    }
}

fn read_file(path: &Path) -> Result<Token> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the join token in {}", path.display()))?;
    text.parse().with_context(|| format!("{}", path.display()))
}

impl TokenOptions {
    /// The token, if one was given.
    ///
    /// # Errors
    /// If it is none, or its file can't be read.
    pub fn read(&self) -> Result<Option<Token>> {
        match (&self.token, &self.token_file) {
            (Some(text), _) => text.read().map(Some),
            (None, Some(file)) => read_file(file).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Gets a credential for a token and keeps it at `path`; the key waits beside it meanwhile. A
/// namespace that does not answer is asked again for so long.
///
/// # Errors
/// In one line what the cluster says, or why it can't be asked.
pub async fn obtain(
    path: &Path,
    namespaces: &[SocketAddr],
    token: &Token,
    role: Role,
    host: &str,
    patience: Duration,
) -> Result<Credential> {
    let mut key_file = path.as_os_str().to_owned();
    key_file.push(".key");
    let key_file = PathBuf::from(key_file);
    let key_is_new = !key_file.exists();
    let key = JoinKey::load_or_create(&key_file)?;
    let until = Instant::now() + patience;
    let credential = loop {
        match wire::net::join(namespaces, token, role, &key, host).await {
            Ok(credential) => break credential,
            Err(error) if error.is_transient() && Instant::now() < until => {
                tracing::info!(%error, "cannot join yet; trying again");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                // One that was refused is of no use; one that nobody answered may have been taken.
                if !error.is_transient() && key_is_new {
                    let _ = std::fs::remove_file(&key_file);
                }
                return Err(anyhow!("cannot join the cluster: {error}"));
            }
        }
    };
    credential.save(path)?;
    // The credential has the key; what is left of it here is of no use to anybody.
    if let Err(error) = std::fs::remove_file(&key_file) {
        tracing::warn!(file = %key_file.display(), %error, "could not remove a key that is kept elsewhere");
    }
    tracing::info!(cluster = %credential.identity().cluster, node = %credential.identity().node, %role, "joined");
    Ok(credential)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Invariant 2, and tokens in files.
    #[test]
    fn tokens_come_from_files_and_are_not_shown() {
        let authority = wire::net::Authority::create(wire::id::ClusterId([1; 16])).unwrap();
        let credential = authority.issue(Role::Admin, wire::id::NodeId([1; 16])).unwrap();
        let token = Token {
            cluster: authority.cluster(),
            authority: credential.fingerprint(),
            secret: wire::join::Secret([7; 16]),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let text: TokenText = format!("@{}", file.display()).parse().unwrap();
        assert_eq!(text.read().unwrap(), token);
        let text: TokenText = token.to_string().parse().unwrap();
        assert_eq!(text.read().unwrap(), token);
        let options = TokenOptions { token: Some(text), token_file: None };
        assert!(!format!("{options:?}").contains("by1"), "{options:?}");
        std::fs::write(&file, "by1-77").unwrap();
        let options = TokenOptions { token: None, token_file: Some(file.clone()) };
        let error = format!("{:#}", options.read().unwrap_err());
        assert!(error.contains("damaged") && error.contains(&file.display().to_string()), "{error}");
    }
}
