//! What is negotiated on the peer connections of a call, step by step and in the words of W3C's
//! `RTCPeerConnection`: for dumps and for the log.

use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::{
    peer::{ConnectionState, IcePolicy},
    proto::{signaling::IceCandidateInit, token::IceServer},
};

/// Steps that may wait to be read; more are left out.
const QUEUE: usize = 4096;

/// A step, and when it was taken.
#[derive(Debug)]
pub struct NegotiationRecord {
    /// Wall clock time.
    pub at: SystemTime,
    /// The step.
    pub step: NegotiationStep,
}

/// A description's place in the offer/answer exchange (W3C `RTCSdpType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SdpType {
    /// It asks.
    Offer,
    /// It answers.
    Answer,
}

/// One step of a negotiation.
#[derive(Debug)]
pub enum NegotiationStep {
    /// A new peer connection: what follows belongs to it.
    Created {
        /// Its STUN and TURN servers.
        ice_servers: Vec<IceServer>,
        /// Which candidates it may use.
        ice_policy: IcePolicy,
    },
    /// `setLocalDescription`.
    Local(SdpType, String),
    /// `setRemoteDescription`.
    Remote(SdpType, String),
    /// The other side's description could not be used; why.
    RemoteRefused(String),
    /// `icecandidate`; `None` when there are no more.
    LocalCandidate(Option<IceCandidateInit>),
    /// `addIceCandidate`; `None` when there are no more.
    RemoteCandidate(Option<IceCandidateInit>),
    /// `connectionstatechange`.
    State(ConnectionState),
    /// `close`.
    Closed,
}

/// Where the steps of a call go: nowhere unless somebody asked for them.
#[derive(Debug, Clone, Default)]
pub struct NegotiationLog(Option<mpsc::Sender<NegotiationRecord>>);

impl NegotiationLog {
    /// A log, and its reading end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<NegotiationRecord>) {
        let (steps, read) = mpsc::channel(QUEUE);
        (Self(Some(steps)), read)
    }

    /// A step was taken.
    pub(super) fn step(&self, step: impl FnOnce() -> NegotiationStep) {
        if self.0.is_none() && !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let step = step();
        step.log();
        if let Some(steps) = &self.0 {
            // One who does not read does not hold the negotiation up.
            let _ = steps.try_send(NegotiationRecord { at: SystemTime::now(), step });
        }
    }
}

impl NegotiationStep {
    /// States for `-v`; for `-vv` descriptions, a line of the log a line, and candidates. The log leaves out what is
    /// secret in them.
    fn log(&self) {
        let candidate = |who: &str, candidate: &Option<IceCandidateInit>| {
            let shown = candidate.as_ref().map_or("no more", |init| &init.candidate);
            tracing::debug!("{who} candidate: {shown}");
        };
        match self {
            Self::Created { ice_servers, ice_policy } => {
                let urls: Vec<&str> = ice_servers
                    .iter()
                    .flat_map(|server| &server.urls)
                    .map(String::as_str)
                    .collect();
                tracing::info!(?ice_policy, ice_servers = urls.join(", "), "peer connection: new");
            }
            Self::Local(kind, sdp) => log_description("local", *kind, sdp),
            Self::Remote(kind, sdp) => log_description("remote", *kind, sdp),
            Self::RemoteRefused(why) => tracing::info!("the remote description is refused: {why}"),
            Self::LocalCandidate(init) => candidate("local", init),
            Self::RemoteCandidate(init) => candidate("remote", init),
            Self::State(state) => tracing::info!("peer connection: {state}"),
            Self::Closed => tracing::info!("peer connection: closed"),
        }
    }
}

fn log_description(who: &str, kind: SdpType, sdp: &str) {
    let kind = match kind {
        SdpType::Offer => "offer",
        SdpType::Answer => "answer",
    };
    for line in sdp.lines() {
        tracing::debug!("{who} {kind}: {line}");
    }
}
