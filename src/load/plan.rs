//! Configuration of a run, and its pairs.

use std::{net::IpAddr, time::Duration};

use url::Url;

use crate::{
    auth::{
        jws::SigningKeys,
        jwt::{TokenError, mint},
        unix_now,
    },
    pairs::Pair,
    proto::{
        claims::{Audience, Claims},
        signaling::MAX_MESSAGE_BYTES,
    },
    tls::Trust,
    types::{DeviceId, PairId},
};

/// Lifetime of a token, seconds, from the wire contract.
const TOKEN_LIFE: u64 = 300;

/// Maximum overhead of a message in addition to its padding, bytes.
const MESSAGE_FRAME: usize = 200;

/// Configuration of a run.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The server.
    pub signal: Url,
    /// The trusted certificates of a `wss://` server.
    pub trust: Trust,
    /// Signs the tokens.
    pub tokens: Tokens,
    /// Rooms; each has two sockets.
    pub rooms: u32,
    /// Handshakes to start per second; if `None`, as fast as they are answered.
    pub open_rate: Option<f64>,
    /// Concurrent handshakes.
    pub parallel: usize,
    /// Timeout per handshake.
    pub open_within: Duration,
    /// Idle time between the last handshake and the first message.
    pub idle: Duration,
    /// The messages to relay, if any.
    pub relay: Option<Relay>,
    /// Local addresses to connect from, used in rotation; if empty, the system chooses.
    pub sources: Vec<IpAddr>,
    /// Process ID of the server, if it is on this machine.
    pub server_pid: Option<u32>,
}

/// The messages to relay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Relay {
    /// Their pace.
    pub pace: Pace,
    /// How long they are sent.
    pub duration: Duration,
    /// Length of a message, bytes.
    pub bytes: usize,
}

/// The pace of messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Messages per second, over all rooms, regardless of the server.
    PerSecond(f64),
    /// A new message for each that arrives: each side of each room keeps this many in flight.
    Window(u32),
}

/// Signs tokens for any device of any pair.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The server's keys.
    pub keys: SigningKeys,
    /// `iss`
    pub issuer: Option<String>,
    /// `aud`
    pub audience: Option<String>,
}

impl Tokens {
    /// A token for a device.
    ///
    /// # Errors
    /// There is no private key.
    pub fn of(&self, pair: &PairId, device: &DeviceId) -> Result<String, TokenError> {
        let now = unix_now();
        let claims = Claims {
            sub: device.clone(),
            pair_id: pair.clone(),
            exp: now + TOKEN_LIFE,
            iat: Some(now),
            nbf: None,
            iss: self.issuer.clone(),
            aud: self.audience.clone().map(Audience::One),
            jti: None,
        };
        mint(&self.keys, &claims)
    }
}

/// The pair of room `index`. Its IDs are UUIDs, so that any store accepts them; each has its own user, because
/// servers limit the sockets per user.
#[must_use]
pub fn pair(index: u32) -> Pair {
    let number = u64::from(index) + 1;
    Pair::active(
        format!("00000000-0000-4000-8000-{number:012x}"),
        format!("00000000-0000-4000-9000-{number:012x}"),
        format!("load-{number}-phone"),
        format!("load-{number}-mac"),
        unix_now(),
    )
}

/// Minimum and maximum length of a message, bytes.
#[must_use]
pub fn message_bytes() -> std::ops::RangeInclusive<usize> {
    MESSAGE_FRAME..=MAX_MESSAGE_BYTES
}

/// A candidate that carries its number, its due time (ns), and padding up to `bytes`.
pub(super) fn message(pair: &PairId, number: u64, due: u64, bytes: usize) -> String {
    let mut text =
        format!(r#"{{"t":"ice","pairId":"{pair}","candidate":{{"candidate":"load {number} {due} "#);
    let tail = r#"","sdpMid":"0","sdpMLineIndex":0}}"#;
    let padding = bytes.saturating_sub(text.len() + tail.len());
    text.extend(std::iter::repeat_n('x', padding));
    text.push_str(tail);
    text
}

/// Number and due time of a message created by [`message`]; `None` for any other message.
pub(super) fn read(text: &str) -> Option<(u64, u64)> {
    let (_, rest) = text.split_once(r#""load "#)?;
    let mut words = rest.splitn(3, ' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pairs::is_uuid, proto::signaling::Message};

    #[test]
    fn messages_are_candidates_of_the_requested_length() {
        let pair = pair(4_000_000_000).id;
        for bytes in [*message_bytes().start(), 300, *message_bytes().end()] {
            let text = message(&pair, u64::MAX, u64::MAX, bytes);
            assert_eq!(text.len(), bytes);
            assert_eq!(Message::parse(&text).unwrap().body.t(), "ice");
            assert_eq!(read(&text), Some((u64::MAX, u64::MAX)));
        }
        assert_eq!(read(r#"{"t":"hello"}"#), None);
    }

    #[test]
    fn every_store_accepts_the_pairs() {
        let (first, second) = (pair(0), pair(1));
        assert!(is_uuid(first.id.as_str()) && is_uuid(&first.user_id));
        assert!(
            first.id != second.id && first.ios != second.ios && first.user_id != second.user_id
        );
    }
}
