//! `--metrics ADDR:PORT`: numbers for Prometheus, over plain HTTP at `/metrics`.
//!
//! Names that outsiders depend on are made here: `brickyard_ROLE_WHAT`, with the units of the
//! counters they come from.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use wire::net::Net;

/// Longest time for one request.
const REQUEST: Duration = Duration::from_secs(5);
/// Longest request that is read, in bytes.
const MOST: usize = 8 << 10;

/// Whether and where.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Serve metrics for Prometheus at http://ADDR:PORT/metrics, to anybody who can connect
    #[arg(long, value_name = "ADDR:PORT", value_parser = super::listen_address)]
    pub metrics: Option<SocketAddr>,
}

/// One number: name, labels in braces or nothing, value.
pub type Sample = (String, String, u64);

/// A listener, if one was asked for.
pub struct Exporter(Option<TcpListener>);

impl Exporter {
    /// Opens it.
    ///
    /// # Errors
    /// If the address can't be listened at.
    pub async fn bind(options: &Options) -> Result<Exporter> {
        let Some(address) = options.metrics else { return Ok(Exporter(None)) };
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("--metrics: cannot listen at {address}"))?;
        Ok(Exporter(Some(listener)))
    }

    /// Answers one request after the other, for ever.
    pub async fn serve(&self, samples: impl Fn() -> Vec<Sample>) {
        let Some(listener) = &self.0 else { return std::future::pending().await };
        loop {
            match listener.accept().await {
                Ok((stream, from)) => match timeout(REQUEST, answer(stream, &samples)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%from, %error, "could not tell the metrics"),
                    Err(_) => tracing::debug!(%from, "a request for metrics took too long"),
                },
                Err(error) => {
                    tracing::warn!(%error, "could not take a connection for metrics");
                    tokio::time::sleep(REQUEST).await;
                }
            }
        }
    }
}

async fn answer(mut stream: TcpStream, samples: &impl Fn() -> Vec<Sample>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MOST {
        let mut part = [0; 1024];
        match stream.read(&mut part).await? {
            0 => break,
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let (status, text) = if request.starts_with(b"GET /metrics ") {
        ("200 OK", render(&samples()))
    } else {
        ("404 Not Found", "there is only /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn render(samples: &[Sample]) -> String {
    let mut text = String::new();
    for (name, labels, value) in samples {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}{labels} {value}");
    }
    text
}

fn sample(role: &str, name: &str, labels: &str, value: u64) -> Sample {
    (format!("brickyard_{role}_{name}"), labels.to_owned(), value)
}

fn network(role: &str, net: &Net) -> Vec<Sample> {
    let counters = net.counters();
    [
        ("net_calls_made", counters.calls_made.get()),
        ("net_calls_failed", counters.calls_failed.get()),
        ("net_calls_served", counters.calls_served.get()),
        ("net_bytes_sent", counters.bytes_sent.get()),
        ("net_bytes_received", counters.bytes_received.get()),
        ("net_connections_now", counters.connections_now.get()),
        ("net_callers_refused", counters.callers_refused.get()),
    ]
    .map(|(name, value)| sample(role, name, "", value))
    .to_vec()
}

/// Numbers of a namespace member.
pub fn namespace(running: &namespace::Running, net: &Net) -> Vec<Sample> {
    let counted = running.metrics();
    let map = running.map();
    let mut samples: Vec<Sample> = [
        ("commands", counted.commands),
        ("batches", counted.batches),
        ("apply_us", counted.apply_us),
        ("slowest_apply_us", counted.slowest_apply_us),
        ("reads", counted.reads),
        ("trims_done", counted.trims_done),
        ("trims_failed", counted.trims_failed),
        ("inodes_reclaimed", counted.reclaimed),
        ("changes_told", counted.changes_told),
        ("sessions_expired", counted.sessions_expired),
        ("bricks_died", counted.bricks_died),
        ("map_epoch", map.epoch.0),
        ("bricks_now", map.bricks.len() as u64),
        ("bricks_alive_now", map.bricks.values().filter(|b| b.alive).count() as u64),
        ("chains_now", map.chains.len() as u64),
        ("chains_unserved_now", map.chains.values().filter(|c| c.head().is_none()).count() as u64),
    ]
    .map(|(name, value)| sample("namespace", name, "", value))
    .to_vec();
    samples.extend(network("namespace", net));
    samples
}

/// Numbers of the bricks of a server.
pub fn bricks(running: &brick_server::Running, net: &Net) -> Vec<Sample> {
    let mut samples = Vec::new();
    for (brick, report) in running.reports() {
        let labels = format!("{{brick=\"{brick}\"}}");
        for (name, value) in [
            ("total_bytes", report.total_bytes),
            ("free_bytes", report.free_bytes),
            ("chunks_now", report.chunks),
            ("failed_now", u64::from(report.failed.is_some())),
        ] {
            samples.push(sample("brick", name, &labels, value));
        }
    }
    for (brick, counted) in running.metrics() {
        let labels = format!("{{brick=\"{brick}\"}}");
        samples.extend(counted.each().into_iter().map(|(name, value)| sample("brick", name, &labels, value)));
    }
    samples.extend(network("brick", net));
    samples
}

/// Numbers of a mount.
pub fn mount(client: &fs_client::Client, net: &Net) -> Vec<Sample> {
    let mut samples: Vec<Sample> =
        client.metrics().each().into_iter().map(|(name, value)| sample("mount", name, "", value)).collect();
    samples.extend(network("mount", net));
    samples
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What Prometheus asks gets its numbers, everything else is told where they are.
    #[tokio::test]
    async fn requests_are_answered() {
        let exporter =
            Exporter::bind(&Options { metrics: Some("127.0.0.1:0".parse().unwrap()) }).await.unwrap();
        let address = exporter.0.as_ref().unwrap().local_addr().unwrap();
        let samples = || vec![sample("brick", "reads", "{brick=\"3\"}", 7)];
        let ask = async {
            let mut answers = Vec::new();
            for path in ["/metrics", "/"] {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answers.push(answer);
            }
            answers
        };
        let answers = tokio::select! {
            answers = ask => answers,
            () = exporter.serve(samples) => unreachable!(),
        };
        assert!(answers[0].starts_with("HTTP/1.1 200 OK\r\n"), "{}", answers[0]);
        assert!(answers[0].ends_with("\r\n\r\nbrickyard_brick_reads{brick=\"3\"} 7\n"), "{}", answers[0]);
        assert!(answers[1].starts_with("HTTP/1.1 404"), "{}", answers[1]);
    }
}
