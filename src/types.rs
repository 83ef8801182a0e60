//! Vocabulary shared by every layer: ids, candidate types, connection types, stages, loopback URLs.
//!
//! Candidate types are those of RFC 8445 §4; the relay transport is the one between a peer and its
//! TURN server (RFC 8656 §3.1), as in the W3C `RTCIceCandidateStats.relayProtocol`.

pub mod os_error;

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as sent on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A device of a pair: the JWT claim `sub`.
    DeviceId
);
text_id!(
    /// A pair of devices, one phone and one Mac: the JWT claim `pairId`.
    PairId
);
text_id!(
    /// One WebSocket connection of a device, chosen by the signaling server: `hello.connId`.
    ConnId
);

/// Maximum length of a device id or pair id, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// Why a text cannot be the id of a device or a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The id has no characters.
    #[error("it is empty")]
    Empty,
    /// Longer than [`MAX_ID_BYTES`].
    #[error("it is {0} bytes long; the maximum is {MAX_ID_BYTES}")]
    TooLong(usize),
    /// A control character (Unicode category Cc): `PostgreSQL` cannot store NUL, and headers cannot hold line breaks.
    #[error("it contains a control character")]
    Control,
}

/// Checks that `id` fits every pair store, every header and every log line.
///
/// # Errors
/// [`IdError`]
pub fn check_id(id: &str) -> Result<(), IdError> {
    match id.len() {
        0 => Err(IdError::Empty),
        bytes if bytes > MAX_ID_BYTES => Err(IdError::TooLong(bytes)),
        _ if id.contains(char::is_control) => Err(IdError::Control),
        _ => Ok(()),
    }
}

/// ICE candidate type (RFC 8445 §4), spelled as in SDP and in W3C `RTCIceCandidateType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CandidateType {
    /// An address of the machine's own interfaces.
    Host,
    /// Server reflexive: the address a STUN server sees.
    Srflx,
    /// Peer reflexive: the address the remote peer sees.
    Prflx,
    /// An address allocated on a TURN server.
    Relay,
}

impl CandidateType {
    /// The value of the SDP `typ` attribute.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Srflx => "srflx",
            Self::Prflx => "prflx",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for CandidateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for CandidateType {
    type Err = UnknownCandidateType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self::Host),
            "srflx" => Ok(Self::Srflx),
            "prflx" => Ok(Self::Prflx),
            "relay" => Ok(Self::Relay),
            other => Err(UnknownCandidateType(other.to_owned())),
        }
    }
}

/// A word that is not one of `host`, `srflx`, `prflx`, `relay`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown candidate type `{0}`: expected host, srflx, prflx or relay")]
pub struct UnknownCandidateType(pub String);

/// Transport between a peer and its TURN server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RelayTransport {
    /// `turn:…?transport=udp`
    Udp,
    /// `turn:…?transport=tcp`
    Tcp,
    /// `turns:…`
    Tls,
}

/// How two peers are connected, judged from both ends of the selected candidate pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionType {
    /// Both ends are host candidates.
    Host,
    /// No end is a relay, and at least one is server or peer reflexive.
    Srflx,
    /// At least one end is a relay; the transport is known if it is the local one.
    Relay(Option<RelayTransport>),
}

impl ConnectionType {
    /// Judges a selected pair: relay if either end is relay, else srflx if either end is srflx or
    /// prflx, else host.
    #[must_use]
    pub fn judge(
        local: CandidateType,
        remote: CandidateType,
        local_relay: Option<RelayTransport>,
    ) -> Self {
        use CandidateType::{Host, Relay};
        match (local, remote) {
            (Relay, _) => Self::Relay(local_relay),
            (_, Relay) => Self::Relay(None),
            (Host, Host) => Self::Host,
            _ => Self::Srflx,
        }
    }
}

impl ConnectionType {
    /// Combines both ends' view of one connection.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        match (self, other) {
            // The last resort of the two: if UDP is blocked at one end, its TCP or TLS leg is what matters.
            (Self::Relay(ours), Self::Relay(theirs)) => Self::Relay(ours.max(theirs)),
            (Self::Relay(transport), _) | (_, Self::Relay(transport)) => Self::Relay(transport),
            (Self::Srflx, _) | (_, Self::Srflx) => Self::Srflx,
            (Self::Host, Self::Host) => Self::Host,
        }
    }
}

/// A word that is not a connection type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown connection type `{0}`: expected host, srflx, relay, relay/udp, relay/tcp or relay/tls"
)]
pub struct UnknownConnectionType(pub String);

