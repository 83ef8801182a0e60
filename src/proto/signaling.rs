//! Signaling messages: JSON text frames on the WebSocket `/api/signal`, and its close codes.
//!
//! `offer`, `answer` and `ice` carry W3C `RTCSessionDescription.sdp` and `RTCIceCandidateInit`; they,
//! `bye` and `state` are relayed between the two devices of a pair. Everything else is between one client
//! and the server, and a client must work without it. Unknown fields are ignored everywhere.

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

/// Largest message, bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// One message: its pair and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The pair the message is for; the server holds it against the token's.
    #[serde(rename = "pairId")]
    pub pair_id: PairId,
    /// What it says.
    #[serde(flatten)]
    pub body: Body,
}

/// Names an offer: the first 16 hexadecimal digits of the SHA-256 of its `sdp`.
#[must_use]
pub fn offer_digest(sdp: &str) -> String {
    short_digest(sdp)
}

/// Names a DTLS identity in [`Body::State`]: the first 16 hexadecimal digits of the SHA-256 of the value of
/// its `a=fingerprint` (RFC 8122 §5: `sha-256 AB:CD:…`), without space around it and in lower case, as
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

/// What a message says, told apart by `t`.
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
        /// Which offer it answers: [`offer_digest`] of that offer's `sdp`. An addition to the contract, for
        /// those who offer anew before the answer is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offer: Option<String>,
    },
    /// Relayed: one trickled candidate, or null for end of candidates (RFC 8838).
    Ice {
        /// The candidate. The field must be there.
        #[serde(deserialize_with = "present_or_null")]
        candidate: Option<IceCandidateInit>,
    },
    /// Relayed: the sender is leaving for good.
    Bye {
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Relayed: whether the sender still has its peer connection, said after it joined. An addition to the
    /// contract, for servers whose `hello` lists it; not kept for a peer that is absent.
    State {
        /// What the sender has.
        connection: ConnectionClaim,
        /// [`fingerprint_digest`] of the sender's own `a=fingerprint`, where it has a connection.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
    /// Client to server: a fresh token for the live socket, same `sub` and `pairId`.
    Auth {
        /// The new JWT.
        token: String,
    },
    /// Server to client: the fresh token was taken.
    AuthOk {
        /// Its expiry, seconds since 1970.
        #[serde(deserialize_with = "seconds")]
        exp: u64,
    },
    /// Server to client, first on every socket.
    Hello {
        /// Id of this socket.
        conn_id: ConnId,
        /// The device the token names.
        device_id: DeviceId,
        /// Role in W3C perfect negotiation when both sides offer.
        polite: bool,
        /// Whether the other device is in the room.
        peer_present: bool,
        /// Expiry of the token, seconds since 1970.
        #[serde(deserialize_with = "seconds")]
        exp: u64,
        /// Types this server relays besides those of the contract: [`RELAYED_ADDITIONS`] of this server,
        /// none of one that does not say.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        relays: Vec<String>,
    },
    /// Server to client: the other device came, or came back on a new socket.
    PeerJoined {
        /// The other device.
        device_id: DeviceId,
        /// Its socket.
        conn_id: ConnId,
    },
    /// Server to client: the other device's socket is gone.
    PeerLeft {
        /// The other device.
        device_id: DeviceId,
        /// The cause.
        reason: LeaveReason,
    },
    /// Server to client: a message was refused.
    Error {
        /// Short name of the error, for programs.
        code: String,
        /// What happened and what to do, for people.
        message: String,
        /// The `t` of the message it is about.
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

    /// Whether the server passes it on to the other device.
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

/// What a device says of its peer connection in [`Body::State`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionClaim {
    /// It has none, and needs a fresh offer.
    New,
    /// It still has the one it had.
    Alive,
}

/// Why the other device's socket is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaveReason {
    /// It closed the socket, or the connection broke.
    Closed,
    /// It answered no ping.
    Timeout,
    /// A newer socket of the same device took over.
    Replaced,
    /// Its token ran out.
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

/// A message that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("message of {0} bytes is over the limit of {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// A JSON object whose `t` is not known here: a client ignores it, a server refuses it.
    #[error("unknown message type `{0}`")]
    UnknownType(String),
    /// Of another pair.
    #[error("the message's pairId is another one")]
    OtherPair,
    /// Not JSON of a known form.
    #[error("message is not understood: {0}")]
    Malformed(serde_json::Error),
}

/// Types that are relayed in addition to those of the contract. A server that relays them lists them in
/// `hello.relays`; others may refuse them.
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
    /// Puts a pair and a body together.
    #[must_use]
    pub fn new(pair_id: PairId, body: Body) -> Self {
        Self { pair_id, body }
    }

    /// Reads one text frame.
    ///
    /// # Errors
    /// [`ParseError`] when it is too long, of an unknown `t`, or malformed.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_of(text, None)
    }

    /// Reads one text frame, which must be of `pair`, if that is given: that is looked at before all else.
    ///
    /// # Errors
    /// As [`Message::parse`], and [`ParseError::OtherPair`].
    pub fn parse_of(text: &str, pair: Option<&PairId>) -> Result<Self, ParseError> {
        // An `Option<Cow>` would always be a copy.
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
            // What is missing is found missing here.
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
    /// The token ran out.
    pub const TOKEN_EXPIRED: u16 = 4001;
    /// No pong came.
    pub const NO_PONG: u16 = 4002;
    /// The client reads too slowly.
    pub const SLOW_CONSUMER: u16 = 4003;
    /// Too many messages.
    pub const RATE_LIMITED: u16 = 4004;
    /// The token given by `auth` is bad.
    pub const BAD_TOKEN: u16 = 4500;
    /// A message named another pair.
    pub const WRONG_PAIR: u16 = 4501;
    /// A newer socket of the same device took over.
    pub const REPLACED: u16 = 4502;
    /// The pair was revoked.
    pub const PAIR_REVOKED: u16 = 4503;
    /// Messages kept breaking the schema.
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
    fn candidate_must_be_there_but_may_be_null() {
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
    fn a_device_says_whether_it_has_a_connection() {
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
    fn unknown_type_is_told_apart_from_garbage() {
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
    fn codes_say_whether_to_come_back() {
        assert!(close::should_reconnect(close::TOKEN_EXPIRED));
        assert!(close::should_reconnect(1006));
        assert!(!close::should_reconnect(close::REPLACED));
    }
}
