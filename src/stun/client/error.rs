//! Errors of requests to a STUN or TURN server.

use std::{io, time::Duration};

use crate::{
    stun::{message::Message, stream::DialError},
    text::printable,
};

/// Why a request to a server failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection over TCP or TLS failed.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The UDP port is closed, as reported by the server's machine (ICMP port unreachable).
    #[error("its UDP port is closed")]
    Closed,
    /// The operating system reported a network error.
    #[error("{0}")]
    Io(io::Error),
    /// The server closed the connection.
    #[error("it closed the connection without an answer")]
    HungUp,
    /// The server did not answer.
    #[error("it did not answer {requests} requests within {} s", .within.as_secs_f32())]
    Silent {
        /// Requests sent, including retransmissions.
        requests: u32,
        /// How long an answer was awaited.
        within: Duration,
    },
    /// The server sent an error answer.
    #[error("{code} {reason}")]
    Refused {
        /// ERROR-CODE (RFC 8489 §14.8).
        code: u16,
        /// The server's error text.
        reason: String,
    },
    /// A message exceeds STUN's 16-bit lengths because of its data, its login, or the server's realm or
    /// nonce.
    #[error("a STUN message cannot exceed 65535 bytes")]
    TooLong,
    /// The answer is unusable because it lacks this.
    #[error("its answer lacks {0}")]
    Answer(&'static str),
}

impl ClientError {
    pub(super) fn refused(answer: &Message<'_>) -> Self {
        Self::Refused {
            code: answer.error_code().unwrap_or_default(),
            reason: printable(&answer.error_reason()),
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Closed,
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Self::HungUp,
            _ => Self::Io(error),
        }
    }
}
