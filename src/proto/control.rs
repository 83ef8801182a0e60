//! Control messages: JSON text on the data channel `control`, in both directions.
//!
//! The channel is unordered with a packet lifetime of 100 ms (RFC 8832 §5.1), so any message may be lost
//! or reordered. A message with an unknown `t` must be ignored.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

/// Label of the data channel.
pub const LABEL: &str = "control";

/// `protocol` of a data channel opened by a peer of this project (RFC 8832 §5.1); apps leave it empty.
/// Replies to messages on such a channel may be sent on the answerer's own channel.
pub const PROTOCOL: &str = "orion-peer";

/// `maxPacketLifeTime` of the data channel.
pub const CONTROL_LIFE_TIME: Duration = Duration::from_millis(100);

/// Maximum length of a control message, bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A control message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum ControlMessage {
    /// Requests a `pong` with the same `id` and `ts`.
    Ping {
        /// Chosen by the sender of the ping.
        id: Id,
        /// Seconds since 1970 on the clock of the ping's sender.
        ts: serde_json::Number,
        /// Pads the message to the wanted length; to be ignored.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pad: Option<String>,
    },
    /// Answers a `ping`; `ts` is echoed unchanged.
    Pong {
        /// `id` of the ping.
        id: Id,
        /// `ts` of the ping.
        ts: serde_json::Number,
        /// When it was answered, seconds since 1970 on the answerer's clock. An addition to the contract:
        /// together with `ts` it yields the offset between the two clocks (RFC 5905 §8).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<f64>,
    },
    /// A line of text for the user of the remote peer.
    Text {
        /// Chosen by the sender; repeated in the `ack`.
        id: Id,
        /// The line of text.
        text: String,
    },
    /// Describes one keyframe, sender to receiver.
    Keyframe(KeyframeInfo),
    /// Requests a keyframe immediately instead of at the next interval.
    KeyframeRequest {
        /// Human-readable reason.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Changes settings of the sender.
    Set {
        /// Repeated in the `ack`, if present.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Id>,
        /// The settings to change.
        #[serde(flatten)]
        settings: Settings,
    },
    /// Answers a `text` or `set`.
    Ack {
        /// `id` of the acknowledged message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<Id>,
        /// Why the request could not be fulfilled.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Picture width from now on, pixels, after a `set` of the size. An addition to the contract, like
        /// `height`: the picture fills the requested box as far as its aspect ratio and the encoder allow.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        width: Option<u32>,
        /// Picture height from now on, pixels.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        height: Option<u32>,
    },
    /// Requests a `bench-report` from a bench responder; any other peer ignores it.
    BenchReportRequest,
    /// What a bench responder has observed on the connection so far.
    BenchReport(BenchReport),
    /// A message with an unknown `t`: to be ignored.
    #[serde(other)]
    Unknown,
}

/// Fields of `bench-report`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BenchReport {
    /// How the responder is connected, as in bench results: `host`, `srflx`, `relay/udp`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub connection_type: Option<String>,
    /// Keyframes that arrived completely; only the last ones if there are very many.
    pub keyframes: Vec<ReportedKeyframe>,
    /// Number of keyframes that arrived completely.
    pub count: u64,
}

/// A keyframe that arrived completely at a bench responder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportedKeyframe {
    /// `seq` of the `keyframe` message.
    pub seq: u64,
    /// Number of its RTP packets.
    pub packets: u64,
    /// Whether its SHA-256 matched that of the `keyframe` message.
    pub intact: bool,
    /// When its last packet arrived, seconds since 1970 on the responder's clock.
    pub received_at: f64,
}

/// A message id: text or a number, chosen by the sender and echoed unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(i64),
    /// Any text.
    Text(String),
}

/// Fields of `keyframe`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeInfo {
    /// Sequence number of the sender's keyframes, starting at 1.
    pub seq: u64,
    /// RTP timestamp of the access unit, 90 kHz (RFC 6184 §5.1).
    pub rtp_timestamp: u32,
    /// When the picture was taken, seconds since 1970 on the sender's clock.
    pub capture_time: f64,
    /// Size of the access unit in Annex B form.
    pub bytes: u64,
    /// SHA-256 of the access unit in Annex B form, lower-case hex.
    pub sha256: String,
    /// Picture width, pixels.
    pub width: u32,
    /// Picture height, pixels.
    pub height: u32,
    /// When its transmission started, seconds since 1970 on the sender's clock. An addition to the contract:
    /// it reveals the network's part of the latency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<f64>,
}

