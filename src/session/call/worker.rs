//! The task behind a call: follows signaling and one peer connection and decides when to offer.

mod connection;
mod credentials;
mod descriptions;
mod ice_restart;
mod recovery;
mod rejoin;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use self::{connection::CurrentConnection, recovery::Recovery, rejoin::Newcomer};
use super::{
    CallEvent,
    network::{Move, NetworkWatch},
};
use crate::{
    peer::{Peer, PeerConfig, PeerError, PeerEvent, PeerRole},
    proto::{
        signaling::{Body, IceCandidateInit, Message},
        token::IceServer,
    },
    session::{
        SessionError,
        liveness::{Health, judge, without_channel},
        negotiation::NegotiationLog,
        until,
    },
    signaling::client::{ClientEvent, ClientHandle, DialTimings},
    types::{ConnId, Stage},
};

/// An unanswered offer is sent again after this time, because some servers do not hold offers.
const RESEND_OFFER: Duration = Duration::from_secs(4);

/// The same when the server reports that the peer is present: the offer was delivered, and some peers take
/// seconds to answer.
const RESEND_OFFER_DELIVERED: Duration = Duration::from_secs(10);

/// A connection that is not established within this time is closed, and the sender replaces it.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// An offer older than this is replaced instead of being sent again.
const OFFER_LIFE: Duration = Duration::from_mins(10);

/// An ICE restart that does not succeed within this time is abandoned for a new connection.
const RESTART_WITHIN: Duration = Duration::from_secs(10);

/// Poll interval of this machine's addresses and of the liveness of the connection.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// A longer time between two polls shows that this process was suspended; it gets the same time to catch up.
const SUSPENDED: Duration = Duration::from_secs(5);

/// Maximum number of remote candidates kept while there is no peer connection to add them to.
const MAX_EARLY: usize = 256;

pub(super) struct Worker {
    client: ClientHandle,
    /// ICE servers from the last token response.
    ice_servers: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, in seconds, if known.
    clock_skew: Option<f64>,
    template: PeerConfig,
    events: mpsc::Sender<CallEvent>,
    negotiation_log: NegotiationLog,
    published: watch::Sender<Option<Arc<Peer>>>,
    current: Option<CurrentConnection>,
    early: Vec<Option<IceCandidateInit>>,
    got_hello: bool,
    /// Socket of the other device, if it joined after this one.
    remote_conn: Option<ConnId>,
    /// Whether the other device is in the room, if the server reports it.
    remote_present: Option<bool>,
    /// The server relays `state`.
    relays_state: bool,
    /// A new socket of the other device that may belong to a new peer or to the current one.
    newcomer: Option<Newcomer>,
    /// Recovery from a lost connection.
    recovery: Recovery,
    polled: Instant,
    /// When this process resumed after a suspension. Until it has caught up, traffic may be unread rather than
    /// missing.
    resumed: Option<Instant>,
    /// `None` where the addresses of this machine cannot change.
    network: Option<NetworkWatch>,
    /// There is a signaling socket; without it, offers would only pile up.
    in_room: bool,
    /// Why ICE has to be restarted once there is a signaling socket.
    restart_due: Option<String>,
}

enum Input {
    Poll,
    Client(Option<ClientEvent>),
    Peer(Option<PeerEvent>),
    Deadline,
    Close(String),
}

