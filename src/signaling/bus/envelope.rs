//! What nodes tell each other, and how it is written: a line of JSON, then the client's text as it
//! came. The scripts in `lua/` write the same line, with numbers as text, for Lua's have 53 bits.

use serde::{Deserialize, Serialize};

use super::NodeId;
use crate::{
    pairs::Role,
    proto::signaling::LeaveReason,
    signaling::room::Text,
    types::{ConnId, DeviceId, PairId},
};

/// Something for a socket of another node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The pair.
    pub pair: PairId,
    /// Role of the device it is from or about.
    #[serde(with = "role_text")]
    pub role: Role,
    /// The socket it is from or about.
    pub from: ConnId,
    /// The socket it is for.
    pub to: ConnId,
    /// What it says.
    #[serde(flatten)]
    pub say: Say,
    /// The client's text of [`Say::Relay`], unchanged.
    #[serde(skip)]
    pub text: Text,
}

/// What an [`Envelope`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum Say {
    /// The other device came.
    Joined {
        /// To this node.
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
    /// So many messages were sent to this socket.
    Sync {
        /// How many.
        #[serde(with = "number_text")]
        seq: u64,
    },
    /// A message of the other device.
    Relay {
        /// Its number, from 1.
        #[serde(with = "number_text")]
        seq: u64,
        /// Whether it was held until this socket came.
        held: bool,
    },
}

impl Envelope {
    /// As it goes over the bus.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("an envelope holds only JSON values");
        if !self.text.is_empty() {
            bytes.push(b'\n');
            bytes.extend_from_slice(self.text.as_str().as_bytes());
        }
        bytes
    }

    /// Reads what came over the bus; none when it is not an envelope.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (line, text) = text.split_once('\n').unwrap_or((text, ""));
        let envelope: Self = serde_json::from_str(line).ok()?;
        Some(Self { text: text.into(), ..envelope })
    }
}

/// A role as it stands in keys and envelopes.
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
    fn a_text_comes_out_as_it_went_in() {
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
    fn what_the_scripts_write_is_read() {
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
