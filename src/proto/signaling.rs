//! Signaling messages: JSON text frames on the WebSocket `/api/signal`, and its close codes.
//!
//! `offer`, `answer` and `ice` contain W3C `RTCSessionDescription.sdp` and `RTCIceCandidateInit`. These,
//! `bye` and `state` are relayed between the two devices of a pair. All other messages are between one client
//! and the server, and a client must work without them. Unknown fields are ignored everywhere.

use std::{borrow::Cow, fmt::Write};

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use super::claims::seconds;
use crate::types::{ConnId, DeviceId, PairId};

/// Path of the WebSocket.
pub const PATH: &str = "/api/signal";

/// WebSocket subprotocol the server echoes.
pub const SUBPROTOCOL: &str = "orion.v1";

/// Prefix of the subprotocol that carries a token: `bearer.<jwt>`. Never echoed.
pub const BEARER_SUBPROTOCOL: &str = "bearer.";

/// Maximum length of a message, bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// One message: its pair and its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The pair the message is for; the server compares it with the token's.
    #[serde(rename = "pairId")]
    pub pair_id: PairId,
    /// Type and contents of the message.
    #[serde(flatten)]
    pub body: Body,
}

/// Identifies an offer: the first 16 hexadecimal digits of the SHA-256 of its `sdp`.
#[must_use]
pub fn offer_digest(sdp: &str) -> String {
    short_digest(sdp)
}

/// Identifies a DTLS certificate in [`Body::State`]: the first 16 hexadecimal digits of the SHA-256 of the value
/// of its `a=fingerprint` (RFC 8122 §5: `sha-256 AB:CD:…`), without surrounding space and in lower case, because
/// implementations differ in the case of both words.
#[must_use]
pub fn fingerprint_digest(fingerprint: &str) -> String {
    short_digest(&fingerprint.trim().to_ascii_lowercase())
}

fn short_digest(text: &str) -> String {
    Sha256::digest(text).iter().take(8).fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Body of a message; its type is in `t`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Body {
    /// Relayed: an SDP offer.
    Offer {
        /// SDP text (RFC 8866).
        sdp: String,
    },
    /// Relayed: an SDP answer.
    Answer {
        /// SDP text (RFC 8866).
        sdp: String,
        /// The offer it answers: [`offer_digest`] of that offer's `sdp`. An addition to the contract, for
        /// peers that send another offer before the answer arrives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offer: Option<String>,
    },
    /// Relayed: one trickled candidate, or null for end of candidates (RFC 8838).
    Ice {
        /// The candidate. The field is required.
        #[serde(deserialize_with = "present_or_null")]
        candidate: Option<IceCandidateInit>,
    },
    /// Relayed: the sender leaves permanently.
    Bye {
        /// Human-readable reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Relayed: whether the sender still has its peer connection, announced after it joined. An addition to
    /// the contract, for servers whose `hello` lists it; not held for an absent peer.
    State {
        /// Whether the sender has a connection.
        connection: ConnectionClaim,
        /// [`fingerprint_digest`] of the sender's own `a=fingerprint`, if it has a connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
    /// Client to server: a fresh token for the live socket, with the same `sub` and `pairId`.
    Auth {
        /// The new JWT.
        token: String,
    },
    /// Server to client: the fresh token was accepted.
    AuthOk {
        /// Expiry of the fresh token, seconds since 1970.
        #[serde(deserialize_with = "seconds")]
        exp: u64,
    },
    /// Server to client, first on every socket.
    Hello {
        /// Id of this socket.
        conn_id: ConnId,
        /// The device in the token.
        device_id: DeviceId,
        /// Role in W3C perfect negotiation when both peers offer.
        polite: bool,
        /// Whether the other device is in the room.
        peer_present: bool,
        /// Expiry of the token, seconds since 1970.
        #[serde(deserialize_with = "seconds")]
        exp: u64,
        /// Types that the server relays in addition to those of the contract: [`RELAYED_ADDITIONS`] for this
        /// server; empty if a server does not list any.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        relays: Vec<String>,
    },
    /// Server to client: the other device connected, or reconnected on a new socket.
    PeerJoined {
        /// The other device.
        device_id: DeviceId,
        /// Id of its socket.
        conn_id: ConnId,
    },
    /// Server to client: the other device's socket is gone.
    PeerLeft {
        /// The other device.
        device_id: DeviceId,
        /// Why the socket is gone.
        reason: LeaveReason,
    },
    /// Server to client: a message was rejected.
    Error {
        /// Machine-readable name of the error.
        code: String,
        /// Human-readable cause and remedy.
        message: String,
        /// `t` of the rejected message.
        #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
}

impl Body {
    /// The `t` of this message.
    #[must_use]
    pub fn t(&self) -> &'static str {
        match self {
            Self::Offer { .. } => "offer",
            Self::Answer { .. } => "answer",
            Self::Ice { .. } => "ice",
            Self::Bye { .. } => "bye",
            Self::State { .. } => "state",
            Self::Auth { .. } => "auth",
            Self::AuthOk { .. } => "auth-ok",
            Self::Hello { .. } => "hello",
            Self::PeerJoined { .. } => "peer-joined",
            Self::PeerLeft { .. } => "peer-left",
            Self::Error { .. } => "error",
        }
    }

    /// Whether the server relays it to the other device.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        matches!(
            self,
            Self::Offer { .. }
                | Self::Answer { .. }
                | Self::Ice { .. }
                | Self::Bye { .. }
                | Self::State { .. }
        )
    }
}

/// Whether a device has a peer connection, in [`Body::State`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionClaim {
    /// It has none, and needs a fresh offer.
    New,
    /// It still has its previous one.
    Alive,
}