impl Worker {
    pub(super) fn new(
        client: ClientHandle,
        template: PeerConfig,
        negotiation_log: NegotiationLog,
        events: mpsc::Sender<CallEvent>,
        published: watch::Sender<Option<Arc<Peer>>>,
    ) -> Self {
        let network = template.network.clone().filter(|_| template.gateway.is_none());
        Self {
            client,
            network: network.map(NetworkWatch::new),
            in_room: false,
            restart_due: None,
            ice_servers: Vec::new(),
            clock_skew: None,
            template,
            events,
            negotiation_log,
            published,
            current: None,
            early: Vec::new(),
            got_hello: false,
            remote_conn: None,
            remote_present: None,
            relays_state: false,
            newcomer: None,
            recovery: Recovery::default(),
            polled: Instant::now(),
            resumed: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut client_events: mpsc::Receiver<ClientEvent>,
        mut close: oneshot::Receiver<String>,
    ) {
        let mut poll = tokio::time::interval(POLL_EVERY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let input = {
                let wake = self.wake();
                let peer_events = self.current.as_mut().map(|current| &mut current.events);
                tokio::select! {
                    reason = &mut close => Input::Close(closing(reason)),
                    event = client_events.recv() => Input::Client(event),
                    event = or_never(peer_events) => Input::Peer(event),
                    () = until(wake) => Input::Deadline,
                    _ = poll.tick() => Input::Poll,
                }
            };
            let goes_on = match input {
                Input::Close(reason) => break Some(reason),
                Input::Client(Some(event)) => self.on_client(event).await,
                Input::Client(None) => false,
                Input::Peer(Some(event)) => self.on_peer(event).await,
                Input::Peer(None) => self.lose(stopped("its events have ended")).await,
                Input::Deadline => self.on_wake().await,
                Input::Poll => self.on_poll().await,
            };
            if !goes_on {
                // The handle no longer reads events: it is about to close the call, and the reason follows.
                let closed = self.events.is_closed();
                break if closed { Some(closing((&mut close).await)) } else { None };
            }
        };
        if let Some(reason) = reason
            && let Err(error) = self.client.send(Body::Bye { reason: Some(reason) })
        {
            // The lost socket is what ended the call, and has been reported.
            tracing::debug!("bye: {error}");
        }
        self.drop_peer().await;
        self.client.close().await;
    }

    /// The earliest deadline.
    fn wake(&self) -> Option<Instant> {
        let deadline = self.current.as_ref().and_then(|current| current.deadline);
        let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.due);
        [deadline, newcomer, self.recovery.due()].into_iter().flatten().min()
    }

    async fn on_wake(&mut self) -> bool {
        let now = Instant::now();
        if self.newcomer.as_ref().is_some_and(|newcomer| now >= newcomer.due) {
            return self.on_newcomer_due().await;
        }
        if self.recovery.due().is_some_and(|due| now >= due) {
            return self.recover().await;
        }
        self.on_deadline().await
    }

    /// When to send an offer again that was just sent.
    fn resend_offer_at(&self) -> Instant {
        let delivered = self.got_hello && self.remote_present == Some(true);
        Instant::now() + if delivered { RESEND_OFFER_DELIVERED } else { RESEND_OFFER }
    }

    /// Checks the addresses of this machine and the liveness of the peer. `false` ends the call.
    async fn on_poll(&mut self) -> bool {
        let goes_on = match self.network.as_mut().and_then(NetworkWatch::poll) {
            Some(Move::To(addresses)) => self.on_moved(&addresses).await,
            Some(Move::Offline) => self.on_offline().await,
            None => true,
        };
        let now = Instant::now();
        if now.saturating_duration_since(std::mem::replace(&mut self.polled, now)) > SUSPENDED {
            self.resumed = Some(now);
        }
        let resuming = self.resumed.is_some_and(|at| now.saturating_duration_since(at) < SUSPENDED);
        match self.health() {
            Some(Health::Dead(cause)) if goes_on && !resuming => {
                let words = format!("the peer connection is dead: {}", cause.describe());
                self.lose(lost(cause.stage(), cause.code(), words)).await
            }
            _ => goes_on && self.on_channel().await,
        }
    }

    /// Reports, once per connection, that its data channel does not open.
    async fn on_channel(&mut self) -> bool {
        let Some(current) = &mut self.current else { return true };
        if current.channel_missed {
            return true;
        }
        let Some(words) = without_channel(&current.peer.vitals()) else { return true };
        current.channel_missed = true;
        self.emit(CallEvent::ChannelMissing(words)).await
    }

    /// Health of the current connection.
    fn health(&self) -> Option<Health> {
        self.current.as_ref().map(|current| judge(&current.peer.vitals()))
    }

    /// Passes on an event; `false` when the handle is gone.
    async fn emit(&self, event: CallEvent) -> bool {
        self.events.send(event).await.is_ok()
    }

