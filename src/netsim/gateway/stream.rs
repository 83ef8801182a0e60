//! The link for TCP connections, such as to a TURN server. NATs pass them; the link delays them and shares
//! its rate with the UDP packets. TCP repairs loss, so a loss costs time instead.

use std::{sync::Arc, time::Duration};

use super::Gateway;

/// Direction through a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Outbound.
    Up,
    /// Inbound.
    Down,
}

/// Computes when the bytes of one connection leave the link, in one direction and in order.
#[derive(Debug)]
pub struct StreamLink {
    gateway: Arc<Gateway>,
    direction: Direction,
    last: Duration,
}

/// The time at which a chunk leaves the link.
#[derive(Debug)]
pub struct Due {
    gateway: Arc<Gateway>,
    at: Duration,
}

impl StreamLink {
    pub(super) fn new(gateway: Arc<Gateway>, direction: Direction) -> Self {
        Self { gateway, direction, last: Duration::ZERO }
    }

    /// Sends this many bytes now. Await [`Due::wait`] in a separate task, with a bounded queue between the
    /// two; otherwise each chunk waits until the previous one has arrived.
    pub fn send(&mut self, bytes: usize) -> Due {
        let at = self.gateway.send_stream(self.direction, bytes).max(self.last);
        self.last = at;
        Due { gateway: Arc::clone(&self.gateway), at }
    }
}

impl Due {
    /// The time, relative to the creation of the gateway.
    #[must_use]
    pub fn at(&self) -> Duration {
        self.at
    }

    /// Waits until the bytes have arrived.
    pub async fn wait(self) {
        self.gateway.sleep_until(self.at).await;
    }
}
