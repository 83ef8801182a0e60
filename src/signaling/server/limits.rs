//! Timings and limits of the signaling server, and what meters messages and requests.

use std::time::{Duration, Instant};

pub use crate::metering::{KeyedRate, Rate, TokenBucket, metered};
use crate::proto::signaling::MAX_MESSAGE_BYTES;

/// How long the server waits for what. The defaults are those of the wire contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// Between pings.
    pub ping_every: Duration,
    /// From a ping to its pong at the latest.
    pub pong_within: Duration,
    /// How long a live socket outlasts its token.
    pub expiry_grace: Duration,
    /// Between looks at whether the pairs of live sockets are still active.
    pub revocation_poll: Duration,
    /// For the close frame and the peer's answer to it.
    pub close_within: Duration,
    /// Sockets are closed at random times within this when the server drains.
    pub drain_jitter: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_secs(25),
            pong_within: Duration::from_secs(10),
            expiry_grace: Duration::from_secs(25),
            revocation_poll: Duration::from_secs(10),
            close_within: Duration::from_secs(2),
            drain_jitter: Duration::from_secs(5),
        }
    }
}

/// How much the server takes. The defaults are those of the wire contract, where it names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages of one socket (contract: burst 100, then 20/s).
    pub messages: Rate,
    /// Messages over [`Limits::messages`] that are answered with an error before 4004.
    pub floods: Rate,
    /// Messages that break the schema and are answered with an error before 4504.
    pub schema_errors: Rate,
    /// Messages waiting for a slow socket (contract: 64).
    pub queue_messages: usize,
    /// Bytes waiting for a slow socket (contract: 256 KiB).
    pub queue_bytes: usize,
    /// Candidates held for a peer that is not there yet (contract: 64).
    pub held_candidates: usize,
    /// Bytes of offer and candidates held for a peer that is not there yet.
    pub held_bytes: usize,
    /// Sockets at once.
    pub sockets: u32,
    /// Handshakes from one address; `None` is no limit.
    pub handshakes: Option<Rate>,
    /// Handshakes for one pair; `None` is no limit.
    pub pair_handshakes: Option<Rate>,
    /// Handshakes of one user; `None` is no limit.
    pub user_handshakes: Option<Rate>,
    /// Sockets from one address at once; `None` is no limit.
    pub sockets_per_address: Option<u32>,
    /// Sockets of one user at once; `None` is no limit.
    pub sockets_per_user: Option<u32>,
    /// Longest message, bytes (contract: 64 KiB, which is the most it can be).
    pub message_bytes: usize,
}

impl Limits {
    /// The limits of a server whose clients are all of one machine and one user.
    #[must_use]
    pub fn for_one_machine() -> Self {
        Self {
            handshakes: None,
            pair_handshakes: None,
            user_handshakes: None,
            sockets_per_address: None,
            sockets_per_user: None,
            ..Self::default()
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages: Rate::new(100, Duration::from_millis(50)),
            floods: Rate::new(10, Duration::from_secs(1)),
            schema_errors: Rate::new(4, Duration::from_secs(10)),
            queue_messages: 64,
            queue_bytes: 256 * 1024,
            held_candidates: 64,
            held_bytes: 256 * 1024,
            sockets: 20_000,
            handshakes: Some(Rate::new(60, Duration::from_millis(500))),
            pair_handshakes: Some(Rate::new(60, Duration::from_secs(1))),
            user_handshakes: Some(Rate::new(120, Duration::from_millis(500))),
            sockets_per_address: Some(1000),
            sockets_per_user: Some(50),
            message_bytes: MAX_MESSAGE_BYTES,
        }
    }
}

/// What is counted against a socket.
pub(super) struct Meters {
    pub messages: TokenBucket,
    pub floods: TokenBucket,
    pub schema_errors: TokenBucket,
}

impl Meters {
    pub(super) fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        Self {
            messages: TokenBucket::new(limits.messages, now),
            floods: TokenBucket::new(limits.floods, now),
            schema_errors: TokenBucket::new(limits.schema_errors, now),
        }
    }
}
