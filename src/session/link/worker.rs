//! The task behind a link: follows signaling and one peer connection, and decides when to offer.

mod connection;
mod describing;
mod moving;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use self::connection::Current;
use super::{
    LinkEvent,
    network::{Move, NetworkWatch},
};
use crate::{
    peer::{Peer, PeerConfig, PeerError, PeerEvent, PeerRole},
    proto::{
        signaling::{Body, IceCandidateInit, Message},
        token::IceServer,
    },
    session::{SessionError, negotiation::NegotiationLog, until},
    signaling::client::{ClientEvent, ClientHandle, DialTimings},
    types::{ConnId, Stage},
};

/// An offer without an answer is sent again after this time, for servers that do not hold offers.
const OFFER_AGAIN: Duration = Duration::from_secs(4);

/// A connection that is not up by then is given up, and made anew by the sender.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// An offer that has waited for longer is not sent once more, but made anew.
const OFFER_LIFE: Duration = Duration::from_mins(10);

/// A restart of ICE that has not led anywhere by then is given up for a new connection.
const RESTART_WITHIN: Duration = Duration::from_secs(10);

/// How often the addresses of this machine are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Remote candidates kept while there is no peer connection to give them to.
const MAX_EARLY: usize = 256;

pub(super) struct Worker {
    client: ClientHandle,
    /// Of the last token answer.
    ice_servers: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, seconds, when it shows.
    clock_skew: Option<f64>,
    template: PeerConfig,
    events: mpsc::Sender<LinkEvent>,
    negotiated: NegotiationLog,
    published: watch::Sender<Option<Arc<Peer>>>,
    current: Option<Current>,
    early: Vec<Option<IceCandidateInit>>,
    told_hello: bool,
    /// Socket of the other device, when it came after this one.
    remote_conn: Option<ConnId>,
    /// The other device was in the room at some time since this socket is.
    remote_seen: bool,
    /// Where the addresses of this machine may change.
    network: Option<NetworkWatch>,
    /// There is a socket; without one offers would only pile up.
    in_room: bool,
    /// Why ICE has to begin anew once there is a socket.
    restart_due: Option<String>,
}

enum Happened {
    Moved(Move),
    Client(Option<ClientEvent>),
    Peer(Option<PeerEvent>),
    Deadline,
    Close(String),
}

impl Worker {
    pub(super) fn new(
        client: ClientHandle,
        template: PeerConfig,
        negotiated: NegotiationLog,
        events: mpsc::Sender<LinkEvent>,
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
            negotiated,
            published,
            current: None,
            early: Vec::new(),
            told_hello: false,
            remote_conn: None,
            remote_seen: false,
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
                let (peer_events, deadline) = match &mut self.current {
                    Some(current) => (Some(&mut current.events), current.deadline),
                    None => (None, None),
                };
                tokio::select! {
                    reason = &mut close => Happened::Close(closing(reason)),
                    event = client_events.recv() => Happened::Client(event),
                    event = or_never(peer_events) => Happened::Peer(event),
                    () = until(deadline) => Happened::Deadline,
                    _ = look.tick() => match self.network.as_mut().and_then(NetworkWatch::look) {
                        Some(moved) => Happened::Moved(moved),
                        None => continue,
                    },
                }
            };
            let goes_on = match happened {
                Happened::Close(reason) => break Some(reason),
                Happened::Client(Some(event)) => self.on_client(event).await,
                Happened::Client(None) => false,
                Happened::Peer(Some(event)) => self.on_peer(event).await,
                Happened::Peer(None) => self.lose("the peer connection has stopped").await,
                Happened::Deadline => self.on_deadline().await,
                Happened::Moved(Move::To(addresses)) => self.on_moved(&addresses).await,
                Happened::Moved(Move::Nowhere) => self.on_nowhere().await,
            };
            if !goes_on {
                // Nobody listens any more: it is about to be closed, and the reason is on its way.
                let closed = self.events.is_closed();
                break if closed { Some(closing((&mut close).await)) } else { None };
            }
        };
        if let Some(reason) = reason {
            self.send(Body::Bye { reason: Some(reason) });
        }
        self.drop_peer().await;
        self.client.close().await;
    }

    async fn tell(&self, event: LinkEvent) -> bool {
        self.events.send(event).await.is_ok()
    }

    async fn on_client(&mut self, event: ClientEvent) -> bool {
        match event {
            ClientEvent::Connected { ice_servers, timings, clock_skew, .. } => {
                self.ice_servers = ice_servers;
                self.clock_skew = clock_skew;
                // What was seen on the socket before says nothing about the room now.
                self.remote_conn = None;
                self.remote_seen = false;
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
                true
            }
            ClientEvent::Message(message) => self.on_message(message).await,
            ClientEvent::Disconnected { reason, .. } => {
                self.in_room = false;
                self.tell(LinkEvent::SignalingLost(reason)).await
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
                self.tell(LinkEvent::Failed(failed)).await;
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
        self.tell(LinkEvent::Joined { peer_present, timings, clock_skew }).await
    }

    async fn on_message(&mut self, message: Message) -> bool {
        match message.body {
            Body::Hello { peer_present, .. } => {
                self.told_hello = true;
                self.remote_seen |= peer_present;
                self.joined(Some(peer_present), None).await
            }
            Body::PeerJoined { conn_id, .. } => self.on_peer_joined(conn_id).await,
            Body::PeerLeft { reason, .. } => {
                self.remote_seen = true;
                self.tell(LinkEvent::PeerLeft(reason)).await
            }
            Body::Offer { sdp } => self.on_offer(sdp).await,
            Body::Answer { sdp, offer } => self.on_answer(sdp, offer).await,
            Body::Ice { candidate } => self.on_candidate(candidate).await,
            Body::Bye { reason } => {
                let counted = self.drop_peer().await;
                self.tell(LinkEvent::Bye(reason, Box::new(counted))).await
            }
            Body::Error { code, message, .. } => {
                tracing::warn!("signaling server: {code}: {message}");
                true
            }
            Body::State { .. } | Body::Auth { .. } | Body::AuthOk { .. } => true,
        }
    }

    /// A new socket of the other device: the offerer offers anew, unless its offer is still waiting
    /// for an answer, which the server hands to the newcomer itself.
    async fn on_peer_joined(&mut self, conn: ConnId) -> bool {
        if !self.tell(LinkEvent::PeerJoined).await {
            return false;
        }
        self.remote_conn = Some(conn.clone());
        let known = std::mem::replace(&mut self.remote_seen, true);
        if self.template.role == PeerRole::Receiver {
            return true;
        }
        match &mut self.current {
            Some(current) if current.remote_sdp.is_none() => {
                current.conn = Some(conn);
                current.deadline = Some(Instant::now() + OFFER_AGAIN);
                true
            }
            Some(current) if current.conn.as_ref() == Some(&conn) => true,
            // Both are back in a room that was gone, after a restart of the server, while media
            // flows: should its peer connection be gone, ours fails and is made anew.
            Some(current) if current.connected && !known => true,
            _ => self.offer().await,
        }
    }
}

/// The reason for the goodbye; one that was just dropped gave none.
fn closing(told: Result<String, oneshot::error::RecvError>) -> String {
    told.unwrap_or_else(|_| "stopped".into())
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
