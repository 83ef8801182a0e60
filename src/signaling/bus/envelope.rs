//! Messages between nodes, and their encoding: a line of JSON, then the client's text unchanged. The
//! scripts in `lua/` write the same line. Numbers are written as text because Lua's have 53 bits.

use serde::{Deserialize, Serialize};

use super::NodeId;
use crate::{
    pairs::Role,
    proto::signaling::LeaveReason,
    signaling::text::Text,
    types::{ConnId, DeviceId, PairId},
};

/// A message for a socket on another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The pair.
    pub pair: PairId,
    /// Role of the device that the message is from or about.
    #[serde(with = "role_text")]
    pub role: Role,
    /// The socket that the message is from or about.
    pub from: ConnId,
    /// The socket that the message is for.
    pub to: ConnId,
    /// The content.
    #[serde(flatten)]
    pub say: Say,
    /// The client's text of [`Say::Relay`], unchanged.
    #[serde(skip)]
    pub text: Text,
}

/// The content of an [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum Say {
    /// The other device joined.
    Joined {
        /// The node on which it joined.
        node: NodeId,
        /// The device.
        device: DeviceId,
        /// Epoch of its lease.
        #[serde(with = "number_text")]
        epoch: u64,
    },
    /// The other device's socket is gone.
    Left {
        /// The cause.
        reason: LeaveReason,
    },
    /// A newer socket of the same device took over.
    Kick,
    /// The number of messages sent to this socket so far.
    Sync {
        /// The sequence number of the last message.
        #[serde(with = "number_text")]
        seq: u64,
    },
    /// A message from the other device.
    Relay {
        /// Its sequence number, from 1.
        #[serde(with = "number_text")]
        seq: u64,
        /// Whether it was held until this socket joined.
        held: bool,
    },
}

impl Envelope {
    /// Encodes the envelope for the bus.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("an envelope holds only JSON values");
        if !self.text.is_empty() {
            bytes.push(b'\n');
            bytes.extend_from_slice(self.text.as_str().as_bytes());
        }
        bytes
    }

    /// Decodes a message from the bus; `None` if it is not an envelope.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (line, text) = text.split_once('\n').unwrap_or((text, ""));
        let envelope: Self = serde_json::from_str(line).ok()?;
        Some(Self { text: text.into(), ..envelope })
    }
}

/// A role as written in keys and envelopes.
#[must_use]
pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Phone => "ios",
        Role::Mac => "mac",
    }
}

mod role_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::pairs::Role;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(role: &Role, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(super::role_word(*role))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        match String::deserialize(from)?.as_str() {
            "ios" => Ok(Role::Phone),
            "mac" => Ok(Role::Mac),
            other => Err(D::Error::custom(format!("unknown role `{other}`"))),
        }
    }
}

mod number_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_unchanged_after_encoding_and_decoding() {
        for text in ["{\"t\":\"offer\",\n \"sdp\":\"v=0\\r\\n\"}\n\n", "\u{1f980}\u{0}", "{}"] {
            let envelope = Envelope {
                pair: "a pair\nin two lines".into(),
                role: Role::Phone,
                from: "f".into(),
                to: "t".into(),
                say: Say::Relay { seq: u64::MAX, held: true },
                text: text.into(),
            };
            assert_eq!(Envelope::parse(&envelope.to_bytes()), Some(envelope));
        }
    }

    #[test]
    fn messages_of_the_scripts_are_parsed() {
        let written = r#"{"t":"joined","pair":"p","role":"mac","from":"c","to":"d","node":"n","device":"mac","epoch":"1790000000000001"}"#;
        let envelope = Envelope::parse(written.as_bytes()).unwrap();
        let (node, device) = (NodeId("n".into()), "mac".into());
        assert_eq!(envelope.say, Say::Joined { node, device, epoch: 1_790_000_000_000_001 });
        let left = r#"{"t":"left","pair":"p","role":"mac","from":"c","to":"d","reason":"revoked"}"#;
        let left = Envelope::parse(left.as_bytes()).unwrap();
        assert_eq!(left.say, Say::Left { reason: LeaveReason::Revoked });
        assert_eq!(Envelope::parse(b"{}"), None);
        assert_eq!(Envelope::parse(b"\xff"), None);
    }
}
