//! Descriptions and candidates of both peers: the offer/answer exchange (RFC 9429), trickled candidates (RFC 8840),
//! and ICE restarts.

use std::{sync::MutexGuard, time::Instant};

use rtc::peer_connection::{
    configuration::RTCOfferOptions, sdp::RTCSessionDescription, transport::RTCIceCandidateInit,
};

use super::Peer;
use crate::{
    media::h264::START_CODE,
    peer::{
        config::{self, PeerConfig},
        error::PeerError,
        handler::multicast_works,
        remote_candidates::{MAX_BYTES, RemoteCandidates, Target},
        sdp::{self, MediaLine, Rewritten, SdpError, Setup, hints::Hints},
    },
    proto::{signaling::IceCandidateInit, token::IceServer},
};

const WITHOUT_ICE: &str = "no ICE credentials (a=ice-ufrag): it does not come from a WebRTC peer";
const NOT_BUNDLED: &str = "not in a BUNDLE group: this peer has one transport for all m-lines";

impl Peer {
    /// Creates and sets an offer; its candidates follow as events.
    ///
    /// # Errors
    /// [`PeerError::Crate`].
    pub async fn create_offer(&self) -> Result<String, PeerError> {
        self.unless_stopped(self.new_offer(None, ["create an offer", "set the offer"])).await
    }

