//! What is negotiated on the peer connections of a link, step by step and in the words of W3C's
//! `RTCPeerConnection`: for dumps.

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
pub struct Negotiated {
    /// Wall clock time.
    pub at: SystemTime,
    /// The step.
    pub step: Step,
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
pub enum Step {
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

/// Where the steps of a link go: nowhere unless somebody asked for them.
#[derive(Debug, Clone, Default)]
pub struct NegotiationLog(Option<mpsc::Sender<Negotiated>>);

impl NegotiationLog {
    /// A log, and its reading end.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Negotiated>) {
        let (steps, read) = mpsc::channel(QUEUE);
        (Self(Some(steps)), read)
    }

    /// A step was taken.
    pub(super) fn step(&self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &self.0 {
            // One who does not read does not hold the negotiation up.
            let _ = steps.try_send(Negotiated { at: SystemTime::now(), step: step() });
        }
    }
}
