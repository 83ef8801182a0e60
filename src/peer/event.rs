//! The events, states and setup times of a peer connection.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use super::{
    assembler::{BrokenAccessUnit, WholeAccessUnit},
    control::ChannelRef,
    rtp_observer::KeyframeRequest,
};
use crate::proto::{control::ControlMessage, signaling::IceCandidateInit};

/// An event on a peer connection.
#[derive(Debug)]
pub enum PeerEvent {
    /// A local candidate to send to the remote peer; `None` marks the end of candidates.
    LocalCandidate(Option<IceCandidateInit>),
    /// A STUN or TURN server failed (W3C `RTCPeerConnectionIceErrorEvent`).
    CandidateError {
        /// URL of the server.
        url: String,
        /// STUN error code (RFC 8489 §14.8), or 701 if the server could not be reached.
        code: u16,
        /// The server's error text.
        text: String,
    },
    /// The state of the connection changed.
    State(ConnectionState),
    /// The control channel that we opened is ready.
    ControlOpen,
    /// Our control channel was closed, by the peer or with its SCTP association.
    ControlClosed,
    /// The connection has stopped working on this machine, with the reason; no further events follow.
    Stopped(String),
    /// A control message arrived: the message, its channel, and when it was read. Pings do not appear here, because
    /// the connection answers them itself.
    Control(ControlMessage, ChannelRef, Instant),
    /// Data that is not a control message arrived on a data channel; the reason why it is not one.
    ControlGarbage(String),
    /// The remote peer requests a keyframe (RTCP).
    KeyframeRequested(KeyframeRequest),
    /// A complete access unit arrived.
    AccessUnit(ReceivedAccessUnit),
    /// An access unit was abandoned.
    Broken(BrokenAccessUnit),
}

/// An access unit that arrived completely.
#[derive(Debug, Clone)]
pub struct ReceivedAccessUnit {
    /// The access unit, with information about its packets.
    pub unit: WholeAccessUnit,
    /// Wall-clock time at which it became complete.
    pub received_at: SystemTime,
}

/// W3C `RTCPeerConnectionState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Negotiation has not started.
    New,
    /// ICE or DTLS is in progress.
    Connecting,
    /// ICE and DTLS are established.
    Connected,
    /// The remote peer has not answered for some seconds.
    Disconnected,
    /// The connection was abandoned.
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

/// When each step of the setup was reached, relative to the construction of the peer connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// When the first local candidate was gathered.
    pub gathering: Option<Duration>,
    /// When ICE connected.
    pub ice: Option<Duration>,
    /// When DTLS was established.
    pub dtls: Option<Duration>,
    /// When our data channel opened.
    pub data_channel: Option<Duration>,
}
