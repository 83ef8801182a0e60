//! The task behind a call: follows signaling and one peer connection, and decides when to offer.

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

/// An offer without an answer is sent again after this time, for servers that do not hold offers.
const OFFER_AGAIN: Duration = Duration::from_secs(4);

/// The same where the server says who is there: it has delivered the offer, and some peers take seconds to
/// answer.
const OFFER_AGAIN_DELIVERED: Duration = Duration::from_secs(10);

/// A connection that is not up by then is given up, and made anew by the sender.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// An offer that has waited for longer is not sent once more, but made anew.
const OFFER_LIFE: Duration = Duration::from_mins(10);

/// A restart of ICE that has not led anywhere by then is given up for a new connection.
const RESTART_WITHIN: Duration = Duration::from_secs(10);

/// How often the addresses of this machine are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Looks that are further apart show that this process was suspended; so long does it get to catch up.
const SUSPENDED: Duration = Duration::from_secs(5);

/// Remote candidates kept while there is no peer connection to give them to.
const MAX_EARLY: usize = 256;

pub(super) struct Worker {
    client: ClientHandle,
    /// Of the last token answer.
    ice_servers: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, seconds, when it shows.
    clock_skew: Option<f64>,
    template: PeerConfig,
    events: mpsc::Sender<CallEvent>,
    negotiation_log: NegotiationLog,
    published: watch::Sender<Option<Arc<Peer>>>,
    current: Option<CurrentConnection>,
    early: Vec<Option<IceCandidateInit>>,
    got_hello: bool,
    /// Socket of the other device, when it came after this one.
    remote_conn: Option<ConnId>,
    /// Whether the other device is in the room, where the server says so.
    remote_present: Option<bool>,
    /// The server relays `state`.
    relays_state: bool,
    /// A new socket of the other device, of which it is not clear whether a new peer is behind it.
    newcomer: Option<Newcomer>,
    /// What is done about a connection that was lost.
    recovery: Recovery,
    looked: Instant,
    /// This process was suspended until lately: what is silent may only not have been read yet.
    resumed: Option<Instant>,
    /// Where the addresses of this machine may change.
    network: Option<NetworkWatch>,
    /// There is a socket; without one offers would only pile up.
    in_room: bool,
    /// Why ICE has to begin anew once there is a socket.
    restart_due: Option<String>,
}

