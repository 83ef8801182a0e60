//! The peer connection of a call: created, followed and closed.

use std::{sync::Arc, time::SystemTime};

use tokio::{sync::mpsc, time::Instant};

use super::{CallEvent, OFFER_LIFE, Worker, credentials::Credentials, lost, peer_error, stopped};
use crate::{
    peer::{ConnectionState, IcePolicy, Peer, PeerConfig, PeerEvent, no_relay, stats::Snapshot},
    proto::signaling::{Body, IceCandidateInit},
    session::negotiation::NegotiationStep,
    types::{ConnId, Stage},
};

/// One peer connection of a call.
pub(super) struct CurrentConnection {
    pub(super) peer: Arc<Peer>,
    pub(super) events: mpsc::Receiver<PeerEvent>,
    /// Our description, kept to be sent again if it was lost.
    pub(super) local_sdp: Option<String>,
    pub(super) remote_sdp: Option<String>,
    pub(super) local_candidates: Vec<Option<IceCandidateInit>>,
    pub(super) connected: bool,
    /// The peer's certificate fingerprint while ICE restarts; it must not change.
    pub(super) restarting: Option<String>,
    /// The missing data channel has already been reported.
    pub(super) channel_missed: bool,
    /// When to offer again (no answer yet) or to time out (answered but not connected).
    pub(super) deadline: Option<Instant>,
    pub(super) started: Instant,
    /// The other device's socket that this connection belongs to.
    pub(super) conn: Option<ConnId>,
    /// The other device was in the room when the offer was sent, so the server did not hold the offer.
    pub(super) delivered: bool,
    /// The expiring credentials that were used for gathering, if any.
    pub(super) credentials: Option<Credentials>,
}

impl CurrentConnection {
    /// Whether its offer is unanswered and recent enough that its candidates are still valid.
    pub(super) fn is_unanswered(&self) -> bool {
        let fresh = self.restarting.is_some() || self.started.elapsed() < OFFER_LIFE;
        fresh && self.local_sdp.is_some() && self.remote_sdp.is_none()
    }
}

impl Worker {
    pub(super) async fn new_peer(&mut self) -> Option<()> {
        let replaced = self.current.as_ref().is_some_and(|current| current.connected);
        let counted = self.drop_peer().await;
        if replaced {
            let why = lost(Stage::Ice, "peer-replaced", "the peer starts a new connection");
            if !self.emit(CallEvent::Lost(why, Box::new(counted))).await {
                return None;
            }
        }
        self.recovery.cancel();
        let config = PeerConfig { ice_servers: self.ice_servers(), ..self.template.clone() };
        self.negotiation_log.step(|| NegotiationStep::Created {
            ice_servers: config.ice_servers.clone(),
            ice_policy: config.ice_policy,
        });
        let credentials = self.credentials();
        match Peer::new(config).await {
            Ok((peer, events)) => {
                let peer = Arc::new(peer);
                self.published.send_replace(Some(Arc::clone(&peer)));
                self.current = Some(CurrentConnection {
                    peer,
                    events,
                    local_sdp: None,
                    remote_sdp: None,
                    local_candidates: Vec::new(),
                    connected: false,
                    restarting: None,
                    channel_missed: false,
                    deadline: None,
                    started: Instant::now(),
                    conn: self.remote_conn.clone(),
                    delivered: self.remote_present == Some(true),
                    credentials,
                });
                Some(())
            }
            Err(error) => {
                self.emit(CallEvent::Failed(peer_error(&error))).await;
                None
            }
        }
    }

    /// Closes the connection and returns its final statistics. Pending keyframes and control messages are
    /// passed on first: a `bye` by signaling may overtake a keyframe that has already arrived.
    pub(super) async fn drop_peer(&mut self) -> Option<Snapshot> {
        self.published.send_replace(None);
        let mut current = self.current.take()?;
        while let Ok(event) = current.events.try_recv() {
            let pending = matches!(event, PeerEvent::AccessUnit(_) | PeerEvent::Control(..));
            if pending && !self.emit(CallEvent::Peer(event)).await {
                break;
            }
        }
        let counted = current.peer.stats().await;
        current.peer.close().await;
        self.negotiation_log.step(|| NegotiationStep::Closed);
        Some(counted)
    }

    pub(super) async fn on_peer(&mut self, event: PeerEvent) -> bool {
        if let PeerEvent::State(state) = event {
            self.negotiation_log.step(|| NegotiationStep::State(state));
        }
        match event {
            PeerEvent::LocalCandidate(candidate) => {
                self.negotiation_log.step(|| NegotiationStep::LocalCandidate(candidate.clone()));
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
                self.recovery.pauses.established(std::time::Instant::now());
                let event = if std::mem::replace(&mut current.connected, true) {
                    CallEvent::Peer(event)
                } else {
                    CallEvent::Connected
                };
                self.emit(event).await
            }
            PeerEvent::State(ConnectionState::Disconnected) => {
                self.emit(CallEvent::Peer(event)).await && self.on_silence().await
            }
            PeerEvent::State(ConnectionState::Failed) => {
                let why = "the peer connection failed: no answer from the peer";
                self.lose(lost(Stage::Ice, "ice-failed", why)).await
            }
            PeerEvent::Stopped(why) => self.lose(stopped(&why)).await,
            PeerEvent::CandidateError { url, code, text } => {
                let remedy = self.server_remedy(&url);
                self.emit(CallEvent::CandidateError { url, code, text, remedy }).await
            }
            event => self.emit(CallEvent::Peer(event)).await,
        }
    }

    /// The remedy for a STUN or TURN server that failed.
    fn server_remedy(&self, url: &str) -> String {
        let results = self.current.as_ref().map(|current| current.peer.gathering());
        results
            .and_then(|results| results.into_iter().find(|result| result.url == url))
            .map(|result| result.remedy(SystemTime::now(), self.clock_skew))
            .unwrap_or_default()
    }

    pub(super) async fn on_deadline(&mut self) -> bool {
        let resend_at = self.resend_offer_at();
        let Some(current) = &mut self.current else { return true };
        if current.remote_sdp.is_none() {
            current.deadline = Some(resend_at);
            let restarting = current.restarting.is_some();
            // A server that sends `hello` holds the offer itself; sending it again would be pointless
            // while the other device is absent.
            if self.in_room && (restarting || !self.got_hello || self.remote_conn.is_some()) {
                self.resend_description();
            }
            return true;
        }
        if current.restarting.is_some() {
            let why = "ICE restart found no working path within 10 s";
            return self.lose(lost(Stage::Ice, "restart-failed", why)).await;
        }
        if self.template.ice_policy == IcePolicy::Relay
            && let Some(why) = no_relay(&current.peer.gathering())
        {
            let why = format!(
                "no connection within 30 s, because no server returned a relayed candidate: {why}"
            );
            return self.lose(lost(Stage::Gathering, "no-relay-candidate", &why)).await;
        }
        let why = "no connection within 30 s: no pair of candidates connects the two peers";
        self.lose(lost(Stage::Ice, "no-path", why)).await
    }
}
