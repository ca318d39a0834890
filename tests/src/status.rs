//! Reading `brickyard status --json`: the only file that knows its field names.

use anyhow::{Context, Result};
use serde_json::Value;

/// Sums a number over all bricks.
pub fn brick_sum(status: &Value, field: &str) -> Result<u64> {
    let bricks = status["bricks"].as_array().with_context(|| format!("no bricks in {status}"))?;
    bricks
        .iter()
        .map(|brick| brick[field].as_u64().with_context(|| format!("no number {field} in {brick}")))
        .sum()
}

/// A number at the top.
pub fn number(status: &Value, field: &str) -> Result<u64> {
    status[field].as_u64().with_context(|| format!("no number {field} in {status}"))
}

/// The state of the whole in a word.
pub fn health(status: &Value) -> Result<&str> {
    status["health"].as_str().with_context(|| format!("no `health` in {status}"))
}

/// Whether every chain has all its copies in service.
pub fn all_whole(status: &Value) -> Result<bool> {
    let chains = status["chains"].as_array().with_context(|| format!("no chains in {status}"))?;
    anyhow::ensure!(!chains.is_empty(), "the list of chains is empty");
    let mut all = true;
    for chain in chains {
        all &= chain["whole"].as_bool().with_context(|| format!("no `whole` in {chain}"))?;
    }
    Ok(all)
}
