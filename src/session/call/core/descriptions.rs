//! Descriptions and candidates of both peers: sends and resends offers, accepts offers and answers.

use std::time::Instant;

use super::{
    AnswerError, CONNECT_WITHIN, CallAction, CallCore, CallEvent, Closing, MAX_EARLY, Now,
    RESTART_WITHIN, Surroundings, connection::Phase,
};
use crate::{
    peer::{PeerRole, sdp::ufrag},
    proto::signaling::{Body, IceCandidateInit, offer_digest},
    session::SessionError,
};

impl CallCore {
    pub(super) fn offer(&mut self, now: Now, here: &dyn Surroundings) {
        if !self.in_room || here.is_offline() {
            // Queued offers would be answered one after the other, and without a network there are no candidates: the
            // offer is made once there is a socket.
            return;
        }
        self.new_connection(now);
        let ice_servers = self.ice_servers();
        self.push(CallAction::Offer { ice_servers });
    }

    pub(super) fn on_offered(&mut self, now: Now, result: Result<String, SessionError>) {
        let sdp = match result {
            Ok(sdp) => sdp,
            Err(error) => {
                self.fail(error);
                return;
            }
        };
        self.send_offer(now, sdp);
    }

    /// Sends an offer for the first time.
    pub(super) fn send_offer(&mut self, now: Now, sdp: String) {
        let resend_at = self.resend_offer_at(now);
        let Some(connection) = &mut self.connection else { return };
        connection.local_sdp = Some(sdp.clone());
        connection.deadline = Some(resend_at);
        self.send(Body::Offer { sdp });
    }

    pub(super) fn on_offer(&mut self, now: Now, sdp: String, here: &dyn Surroundings) {
        if self.role == PeerRole::Sender {
            self.on_receiver_offer(now, &sdp, here);
            return;
        }
        let known = self.connection.as_ref().and_then(|one| one.remote_sdp.as_deref());
        if known == Some(&sdp) {
            self.resend_description();
            return;
        }
        let renegotiation = known.is_some_and(|old| fingerprint(old) == fingerprint(&sdp));
        if !renegotiation {
            self.new_connection(now);
        }
        let ice_servers = self.ice_servers();
        let Some(connection) = &mut self.connection else { return };
        if renegotiation {
            connection.local_candidates.clear();
        }
        connection.remote_sdp = Some(sdp.clone());
        self.push(CallAction::Answer { sdp, ice_servers, renegotiation });
    }

    pub(super) fn on_answered(&mut self, result: Result<(String, Instant), AnswerError>) {
        let (answer, described) = match result {
            Ok(answered) => answered,
            Err(AnswerError::Failed(error)) => {
                self.fail(error);
                return;
            }
            Err(AnswerError::Refused(error)) => {
                self.refuse(error);
                return;
            }
        };
        let Some(connection) = &mut self.connection else { return };
        connection.local_sdp = Some(answer.clone());
        if !connection.is_established() {
            connection.deadline = Some(connection.started + CONNECT_WITHIN);
        }
        let offer = connection.remote_sdp.as_deref().map(offer_digest);
        self.send(Body::Answer { sdp: answer, offer });
        for candidate in std::mem::take(&mut self.early) {
            self.push(CallAction::AddCandidate(candidate));
        }
        self.emit(CallEvent::Described(described));
    }

    /// The peer's description is not usable.
    fn refuse(&mut self, error: SessionError) {
        self.connection = None;
        self.push(CallAction::Close(Closing::Silent));
        self.emit(CallEvent::Refused(error));
    }

    /// The sender is the impolite peer (W3C perfect negotiation): its own offers take precedence. An offer that
    /// restarts ICE means that the receiver wants another path, so the sender restarts ICE itself.
    fn on_receiver_offer(&mut self, now: Now, sdp: &str, here: &dyn Surroundings) {
        let restarts = self.connection.as_ref().is_some_and(|connection| {
            let known = connection.remote_sdp.as_deref();
            connection.phase == Phase::Established
                && known.is_some_and(|known| {
                    fingerprint(known) == fingerprint(sdp) && ufrag(known) != ufrag(sdp)
                })
        });
        if restarts {
            self.restart(now, "the peer requested an ICE restart".into(), here);
        } else {
            tracing::info!("ignoring an offer from the receiver: only the sender makes offers");
        }
    }

    pub(super) fn on_answer(
        &mut self,
        now: Now,
        sdp: String,
        offer: Option<&str>,
        here: &dyn Surroundings,
    ) {
        let Some(connection) = &mut self.connection else { return };
        let ours = connection.local_sdp.as_deref().map(offer_digest);
        if offer.is_some() && offer != ours.as_deref() {
            tracing::debug!("ignoring the answer to a superseded offer");
            return;
        }
        if self.role == PeerRole::Receiver || connection.remote_sdp.is_some() {
            return;
        }
        if let Phase::Restarting { certificate } = &connection.phase
            && fingerprint(&sdp) != Some(certificate)
        {
            // The other device has restarted in the meantime: start a new connection, too.
            self.offer(now, here);
            return;
        }
        connection.remote_sdp = Some(sdp.clone());
        self.push(CallAction::AcceptAnswer(sdp));
    }

    pub(super) fn on_accepted(&mut self, now: Now, result: Result<Instant, SessionError>) {
        match result {
            Ok(described) => {
                let Some(connection) = &mut self.connection else { return };
                connection.conn.clone_from(&self.remote_conn);
                let within =
                    if connection.is_restarting() { RESTART_WITHIN } else { CONNECT_WITHIN };
                connection.deadline = Some(now.at + within);
                self.emit(CallEvent::Described(described));
            }
            Err(error) => self.refuse(error),
        }
    }

    pub(super) fn on_candidate(&mut self, candidate: Option<IceCandidateInit>) {
        match &self.connection {
            Some(_) => self.push(CallAction::AddCandidate(candidate)),
            None if self.early.len() < MAX_EARLY => self.early.push(candidate),
            None => {}
        }
    }

    /// Sends our description and candidates again.
    pub(super) fn resend_description(&mut self) {
        let Some(connection) = &self.connection else { return };
        let Some(sdp) = connection.local_sdp.clone() else { return };
        let description = match self.role {
            PeerRole::Sender => Body::Offer { sdp },
            PeerRole::Receiver => {
                Body::Answer { sdp, offer: connection.remote_sdp.as_deref().map(offer_digest) }
            }
        };
        let candidates = connection.local_candidates.clone();
        self.send(description);
        for candidate in candidates {
            self.send(Body::Ice { candidate });
        }
    }
}

/// The DTLS fingerprint of a description, which identifies the peer connection.
pub(super) fn fingerprint(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix("a=fingerprint:"))
}
