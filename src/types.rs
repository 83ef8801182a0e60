//! Names for the things every floor talks about: ids, candidate types, connection types, stages; which
//! URLs are this machine; and text of other machines made safe to print.
//!
//! Candidate types are those of RFC 8445 §4; the relay transport is the one between a peer and its
//! TURN server (RFC 8656 §3.1), as in W3C `RTCIceCandidateStats.relayProtocol`.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text, as it stands on the wire.
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

/// ICE candidate type (RFC 8445 §4), spelled as in SDP and in W3C `RTCIceCandidateType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CandidateType {
    /// An address of the machine itself.
    Host,
    /// Server reflexive: an address a STUN server saw.
    Srflx,
    /// Peer reflexive: an address the other peer saw.
    Prflx,
    /// An address allocated on a TURN server.
    Relay,
}

impl CandidateType {
    /// As in SDP's `typ` attribute.
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
#[error("unknown candidate type `{0}`; known are host, srflx, prflx and relay")]
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

/// How a pair ended up connected, judged from both ends of the selected candidate pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionType {
    /// Both ends are host candidates.
    Host,
    /// No end is a relay, and at least one is server or peer reflexive.
    Srflx,
    /// At least one end is a relay; the transport is known when the relay is ours.
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

/// Where in the course of a run something failed; every error message names one.
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
    /// Connecting to and talking with the signaling server.
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
}

impl Stage {
    /// As in messages and JSON.
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
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a URL's host is this machine's loopback: an address of it, `localhost`, or a name below
/// (RFC 6761 §6.3).
#[must_use]
pub fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Longest text that [`printable`] leaves, characters.
const LONGEST_PRINTABLE: usize = 4096;

/// Text of another machine, safe to print on a terminal: control characters, and those that turn the
/// direction of writing (UAX #9 §2), become U+FFFD; at most 4096 characters are left.
#[must_use]
pub fn printable(text: &str) -> String {
    let unsafe_to_print = |c: char| {
        c.is_control()
            || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let shown = text.chars().map(|c| if unsafe_to_print(c) { '\u{fffd}' } else { c });
    shown.take(LONGEST_PRINTABLE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_made_visible() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(printable("\u{202e}txt.exe"), "\u{fffd}txt.exe");
        assert_eq!(printable("Grüße, 世界"), "Grüße, 世界");
        assert_eq!(printable(&"x".repeat(5000)).len(), 4096);
    }

    #[test]
    fn connection_type_is_judged_from_both_ends() {
        use CandidateType::{Host, Prflx, Relay, Srflx};
        let judge = |l, r| ConnectionType::judge(l, r, Some(RelayTransport::Udp)).to_string();
        assert_eq!(judge(Host, Host), "host");
        assert_eq!(judge(Host, Prflx), "srflx");
        assert_eq!(judge(Srflx, Host), "srflx");
        assert_eq!(judge(Relay, Host), "relay/udp");
        assert_eq!(judge(Host, Relay), "relay");
    }
}