/// Why the other device's socket is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaveReason {
    /// It closed the socket, or the connection broke.
    Closed,
    /// It did not answer a ping.
    Timeout,
    /// A newer socket of the same device took over.
    Replaced,
    /// Its token expired.
    Expired,
    /// The pair was revoked.
    Revoked,
}

/// W3C `RTCIceCandidateInit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IceCandidateInit {
    /// `candidate:…` (RFC 8839 §5.1); empty is an end-of-candidates indication.
    pub candidate: String,
    /// `a=mid` of the m-line.
    #[serde(default)]
    pub sdp_mid: Option<String>,
    /// Index of the m-line.
    #[serde(default, rename = "sdpMLineIndex")]
    pub sdp_mline_index: Option<u16>,
    /// `a=ice-ufrag` the candidate belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

/// Why a message could not be parsed.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("message of {0} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// A JSON object with an unknown `t`: a client ignores it, a server rejects it.
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// For another pair.
    #[error("the message is for another pair")]
    OtherPair,
    /// Not JSON in a known form.
    #[error("cannot parse the message: {0}")]
    Malformed(serde_json::Error),
}

/// Types that are relayed in addition to those of the contract. A server that relays them lists them in
/// `hello.relays`; other servers may reject them.
pub const RELAYED_ADDITIONS: [&str; 1] = ["state"];

/// Every `t` of the contract, and [`RELAYED_ADDITIONS`].
pub const TYPES: [&str; 11] = [
    "offer",
    "answer",
    "ice",
    "bye",
    "state",
    "auth",
    "auth-ok",
    "hello",
    "peer-joined",
    "peer-left",
    "error",
];

impl Message {
    /// A message with a pair and a body.
    #[must_use]
    pub fn new(pair_id: PairId, body: Body) -> Self {
        Self { pair_id, body }
    }

    /// Parses one text frame.
    ///
    /// # Errors
    /// [`ParseError`] when it is too long, has an unknown `t`, or is malformed.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_of(text, None)
    }

    /// Parses one text frame. If `pair` is given, the frame must be for that pair, which is checked first.
    ///
    /// # Errors
    /// As [`Message::parse`], and [`ParseError::OtherPair`].
    pub fn parse_of(text: &str, pair: Option<&PairId>) -> Result<Self, ParseError> {
        // serde would always copy the text into an `Option<Cow>`.
        #[derive(Deserialize)]
        struct Word<'a>(#[serde(borrow)] Cow<'a, str>);
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            t: Option<Word<'a>>,
            #[serde(borrow, rename = "pairId")]
            pair: Option<Word<'a>>,
        }
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(ParseError::TooLong(text.len()));
        }
        let envelope: Envelope<'_> = serde_json::from_str(text).map_err(ParseError::Malformed)?;
        if let (Some(pair), Some(Word(named))) = (pair, &envelope.pair)
            && pair.as_str() != named
        {
            return Err(ParseError::OtherPair);
        }
        match envelope.t {
            Some(Word(t)) if !TYPES.contains(&t.as_ref()) => {
                Err(ParseError::UnknownType(t.into_owned()))
            }
            // This also reports missing fields.
            _ => serde_json::from_str(text).map_err(ParseError::Malformed),
        }
    }

    /// The message as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("signaling messages hold only JSON values")
    }
}

/// Close codes of the signaling socket. 4000-4499 mean "reconnect", 4500-4999 "do not".
pub mod close {
    /// Protocol error (RFC 6455 §7.4.1).
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Binary frames are not accepted.
    pub const UNSUPPORTED_DATA: u16 = 1003;
    /// A text frame was not UTF-8.
    pub const INVALID_UTF8: u16 = 1007;
    /// A message was over 64 KiB.
    pub const TOO_BIG: u16 = 1009;
    /// Internal error.
    pub const INTERNAL: u16 = 1011;
    /// The server restarts or drains.
    pub const RESTART: u16 = 1012;
    /// Overloaded, or the pair store is down.
    pub const TRY_AGAIN_LATER: u16 = 1013;
    /// The token expired.
    pub const TOKEN_EXPIRED: u16 = 4001;
    /// No pong came.
    pub const NO_PONG: u16 = 4002;
    /// The client reads too slowly.
    pub const SLOW_CONSUMER: u16 = 4003;
    /// Too many messages.
    pub const RATE_LIMITED: u16 = 4004;
    /// The token sent by `auth` is not valid.
    pub const BAD_TOKEN: u16 = 4500;
    /// A message named another pair.
    pub const WRONG_PAIR: u16 = 4501;
    /// A newer socket of the same device took over.
    pub const REPLACED: u16 = 4502;
    /// The pair was revoked.
    pub const PAIR_REVOKED: u16 = 4503;
    /// Too many messages violated the schema.
    pub const SCHEMA_ERRORS: u16 = 4504;