impl std::str::FromStr for ConnectionType {
    type Err = UnknownConnectionType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self::Host),
            "srflx" => Ok(Self::Srflx),
            "relay" => Ok(Self::Relay(None)),
            "relay/udp" => Ok(Self::Relay(Some(RelayTransport::Udp))),
            "relay/tcp" => Ok(Self::Relay(Some(RelayTransport::Tcp))),
            "relay/tls" => Ok(Self::Relay(Some(RelayTransport::Tls))),
            other => Err(UnknownConnectionType(other.to_owned())),
        }
    }
}

impl fmt::Display for ConnectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Srflx => "srflx",
            Self::Relay(None) => "relay",
            Self::Relay(Some(RelayTransport::Udp)) => "relay/udp",
            Self::Relay(Some(RelayTransport::Tcp)) => "relay/tcp",
            Self::Relay(Some(RelayTransport::Tls)) => "relay/tls",
        })
    }
}

impl Serialize for ConnectionType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The stage of a run at which something failed; every error message names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading flags, environment and configuration file.
    Config,
    /// Opening or reading the camera, picture or stream.
    Source,
    /// Resolving a host name.
    Dns,
    /// TLS handshake.
    Tls,
    /// Fetching, reading or presenting a token.
    Token,
    /// Connecting to and communicating with the signaling server.
    Signaling,
    /// Waiting for the other device in the pair's room.
    Room,
    /// Gathering ICE candidates (RFC 8445 §5.1).
    Gathering,
    /// ICE connectivity checks (RFC 8445 §7).
    Ice,
    /// DTLS handshake (RFC 5764).
    Dtls,
    /// Opening the data channel (RFC 8832).
    Datachannel,
    /// Encoding, sending or receiving video.
    Video,
    /// Writing files.
    Output,
    /// Running a server.
    Server,
    /// Comparing a result with its required limits.
    Gate,
    /// Ctrl-C, SIGTERM or SIGHUP arrived before the run was complete.
    Interrupted,
}

impl Stage {
    /// The name used in messages and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Source => "source",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Token => "token",
            Self::Signaling => "signaling",
            Self::Room => "room",
            Self::Gathering => "gathering",
            Self::Ice => "ice",
            Self::Dtls => "dtls",
            Self::Datachannel => "datachannel",
            Self::Video => "video",
            Self::Output => "output",
            Self::Server => "server",
            Self::Gate => "gate",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a URL's host is loopback: a loopback address, `localhost`, or a name under it (RFC 6761 §6.3).
#[must_use]
pub fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Seconds since the Unix epoch: the format of times on the wire.
#[must_use]
pub fn epoch_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// A duration in milliseconds, rounded to microseconds: the format of durations in results.
#[must_use]
pub fn millis(length: std::time::Duration) -> f64 {
    (length.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_limited_to_what_every_store_can_hold() {
        for good in ["a", "phone 1", "Gerät ☎", "x' OR '1'='1", &"x".repeat(MAX_ID_BYTES)] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        assert_eq!(check_id(""), Err(IdError::Empty));
        for control in ["a\u{0}b", "\n", "a\r\nb", "\u{1b}[2J", "\u{7f}", "a\u{85}"] {
            assert_eq!(check_id(control), Err(IdError::Control), "{control:?}");
        }
        // 200 characters, 400 bytes.
        assert_eq!(check_id(&"é".repeat(200)), Err(IdError::TooLong(400)));
    }

    #[test]
    fn connection_type_depends_on_both_ends() {
        use CandidateType::{Host, Prflx, Relay, Srflx};
        let judge = |l, r| ConnectionType::judge(l, r, Some(RelayTransport::Udp)).to_string();
        assert_eq!(judge(Host, Host), "host");
        assert_eq!(judge(Host, Prflx), "srflx");
        assert_eq!(judge(Srflx, Host), "srflx");
        assert_eq!(judge(Relay, Host), "relay/udp");
        assert_eq!(judge(Host, Relay), "relay");
    }

    #[test]
    fn each_end_adds_the_transport_of_its_own_relay() {
        let read = |text: &str| text.parse::<ConnectionType>().unwrap();
        assert_eq!(read("relay").with(read("relay/tls")), read("relay/tls"));
        assert_eq!(read("relay/udp").with(read("relay")), read("relay/udp"));
        assert_eq!(read("host").with(read("srflx")), read("srflx"));
        assert!("carrier pigeon".parse::<ConnectionType>().is_err());
    }
}
