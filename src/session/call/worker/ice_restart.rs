//! ICE restart on the existing connection when its path is lost (RFC 8445 §9).

use std::{net::IpAddr, sync::Arc};

use super::{CallEvent, NetworkWatch, Worker, descriptions::fingerprint, lost};
use crate::{
    peer::PeerRole,
    proto::{signaling::Body, token::IceServer},
    session::negotiation::{NegotiationStep, SdpType},
    types::Stage,
};

impl Worker {
    /// The ICE servers to gather with: from the flags, or else from the last token response.
    pub(super) fn ice_servers(&self) -> Vec<IceServer> {
        if self.template.ice_servers.is_empty() {
            self.ice_servers.clone()
        } else {
            self.template.ice_servers.clone()
        }
    }

    /// Nothing has been received for 4 s: the peer's network or a NAT on the path may have changed. Only the
    /// sender offers; the receiver waits for the offer.
    pub(super) async fn on_silence(&mut self) -> bool {
        // The signaling socket may be dead, too; it is better to find out now than in half a minute.
        self.client.probe();
        if self.is_doubtful() && self.template.role == PeerRole::Sender {
            // The device with the new socket did not keep the connection alive: it is a new peer.
            return self.offer_to_newcomer().await;
        }
        let restarting = self.current.as_ref().is_some_and(|current| current.restarting.is_some());
        restarting || self.restart("nothing has been received for 4 s".into()).await
    }

    /// The addresses of this machine changed: the signaling socket is dead, and perhaps the media sockets,
    /// too.
    pub(super) async fn on_moved(&mut self, addresses: &[IpAddr]) -> bool {
        self.client.reconnect();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        tracing::info!(addresses = addresses.join(", "), "this machine's network has changed");
        self.in_room = false;
        self.restart("this machine's network has changed".into()).await
    }

    /// This machine has no address: nothing can be done until there is one.
    pub(super) async fn on_offline(&mut self) -> bool {
        let connected = self.current.as_ref().is_some_and(|current| current.connected);
        !connected || self.emit(CallEvent::Restarting("this machine has no network".into())).await
    }

    /// Restarts ICE, now or once there is a signaling socket for the offer.
    pub(super) async fn restart(&mut self, why: String) -> bool {
        // The crate's driver stops permanently when it finds no network to bind to.
        let offline = self.network.as_ref().is_some_and(NetworkWatch::is_offline);
        // An absent peer gets no offer: it may come back as a new peer, which cannot use a restart.
        let absent = self.remote_present == Some(false) && self.template.role == PeerRole::Sender;
        if !self.in_room || offline || absent {
            self.restart_due = Some(why);
            return true;
        }
        let (servers, credentials) = (self.ice_servers(), self.credentials());
        let (resend_at, present) = (self.resend_offer_at(), self.remote_present == Some(true));
        let Some(current) = &mut self.current else { return true };
        if self.template.role == PeerRole::Receiver || !current.connected {
            return true;
        }
        let certificate = current.remote_sdp.as_deref().and_then(fingerprint).map(str::to_owned);
        let Some(certificate) = certificate.or_else(|| current.restarting.clone()) else {
            return true;
        };
        let peer = Arc::clone(&current.peer);
        if !peer.can_restart() {
            return self.lose(lost(Stage::Ice, "restart-failed", why)).await;
        }
        match peer.restart_ice(&servers).await {
            Ok(sdp) => {
                self.negotiation_log.step(|| NegotiationStep::Local(SdpType::Offer, sdp.clone()));
                current.restarting = Some(certificate);
                current.credentials = credentials;
                current.local_sdp = Some(sdp.clone());
                current.local_candidates.clear();
                current.remote_sdp = None;
                current.deadline = Some(resend_at);
                current.delivered = present;
                self.send(Body::Offer { sdp });
                self.emit(CallEvent::Restarting(why)).await
            }
            Err(error) => {
                tracing::warn!(%error, "ICE restart failed");
                self.lose(lost(Stage::Ice, "restart-failed", why)).await
            }
        }
    }
}
