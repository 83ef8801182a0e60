//! The task behind a link: follows signaling and one peer connection, and decides when to offer.

mod describing;
mod moving;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    LinkEvent,
    network::{Move, NetworkWatch},
};
use crate::{
    peer::{ConnectionState, Peer, PeerConfig, PeerError, PeerEvent, PeerRole, stats::Snapshot},
    proto::{
        signaling::{Body, IceCandidateInit, Message},
        token::IceServer,
    },
    session::{SessionError, until},
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

/// One peer connection of a link.
struct Current {
    peer: Arc<Peer>,
    events: mpsc::Receiver<PeerEvent>,
    /// Our description, to be sent again when it went astray.
    local_sdp: Option<String>,
    remote_sdp: Option<String>,
    local_candidates: Vec<Option<IceCandidateInit>>,
    connected: bool,
    /// ICE begins anew; the other side's certificate has to stay what it was.
    restarting: Option<String>,
    /// When to offer again (no answer yet) or to give up (answered but not connected).
    deadline: Option<Instant>,
    begun: Instant,
    /// Socket of the other device this connection is with.
    conn: Option<ConnId>,
}

impl Current {
    /// Its offer waits for an answer, and is not so old that its candidates may be stale.
    fn is_unanswered(&self) -> bool {
        let fresh = self.restarting.is_some() || self.begun.elapsed() < OFFER_LIFE;
        fresh && self.local_sdp.is_some() && self.remote_sdp.is_none()
    }
}

pub(super) struct Worker {
    client: ClientHandle,
    /// Of the last token answer.
    ice_servers: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, seconds, when it shows.
    clock_skew: Option<f64>,
    template: PeerConfig,
    events: mpsc::Sender<LinkEvent>,
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
                    reason = &mut close => Happened::Close(reason.unwrap_or_else(|_| "stopped".into())),
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
                break None;
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
            Body::Auth { .. } | Body::AuthOk { .. } => true,
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

    async fn new_peer(&mut self) -> Option<()> {
        let replaced = self.current.as_ref().is_some_and(|current| current.connected);
        let counted = self.drop_peer().await;
        if replaced {
            let why = "the other device starts a new connection".to_owned();
            if !self.tell(LinkEvent::Lost(why, Box::new(counted))).await {
                return None;
            }
        }
        let config = PeerConfig { ice_servers: self.ice_servers(), ..self.template.clone() };
        match Peer::new(config).await {
            Ok((peer, events)) => {
                let peer = Arc::new(peer);
                self.published.send_replace(Some(Arc::clone(&peer)));
                self.current = Some(Current {
                    peer,
                    events,
                    local_sdp: None,
                    remote_sdp: None,
                    local_candidates: Vec::new(),
                    connected: false,
                    restarting: None,
                    deadline: None,
                    begun: Instant::now(),
                    conn: self.remote_conn.clone(),
                });
                Some(())
            }
            Err(error) => {
                self.tell(LinkEvent::Failed(peer_error(&error))).await;
                None
            }
        }
    }

    /// Closes the connection and gives what was counted on it. What came over it and was not yet
    /// told is told first: a goodbye by signaling may overtake a keyframe that is already here.
    async fn drop_peer(&mut self) -> Option<Snapshot> {
        self.published.send_replace(None);
        let mut current = self.current.take()?;
        while let Ok(event) = current.events.try_recv() {
            let came = matches!(event, PeerEvent::AccessUnit(_) | PeerEvent::Control(..));
            if came && !self.tell(LinkEvent::Peer(event)).await {
                break;
            }
        }
        let counted = current.peer.stats().await;
        current.peer.close().await;
        Some(counted)
    }

    async fn on_peer(&mut self, event: PeerEvent) -> bool {
        match event {
            PeerEvent::LocalCandidate(candidate) => {
                if let Some(current) = &mut self.current {
                    current.local_candidates.push(candidate.clone());
                }
                self.send(Body::Ice { candidate });
                true
            }
            PeerEvent::State(ConnectionState::Connected) => {
                let Some(current) = &mut self.current else { return true };
                current.deadline = None;
                current.restarting = None;
                let event = if std::mem::replace(&mut current.connected, true) {
                    LinkEvent::Peer(event)
                } else {
                    LinkEvent::Connected
                };
                self.tell(event).await
            }
            PeerEvent::State(ConnectionState::Disconnected) => {
                self.tell(LinkEvent::Peer(event)).await && self.on_silence().await
            }
            PeerEvent::State(ConnectionState::Failed) => {
                self.lose("the peer connection failed: no answer from the other device").await
            }
            PeerEvent::CandidateError { url, code, text } => {
                let remedy = self.server_remedy(&url);
                self.tell(LinkEvent::CandidateError { url, code, text, remedy }).await
            }
            event => self.tell(LinkEvent::Peer(event)).await,
        }
    }

    /// What to try about a STUN or TURN server that failed.
    fn server_remedy(&self, url: &str) -> String {
        let results = self.current.as_ref().map(|current| current.peer.gathering());
        results
            .and_then(|results| results.into_iter().find(|result| result.url == url))
            .map(|result| result.remedy(SystemTime::now(), self.clock_skew))
            .unwrap_or_default()
    }

    /// The connection is gone: the sender makes another one, the receiver waits for its offer.
    async fn lose(&mut self, why: &str) -> bool {
        let counted = self.drop_peer().await;
        self.early.clear();
        if !self.tell(LinkEvent::Lost(why.to_owned(), Box::new(counted))).await {
            return false;
        }
        self.template.role == PeerRole::Receiver || self.offer().await
    }

    async fn on_deadline(&mut self) -> bool {
        let Some(current) = &mut self.current else { return true };
        if current.remote_sdp.is_none() {
            current.deadline = Some(Instant::now() + OFFER_AGAIN);
            let restarting = current.restarting.is_some();
            // A server that said hello holds the offer itself; sending it again would only be
            // noise while the other device is away.
            if self.in_room && (restarting || !self.told_hello || self.remote_conn.is_some()) {
                self.describe_again();
            }
            return true;
        }
        let why = match current.restarting {
            Some(_) => "no other way was found within 10 s",
            None => {
                "no connection within 30 s: the candidates of both sides do not reach each other"
            }
        };
        self.lose(why).await
    }
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
