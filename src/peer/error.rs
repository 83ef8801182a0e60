//! Errors of a peer connection, each with a code, a stage and a remedy.

use std::fmt;

use crate::types::Stage;

/// A failure of the peer connection.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The crate refused an operation.
    #[error("could not {operation}: {cause}")]
    Crate {
        /// The operation, as a verb phrase.
        operation: &'static str,
        /// The crate's error message.
        cause: String,
    },
    /// No address to gather candidates on.
    #[error("no local address to connect from: {0}")]
    NoAddress(String),
    /// The remote peer's session description has no H.264 video.
    #[error("the peer's {kind} has no H.264 video{}", offered(.codecs))]
    NoH264 {
        /// Offer or answer.
        kind: &'static str,
        /// The video codecs it lists instead.
        codecs: Vec<String>,
    },
    /// The description has H.264 video, but it cannot be used.
    #[error("the peer's {kind} has H.264 video, but {why}")]
    NotTaken {
        /// Offer or answer.
        kind: &'static str,
        /// The reason, following "but".
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
        /// The hash functions of the fingerprints it has.
        hashes: Vec<String>,
    },
    /// The channel is not open yet, or has closed.
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

    /// The stage of a connection that this error belongs to.
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

    /// The error code in kebab case, for programs: stable across versions.
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

    /// The remedy, as an imperative sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => {
                "check --interface and --network, and make sure that the machine has an address"
            }
            Self::NoH264 { .. } => "make the peer offer H.264 with packetization-mode=1",
            Self::NotTaken { .. } => {
                "make the peer offer one bundled connection, and H.264 with packetization-mode=1"
            }
            Self::Fingerprint { .. } => {
                "make the peer send a=fingerprint:sha-256 of its certificate"
            }
            Self::NotOpen(_) => "wait until the connection is established",
            Self::Crate { .. } | Self::Stopped(_) => "run with -v for the details",
        }
    }
}
