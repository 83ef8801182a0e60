//! Decides whether a new socket of the other device belongs to the current peer or to a new one.
//!
//! The loss of a socket does not affect the peer connection, so a new socket does not necessarily mean a new
//! peer. A device of this project reports its connection in a `state` message, if the server relays it; other
//! devices are judged by their signs of life. The connection is kept while its peer is alive, ICE restarts when
//! the peer reports that it still has the connection, and otherwise one new offer is sent: a restarted app cannot
//! continue the old DTLS association. A second offer is never sent while one is being answered.

use std::time::Duration;

use tokio::time::Instant;

use super::{CallEvent, Worker, descriptions::fingerprint};
use crate::{
    peer::PeerRole,
    proto::signaling::{Body, ConnectionClaim, fingerprint_digest},
    session::liveness::{Health, Pauses},
    types::ConnId,
};

/// A peer that was alive when its socket returned shows another sign of life within this time: ICE checks are
/// 2 s apart.
const SIGN_WITHIN: Duration = Duration::from_millis(2500);

/// A device that sends `state` sends it immediately.
const CLAIM_WITHIN: Duration = Duration::from_millis(300);

/// After this time the socket is known to belong to the peer of the connection: otherwise consent would have
/// expired (RFC 7675 §5.1).
const CONFIRMED_AFTER: Duration = Duration::from_secs(30);

/// A new socket that may belong to the current peer or to a new one.
pub(super) struct Newcomer {
    conn: ConnId,
    /// Age of the connection when the socket joined.
    joined: Duration,
    /// When to decide.
    pub(super) due: Instant,
    /// A sign of life arrived after the socket joined: only silence can still indicate a new peer.
    alive: bool,
}

impl Worker {
    /// Reports the receiver's connection to the sender, which may have to offer.
    pub(super) fn send_state(&self) {
        if !self.relays_state || self.template.role == PeerRole::Sender {
            return;
        }
        let current = self.current.as_ref().filter(|current| current.remote_sdp.is_some());
        let local = current.and_then(|current| current.local_sdp.as_deref());
        let fingerprint = local.and_then(fingerprint).map(fingerprint_digest);
        let connection = match fingerprint {
            Some(_) => ConnectionClaim::Alive,
            None => ConnectionClaim::New,
        };
        self.send(Body::State { connection, fingerprint });
    }

    pub(super) async fn on_peer_joined(&mut self, conn: ConnId) -> bool {
        self.remote_present = Some(true);
        self.remote_conn = Some(conn.clone());
        if !self.emit(CallEvent::PeerJoined).await {
            return false;
        }
        if self.template.role == PeerRole::Receiver {
            return true;
        }
        let (health, resend_at) = (self.health(), self.resend_offer_at());
        let Some(current) = &mut self.current else { return self.offer().await };
        if current.conn.as_ref() == Some(&conn) {
            return true;
        }
        if current.remote_sdp.is_none() && current.restarting.is_none() {
            // An offer held by the server is handed to the newcomer; an offer that was delivered went to the lost
            // socket.
            let lost = std::mem::replace(&mut current.delivered, true);
            current.conn = Some(conn);
            current.deadline = Some(resend_at);
            if lost {
                self.resend_description();
            }
            return true;
        }
        let within = match health {
            Some(Health::Alive | Health::SettingUp) => SIGN_WITHIN,
            _ if self.relays_state => CLAIM_WITHIN,
            _ => Duration::ZERO,
        };
        let joined = current.peer.vitals().now;
        self.newcomer = Some(Newcomer { conn, joined, due: Instant::now() + within, alive: false });
        if within.is_zero() { self.on_newcomer_due().await } else { true }
    }

    /// The time allowed for a `state` message or a sign of life has elapsed.
    pub(super) async fn on_newcomer_due(&mut self) -> bool {
        let Some(newcomer) = &mut self.newcomer else { return true };
        let Some(current) = &mut self.current else {
            self.newcomer = None;
            return self.offer().await;
        };
        if newcomer.alive {
            current.conn = Some(newcomer.conn.clone());
            self.newcomer = None;
            return true;
        }
        if current.peer.vitals().last_sign_of_life().is_some_and(|heard| heard > newcomer.joined) {
            newcomer.alive = true;
            newcomer.due = Instant::now() + CONFIRMED_AFTER;
            return true;
        }
        self.offer_to_newcomer().await
    }

    /// Whether it is undecided which peer a new socket belongs to.
    pub(super) fn is_doubtful(&self) -> bool {
        self.newcomer.is_some()
    }

    /// Sends one new offer, for a new peer.
    pub(super) async fn offer_to_newcomer(&mut self) -> bool {
        self.newcomer = None;
        self.restart_due = None;
        self.recovery.pauses = Pauses::default();
        self.offer().await
    }

    /// The other device reports its connection.
    pub(super) async fn on_state(&mut self, claim: ConnectionClaim, theirs: Option<&str>) -> bool {
        if self.template.role == PeerRole::Receiver {
            return true;
        }
        let health = self.health();
        let Some(current) = &mut self.current else { return self.offer_to_newcomer().await };
        let is_first = current.remote_sdp.is_none() && current.restarting.is_none();
        let known = current.remote_sdp.as_deref().and_then(fingerprint);
        let known = known.or(current.restarting.as_deref()).map(fingerprint_digest);
        if is_first {
            // Our offer is in flight, or held by the server.
            return true;
        }
        if claim == ConnectionClaim::New || known.as_deref() != theirs {
            return self.offer_to_newcomer().await;
        }
        self.newcomer = None;
        current.conn.clone_from(&self.remote_conn);
        if let Some(why) = self.restart_due.take() {
            return self.restart(why).await;
        }
        let Some(current) = &self.current else { return true };
        if current.is_unanswered() {
            self.resend_description();
            return true;
        }
        match health {
            Some(Health::Silent) => self.restart("the peer is back".into()).await,
            _ => true,
        }
    }
}