    async fn on_client(&mut self, event: ClientEvent) -> bool {
        match event {
            ClientEvent::Connected { ice_servers, timings, clock_skew, .. } => {
                self.ice_servers = ice_servers;
                self.clock_skew = clock_skew;
                // The information from the previous socket no longer describes the room.
                self.remote_conn = None;
                self.remote_present = None;
                self.relays_state = false;
                self.newcomer = None;
                self.in_room = true;
                let connected = self.current.as_ref().is_some_and(|current| current.connected);
                if let Some(why) = self.restart_due.take().filter(|_| connected) {
                    return self.restart(why).await;
                }
                match &self.current {
                    Some(current) if current.is_unanswered() => {
                        // The offer may have been written to the lost socket, or may still be queued. A
                        // second offer would receive the answer to the first.
                        self.resend_description();
                        self.joined(None, Some(timings)).await
                    }
                    Some(current) if current.connected => true,
                    _ => self.begin(timings).await,
                }
            }
            ClientEvent::Renewed { ice_servers, .. } => {
                self.ice_servers = ice_servers;
                self.on_renewed().await
            }
            ClientEvent::Message(message) => self.on_message(message).await,
            ClientEvent::Disconnected { reason, .. } => {
                self.in_room = false;
                self.emit(CallEvent::SignalingLost(reason)).await
            }
            ClientEvent::Closed { reason, error, .. } => {
                let failed = match error {
                    Some(error) => SessionError::new(
                        error.stage(),
                        error.code(),
                        error.to_string(),
                        error.remedy(),
                    ),
                    None => SessionError::new(Stage::Signaling, "closed", reason, "start again"),
                };
                self.emit(CallEvent::Failed(failed)).await;
                false
            }
        }
    }

    fn send(&self, body: Body) {
        let t = body.t();
        if let Err(error) = self.client.send(body) {
            tracing::warn!("{t}: {error}");
        }
    }

    /// Joined the room: the sender offers, the receiver waits.
    async fn begin(&mut self, timings: DialTimings) -> bool {
        let goes_on = self.joined(None, Some(timings)).await;
        goes_on && (self.template.role == PeerRole::Receiver || self.offer().await)
    }

    async fn joined(&self, peer_present: Option<bool>, timings: Option<DialTimings>) -> bool {
        let clock_skew = self.clock_skew;
        self.emit(CallEvent::Joined { peer_present, timings, clock_skew }).await
    }

    async fn on_message(&mut self, message: Message) -> bool {
        match message.body {
            Body::Hello { peer_present, relays, .. } => {
                self.got_hello = true;
                self.remote_present = Some(peer_present);
                self.relays_state = relays.iter().any(|relayed| relayed == "state");
                self.send_state();
                self.joined(Some(peer_present), None).await
            }
            Body::PeerJoined { conn_id, .. } => self.on_peer_joined(conn_id).await,
            Body::PeerLeft { reason, .. } => {
                self.remote_present = Some(false);
                self.newcomer = None;
                self.emit(CallEvent::PeerLeft(reason)).await
            }
            Body::State { connection, fingerprint } => {
                self.on_state(connection, fingerprint.as_deref()).await
            }
            Body::Offer { sdp } => self.on_offer(sdp).await,
            Body::Answer { sdp, offer } => self.on_answer(sdp, offer).await,
            Body::Ice { candidate } => self.on_candidate(candidate).await,
            Body::Bye { reason } => {
                self.recovery = Recovery::default();
                let counted = self.drop_peer().await;
                self.emit(CallEvent::Bye(reason, Box::new(counted))).await
            }
            Body::Error { code, message, .. } => {
                tracing::warn!("signaling server: {code}: {message}");
                true
            }
            Body::Auth { .. } | Body::AuthOk { .. } => true,
        }
    }
}

/// The reason for `bye`; a handle that was dropped provides none.
fn closing(reason: Result<String, oneshot::error::RecvError>) -> String {
    reason.unwrap_or_else(|_| "stopped".into())
}

/// The error of a lost connection.
fn lost(stage: Stage, code: &str, why: impl Into<String>) -> SessionError {
    SessionError::new(stage, code, why, "without --once, orion-peer reconnects")
}

/// The error of a connection that stopped on this machine.
fn stopped(why: &str) -> SessionError {
    lost(
        Stage::Datachannel,
        "connection-stopped",
        format!("the peer connection has stopped: {why}"),
    )
}

fn peer_error(error: &PeerError) -> SessionError {
    SessionError::new(error.stage(), error.code(), error.to_string(), error.remedy())
}

async fn or_never<T>(receiver: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
