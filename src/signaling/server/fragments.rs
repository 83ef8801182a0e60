//! Limits the rate of continuation frames (RFC 6455 §5.4), which the WebSocket library does not expose.
//! The library reads any number of them before it returns a message, and an empty frame costs only 6
//! bytes to send: without this limit, a client with a token could keep a core busy without ever sending
//! a message that is counted.
//!
//! In tungstenite 0.30, `WebSocketContext::read` (`protocol/mod.rs`) loops until a message is complete.
//! This module parses only the frame headers, to find the start of the next frame; the library rejects
//! protocol violations.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::Error as WsError;

use super::limits::{Limits, TokenBucket};

/// Opcode of a continuation frame (RFC 6455 §5.2).
const CONTINUATION: u8 = 0;

/// Bytes of a masking key (RFC 6455 §5.2).
const MASK: u64 = 4;

/// The rate of continuation frames exceeds the limit.
#[derive(Debug, thiserror::Error)]
#[error("too many continuation frames")]
struct Flooded;

/// Whether a read failed because of too many continuation frames.
#[must_use]
pub fn is_flood(error: &WsError) -> bool {
    let WsError::Io(error) = error else { return false };
    error.get_ref().and_then(|inner| inner.downcast_ref::<Flooded>()).is_some()
}

/// A connection that limits the rate of continuation frames.
#[derive(Debug)]
pub struct Fragments<S> {
    io: S,
    frames: Frames,
    bucket: TokenBucket,
    /// Whether the limit was exceeded. Reading continues, so that a reset does not discard the close
    /// frame.
    flooded: bool,
}

impl<S> Fragments<S> {
    /// Wraps `io`; continuation frames have the same rate limit as messages.
    #[must_use]
    pub fn new(io: S, limits: &Limits) -> Self {
        let bucket = TokenBucket::new(limits.messages, Instant::now());
        Self { io, frames: Frames::default(), bucket, flooded: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Fragments<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        if this.flooded {
            return Poll::Ready(Ok(()));
        }
        let (bucket, flooded) = (&mut this.bucket, &mut this.flooded);
        this.frames.follow(&buffer.filled()[before..], |opcode| {
            *flooded |= opcode == CONTINUATION && !bucket.take(Instant::now());
        });
        if this.flooded {
            buffer.set_filled(before);
            return Poll::Ready(Err(io::Error::other(Flooded)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Fragments<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Finds the frames in a stream of bytes, which may be split anywhere.
#[derive(Debug, Default)]
struct Frames {
    /// The part of the header received so far: the first two bytes and the extended length.
    header: [u8; 10],
    held: usize,
    /// Bytes of the frame's mask and payload not received yet.
    left: u64,
}

impl Frames {
    /// Parses the next bytes, and calls `on` with the opcode of each frame whose header they complete.
    fn follow(&mut self, mut bytes: &[u8], mut on: impl FnMut(u8)) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header[self.held] = *first;
            self.held += 1;
            bytes = rest;
            if let Some(payload) = self.payload() {
                let masked = self.header[1] & 0x80 != 0;
                self.left = payload.saturating_add(if masked { MASK } else { 0 });
                self.held = 0;
                on(self.header[0] & 0x0f);
            }
        }
    }

    /// Length of the payload, once the header is complete.
    fn payload(&self) -> Option<u64> {
        let h = &self.header;
        match (self.held, h[1] & 0x7f) {
            (4, 126) => Some(u16::from_be_bytes([h[2], h[3]]).into()),
            (10, 127) => Some(u64::from_be_bytes([h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]])),
            (0 | 1, _) | (_, 126 | 127) => None,
            (_, short) => Some(short.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{super::limits::Rate, *};

    /// A masked frame whose masking key is zero.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..126 => bytes.push(0x80 | short as u8),
            long @ 126..0x1_0000 => {
                bytes.push(0x80 | 0x7e);
                bytes.extend_from_slice(&(long as u16).to_be_bytes());
            }
            huge => {
                bytes.push(0x80 | 0x7f);
                bytes.extend_from_slice(&(huge as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn frames_are_found_wherever_the_stream_is_split() {
        // The payload bytes look like headers of continuation frames.
        let sent = [(0x01, 0), (0x00, 3), (0x89, 125), (0x00, 126), (0x80, 70_000), (0x81, 65_535)];
        let stream: Vec<u8> =
            sent.iter().flat_map(|(first, length)| frame(*first, &vec![0; *length])).collect();
        for size in [1, 2, 3, 7, 1024, stream.len()] {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            for bytes in stream.chunks(size) {
                frames.follow(bytes, |opcode| seen.push(opcode));
            }
            assert_eq!(seen, [1, 0, 9, 0, 0, 1], "in chunks of {size}");
        }
    }

    #[test]
    fn the_maximum_length_does_not_cause_a_panic() {
        let mut frames = Frames::default();
        let mut seen = 0;
        let endless = [0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        frames.follow(&endless, |_| seen += 1);
        frames.follow(&[0; 5000], |_| seen += 1);
        assert_eq!((seen, frames.left), (1, u64::MAX - 5000));
    }

    #[tokio::test]
    async fn too_many_empty_fragments_fail_one_read() {
        let rate = Rate::new(100, Duration::from_hours(1));
        let limits = Limits { messages: rate, ..Limits::default() };
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut server = Fragments::new(server, &limits);
        let mut read = [0; 4096];
        client.write_all(&frame(0x01, b"")).await.unwrap();
        client.write_all(&frame(0x00, b"").repeat(100)).await.unwrap();
        let length = 6 * 101;
        server.read_exact(&mut read[..length]).await.unwrap();
        client.write_all(&frame(0x00, b"")).await.unwrap();
        let error = server.read(&mut read).await.unwrap_err();
        assert!(is_flood(&WsError::Io(error)));
        assert!(!is_flood(&WsError::Io(io::ErrorKind::ConnectionReset.into())));
        client.write_all(&frame(0x00, b"").repeat(200)).await.unwrap();
        assert!(server.read(&mut read).await.unwrap() > 0, "the rest can be read and discarded");
    }
}
