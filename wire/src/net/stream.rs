//! What connections over a byte stream have in common at both ends: reading and writing
//! frames, and noticing that the other end is gone.
//!
//! 1. A part of a frame is allocated once, at its exact length, after its head was found
//!    within the limits.
//! 2. Header and payload are handed to the transport as they are, never copied together.
//! 3. A connection ends when nothing was heard for `idle_timeout` although we listened, or
//!    when nothing could be written for that long although we did not
//!    (`a_silent_peer_is_noticed`).

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::frame::{Frame, FrameKind, HEAD_BYTES, Head};
use crate::handshake::MAX_HANDSHAKE_BYTES;
use crate::net::serving::Work;

/// Frames written with one call of the transport, so that small ones share a TLS record.
const BATCH_FRAMES: usize = 16;

/// Writes one message of the handshake.
pub(crate) async fn write_message<W: AsyncWrite + Unpin>(writer: &mut W, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = Vec::with_capacity(2 + message.len());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(message);
    writer.write_all(&bytes).await?;
    writer.flush().await
}

/// Reads one message of the handshake.
pub(crate) async fn read_message<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Vec<u8>> {
    read_message_up_to(reader, MAX_HANDSHAKE_BYTES).await
}

/// Reads one message of at most so many bytes.
pub(crate) async fn read_message_up_to<R: AsyncRead + Unpin>(
    reader: &mut R,
    most: usize,
) -> io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16_le().await?);
    if length > most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the peer does not speak Brickyard's protocol",
        ));
    }
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await?;
    Ok(message)
}

/// When the other end was last heard, and whether writing to it makes progress.
pub(crate) struct Liveness {
    start: Instant,
    heard_ms: AtomicU64,
    listening: AtomicBool,
    /// When the write under way began, plus one; 0 while there is none.
    writing_since_ms: AtomicU64,
}

impl Liveness {
    pub(crate) fn new() -> Liveness {
        Liveness {
            start: Instant::now(),
            heard_ms: AtomicU64::new(0),
            listening: AtomicBool::new(true),
            writing_since_ms: AtomicU64::new(0),
        }
    }

    fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn heard(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// We stop reading, to hold the peer back: its silence means nothing now.
    pub(crate) fn pause(&self) {
        self.listening.store(false, Ordering::Relaxed);
    }

    /// We read again.
    pub(crate) fn resume(&self) {
        self.heard();
        self.listening.store(true, Ordering::Relaxed);
    }

    fn write_begins(&self) {
        self.writing_since_ms.store(self.now_ms() + 1, Ordering::Relaxed);
    }

    fn write_ended(&self) {
        self.writing_since_ms.store(0, Ordering::Relaxed);
    }

    /// Returns when the other end must be taken for gone.
    pub(crate) async fn gone(&self, idle_timeout: Duration) {
        let limit = (idle_timeout.as_millis() as u64).max(1);
        loop {
            let now = self.now_ms();
            let quiet_since = if self.listening.load(Ordering::Relaxed) {
                self.heard_ms.load(Ordering::Relaxed)
            } else {
                match self.writing_since_ms.load(Ordering::Relaxed) {
                    0 => now,
                    since => since - 1,
                }
            };
            let left = (quiet_since + limit).saturating_sub(now);
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
    }
}

/// Reads the head of the next frame; `None` when the stream ended before it.
pub(crate) async fn read_head<R: AsyncRead + Unpin>(
    reader: &mut R,
    alive: &Liveness,
) -> io::Result<Option<Head>> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    while filled < HEAD_BYTES {
        let read = reader.read(&mut head[filled..]).await?;
        if read == 0 {
            return match filled {
                0 => Ok(None),
                _ => Err(io::ErrorKind::UnexpectedEof.into()),
            };
        }
        filled += read;
    }
    alive.heard();
    Head::decode(&head).map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads header and payload after their head.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    head: &Head,
    alive: &Liveness,
) -> io::Result<Frame> {
    Ok(Frame {
        header: read_part(reader, head.header_bytes, alive).await?,
        payload: read_part(reader, head.payload_bytes, alive).await?,
    })
}

async fn read_part<R: AsyncRead + Unpin>(
    reader: &mut R,
    length: usize,
    alive: &Liveness,
) -> io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(length).limit(length);
    while part.has_remaining_mut() {
        if reader.read_buf(&mut part).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        alive.heard();
    }
    Ok(part.into_inner().freeze())
}

/// How far a request has come, agreed between its caller and the writer: once the writer has
/// begun it, the service may get it; once the caller has withdrawn it, it is never written.
#[derive(Default)]
pub(crate) struct Stage(AtomicU8);

const QUEUED: u8 = 0;
const WRITING: u8 = 1;
const WITHDRAWN: u8 = 2;

impl Stage {
    fn advance(&self, to: u8) -> bool {
        self.0.compare_exchange(QUEUED, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller gives up. Whether the request certainly never leaves.
    pub(crate) fn withdraw(&self) -> bool {
        self.advance(WITHDRAWN) || self.0.load(Ordering::Acquire) == WITHDRAWN
    }
}

/// A frame that waits to be written.
pub(crate) struct Outgoing {
    pub(crate) kind: FrameKind,
    pub(crate) call: u64,
    pub(crate) frame: Frame,
    /// For requests.
    pub(crate) stage: Option<std::sync::Arc<Stage>>,
    /// For replies: the call counts as running until its reply was written.
    pub(crate) _work: Option<Work>,
}

/// Writes what comes through the queue until its senders are gone, and a sign of life when
/// nothing did for `keepalive`.
pub(crate) async fn write_frames<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Outgoing>,
    alive: &Liveness,
    keepalive: Duration,
) -> io::Result<()> {
    let mut tick = tokio::time::interval(keepalive.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch: Vec<Outgoing> = Vec::with_capacity(BATCH_FRAMES);
    let mut quiet = false;
    loop {
        tokio::select! {
            biased;
            received = queue.recv_many(&mut batch, BATCH_FRAMES) => {
                if received == 0 {
                    break;
                }
                quiet = false;
            }
            _ = tick.tick() => {
                if !std::mem::replace(&mut quiet, true) {
                    continue;
                }
                batch.push(Outgoing {
                    kind: FrameKind::Alive,
                    call: 0,
                    frame: Frame::default(),
                    stage: None,
                    _work: None,
                });
            }
        }
        batch.retain(|item| item.stage.as_ref().is_none_or(|stage| stage.advance(WRITING)));
        write_batch(&mut writer, &batch, alive).await?;
        batch.clear();
    }
    writer.shutdown().await
}

async fn write_batch<W: AsyncWrite + Unpin>(
    writer: &mut W,
    batch: &[Outgoing],
    alive: &Liveness,
) -> io::Result<()> {
    let heads: Vec<[u8; HEAD_BYTES]> =
        batch.iter().map(|item| Head::of(item.kind, item.call, &item.frame).encode()).collect();
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(3 * batch.len());
    for (item, head) in batch.iter().zip(&heads) {
        slices.push(IoSlice::new(head));
        for part in [&item.frame.header, &item.frame.payload] {
            if !part.is_empty() {
                slices.push(IoSlice::new(part));
            }
        }
    }
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        alive.write_begins();
        let written = writer.write_vectored(rest).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    alive.write_begins();
    writer.flush().await?;
    alive.write_ended();
    Ok(())
}
