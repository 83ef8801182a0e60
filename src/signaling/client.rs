//! Signaling client: keeps one WebSocket to `/api/signal` open and passes messages in both directions.
//!
//! It runs as a task. A lost socket is reconnected with a fresh token after a pause ([`Backoff`]), close codes
//! 4500-4999 and HTTP 401/403 end the client, and `auth` renews the token of a live socket before it expires. The
//! server need not support more than the production contract: no `hello`, no subprotocol, no `auth-ok`.

mod access;
mod backoff;
mod clock;
mod dial;
mod endpoint;
mod error;
mod http;
mod proxy;
mod redact;
mod run;
pub mod token_client;
mod token_error;
mod unreachable;

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, mpsc, watch};

pub use access::{Access, StaticToken, TokenProvider};
pub use backoff::Backoff;
pub(crate) use clock::server_time;
pub use dial::{DialTimings, ServerProbe, Socket, open, probe_server};
pub use endpoint::endpoint;
pub use error::ClientError;
pub(super) use http::install_crypto;
pub use redact::{redacted, redacted_text};

use crate::{
    proto::{
        signaling::{Body, Message},
        token::IceServer,
    },
    tls::Trust,
    types::PairId,
};

/// Capacity of the message and event queues.
const QUEUE: usize = 256;

/// Configuration of the client.
#[derive(Clone)]
pub struct ClientConfig {
    /// URL of the server: `ws://`, `wss://`, `http://` or `https://`; the path defaults to `/api/signal`.
    pub url: String,
    /// Source of tokens.
    pub tokens: Arc<dyn TokenProvider>,
    /// Certificates trusted for `wss://`.
    pub trust: Trust,
    /// Whether a failed first attempt is retried like a lost socket.
    pub retry_first: bool,
    /// Whether a first attempt is retried when the server asks to come back later (HTTP 429, 503).
    pub retry_busy: bool,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Timeout of one attempt: DNS, TCP, TLS and upgrade.
    pub connect_within: Duration,
    /// How long before `exp` the token of a live socket is renewed.
    pub renew_before: Duration,
    /// Interval between pings.
    pub ping_every: Duration,
    /// Timeout after a ping: without any incoming frame the socket is abandoned.
    pub pong_within: Duration,
    /// The same timeout for a ping by [`ClientHandle::probe`].
    pub probe_within: Duration,
}

impl ClientConfig {
    /// A configuration with the values of the wire contract.
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

/// An event of the client.
#[derive(Debug)]
pub enum ClientEvent {
    /// A socket is open. `hello`, if the server sends one, follows as a [`ClientEvent::Message`].
    Connected {
        /// The pair the token is for.
        pair_id: PairId,
        /// Fresh ICE servers, if the token came from a token API.
        ice_servers: Vec<IceServer>,
        /// Whether this is a reconnection.
        again: bool,
        /// Duration of each connection step.
        timings: DialTimings,
        /// Seconds by which this machine's clock is ahead (negative: behind) of the token API's clock or, if that
        /// is unknown, of the signaling server's; `None` if unknown or below 2 s.
        clock_skew: Option<f64>,
    },
    /// A message from the server or the other device.
    Message(Message),
    /// The server accepted a fresh token on the live socket.
    Renewed {
        /// Its expiry, seconds since 1970.
        exp: u64,
        /// The ICE servers that came with it.
        ice_servers: Vec<IceServer>,
    },
    /// The socket was lost, or an attempt to reconnect failed.
    Disconnected {
        /// Close code, if the server sent one.
        code: Option<u16>,
        /// Human-readable cause.
        reason: String,
        /// Pause before the next attempt.
        will_retry_in: Duration,
    },
    /// The last event: the client has ended.
    Closed {
        /// Close code, if the server sent one.
        code: Option<u16>,
        /// Human-readable cause.
        reason: String,
        /// The failure; `None` after [`ClientHandle::close`].
        error: Option<ClientError>,
    },
}

/// Why a message was not accepted for sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The queue is full.
    #[error("signaling message not sent: {QUEUE} messages are already waiting for the connection")]
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

    /// Abandons the socket and reconnects immediately. For use after a change of network, when the old socket
    /// would fail only after half a minute.
    pub fn reconnect(&self) {
        self.again.notify_one();
    }

    /// Pings the server immediately, and abandons the socket if nothing arrives within
    /// [`ClientConfig::probe_within`].
    pub fn probe(&self) {
        self.probe.notify_one();
    }

    /// Sends the queued messages if a socket is open, closes it, and waits for the client to end.
    pub async fn close(&self) {
        let _ = self.stop.send(true);
        self.messages.closed().await;
    }
}

/// Starts the client. Its events end with [`ClientEvent::Closed`].
#[must_use]
pub fn connect(config: ClientConfig) -> (ClientHandle, mpsc::Receiver<ClientEvent>) {
    install_crypto();
    let (messages, queue) = mpsc::channel(QUEUE);
    let (stop, stopped) = watch::channel(false);
    let (events, receiver) = mpsc::channel(QUEUE);
    let (again, probe) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let controls = run::Controls { again: Arc::clone(&again), probe: Arc::clone(&probe), stopped };
    tokio::spawn(run::run(config, queue, controls, events));
    (ClientHandle { messages, stop, again, probe }, receiver)
}