enum Input {
    Look,
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
            looked: Instant::now(),
            resumed: None,
        }
    }

    pub(super) async fn run(
        mut self,
        mut client_events: mpsc::Receiver<ClientEvent>,
        mut close: oneshot::Receiver<String>,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let happened = {
                let wake = self.wake();
                let peer_events = self.current.as_mut().map(|current| &mut current.events);
                tokio::select! {
                    reason = &mut close => Input::Close(closing(reason)),
                    event = client_events.recv() => Input::Client(event),
                    event = or_never(peer_events) => Input::Peer(event),
                    () = until(wake) => Input::Deadline,
                    _ = look.tick() => Input::Look,
                }
            };
            let goes_on = match happened {
                Input::Close(reason) => break Some(reason),
                Input::Client(Some(event)) => self.on_client(event).await,
                Input::Client(None) => false,
                Input::Peer(Some(event)) => self.on_peer(event).await,
                Input::Peer(None) => self.lose(stopped("its events have ended")).await,
                Input::Deadline => self.on_wake().await,
                Input::Look => self.on_look().await,
            };
            if !goes_on {
                // Nobody listens any more: it is about to be closed, and the reason is on its way.
                let closed = self.events.is_closed();
                break if closed { Some(closing((&mut close).await)) } else { None };
            }
        };
        if let Some(reason) = reason
            && let Err(error) = self.client.send(Body::Bye { reason: Some(reason) })
        {
            // The socket that is gone is why this ends, and has been reported.
            tracing::debug!("bye: {error}");
        }
        self.drop_peer().await;
        self.client.close().await;
    }

    /// When something is due.
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

    /// When an offer that was just sent is sent again.
    fn offer_again(&self) -> Instant {
        let delivered = self.got_hello && self.remote_present == Some(true);
        Instant::now() + if delivered { OFFER_AGAIN_DELIVERED } else { OFFER_AGAIN }
    }

    /// Looks at the addresses of this machine, and at the signs of life of the peer.
    async fn on_look(&mut self) -> bool {
        let goes_on = match self.network.as_mut().and_then(NetworkWatch::look) {
            Some(Move::To(addresses)) => self.on_moved(&addresses).await,
            Some(Move::Nowhere) => self.on_nowhere().await,
            None => true,
        };
        let now = Instant::now();
        if now.saturating_duration_since(std::mem::replace(&mut self.looked, now)) > SUSPENDED {
            self.resumed = Some(now);
        }
        let resuming = self.resumed.is_some_and(|at| now.saturating_duration_since(at) < SUSPENDED);
        match self.health() {
            Some(Health::Dead(cause)) if goes_on && !resuming => {
                let words = format!("the peer connection is dead: {}", cause.words());
                self.lose(lost(cause.stage(), cause.code(), words)).await
            }
            _ => goes_on && self.on_channel().await,
        }
    }

    /// Reports, once a connection, that its data channel does not open.
    async fn on_channel(&mut self) -> bool {
        let Some(current) = &mut self.current else { return true };
        if current.channel_missed {
            return true;
        }
        let Some(words) = without_channel(&current.peer.vitals()) else { return true };
        current.channel_missed = true;
        self.tell(CallEvent::ChannelMissing(words)).await
    }

    /// Of the current connection.
    fn health(&self) -> Option<Health> {
        self.current.as_ref().map(|current| judge(&current.peer.vitals()))
    }

    async fn tell(&self, event: CallEvent) -> bool {
        self.events.send(event).await.is_ok()
    }

    async fn on_client(&mut self, event: ClientEvent) -> bool {
        match event {
            ClientEvent::Connected { ice_servers, timings, clock_skew, .. } => {
                self.ice_servers = ice_servers;
                self.clock_skew = clock_skew;
                // What was seen on the socket before says nothing about the room now.
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
                        // The offer may have been written to the socket that is gone, or may still wait to
                        // be written. Another one beside it would get its answer.
                        self.describe_again();
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
                self.tell(CallEvent::SignalingLost(reason)).await
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
                self.tell(CallEvent::Failed(failed)).await;
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

    /// In the room: the sender offers, the receiver waits.
    async fn begin(&mut self, timings: DialTimings) -> bool {
        let goes_on = self.joined(None, Some(timings)).await;
        goes_on && (self.template.role == PeerRole::Receiver || self.offer().await)
    }

    async fn joined(&self, peer_present: Option<bool>, timings: Option<DialTimings>) -> bool {
        let clock_skew = self.clock_skew;
        self.tell(CallEvent::Joined { peer_present, timings, clock_skew }).await
    }

    async fn on_message(&mut self, message: Message) -> bool {
        match message.body {
            Body::Hello { peer_present, relays, .. } => {
                self.got_hello = true;
                self.remote_present = Some(peer_present);
                self.relays_state = relays.iter().any(|relayed| relayed == "state");
                self.claim();
                self.joined(Some(peer_present), None).await
            }
            Body::PeerJoined { conn_id, .. } => self.on_peer_joined(conn_id).await,
            Body::PeerLeft { reason, .. } => {
                self.remote_present = Some(false);
                self.newcomer = None;
                self.tell(CallEvent::PeerLeft(reason)).await
            }
            Body::State { connection, fingerprint } => {
                self.on_claim(connection, fingerprint.as_deref()).await
            }
            Body::Offer { sdp } => self.on_offer(sdp).await,
            Body::Answer { sdp, offer } => self.on_answer(sdp, offer).await,
            Body::Ice { candidate } => self.on_candidate(candidate).await,
            Body::Bye { reason } => {
                self.recovery = Recovery::default();
                let counted = self.drop_peer().await;
                self.tell(CallEvent::Bye(reason, Box::new(counted))).await
            }
            Body::Error { code, message, .. } => {
                tracing::warn!("signaling server: {code}: {message}");
                true
            }
            Body::Auth { .. } | Body::AuthOk { .. } => true,
        }
    }
}

/// The reason for the goodbye; one that was just dropped gave none.
fn closing(told: Result<String, oneshot::error::RecvError>) -> String {
    told.unwrap_or_else(|_| "stopped".into())
}

/// A connection that was lost.
fn lost(stage: Stage, code: &str, why: impl Into<String>) -> SessionError {
    SessionError::new(stage, code, why, "without --once, orion-peer reconnects")
}

/// A connection that this machine cannot go on with.
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