    async fn new_offer(
        &self,
        options: Option<RTCOfferOptions>,
        [create, set]: [&'static str; 2],
    ) -> Result<String, PeerError> {
        let offer =
            self.connection.create_offer(options).await.map_err(PeerError::crate_error(create))?;
        let sdp = offer.sdp.clone();
        self.runtime.filters().guard.local_description(&sdp);
        self.connection.set_local_description(offer).await.map_err(PeerError::crate_error(set))?;
        Ok(sdp)
    }

    /// Whether ICE can restart on this connection with the networks available now. It cannot if mDNS was in use and
    /// no longer works, as after a move from a network with IPv4 to one without.
    #[must_use]
    pub fn can_restart(&self) -> bool {
        !self.with_mdns || multicast_works()
    }

    /// Restarts ICE on this connection (RFC 8445 §9): creates an offer with new credentials, new sockets on the
    /// addresses this machine has now, and `ice_servers`. Media lost during the restart is repaired.
    ///
    /// # Errors
    /// [`PeerError::Crate`].
    pub async fn restart_ice(&self, ice_servers: &[IceServer]) -> Result<String, PeerError> {
        self.set_ice_servers(ice_servers).await?;
        let options = RTCOfferOptions { ice_restart: true };
        let names = ["create an offer that restarts ICE", "set the offer that restarts ICE"];
        self.unless_stopped(self.new_offer(Some(options), names)).await
    }

    /// Gathers with these servers at the next ICE restart.
    ///
    /// # Errors
    /// [`PeerError::Crate`].
    pub async fn set_ice_servers(&self, ice_servers: &[IceServer]) -> Result<(), PeerError> {
        let config = PeerConfig { ice_servers: ice_servers.to_vec(), ..self.config.clone() };
        self.shared.restart_gathering();
        let setting = async {
            let configured = config::rtc_configuration(&config, &self.streams);
            let set = self.connection.set_configuration(configured).await;
            set.map_err(PeerError::crate_error("set the ICE servers"))
        };
        self.unless_stopped(setting).await
    }

    /// Accepts an offer and returns the answer.
    ///
    /// # Errors
    /// [`PeerError::NoH264`] if the offer has no H.264 video, [`PeerError::NotTaken`] if its video cannot
    /// be accepted, [`PeerError::Crate`] if it cannot be read.
    pub async fn accept_offer(&self, offer: String) -> Result<String, PeerError> {
        self.unless_stopped(self.answer_to(offer)).await
    }

    async fn answer_to(&self, offer: String) -> Result<String, PeerError> {
        let (remote, targets) = self.read_remote(&offer, "offer")?;
        let shape = remote.shape;
        if !shape.bundled && shape.used() > 1 {
            return Err(PeerError::NotTaken { kind: "offer", why: NOT_BUNDLED });
        }
        let description = RTCSessionDescription::offer(remote.sdp)
            .map_err(PeerError::crate_error("read the offer"))?;
        self.set_remote(description, targets).await?;
        let answer = self
            .connection
            .create_answer(None)
            .await
            .map_err(PeerError::crate_error("create an answer"))?;
        let Some(media) = sdp::h264_media(&answer.sdp) else {
            let why = "not in a form that this peer accepts";
            return Err(PeerError::NotTaken { kind: "offer", why });
        };
        self.check_video(&answer.sdp, "offer", &[])?;
        self.runtime.filters().guard.local_description(&answer.sdp);
        let setup = *self.answered_setup.get_or_init(|| shape.setup.map(Setup::answer));
        let PeerConfig { phone_bitrate, phone_path, .. } = &self.config;
        let hints = || Hints::of(*phone_bitrate, !media.rtx.is_empty(), phone_path);
        let hints = *self.answered_hints.get_or_init(hints);
        let for_peer = shape.finish(&answer.sdp, setup, hints);
        let for_peer = for_peer.map_err(PeerError::crate_error("write the answer"))?;
        if let Some(line) = shape.candidate_line() {
            *self.shared.candidate_line.lock().expect("no holder of this lock panics") = line;
        }
        self.connection
            .set_local_description(answer)
            .await
            .map_err(PeerError::crate_error("set the answer"))?;
        Ok(for_peer)
    }

    /// Accepts the answer to our offer.
    ///
    /// # Errors
    /// [`PeerError::NoH264`] if the answer rejects the video, [`PeerError::Crate`] if it cannot be read.
    pub async fn accept_answer(&self, answer: String) -> Result<(), PeerError> {
        let (remote, targets) = self.read_remote(&answer, "answer")?;
        let description = RTCSessionDescription::answer(remote.sdp)
            .map_err(PeerError::crate_error("read the answer"))?;
        self.unless_stopped(self.set_remote(description, targets)).await
    }

    /// The remote description rewritten for the crate, and the targets of its candidates.
    fn read_remote(
        &self,
        sdp: &str,
        kind: &'static str,
    ) -> Result<(Rewritten, Vec<Target>), PeerError> {
        let described = self.remote_candidates().describe(sdp, Instant::now());
        // Everything else is read from the text that the crate will read.
        let (rewritten, targets) = described.map_err(|error| match error {
            SdpError::Unreadable(cause) => {
                let operation = if kind == "offer" { "read the offer" } else { "read the answer" };
                PeerError::Crate { operation, cause }
            }
            SdpError::NotBundled => PeerError::NotTaken { kind, why: NOT_BUNDLED },
            SdpError::Fingerprint(hashes) => PeerError::Fingerprint { kind, hashes },
        })?;
        self.check_video(&rewritten.sdp, kind, &rewritten.codecs)?;
        // Reported here, because the crate's messages name its own functions.
        if !rewritten.sdp.contains("\r\na=ice-ufrag:") {
            return Err(PeerError::NotTaken { kind, why: WITHOUT_ICE });
        }
        self.runtime.filters().media.signaled(rewritten.ssrcs.iter().copied());
        self.shared.liveness.described(rewritten.shape.lines.iter().any(MediaLine::is_data));
        Ok((rewritten, targets))
    }

    /// `codecs` are the peer's codecs, for the error message.
    fn check_video(
        &self,
        sdp: &str,
        kind: &'static str,
        codecs: &[String],
    ) -> Result<(), PeerError> {
        let media = sdp::h264_media(sdp)
            .ok_or_else(|| PeerError::NoH264 { kind, codecs: codecs.to_vec() })?;
        *self.shared.payload_types.lock().expect("no holder of this lock panics") =
            media.payload_types;
        self.shared.rtx_types.set(media.rtx);
        if !media.parameter_sets.is_empty() {
            let sets =
                media.parameter_sets.iter().flat_map(|unit| [&START_CODE[..], unit.as_slice()]);
            *self.shared.parameter_sets.lock().expect("no holder of this lock panics") =
                sets.collect::<Vec<_>>().concat().into();
        }
        Ok(())
    }

    async fn set_remote(
        &self,
        description: RTCSessionDescription,
        targets: Vec<Target>,
    ) -> Result<(), PeerError> {
        let mut early = self.remote_described.lock().await;
        let filters = self.runtime.filters();
        filters.guard.remote_description(&description.sdp);
        filters.relay_wait.remote_description(sdp::ufrag(&description.sdp), Instant::now());
        for target in targets {
            self.signaled(target);
        }
        self.connection
            .set_remote_description(description)
            .await
            .map_err(PeerError::crate_error("set the peer's description"))?;
        for candidate in early.drain(..) {
            self.add(candidate).await;
        }
        Ok(())
    }

    /// Accepts a candidate from the remote peer, even before its description; `None` marks the end of candidates.
    pub async fn add_candidate(&self, candidate: Option<IceCandidateInit>) {
        let Some(candidate) = candidate.filter(|c| !c.candidate.is_empty()) else { return };
        let init = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_mline_index,
            username_fragment: candidate.username_fragment,
            url: None,
        };
        let adding = async {
            self.add_or_keep(init).await;
            Ok(())
        };
        // A connection that has stopped is reported elsewhere.
        let _ = self.unless_stopped(adding).await;
    }

    async fn add_or_keep(&self, init: RTCIceCandidateInit) {
        let mut early = self.remote_described.lock().await;
        if self.connection.remote_description().await.is_none() {
            // A few hundred suffice; excess candidates are discarded.
            if early.len() < 256 && init.candidate.len() <= MAX_BYTES {
                early.push(init);
            }
            return;
        }
        drop(early);
        self.add(init).await;
    }

    fn remote_candidates(&self) -> MutexGuard<'_, RemoteCandidates> {
        self.remote_candidates.lock().expect("no holder of this lock panics")
    }

    async fn add(&self, candidate: RTCIceCandidateInit) {
        let taken = self.remote_candidates().takes(&candidate.candidate, Instant::now());
        let Some(target) = taken else { return };
        if let Err(error) = self.connection.add_ice_candidate(candidate).await {
            self.remote_candidates().complain(&error.to_string());
        }
        self.signaled(target);
        self.runtime.wake();
    }

    fn signaled(&self, target: Target) {
        self.gathering.early_checks.announced(target);
        self.runtime.filters().relay_wait.signaled(target);
    }
}

#[cfg(test)]
#[path = "negotiation_tests.rs"]
mod tests;