    /// Whether a client should connect again after this code.
    #[must_use]
    pub fn should_reconnect(code: u16) -> bool {
        !(4500..5000).contains(&code)
    }
}

fn present_or_null<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<IceCandidateInit>, D::Error> {
    Option::deserialize(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_name_its_offer() {
        let body = Body::Answer { sdp: "v=0".into(), offer: Some(offer_digest("v=1")) };
        let text = Message::new("p".into(), body.clone()).to_json();
        assert_eq!(text, r#"{"pairId":"p","t":"answer","sdp":"v=0","offer":"a798de8ee75aeb55"}"#);
        assert_eq!(Message::parse(&text).unwrap().body, body);
    }

    #[test]
    fn candidate_is_required_but_may_be_null() {
        assert!(Message::parse(r#"{"t":"ice","pairId":"p"}"#).is_err());
        let end = Message::parse(r#"{"t":"ice","pairId":"p","candidate":null}"#).unwrap();
        assert_eq!(end.body, Body::Ice { candidate: None });
        assert_eq!(end.to_json(), r#"{"pairId":"p","t":"ice","candidate":null}"#);
    }

    #[test]
    fn names_are_those_of_the_contract() {
        let text = r#"{"t":"ice","pairId":"p","candidate":{"candidate":"candidate:1 1 udp 1 10.0.0.1 9 typ host","sdpMid":"0","sdpMLineIndex":0}}"#;
        let Body::Ice { candidate: Some(candidate) } = Message::parse(text).unwrap().body else {
            panic!()
        };
        assert_eq!(candidate.sdp_mline_index, Some(0));
        let hello = Message::new(
            "p".into(),
            Body::Hello {
                conn_id: "c".into(),
                device_id: "d".into(),
                polite: true,
                peer_present: false,
                exp: 1,
                relays: Vec::new(),
            },
        );
        let text = r#"{"pairId":"p","t":"hello","connId":"c","deviceId":"d","polite":true,"peerPresent":false,"exp":1}"#;
        assert_eq!(hello.to_json(), text);
        assert_eq!(Message::parse(text).unwrap(), hello);
    }

    #[test]
    fn a_device_announces_whether_it_has_a_connection() {
        let body = Body::State { connection: ConnectionClaim::New, fingerprint: None };
        let text = Message::new("p".into(), body.clone()).to_json();
        assert_eq!(text, r#"{"pairId":"p","t":"state","connection":"new"}"#);
        assert_eq!(Message::parse(&text).unwrap().body, body);
        let text = r#"{"t":"state","pairId":"p","connection":"alive","fingerprint":"f1b2","x":1}"#;
        let fingerprint = Some("f1b2".into());
        let alive = Body::State { connection: ConnectionClaim::Alive, fingerprint };
        assert_eq!(Message::parse(text).unwrap().body, alive);
        for bad in ["", r#","connection":"dead""#, r#","connection":"new","fingerprint":7"#] {
            let text = format!(r#"{{"t":"state","pairId":"p"{bad}}}"#);
            assert!(matches!(Message::parse(&text), Err(ParseError::Malformed(_))), "{text}");
        }
    }

    #[test]
    fn the_case_of_a_fingerprint_does_not_matter() {
        assert_eq!(fingerprint_digest(" sha-256 AB:0C\r\n"), fingerprint_digest("SHA-256 ab:0c"));
        assert_ne!(fingerprint_digest("sha-256 ab:0c"), fingerprint_digest("sha-256 ab:0d"));
        // printf 'sha-256 ab:0c' | sha256sum | cut -c-16
        assert_eq!(fingerprint_digest("sha-256 AB:0C"), "f7ddde7d7f3e9a48");
    }

    #[test]
    fn an_unknown_type_is_distinguished_from_garbage() {
        assert!(matches!(
            Message::parse(r#"{"t":"later","pairId":"p"}"#),
            Err(ParseError::UnknownType(t)) if t == "later"
        ));
        assert!(matches!(Message::parse("{"), Err(ParseError::Malformed(_))));
        assert!(matches!(
            Message::parse(r#"{"t":"offer","pairId":"p"}"#),
            Err(ParseError::Malformed(_))
        ));
    }

    #[test]
    fn codes_indicate_whether_to_reconnect() {
        assert!(close::should_reconnect(close::TOKEN_EXPIRED));
        assert!(close::should_reconnect(1006));
        assert!(!close::should_reconnect(close::REPLACED));
    }
}
