//! Timings and limits of the signaling server, and the meters of a socket.

use std::time::{Duration, Instant};

pub use crate::metering::{KeyedRate, Rate, TokenBucket, metered};
use crate::proto::signaling::MAX_MESSAGE_BYTES;

/// Intervals and timeouts of the server. The defaults are those of the wire contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    /// Interval between pings.
    pub ping_every: Duration,
    /// Maximum time from a ping to its pong.
    pub pong_within: Duration,
    /// How long a live socket may outlast its token.
    pub expiry_grace: Duration,
    /// Interval between checks that the pairs of live sockets are still active.
    pub revocation_poll: Duration,
    /// Timeout for the close frame and the client's reply to it.
    pub close_within: Duration,
    /// When the server drains, sockets are closed at random times within this duration.
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

/// Limits of the server. The defaults are those of the wire contract, if it defines them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rate of messages of one socket (contract: burst 100, then 20/s).
    pub messages: Rate,
    /// Rate of messages over [`Limits::messages`] that are answered with an error instead of 4004.
    pub floods: Rate,
    /// Rate of messages that violate the schema and are answered with an error instead of 4504.
    pub schema_errors: Rate,
    /// Maximum number of messages queued for a slow socket (contract: 64).
    pub queue_messages: usize,
    /// Maximum number of bytes queued for a slow socket (contract: 256 KiB).
    pub queue_bytes: usize,
    /// Maximum number of candidates held for an absent peer (contract: 64).
    pub held_candidates: usize,
    /// Maximum number of bytes of offer and candidates held for an absent peer.
    pub held_bytes: usize,
    /// Maximum number of concurrent sockets.
    pub sockets: u32,
    /// Rate of handshakes from one address; `None` means no limit.
    pub handshakes: Option<Rate>,
    /// Rate of handshakes for one pair; `None` means no limit.
    pub pair_handshakes: Option<Rate>,
    /// Rate of handshakes of one user; `None` means no limit.
    pub user_handshakes: Option<Rate>,
    /// Maximum number of concurrent sockets from one address; `None` means no limit.
    pub sockets_per_address: Option<u32>,
    /// Maximum number of concurrent sockets of one user; `None` means no limit.
    pub sockets_per_user: Option<u32>,
    /// Maximum size of a message in bytes (contract: 64 KiB; it cannot be larger).
    pub message_bytes: usize,
}

impl Limits {
    /// The limits of a server whose clients are all on one machine and of one user.
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

/// The meters of one socket.
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
