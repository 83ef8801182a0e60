//! Joins the pair's room and keeps one peer connection to the other device.
//!
//! The sender offers as soon as it has joined (the server holds the offer until the other device joins). The
//! receiver answers. A repeated offer gets the same answer again; an offer with the same DTLS fingerprint is a
//! renegotiation, any other offer starts a new connection. The loss of a signaling socket, of either peer, does
//! not affect the connection: see `core::rejoin`.
//!
//! The connection is monitored (`super::liveness`). After 4 s without incoming traffic the sender restarts ICE;
//! when the connection is dead, the sender replaces it, and the receiver asks for a replacement. When this
//! machine's network changes, the peer opens a new signaling socket immediately, because the old one is dead. A
//! sender that moved restarts ICE on new sockets; when the receiver moved, the sender judges its new socket as
//! described in `core::rejoin`.

mod core;
mod driver;
mod network;
#[cfg(test)]
mod simulated;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::driver::CallDriver;
use super::{SessionError, negotiation::NegotiationLog};
use crate::{
    peer::{Peer, PeerConfig, PeerEvent, stats::Snapshot},
    proto::signaling::LeaveReason,
    signaling::client::{self, ClientConfig, DialTimings},
    types::Stage,
};

/// Capacity of the event queue.
const QUEUE: usize = 256;

/// Configuration of a [`Call`].
#[derive(Clone)]
pub struct CallConfig {
    /// The signaling server, and the source of tokens.
    pub signaling: ClientConfig,
    /// The local peer; its ICE servers, if any, take precedence over those of the token response.
    pub peer: PeerConfig,
    /// Log of the negotiation steps.
    pub negotiation_log: NegotiationLog,
    /// Interval between statistics; `None` disables them.
    pub stats_every: Option<Duration>,
}

impl CallConfig {
    /// A configuration without a negotiation log and without statistics.
    #[must_use]
    pub fn new(signaling: ClientConfig, peer: PeerConfig) -> Self {
        Self { signaling, peer, negotiation_log: NegotiationLog::default(), stats_every: None }
    }
}

/// An event of a [`Call`].
#[derive(Debug)]
pub enum CallEvent {
    /// Joined the room.
    Joined {
        /// Whether the other device is in the room, from `hello`; `None` before or without `hello`.
        peer_present: Option<bool>,
        /// Duration of each connection step; only in the first `Joined` event per socket.
        timings: Option<DialTimings>,
        /// How far this machine's clock is ahead of the server's, in seconds (negative: behind); `None` when
        /// unknown or below 2 s.
        clock_skew: Option<f64>,
    },
    /// The signaling socket was lost for this reason and is being reconnected.
    SignalingLost(String),
    /// The other device joined the room.
    PeerJoined,
    /// The other device left the room.
    PeerLeft(LeaveReason),
    /// The other device ended the call; carries its reason and the final statistics of the connection.
    Bye(Option<String>, Box<Option<Snapshot>>),
    /// The peer's description arrived; carries the time at which it was applied.
    Described(Instant),
    /// A peer connection is established.
    Connected,
    /// The peer connection was lost, with its final statistics; it is replaced when the other device is
    /// present.
    Lost(SessionError, Box<Option<Snapshot>>),
    /// The data channel does not open; carries a human-readable message.
    ChannelMissing(String),
    /// ICE restarts on the existing peer connection, for this reason.
    Restarting(String),
    /// The peer's description is not usable.
    Refused(SessionError),
    /// A STUN or TURN server failed.
    CandidateError {
        /// The server.
        url: String,
        /// STUN error code (RFC 8489 §14.8), or 701 when it could not be reached.
        code: u16,
        /// The failure.
        text: String,
        /// What the user can do about it.
        remedy: String,
    },
    /// Any other event of the peer connection.
    Peer(PeerEvent),
    /// The call ended with this failure.
    Failed(SessionError),
}

/// Handle of a call: room membership and one peer connection, run by a task.
pub struct Call {
    events: mpsc::Receiver<CallEvent>,
    peer: watch::Receiver<Option<Arc<Peer>>>,
    close: Option<oneshot::Sender<String>>,
    task: JoinHandle<()>,
}

impl Call {
    /// Starts joining the room.
    #[must_use]
    pub fn start(config: CallConfig) -> Self {
        let (client, client_events) = client::connect(config.signaling);
        let (events_in, events) = mpsc::channel(QUEUE);
        let (peer_in, peer) = watch::channel(None);
        let (close, close_out) = oneshot::channel();
        let driver =
            CallDriver::new(client, config.peer, config.negotiation_log, events_in, peer_in);
        let task = tokio::spawn(driver.run(client_events, close_out));
        Self { events, peer, close: Some(close), task }
    }

    /// The next event. Cancel safe.
    pub async fn next(&mut self) -> CallEvent {
        self.events.recv().await.unwrap_or_else(|| {
            CallEvent::Failed(SessionError::new(
                Stage::Signaling,
                "link-stopped",
                "the call has stopped",
                "",
            ))
        })
    }

    /// The current peer connection.
    #[must_use]
    pub fn peer(&self) -> Option<Arc<Peer>> {
        self.peer.borrow().clone()
    }

    /// Sends `bye` and closes everything.
    pub async fn close(mut self, reason: &str) {
        self.events.close();
        if let Some(close) = self.close.take() {
            let _ = close.send(reason.to_owned());
        }
        if tokio::time::timeout(Duration::from_secs(5), &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}
