//! Frames: what travels for one call, and how it is laid out on a byte stream.
//!
//! ```text
//! offset  bytes  field
//!      0      4  length of the header, little endian
//!      4      4  length of the payload, little endian
//!      8      8  call id, little endian (0 where the stream itself names the call)
//!     16      1  kind
//!     17      .  header, then payload
//! ```
//!
//! The header is postcard, the payload raw bytes that nobody encodes. The layout carries
//! neither magic nor version: the [handshake](crate::handshake) has settled both before the
//! first frame.
//!
//! 1. A head that claims more than [`MAX_HEADER_BYTES`] or [`MAX_PAYLOAD_BYTES`], or an
//!    unknown kind, is refused before a byte is allocated for it
//!    (`any_bytes_are_decoded_or_refused_within_the_limits`).
//! 2. The layout never changes within a protocol version (`the_layout_is_golden`).

use bytes::Bytes;

use crate::chunk::MAX_IO_BYTES;

/// Longest header, in bytes: room for a page of a directory with attributes.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// Longest payload, in bytes: some of the largest reads and writes together.
pub const MAX_PAYLOAD_BYTES: usize = 4 * MAX_IO_BYTES as usize;
/// Length of the fixed part before header and payload, in bytes.
pub const HEAD_BYTES: usize = 17;

/// One request or one reply.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// What is asked or answered, in postcard.
    pub header: Bytes,
    /// File data, raw.
    pub payload: Bytes,
}

impl Frame {
    /// A frame without payload.
    pub fn new(header: impl Into<Bytes>) -> Frame {
        Frame { header: header.into(), payload: Bytes::new() }
    }

    /// The same frame with this payload.
    pub fn with_payload(self, payload: impl Into<Bytes>) -> Frame {
        Frame { payload: payload.into(), ..self }
    }

    /// Bytes of header and payload together.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.len()
    }

    /// Whether there is neither header nor payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both parts keep within their limits.
    pub fn check(&self) -> Result<(), FrameError> {
        check_length("header", self.header.len() as u64, MAX_HEADER_BYTES)?;
        check_length("payload", self.payload.len() as u64, MAX_PAYLOAD_BYTES)
    }
}

/// What a frame on a stream is for. The numbers travel: add only at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A call.
    Request = 1,
    /// The answer to a call.
    Reply = 2,
    /// The call was not carried out and will not be: the server is stopping.
    Declined = 3,
    /// The call was begun, and its answer was lost in the server.
    Lost = 4,
    /// Nothing but a sign of life.
    Alive = 5,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<FrameKind> {
        Some(match byte {
            1 => FrameKind::Request,
            2 => FrameKind::Reply,
            3 => FrameKind::Declined,
            4 => FrameKind::Lost,
            5 => FrameKind::Alive,
            _ => return None,
        })
    }
}

/// Why bytes are no frame, or a frame may not travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A part is longer than its limit.
    #[error("a {part} of {bytes} bytes is more than the {limit} that are allowed")]
    TooLarge {
        /// `header` or `payload`.
        part: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: usize,
    },
    /// The kind is none of this version.
    #[error("unknown kind of frame {0}")]
    UnknownKind(u8),
    /// Fewer bytes than the frame says, or more.
    #[error("the frame's length differs from what its head says")]
    WrongLength,
}

fn check_length(part: &'static str, bytes: u64, limit: usize) -> Result<(), FrameError> {
    if bytes > limit as u64 {
        return Err(FrameError::TooLarge { part, bytes, limit });
    }
    Ok(())
}

/// The fixed part of a frame on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the frame is for.
    pub kind: FrameKind,
    /// Which call of the connection it belongs to.
    pub call: u64,
    /// Length of the header, within its limit.
    pub header_bytes: usize,
    /// Length of the payload, within its limit.
    pub payload_bytes: usize,
}

impl Head {
    /// The head for `frame`, which must have passed [`Frame::check`].
    pub fn of(kind: FrameKind, call: u64, frame: &Frame) -> Head {
        Head { kind, call, header_bytes: frame.header.len(), payload_bytes: frame.payload.len() }
    }

    /// The bytes that travel.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        // Both lengths passed a check against limits far below 4 GiB.
        out[0..4].copy_from_slice(&(self.header_bytes as u32).to_le_bytes());
        out[4..8].copy_from_slice(&(self.payload_bytes as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.call.to_le_bytes());
        out[16] = self.kind as u8;
        out
    }

    /// Reads a head; refuses lengths beyond the limits and unknown kinds.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Head, FrameError> {
        let [h0, h1, h2, h3, p0, p1, p2, p3, call @ .., kind] = *bytes;
        let header = u32::from_le_bytes([h0, h1, h2, h3]);
        let payload = u32::from_le_bytes([p0, p1, p2, p3]);
        check_length("header", header.into(), MAX_HEADER_BYTES)?;
        check_length("payload", payload.into(), MAX_PAYLOAD_BYTES)?;
        Ok(Head {
            kind: FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?,
            call: u64::from_le_bytes(call),
            header_bytes: header as usize,
            payload_bytes: payload as usize,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The bytes of a head are those of protocol version 1, for good.
    #[test]
    fn the_layout_is_golden() {
        let frame = Frame::new(vec![1, 2, 3]).with_payload(vec![9; 0x0102]);
        let head = Head::of(FrameKind::Request, 0x1122_3344_5566_7788, &frame);
        let golden = [3, 0, 0, 0, 0x02, 0x01, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 1];
        assert_eq!(head.encode(), golden);
        assert_eq!(Head::decode(&golden).unwrap(), head);
        let kinds =
            [FrameKind::Request, FrameKind::Reply, FrameKind::Declined, FrameKind::Lost, FrameKind::Alive];
        assert_eq!(kinds.map(|kind| kind as u8), [1, 2, 3, 4, 5]);
    }

    /// Oversize parts are refused with their figures.
    #[test]
    fn oversize_is_refused_with_its_figures() {
        let mut bytes = Head::of(FrameKind::Reply, 1, &Frame::default()).encode();
        bytes[4..8].copy_from_slice(&(MAX_PAYLOAD_BYTES as u32 + 1).to_le_bytes());
        assert_eq!(
            Head::decode(&bytes).unwrap_err().to_string(),
            "a payload of 4194305 bytes is more than the 4194304 that are allowed"
        );
        assert!(Frame::new(vec![0; MAX_HEADER_BYTES + 1]).check().is_err());
    }

    proptest! {
        /// No bytes make the decoder panic or promise more than the limits, and what it
        /// accepts it would have written itself.
        #[test]
        fn any_bytes_are_decoded_or_refused_within_the_limits(
            bytes in any::<[u8; HEAD_BYTES]>(), small in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if small {
                // Random lengths are nearly always oversize: make half of them plausible.
                bytes[3] = 0;
                bytes[7] = 0;
                bytes[2] &= 0x0f;
                bytes[16] %= 7;
            }
            if let Ok(head) = Head::decode(&bytes) {
                prop_assert!(head.header_bytes <= MAX_HEADER_BYTES);
                prop_assert!(head.payload_bytes <= MAX_PAYLOAD_BYTES);
                prop_assert_eq!(head.encode(), bytes);
            }
        }
    }
}
