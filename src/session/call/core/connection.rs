//! The peer connection of a call as the core sees it.

use std::time::Instant;

use super::{
    CallAction, CallCore, CallEvent, Closing, Now, OFFER_LIFE, Surroundings,
    credentials::Credentials, lost, stopped,
};
use crate::{
    peer::{ConnectionState, IcePolicy, PeerEvent},
    proto::signaling::{Body, IceCandidateInit},
    types::{ConnId, Stage},
};

/// How far a connection has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// ICE and DTLS are not established yet.
    SettingUp,
    /// They are, though the path may be silent at the moment.
    Established,
    /// ICE restarts; the peer's certificate fingerprint must not change.
    Restarting {
        /// The peer's certificate fingerprint.
        certificate: String,
    },
}

/// One peer connection of a call.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// Our description, kept to be sent again if it was lost.
    pub(super) local_sdp: Option<String>,
    /// The peer's description; `None` while our offer is unanswered.
    pub(super) remote_sdp: Option<String>,
    pub(super) local_candidates: Vec<Option<IceCandidateInit>>,
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

impl Connection {
    /// Whether ICE and DTLS were established.
    pub(super) fn is_established(&self) -> bool {
        self.phase != Phase::SettingUp
    }

    pub(super) fn is_restarting(&self) -> bool {
        matches!(self.phase, Phase::Restarting { .. })
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Whether its offer is unanswered and recent enough that its candidates are still valid.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.started);
        let fresh = self.is_restarting() || age < OFFER_LIFE;
        fresh && self.local_sdp.is_some() && self.remote_sdp.is_none()
    }
}

impl CallCore {
    /// Replaces the current connection, if any, by a new one.
    pub(super) fn new_connection(&mut self, now: Now) {
        self.close_connection();
        self.recovery.cancel();
        self.connection = Some(Connection {
            phase: Phase::SettingUp,
            local_sdp: None,
            remote_sdp: None,
            local_candidates: Vec::new(),
            channel_missed: false,
            deadline: None,
            started: now.at,
            conn: self.remote_conn.clone(),
            delivered: self.remote_present == Some(true),
            credentials: self.credentials(now),
        });
    }

    fn close_connection(&mut self) {
        let Some(old) = self.connection.take() else { return };
        let closing = if old.is_established() {
            Closing::Lost(lost(Stage::Ice, "peer-replaced", "the peer starts a new connection"))
        } else {
            Closing::Silent
        };
        self.push(CallAction::Close(closing));
    }

    pub(super) fn on_peer(&mut self, now: Now, event: PeerEvent, here: &dyn Surroundings) {
        match event {
            PeerEvent::LocalCandidate(candidate) => {
                if let Some(connection) = &mut self.connection {
                    connection.local_candidates.push(candidate.clone());
                }
                self.send(Body::Ice { candidate });
            }
            PeerEvent::State(ConnectionState::Connected) => {
                let Some(connection) = &mut self.connection else { return };
                connection.deadline = None;
                let before = std::mem::replace(&mut connection.phase, Phase::Established);
                self.recovery.pauses.established(now.at);
                self.emit(match before {
                    Phase::SettingUp => CallEvent::Connected,
                    _ => CallEvent::Peer(event),
                });
            }
            PeerEvent::State(ConnectionState::Disconnected) => {
                self.emit(CallEvent::Peer(event));
                self.on_silence(now, here);
            }
            PeerEvent::State(ConnectionState::Failed) => {
                let why = "the peer connection failed: no answer from the peer";
                self.lose(now, lost(Stage::Ice, "ice-failed", why), here);
            }
            PeerEvent::Stopped(why) => self.lose(now, stopped(&why), here),
            event => self.emit(CallEvent::Peer(event)),
        }
    }

    pub(super) fn on_deadline(&mut self, now: Now, here: &dyn Surroundings) {
        let resend_at = self.resend_offer_at(now);
        let Some(connection) = &mut self.connection else { return };
        if connection.remote_sdp.is_none() {
            connection.deadline = Some(resend_at);
            let restarting = connection.is_restarting();
            // A server that sends `hello` holds the offer itself; sending it again would be pointless
            // while the other device is absent.
            if self.in_room && (restarting || !self.got_hello || self.remote_conn.is_some()) {
                self.resend_description();
            }
            return;
        }
        if connection.is_restarting() {
            let why = "ICE restart found no working path within 10 s";
            self.lose(now, lost(Stage::Ice, "restart-failed", why), here);
            return;
        }
        if self.ice_policy == IcePolicy::Relay
            && let Some(why) = here.no_relay()
        {
            let why = format!(
                "no connection within 30 s, because no server returned a relayed candidate: {why}"
            );
            self.lose(now, lost(Stage::Gathering, "no-relay-candidate", why), here);
            return;
        }
        let why = "no connection within 30 s: no pair of candidates connects the two peers";
        self.lose(now, lost(Stage::Ice, "no-path", why), here);
    }
}
