//! ICE restart on the existing connection when its path is lost (RFC 8445 §9).

use super::{
    CallAction, CallCore, CallEvent, Closing, Now, Surroundings,
    connection::{Connection, Phase},
    descriptions::fingerprint,
    lost,
};
use crate::{peer::PeerRole, proto::token::IceServer, types::Stage};

impl CallCore {
    /// The ICE servers to gather with: from the flags, or else from the last token response.
    pub(super) fn ice_servers(&self) -> Vec<IceServer> {
        if self.configured.is_empty() { &self.ice_servers } else { &self.configured }.clone()
    }

    /// Nothing has been received for 4 s: the peer's network or a NAT on the path may have changed. Only the
    /// sender offers; the receiver waits for the offer.
    pub(super) fn on_silence(&mut self, now: Now, here: &dyn Surroundings) {
        // The signaling socket may be dead, too; it is better to find out now than in half a minute.
        self.push(CallAction::Probe);
        if self.is_doubtful() && self.role == PeerRole::Sender {
            // The device with the new socket did not keep the connection alive: it is a new peer.
            self.offer_to_newcomer(now, here);
            return;
        }
        if !self.connection.as_ref().is_some_and(Connection::is_restarting) {
            self.restart(now, "nothing has been received for 4 s".into(), here);
        }
    }

    /// The addresses of this machine changed: the signaling socket is dead, and perhaps the media sockets,
    /// too.
    pub(super) fn on_moved(&mut self, now: Now, here: &dyn Surroundings) {
        self.push(CallAction::Reconnect);
        self.in_room = false;
        if self.connection.as_ref().is_some_and(|one| !one.is_established()) {
            // Its candidates are those of the previous network, and ICE can restart only on an established connection:
            // the sender offers a new one when it joins, and the receiver reports that it has none.
            self.connection = None;
            self.push(CallAction::Close(Closing::Silent));
            return;
        }
        self.restart(now, "this machine's network has changed".into(), here);
    }

    /// This machine has no address: nothing can be done until there is one.
    pub(super) fn on_offline(&mut self) {
        if self.connection.as_ref().is_some_and(Connection::is_established) {
            self.emit(CallEvent::Restarting("this machine has no network".into()));
        }
    }

    /// Restarts ICE, now or once an offer can reach the peer.
    pub(super) fn restart(&mut self, now: Now, why: String, here: &dyn Surroundings) {
        // An absent peer gets no offer: it may come back as a new peer, which cannot use a restart.
        let absent = self.remote_present == Some(false) && self.role == PeerRole::Sender;
        // The crate's driver stops permanently when it finds no network to bind to.
        if !self.in_room || here.is_offline() || absent {
            self.restart_due = Some(why);
            return;
        }
        let (ice_servers, credentials) = (self.ice_servers(), self.credentials(now));
        let present = self.remote_present == Some(true);
        let Some(connection) = &mut self.connection else { return };
        if self.role == PeerRole::Receiver {
            return;
        }
        let known = connection.remote_sdp.as_deref().and_then(fingerprint).map(str::to_owned);
        let certificate = match &connection.phase {
            Phase::SettingUp => return,
            Phase::Established => known,
            Phase::Restarting { certificate } => known.or_else(|| Some(certificate.clone())),
        };
        let Some(certificate) = certificate else { return };
        if !here.can_restart() {
            self.lose(now, lost(Stage::Ice, "restart-failed", why), here);
            return;
        }
        connection.phase = Phase::Restarting { certificate };
        connection.credentials = credentials;
        connection.local_sdp = None;
        connection.local_candidates.clear();
        connection.remote_sdp = None;
        connection.delivered = present;
        self.restarting_for = why;
        self.push(CallAction::RestartIce(ice_servers));
    }

    pub(super) fn on_restarted(
        &mut self,
        now: Now,
        offer: Option<String>,
        here: &dyn Surroundings,
    ) {
        let why = std::mem::take(&mut self.restarting_for);
        let Some(sdp) = offer else {
            self.lose(now, lost(Stage::Ice, "restart-failed", why), here);
            return;
        };
        self.send_offer(now, sdp);
        self.emit(CallEvent::Restarting(why));
    }
}
