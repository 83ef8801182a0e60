//! The link for TCP connections, such as to a TURN server. NATs let them through; the link delays them
//! and shares its rate with the UDP packets. TCP repairs loss, so a loss costs time instead.

use std::{sync::Arc, time::Duration};

use super::Gateway;

/// A direction through a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From inside to outside.
    Up,
    /// From outside to inside.
    Down,
}

/// When the bytes of one connection come out of the link, in one direction. What is passed first comes
/// out first.
#[derive(Debug)]
pub struct StreamLink {
    gateway: Arc<Gateway>,
    direction: Direction,
    last: Duration,
}

/// The time at which some bytes come out of the link.
#[derive(Debug)]
pub struct Due {
    gateway: Arc<Gateway>,
    at: Duration,
}

impl StreamLink {
    pub(super) fn new(gateway: Arc<Gateway>, direction: Direction) -> Self {
        Self { gateway, direction, last: Duration::ZERO }
    }

    /// Sends this many bytes now. Await [`Due::wait`] in another task than the next call, with a bounded
    /// queue between, or each chunk waits for the one before it to arrive.
    pub fn send(&mut self, bytes: usize) -> Due {
        let at = self.gateway.send_stream(self.direction, bytes).max(self.last);
        self.last = at;
        Due { gateway: Arc::clone(&self.gateway), at }
    }
}

impl Due {
    /// That time, since the gateway was made.
    #[must_use]
    pub fn at(&self) -> Duration {
        self.at
    }

    /// Waits until the bytes are there.
    pub async fn wait(self) {
        self.gateway.sleep_until(self.at).await;
    }
}
