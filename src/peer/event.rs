//! What happens on a peer connection, and what can go wrong with it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::{
    assembler::BrokenAccessUnit, control::ChannelRef, tap::KeyframeRequest,
    video::ReceivedAccessUnit,
};
use crate::{
    proto::{control::ControlMessage, signaling::IceCandidateInit},
    types::Stage,
};

/// What happens on a peer connection.
#[derive(Debug)]
pub enum PeerEvent {
    /// A local candidate to tell the other side; `None` when there are no more.
    LocalCandidate(Option<IceCandidateInit>),
    /// A STUN or TURN server failed (W3C `RTCPeerConnectionIceErrorEvent`).
    CandidateError {
        /// The server.
        url: String,
        /// STUN error code (RFC 8489 §14.8), or 701 when it could not be reached.
        code: u16,
        /// The server's words.
        text: String,
    },
    /// The state of the connection changed.
    State(ConnectionState),
    /// The control channel we opened can be used.
    ControlOpen,
    /// It is closed: by the peer, or with its SCTP association.
    ControlClosed,
    /// The connection has stopped working on this machine, and why: nothing more happens on it.
    Stopped(String),
    /// A control message came, and when it was read. Pings do not come out: the peer answers them
    /// itself.
    Control(ControlMessage, ChannelRef, Instant),
    /// Something came on a data channel that is no control message.
    ControlGarbage(String),
    /// The other side wants a keyframe (RTCP).
    KeyframeRequested(KeyframeRequest),
    /// A whole access unit came.
    AccessUnit(ReceivedAccessUnit),
    /// An access unit was given up.
    Broken(BrokenAccessUnit),
}

/// W3C `RTCPeerConnectionState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Nothing has begun.
    New,
    /// ICE or DTLS is under way.
    Connecting,
    /// ICE and DTLS are done.
    Connected,
    /// No answer from the other side for some seconds.
    Disconnected,
    /// Given up.
    Failed,
    /// Closed by us.
    Closed,
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Failed => "failed",
            Self::Closed => "closed",
        })
    }
}

/// A failure of the peer connection.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The crate refused an operation.
    #[error("could not {operation}: {cause}")]
    Crate {
        /// What was tried.
        operation: &'static str,
        /// The crate's words.
        cause: String,
    },
    /// No address to gather candidates on.
    #[error("no local address to connect from: {0}")]
    NoAddress(String),
    /// The other side's session description has no H.264 video.
    #[error("the other side's {kind} has no H.264 video{}", offered(.codecs))]
    NoH264 {
        /// Offer or answer.
        kind: &'static str,
        /// What it has instead.
        codecs: Vec<String>,
    },
    /// The description has H.264 video, but it cannot be used; why.
    #[error("the peer's {kind} has H.264 video, but {why}")]
    NotTaken {
        /// Offer or answer.
        kind: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The peer's certificate could not be verified.
    #[error(
        "the peer's {kind} has no DTLS fingerprint that can be verified (it has {})",
        .hashes.join(", ")
    )]
    Fingerprint {
        /// Offer or answer.
        kind: &'static str,
        /// The hash functions of those it has.
        hashes: Vec<String>,
    },
    /// Nothing can be sent yet or any more.
    #[error("{0} is not open")]
    NotOpen(&'static str),
    /// The connection has stopped working on this machine.
    #[error("the peer connection has stopped: {0}")]
    Stopped(String),
}

fn offered(codecs: &[String]) -> String {
    if codecs.is_empty() { String::new() } else { format!(" (it has {})", codecs.join(", ")) }
}

impl PeerError {
    pub(crate) fn crate_error<E: fmt::Display>(operation: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| Self::Crate { operation, cause: cause.to_string() }
    }

    /// Where in the course of a connection this belongs.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::NoAddress(_) => Stage::Gathering,
            Self::NoH264 { .. } | Self::NotTaken { .. } => Stage::Video,
            Self::Fingerprint { .. } => Stage::Dtls,
            Self::NotOpen(_) => Stage::Datachannel,
            Self::Crate { .. } | Self::Stopped(_) => Stage::Ice,
        }
    }

    /// The failure in kebab case, for programs: stable from version to version.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => "no-address",
            Self::NoH264 { .. } => "no-h264",
            Self::NotTaken { .. } => "video-not-taken",
            Self::Fingerprint { .. } => "no-fingerprint",
            Self::NotOpen(_) => "not-open",
            Self::Crate { .. } => "webrtc-failed",
            Self::Stopped(_) => "connection-stopped",
        }
    }

    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => {
                "check --interface and --network, and that the machine has an address"
            }
            Self::NoH264 { .. } => "let the other side offer H.264 with packetization-mode=1",
            Self::NotTaken { .. } => {
                "let the other side offer one bundled connection, and H.264 with packetization-mode=1"
            }
            Self::Fingerprint { .. } => {
                "let the peer send a=fingerprint:sha-256 of its certificate"
            }
            Self::NotOpen(_) => "wait until the connection is up",
            Self::Crate { .. } | Self::Stopped(_) => "run with -v for the details",
        }
    }
}

/// When each step of the set-up was reached, counted from the building of the peer connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// First local candidate.
    pub gathering: Option<Duration>,
    /// ICE connected.
    pub ice: Option<Duration>,
    /// DTLS done.
    pub dtls: Option<Duration>,
    /// Our data channel open.
    pub data_channel: Option<Duration>,
}
