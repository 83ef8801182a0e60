//! Decides whether a new socket of the other device belongs to the current peer or to a new one.
//!
//! The loss of a socket does not affect the peer connection, so a new socket does not necessarily mean a new
//! peer. A device of this project reports its connection in a `state` message, if the server relays it; other
//! devices are judged by their signs of life. The connection is kept while its peer is alive, ICE restarts when
//! the peer reports that it still has the connection, and otherwise one new offer is sent: a restarted app cannot
//! continue the old DTLS association. A second offer is never sent while one is being answered.

use std::time::{Duration, Instant};

use super::{CallCore, CallEvent, Now, Surroundings, connection::Phase, descriptions::fingerprint};
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
#[derive(Debug)]
pub(super) struct Newcomer {
    conn: ConnId,
    /// Age of the connection when the socket joined.
    joined: Duration,
    /// When to decide.
    pub(super) due: Instant,
    /// A sign of life arrived after the socket joined: only silence can still indicate a new peer.
    alive: bool,
}

impl CallCore {
    /// Reports the receiver's connection to the sender, which may have to offer.
    pub(super) fn send_state(&mut self) {
        if !self.relays_state || self.role == PeerRole::Sender {
            return;
        }
        let connection = self.connection.as_ref().filter(|one| one.remote_sdp.is_some());
        let local = connection.and_then(|connection| connection.local_sdp.as_deref());
        let fingerprint = local.and_then(fingerprint).map(fingerprint_digest);
        let connection = match fingerprint {
            Some(_) => ConnectionClaim::Alive,
            None => ConnectionClaim::New,
        };
        self.send(Body::State { connection, fingerprint });
    }

    pub(super) fn on_peer_joined(&mut self, now: Now, conn: ConnId, here: &dyn Surroundings) {
        self.remote_present = Some(true);
        self.remote_conn = Some(conn.clone());
        self.emit(CallEvent::PeerJoined);
        if self.role == PeerRole::Receiver {
            return;
        }
        let (health, resend_at) = (self.health(here), self.resend_offer_at(now));
        let Some(connection) = &mut self.connection else {
            self.offer(now, here);
            return;
        };
        if connection.conn.as_ref() == Some(&conn) {
            return;
        }
        if connection.remote_sdp.is_none() && !connection.is_restarting() {
            // An offer held by the server is handed to the newcomer; an offer that was delivered went to the lost
            // socket.
            let lost = std::mem::replace(&mut connection.delivered, true);
            connection.conn = Some(conn);
            connection.deadline = Some(resend_at);
            if lost {
                self.resend_description();
            }
            return;
        }
        let within = match health {
            Some(Health::Alive | Health::SettingUp) => SIGN_WITHIN,
            _ if self.relays_state => CLAIM_WITHIN,
            _ => Duration::ZERO,
        };
        let joined = here.vitals().map(|vitals| vitals.now).unwrap_or_default();
        self.newcomer = Some(Newcomer { conn, joined, due: now.at + within, alive: false });
        if within.is_zero() {
            self.on_newcomer_due(now, here);
        }
    }

    /// The time allowed for a `state` message or a sign of life has elapsed.
    pub(super) fn on_newcomer_due(&mut self, now: Now, here: &dyn Surroundings) {
        let Some(newcomer) = &mut self.newcomer else { return };
        let Some(connection) = &mut self.connection else {
            self.newcomer = None;
            self.offer(now, here);
            return;
        };
        if newcomer.alive {
            connection.conn = Some(newcomer.conn.clone());
            self.newcomer = None;
            return;
        }
        let last = here.vitals().and_then(|vitals| vitals.last_sign_of_life());
        if last.is_some_and(|heard| heard > newcomer.joined) {
            newcomer.alive = true;
            newcomer.due = now.at + CONFIRMED_AFTER;
            return;
        }
        self.offer_to_newcomer(now, here);
    }

    /// Whether it is undecided which peer a new socket belongs to.
    pub(super) fn is_doubtful(&self) -> bool {
        self.newcomer.is_some()
    }

    /// Sends one new offer, for a new peer.
    pub(super) fn offer_to_newcomer(&mut self, now: Now, here: &dyn Surroundings) {
        self.newcomer = None;
        self.restart_due = None;
        self.recovery.pauses = Pauses::default();
        self.offer(now, here);
    }

    /// The other device reports its connection.
    pub(super) fn on_state(
        &mut self,
        now: Now,
        claim: ConnectionClaim,
        theirs: Option<&str>,
        here: &dyn Surroundings,
    ) {
        if self.role == PeerRole::Receiver {
            return;
        }
        let health = self.health(here);
        let Some(connection) = &mut self.connection else {
            self.offer_to_newcomer(now, here);
            return;
        };
        if connection.remote_sdp.is_none() && !connection.is_restarting() {
            // Our offer is in flight, or held by the server.
            return;
        }
        let known = match (&connection.phase, &connection.remote_sdp) {
            (_, Some(sdp)) => fingerprint(sdp),
            (Phase::Restarting { certificate }, None) => Some(certificate.as_str()),
            _ => None,
        };
        if claim == ConnectionClaim::New || known.map(fingerprint_digest).as_deref() != theirs {
            self.offer_to_newcomer(now, here);
            return;
        }
        self.newcomer = None;
        connection.conn.clone_from(&self.remote_conn);
        if let Some(why) = self.restart_due.take() {
            self.restart(now, why, here);
            return;
        }
        if connection.is_unanswered(now.at) {
            self.resend_description();
            return;
        }
        if health == Some(Health::Silent) {
            self.restart(now, "the peer is back".into(), here);
        }
    }
}
