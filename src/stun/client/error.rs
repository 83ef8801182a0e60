//! Why a server does not give what it is asked for.

use std::{io, time::Duration};

use crate::{
    stun::{message::Message, stream::DialError},
    types::printable,
};

/// Why a server does not give what it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection over TCP or TLS.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The UDP port is closed: the server's machine says so (ICMP port unreachable).
    #[error("its UDP port is closed")]
    Closed,
    /// The network refused.
    #[error("{0}")]
    Io(io::Error),
    /// The server closed the connection.
    #[error("it closed the connection without an answer")]
    HungUp,
    /// No answer.
    #[error("it did not answer {requests} requests within {} s", .within.as_secs_f32())]
    Silent {
        /// Requests sent, repetitions included.
        requests: u32,
        /// How long was waited.
        within: Duration,
    },
    /// An error answer.
    #[error("{code} {reason}")]
    Refused {
        /// ERROR-CODE (RFC 8489 §14.8).
        code: u16,
        /// The server's words.
        reason: String,
    },
    /// A message is longer than STUN's 16-bit lengths can say: its data, its login, or the realm or nonce
    /// of the server.
    #[error("a STUN message of more than 65535 bytes cannot be sent")]
    TooLong,
    /// An answer that cannot be used: what it lacks.
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
