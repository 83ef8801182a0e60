//! A new socket of the other device: is the peer that was there behind it, or a new one?
//!
//! A socket that is lost leaves the peer connection alone, so a new one need not mean a new peer. A device of
//! this project says what it has by `state`, where the server relays that; others are judged by their signs of
//! life. The connection is kept while the peer behind it is alive, ICE restarts when the peer says that it still
//! has the connection, and otherwise there is one fresh offer: a restarted app cannot continue the old DTLS
//! association. Never is a second offer sent while one is being answered.

use std::time::Duration;

use tokio::time::Instant;

use super::{CallEvent, Worker, descriptions::fingerprint};
use crate::{
    peer::PeerRole,
    proto::signaling::{Body, ConnectionClaim, fingerprint_digest},
    session::liveness::{Health, Pauses},
    types::ConnId,
};

/// A peer that was alive when its socket returned shows it once more within this time: checks of ICE are 2 s
/// apart.
const SIGN_WITHIN: Duration = Duration::from_millis(2500);

/// A device that says what it has says it at once.
const CLAIM_WITHIN: Duration = Duration::from_millis(300);

/// After this time without a replacement, the peer behind the socket is the one of the connection: consent
/// would have expired (RFC 7675 §5.1).
const CONFIRMED_AFTER: Duration = Duration::from_secs(30);

/// A socket of which it is not clear what is behind it.
pub(super) struct Newcomer {
    conn: ConnId,
    /// Age of the connection when the socket came.
    joined: Duration,
    /// When it is decided.
    pub(super) due: Instant,
    /// A sign of life came after the socket: only silence speaks against it now.
    alive: bool,
}

impl Worker {
    /// Says what this side has, to a sender that may have to offer.
    pub(super) fn claim(&self) {
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
        if !self.tell(CallEvent::PeerJoined).await {
            return false;
        }
        if self.template.role == PeerRole::Receiver {
            return true;
        }
        let (health, again) = (self.health(), self.offer_again());
        let Some(current) = &mut self.current else { return self.offer().await };
        if current.conn.as_ref() == Some(&conn) {
            return true;
        }
        if current.remote_sdp.is_none() && current.restarting.is_none() {
            // An offer that waited at the server is handed to the newcomer; one that was delivered went to a
            // socket that is gone.
            let lost = std::mem::replace(&mut current.delivered, true);
            current.conn = Some(conn);
            current.deadline = Some(again);
            if lost {
                self.describe_again();
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

    /// The time for a claim or a sign of life is over.
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
        if current.peer.vitals().heard().is_some_and(|heard| heard > newcomer.joined) {
            newcomer.alive = true;
            newcomer.due = Instant::now() + CONFIRMED_AFTER;
            return true;
        }
        self.offer_to_newcomer().await
    }

    /// Whether there is a socket of which it is not clear that the connection's peer is behind it.
    pub(super) fn is_doubtful(&self) -> bool {
        self.newcomer.is_some()
    }

    /// One fresh offer, for a new peer.
    pub(super) async fn offer_to_newcomer(&mut self) -> bool {
        self.newcomer = None;
        self.restart_due = None;
        self.recovery.pauses = Pauses::default();
        self.offer().await
    }

    /// The other device says what it has.
    pub(super) async fn on_claim(&mut self, claim: ConnectionClaim, theirs: Option<&str>) -> bool {
        if self.template.role == PeerRole::Receiver {
            return true;
        }
        let health = self.health();
        let Some(current) = &mut self.current else { return self.offer_to_newcomer().await };
        let is_first = current.remote_sdp.is_none() && current.restarting.is_none();
        let known = current.remote_sdp.as_deref().and_then(fingerprint);
        let known = known.or(current.restarting.as_deref()).map(fingerprint_digest);
        if is_first {
            // Our offer is on its way, or waits at the server.
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
            self.describe_again();
            return true;
        }
        match health {
            Some(Health::Silent) => self.restart("the peer is back".into()).await,
            _ => true,
        }
    }
}
