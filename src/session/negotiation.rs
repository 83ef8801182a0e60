//! Log of the negotiation on the peer connections of a call, in the terms of W3C's `RTCPeerConnection`. It is used
//! for dumps and for the log output.

use std::time::SystemTime;

use tokio::sync::mpsc;

use crate::{
    peer::{ConnectionState, IcePolicy},
    proto::{signaling::IceCandidateInit, token::IceServer},
};

/// Capacity of the log; further steps are dropped.
const QUEUE: usize = 4096;

/// A step and its time.
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
    /// `offer`.
    Offer,
    /// `answer`.
    Answer,
}

/// One step of a negotiation.
#[derive(Debug)]
pub enum NegotiationStep {
    /// A new peer connection: the following steps belong to it.
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
    /// The peer's description was rejected; the cause.
    RemoteRefused(String),
    /// `icecandidate`; `None` after the last candidate.
    LocalCandidate(Option<IceCandidateInit>),
    /// `addIceCandidate`; `None` after the last candidate.
    RemoteCandidate(Option<IceCandidateInit>),
    /// `connectionstatechange`.
    State(ConnectionState),
    /// `close`.
    Closed,
}

/// Collects the steps of a call; the default discards them.
#[derive(Debug, Clone, Default)]
pub struct NegotiationLog(Option<mpsc::Sender<NegotiationRecord>>);

impl NegotiationLog {
    /// A log and its receiver.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<NegotiationRecord>) {
        let (steps, read) = mpsc::channel(QUEUE);
        (Self(Some(steps)), read)
    }

    /// Records a step.
    pub(super) fn step(&self, step: impl FnOnce() -> NegotiationStep) {
        if self.0.is_none() && !tracing::enabled!(tracing::Level::INFO) {
            return;
        }
        let step = step();
        step.log();
        if let Some(steps) = &self.0 {
            // A slow reader does not delay the negotiation.
            let _ = steps.try_send(NegotiationRecord { at: SystemTime::now(), step });
        }
    }
}

impl NegotiationStep {
    /// Logs states with `-v`; with `-vv` also descriptions, line by line, and candidates. The log redacts secrets in
    /// them.
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
            Self::RemoteRefused(why) => tracing::info!("remote description rejected: {why}"),
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