/// Fields of `set`; absent settings do not change. A number that is not an unsigned integer is truncated and
/// saturated, so that it is rejected like any other value out of range instead of remaining unanswered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Time between keyframes, ms.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "count")]
    pub interval_ms: Option<u64>,
    /// Maximum size of a keyframe, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "count")]
    pub max_bytes: Option<u64>,
    /// Picture width, pixels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "pixels")]
    pub width: Option<u32>,
    /// Picture height, pixels.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "pixels")]
    pub height: Option<u32>,
}

fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Option::<serde_json::Number>::deserialize(deserializer)?;
    // The cast truncates, and saturates at 0 and at the maximum.
    let nearest = |number: serde_json::Number| number.as_f64().unwrap_or_default() as u64;
    Ok(number.map(|number| number.as_u64().unwrap_or_else(|| nearest(number))))
}

fn pixels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Ok(count(deserializer)?.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
}

/// Why a message could not be parsed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("control message of {0} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// Not JSON in a known form.
    #[error("cannot parse the control message: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl ControlMessage {
    /// Parses one message; an unknown `t` yields [`ControlMessage::Unknown`].
    ///
    /// # Errors
    /// When the text is too long, or not a JSON object in a known form.
    pub fn parse(text: &[u8]) -> Result<Self, ControlError> {
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(ControlError::TooLong(text.len()));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// The message as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("control messages hold only JSON values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_contract() {
        let message = ControlMessage::Set {
            id: Some(Id::Number(4)),
            settings: Settings { interval_ms: Some(500), ..Settings::default() },
        };
        assert_eq!(message.to_json(), r#"{"t":"set","id":4,"intervalMs":500}"#);
        let request = ControlMessage::KeyframeRequest { reason: None };
        assert_eq!(request.to_json(), r#"{"t":"keyframe-request"}"#);
    }

    #[test]
    fn a_ping_is_echoed_unchanged() {
        let ping = br#"{"t":"ping","id":"a1","ts":1700000000.123456}"#;
        let ControlMessage::Ping { id, ts, .. } = ControlMessage::parse(ping).unwrap() else {
            panic!()
        };
        assert_eq!(
            ControlMessage::Pong { id: id.clone(), ts: ts.clone(), at: None }.to_json(),
            r#"{"t":"pong","id":"a1","ts":1700000000.123456}"#
        );
        assert_eq!(
            ControlMessage::Pong { id, ts, at: Some(1.5) }.to_json(),
            r#"{"t":"pong","id":"a1","ts":1700000000.123456,"at":1.5}"#
        );
        let pong = br#"{"t":"pong","id":1,"ts":2}"#;
        assert!(matches!(ControlMessage::parse(pong), Ok(ControlMessage::Pong { at: None, .. })));
    }

    #[test]
    fn numbers_are_truncated_and_saturated() {
        let set = |text: &str| {
            let text = format!(r#"{{"t":"set","id":1,{text}}}"#);
            let Ok(ControlMessage::Set { settings, .. }) = ControlMessage::parse(text.as_bytes())
            else {
                panic!("{text}")
            };
            settings
        };
        for (text, read) in [
            ("-1", 0),
            ("0", 0),
            ("1.9", 1),
            ("-1e300", 0),
            ("1e300", u64::MAX),
            ("18446744073709551615", u64::MAX),
            ("18446744073709551616", u64::MAX),
        ] {
            assert_eq!(set(&format!(r#""intervalMs":{text}"#)).interval_ms, Some(read), "{text}");
            assert_eq!(set(&format!(r#""maxBytes":{text}"#)).max_bytes, Some(read), "{text}");
        }
        assert_eq!(set(r#""width":4294967296,"height":-5"#).width, Some(u32::MAX));
        assert_eq!(set(r#""intervalMs":null"#).interval_ms, None);
    }

    #[test]
    fn unknown_types_are_ignored_and_garbage_is_an_error() {
        assert_eq!(
            ControlMessage::parse(br#"{"t":"later","x":[1]}"#).unwrap(),
            ControlMessage::Unknown
        );
        for garbage in [&b"\xff\xfe"[..], b"", b"[]", b"{}", br#"{"t":"ping"}"#] {
            assert!(ControlMessage::parse(garbage).is_err());
        }
    }
}
