//! Signaling client: keeps one WebSocket to `/api/signal` alive and hands messages both ways.
//!
//! It runs as a task. A lost socket is replaced with a fresh token after a pause ([`Backoff`]), close
//! codes 4500-4999 and HTTP 401/403 end it, and `auth` renews the token of a live socket before it
//! expires. Nothing beyond the production contract is needed: no `hello`, no subprotocol, no `auth-ok`.

mod access;
mod backoff;
mod clock;
mod dial;
mod endpoint;
mod error;
mod proxy;
mod run;
pub mod token_client;
mod unreachable;

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc, watch};

use access::read_claims;
pub use access::{Access, StaticToken, TokenProvider};
pub use backoff::Backoff;
pub(crate) use clock::server_time;
use clock::{clock_skew, http_date, with_clock};
pub use dial::{DialTimings, Look, Socket, look, open};
use dial::{MAX_REDIRECTS, error_body, redirect, rustls_error, stays, tls_reason};
pub use endpoint::{endpoint, redacted, redacted_text};
pub use error::ClientError;

use crate::{
    proto::{
        signaling::{Body, Message},
        token::IceServer,
    },
    stun::stream::Trust,
    types::PairId,
};

/// Messages that wait while the socket is down or slow.
const QUEUE: usize = 256;

/// Settings of [`connect`].
#[derive(Clone)]
pub struct ClientConfig {
    /// Server: `ws://`, `wss://`, `http://` or `https://`; without a path `/api/signal` is meant.
    pub url: String,
    /// Where tokens come from.
    pub tokens: Arc<dyn TokenProvider>,
    /// The certificates that a `wss://` server is believed by.
    pub trust: Trust,
    /// Whether the first connect is retried like a lost socket, instead of failing at once.
    pub retry_first: bool,
    /// The same where the server asks to come back later (HTTP 429, 503).
    pub retry_busy: bool,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Longest time for one attempt: name, TCP, TLS and upgrade.
    pub connect_within: Duration,
    /// How long before `exp` the token of a live socket is renewed.
    pub renew_before: Duration,
    /// How often the server is pinged.
    pub ping_every: Duration,
    /// How soon after a ping something must come, or the socket is given up.
    pub pong_within: Duration,
    /// How soon after a ping out of turn: when there is reason to think that the network has changed.
    pub probe_within: Duration,
}

impl ClientConfig {
    /// The contract's values.
    #[must_use]
    pub fn new(url: impl Into<String>, tokens: Arc<dyn TokenProvider>) -> Self {
        Self {
            url: url.into(),
            tokens,
            trust: Trust::web(),
            retry_first: false,
            retry_busy: false,
            backoff: Backoff::default(),
            connect_within: Duration::from_secs(10),
            renew_before: Duration::from_mins(1),
            ping_every: Duration::from_secs(25),
            pong_within: Duration::from_secs(10),
            probe_within: Duration::from_secs(2),
        }
    }
}

/// What the client tells.
#[derive(Debug)]
pub enum ClientEvent {
    /// A socket is up. `hello`, if the server sends one, follows as a [`ClientEvent::Message`].
    Connected {
        /// The pair the token is for.
        pair_id: PairId,
        /// Fresh ICE servers, when the token came from a token API.
        ice_servers: Vec<IceServer>,
        /// Whether there was a socket before.
        again: bool,
        /// How long each step to it took.
        timings: DialTimings,
        /// How far this machine's clock is ahead of the token API's or else the signaling
        /// server's, seconds (behind when negative); `None` when it does not show or is below 2 s.
        clock_skew: Option<f64>,
    },
    /// A message from the server or the other device.
    Message(Message),
    /// The server took a fresh token on the live socket.
    Renewed {
        /// Its expiry, seconds since 1970.
        exp: u64,
        /// The ICE servers that came with it.
        ice_servers: Vec<IceServer>,
    },
    /// The socket is gone, or an attempt to replace it failed.
    Disconnected {
        /// Close code, when the server sent one.
        code: Option<u16>,
        /// The cause.
        reason: String,
        /// Pause before the next attempt.
        will_retry_in: Duration,
    },
    /// The last event: there will be no other socket.
    Closed {
        /// Close code, when the server sent one.
        code: Option<u16>,
        /// The cause.
        reason: String,
        /// What went wrong; `None` when this side closed.
        error: Option<ClientError>,
    },
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many messages wait already.
    #[error("signaling message not sent: {QUEUE} messages wait for the connection already")]
    QueueFull,
    /// The client has ended.
    #[error("signaling message not sent: the client is closed")]
    Closed,
}

/// Sends messages and ends the client. When the last clone is dropped, the client closes.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    messages: mpsc::Sender<Body>,
    stop: watch::Sender<bool>,
    again: Arc<Notify>,
    probe: Arc<Notify>,
}

impl ClientHandle {
    /// Queues a message for the pair of the token.
    ///
    /// # Errors
    /// [`SendError`] when the queue is full or the client has ended.
    pub fn send(&self, body: Body) -> Result<(), SendError> {
        self.messages.try_send(body).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::QueueFull,
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }

    /// Leaves the socket and makes another one at once: the machine's network has changed, and the old
    /// socket would show it only after half a minute.
    pub fn reconnect(&self) {
        self.again.notify_one();
    }

    /// Pings the server out of turn, and gives the socket up when nothing comes within
    /// [`ClientConfig::probe_within`].
    pub fn probe(&self) {
        self.probe.notify_one();
    }

    /// Sends what is queued if the socket is up, closes it, and waits for the end.
    pub async fn close(&self) {
        let _ = self.stop.send(true);
        self.messages.closed().await;
    }
}

/// Starts the client. Its events end with [`ClientEvent::Closed`].
#[must_use]
pub fn connect(config: ClientConfig) -> (ClientHandle, mpsc::Receiver<ClientEvent>) {
    token_client::install_crypto();
    let (messages, queue) = mpsc::channel(QUEUE);
    let (stop, stopped) = watch::channel(false);
    let (events, receiver) = mpsc::channel(QUEUE);
    let (again, probe) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let asked = run::Asked { again: Arc::clone(&again), probe: Arc::clone(&probe), stopped };
    tokio::spawn(run::run(config, queue, asked, events));
    (ClientHandle { messages, stop, again, probe }, receiver)
}
