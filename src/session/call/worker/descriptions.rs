//! Descriptions and candidates of both peers: sends and resends offers, accepts offers and answers.

use std::sync::Arc;

use tokio::time::Instant;

use super::{CONNECT_WITHIN, CallEvent, MAX_EARLY, RESTART_WITHIN, Worker, peer_error};
use crate::{
    peer::{PeerRole, sdp::ufrag},
    proto::signaling::{Body, IceCandidateInit, offer_digest},
    session::negotiation::{NegotiationStep, SdpType},
};

impl Worker {
    pub(super) async fn offer(&mut self) -> bool {
        if !self.in_room {
            // Queued offers would be answered one after the other, so the offer is made once there is a socket.
            return true;
        }
        if self.new_peer().await.is_none() {
            return false;
        }
        let resend_at = self.resend_offer_at();
        let Some(current) = &mut self.current else { return true };
        match current.peer.create_offer().await {
            Ok(sdp) => {
                self.negotiation_log.step(|| NegotiationStep::Local(SdpType::Offer, sdp.clone()));
                current.local_sdp = Some(sdp.clone());
                current.deadline = Some(resend_at);
                self.send(Body::Offer { sdp });
                true
            }
            Err(error) => {
                self.emit(CallEvent::Failed(peer_error(&error))).await;
                false
            }
        }
    }

    pub(super) async fn on_offer(&mut self, sdp: String) -> bool {
        if self.template.role == PeerRole::Sender {
            return self.on_receiver_offer(&sdp).await;
        }
        if let Some(current) = &self.current
            && current.remote_sdp.as_ref() == Some(&sdp)
        {
            self.resend_description();
            return true;
        }
        let renegotiation = self.current.as_ref().is_some_and(|current| {
            current.remote_sdp.as_deref().is_some_and(|old| fingerprint(old) == fingerprint(&sdp))
        });
        if !renegotiation && self.new_peer().await.is_none() {
            return false;
        }
        let servers = self.ice_servers();
        let Some(current) = &mut self.current else { return true };
        let peer = Arc::clone(&current.peer);
        if renegotiation {
            current.local_candidates.clear();
            if let Err(error) = peer.set_ice_servers(&servers).await {
                tracing::warn!(%error, "ICE keeps its previous servers");
            }
        }
        let described = std::time::Instant::now();
        self.negotiation_log.step(|| NegotiationStep::Remote(SdpType::Offer, sdp.clone()));
        match peer.accept_offer(sdp.clone()).await {
            Ok(answer) => {
                self.negotiation_log
                    .step(|| NegotiationStep::Local(SdpType::Answer, answer.clone()));
                let of = offer_digest(&sdp);
                current.remote_sdp = Some(sdp);
                current.local_sdp = Some(answer.clone());
                if !current.connected {
                    current.deadline = Some(current.started + CONNECT_WITHIN);
                }
                self.send(Body::Answer { sdp: answer, offer: Some(of) });
                for candidate in std::mem::take(&mut self.early) {
                    self.negotiation_log
                        .step(|| NegotiationStep::RemoteCandidate(candidate.clone()));
                    peer.add_candidate(candidate).await;
                }
                self.emit(CallEvent::Described(described)).await
            }
            Err(error) => {
                self.negotiation_log.step(|| NegotiationStep::RemoteRefused(error.to_string()));
                self.drop_peer().await;
                self.emit(CallEvent::Refused(peer_error(&error))).await
            }
        }
    }

    /// The sender is the impolite peer (W3C perfect negotiation): its own offers take precedence. An offer that
    /// restarts ICE means that the receiver wants another path, so the sender restarts ICE itself.
    async fn on_receiver_offer(&mut self, sdp: &str) -> bool {
        let restarts = self.current.as_ref().is_some_and(|current| {
            let known = current.remote_sdp.as_deref();
            current.connected
                && current.restarting.is_none()
                && known.is_some_and(|known| {
                    fingerprint(known) == fingerprint(sdp) && ufrag(known) != ufrag(sdp)
                })
        });
        if restarts {
            return self.restart("the peer requested an ICE restart".into()).await;
        }
        tracing::info!("ignoring an offer from the receiver: only the sender makes offers");
        true
    }

    pub(super) async fn on_answer(&mut self, sdp: String, offer: Option<String>) -> bool {
        let Some(current) = &mut self.current else { return true };
        let ours = current.local_sdp.as_deref().map(offer_digest);
        if offer.is_some() && offer != ours {
            tracing::debug!("ignoring the answer to a superseded offer");
            return true;
        }
        if self.template.role == PeerRole::Receiver || current.remote_sdp.is_some() {
            return true;
        }
        if let Some(certificate) = current.restarting.as_deref()
            && fingerprint(&sdp) != Some(certificate)
        {
            // The other device has restarted in the meantime: start a new connection, too.
            return self.offer().await;
        }
        let described = std::time::Instant::now();
        self.negotiation_log.step(|| NegotiationStep::Remote(SdpType::Answer, sdp.clone()));
        match current.peer.accept_answer(sdp.clone()).await {
            Ok(()) => {
                current.remote_sdp = Some(sdp);
                current.conn.clone_from(&self.remote_conn);
                let restarting = current.restarting.is_some();
                let within = if restarting { RESTART_WITHIN } else { CONNECT_WITHIN };
                current.deadline = Some(Instant::now() + within);
                self.emit(CallEvent::Described(described)).await
            }
            Err(error) => {
                self.negotiation_log.step(|| NegotiationStep::RemoteRefused(error.to_string()));
                self.drop_peer().await;
                self.emit(CallEvent::Refused(peer_error(&error))).await
            }
        }
    }

    pub(super) async fn on_candidate(&mut self, candidate: Option<IceCandidateInit>) -> bool {
        match &self.current {
            Some(current) => {
                self.negotiation_log.step(|| NegotiationStep::RemoteCandidate(candidate.clone()));
                current.peer.add_candidate(candidate).await;
            }
            None if self.early.len() < MAX_EARLY => self.early.push(candidate),
            None => {}
        }
        true
    }

    /// Sends our description and candidates again.
    pub(super) fn resend_description(&self) {
        let Some(current) = &self.current else { return };
        let Some(sdp) = current.local_sdp.clone() else { return };
        let body = match self.template.role {
            PeerRole::Sender => Body::Offer { sdp },
            PeerRole::Receiver => {
                Body::Answer { sdp, offer: current.remote_sdp.as_deref().map(offer_digest) }
            }
        };
        self.send(body);
        for candidate in &current.local_candidates {
            self.send(Body::Ice { candidate: candidate.clone() });
        }
    }
}

/// The DTLS fingerprint of a description, which identifies the peer connection.
pub(super) fn fingerprint(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.trim_end().strip_prefix("a=fingerprint:"))
}
