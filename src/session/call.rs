//! Joins the pair's room and keeps one peer connection to whoever is there.
//!
//! The sender offers as soon as it is in the room (the server holds the offer until the other device comes). The
//! receiver answers. An offer that comes twice is answered the same way again; an offer of the same DTLS
//! fingerprint is a renegotiation, any other one a new connection. Losing a signaling socket, on either end,
//! leaves the connection alone: see `worker::rejoin`.
//!
//! A connection is watched (`super::liveness`). When nothing is heard for 4 s, the sender restarts ICE on it;
//! when it is dead, the sender replaces it, and the receiver asks for that. When this machine's network changes,
//! each side takes a new signaling socket at once, for the old one is dead; the sender restarts ICE on new
//! sockets, and offers a new connection when it was the receiver that moved.

mod network;
mod worker;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::worker::Worker;
use super::{SessionError, negotiation::NegotiationLog};
use crate::{
    peer::{Peer, PeerConfig, PeerEvent, stats::Snapshot},
    proto::signaling::LeaveReason,
    signaling::client::{self, ClientConfig, DialTimings},
    types::Stage,
};

/// Events that may wait for their reader.
const QUEUE: usize = 256;

/// What a link is made from.
#[derive(Clone)]
pub struct CallConfig {
    /// Where signaling is, and where tokens come from.
    pub signaling: ClientConfig,
    /// The peer; its ICE servers, when any, take the place of those of the token answer.
    pub peer: PeerConfig,
    /// Where the steps of its negotiations go.
    pub negotiation_log: NegotiationLog,
    /// How often statistics are wanted; `None` for never.
    pub stats_every: Option<Duration>,
}

impl CallConfig {
    /// A link whose negotiations and statistics nobody asks for.
    #[must_use]
    pub fn new(signaling: ClientConfig, peer: PeerConfig) -> Self {
        Self { signaling, peer, negotiation_log: NegotiationLog::default(), stats_every: None }
    }
}

/// What happens on a link.
#[derive(Debug)]
pub enum CallEvent {
    /// In the room; whether the other device is there, when the server tells.
    Joined {
        /// As `hello` says.
        peer_present: Option<bool>,
        /// How long each step to the socket took; with the first of these events of a socket.
        timings: Option<DialTimings>,
        /// How far this machine's clock is ahead of the server's, seconds (behind when negative);
        /// `None` when it does not show or is below 2 s.
        clock_skew: Option<f64>,
    },
    /// The signaling socket is gone; it is tried again.
    SignalingLost(String),
    /// The other device came into the room.
    PeerJoined,
    /// The other device left the room.
    PeerLeft(LeaveReason),
    /// The other device says goodbye; what was counted on the connection that ends with it.
    Bye(Option<String>, Box<Option<Snapshot>>),
    /// The other side's description came; when it was taken up.
    Described(Instant),
    /// A peer connection is up.
    Connected,
    /// The peer connection is gone, with what was counted on it; another one is made when the other
    /// device is there.
    Lost(SessionError, Box<Option<Snapshot>>),
    /// The data channel does not open; in a sentence.
    ChannelMissing(String),
    /// ICE begins anew on the peer connection that is there, and why.
    Restarting(String),
    /// The other side's description cannot be used.
    Refused(SessionError),
    /// A STUN or TURN server failed.
    CandidateError {
        /// The server.
        url: String,
        /// STUN error code (RFC 8489 §14.8), or 701 when it could not be reached.
        code: u16,
        /// What happened.
        text: String,
        /// What to try.
        remedy: String,
    },
    /// Anything else on the peer connection.
    Peer(PeerEvent),
    /// The link cannot go on.
    Failed(SessionError),
}

/// The holding end of a call; its work is done on a task.
pub struct Call {
    events: mpsc::Receiver<CallEvent>,
    peer: watch::Receiver<Option<Arc<Peer>>>,
    close: Option<oneshot::Sender<String>>,
    task: JoinHandle<()>,
}

impl Call {
    /// Begins to join the room.
    #[must_use]
    pub fn start(config: CallConfig) -> Self {
        let (client, client_events) = client::connect(config.signaling);
        let (events_in, events) = mpsc::channel(QUEUE);
        let (peer_in, peer) = watch::channel(None);
        let (close, close_out) = oneshot::channel();
        let worker = Worker::new(client, config.peer, config.negotiation_log, events_in, peer_in);
        let task = tokio::spawn(worker.run(client_events, close_out));
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

    /// Says goodbye and closes everything.
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
