//! Request and response of the token API, `POST /api/auth/webrtc-token`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::claims::whole;
use crate::types::{DeviceId, PairId};

/// Path of the token API.
pub const PATH: &str = "/api/auth/webrtc-token";

/// Body of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRequest {
    /// The device that requests the token.
    pub device_id: DeviceId,
    /// The pair to join; by default the only active pair of the device and user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_id: Option<PairId>,
}

/// Body of the 200 response. `Debug` omits the token and the credentials.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenAnswer {
    /// The signaling JWT, compact form.
    pub token: String,
    /// When the token expires, RFC 3339; a number of seconds since 1970 is also accepted.
    #[serde(
        default,
        deserialize_with = "text_or_number",
        skip_serializing_if = "String::is_empty"
    )]
    pub expires_at: String,
    /// Seconds until the token expires; 0 when the server does not send a number.
    #[serde(default, deserialize_with = "seconds_or_none")]
    pub expires_in: u64,
    /// The pair the token is for.
    pub pair_id: PairId,
    /// STUN and TURN servers for this peer.
    #[serde(default)]
    pub ice_servers: Vec<IceServer>,
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAnswer")
            .field("pair_id", &self.pair_id)
            .field("expires_at", &self.expires_at)
            .field("ice_servers", &self.ice_servers)
            .finish_non_exhaustive()
    }
}

/// W3C `RTCIceServer`. `Debug` omits the credential.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `turn:` and `turns:` URLs (RFC 7064, RFC 7065); a single string is also accepted.
    #[serde(deserialize_with = "one_or_many")]
    pub urls: Vec<String>,
    /// TURN username.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// TURN password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

impl IceServer {
    /// When its credential expires, seconds since 1970: the username of TURN REST credentials
    /// (draft-uberti-behave-turn-rest-00 §2.2) starts with that time.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        expiry(self.username.as_deref()?)
    }
}

/// When a credential with this username expires, if the username contains the time.
#[must_use]
pub fn expiry(username: &str) -> Option<u64> {
    let expiry = username.split(':').next()?.parse().ok()?;
    // A short number is an ordinary username.
    (expiry > 1_000_000_000).then_some(expiry)
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Body of every error response of the token API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Machine-readable name of the error.
    pub code: String,
    /// Human-readable cause and remedy.
    pub message: String,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Urls {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Urls::deserialize(deserializer)? {
        Urls::One(one) => vec![one],
        Urls::Many(many) => many,
    })
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Instant {
        Text(String),
        Number(serde_json::Number),
    }
    Ok(match Option::<Instant>::deserialize(deserializer)? {
        None => String::new(),
        Some(Instant::Text(text)) => text,
        Some(Instant::Number(number)) => number.to_string(),
    })
}

fn seconds_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let found = match Value::deserialize(deserializer)? {
        Value::Number(number) => whole(&number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    Ok(found.unwrap_or_default())
}

/// The valid ICE servers of a token response, and what is wrong with each of the others. Does not check whether the
/// URLs are usable.
#[must_use]
pub fn read_ice_servers(given: &Value) -> (Vec<IceServer>, Vec<String>) {
    let (mut servers, mut wrong) = (Vec::new(), Vec::new());
    match given {
        Value::Null => {}
        Value::Array(entries) => {
            for (number, entry) in (1..).zip(entries) {
                match read_ice_server(entry) {
                    Ok(server) => servers.push(server),
                    Err(why) => wrong.push(format!("entry {number} of iceServers: {why}")),
                }
            }
        }
        _ => wrong.push("iceServers is not a list".into()),
    }
    (servers, wrong)
}

fn read_ice_server(entry: &Value) -> Result<IceServer, String> {
    let Value::Object(members) = entry else {
        return Err(if entry.is_null() { "it is null" } else { "it is not an object" }.into());
    };
    if !members.contains_key("urls") {
        let legacy = members.contains_key("url");
        return Err(
            if legacy { "it has `url` instead of `urls`" } else { "it has no `urls`" }.into()
        );
    }
    let server = IceServer::deserialize(entry).map_err(|error| error.to_string())?;
    if server.urls.is_empty() { Err("its `urls` is empty".into()) } else { Ok(server) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_other_servers_are_accepted() {
        let answer: TokenAnswer = serde_json::from_str(
            r#"{"token":"a.b.c","pairId":"p","expiresAt":1700000000,"iceServers":[{"urls":"stun:s:3478"}],"more":1}"#,
        )
        .unwrap();
        assert_eq!(answer.ice_servers[0].urls, ["stun:s:3478"]);
        assert_eq!(answer.expires_at, "1700000000");
    }

    #[test]
    fn lifetimes_in_other_forms_are_accepted() {
        for (written, meant) in
            [("300", 300), ("299.97", 299), (r#""300""#, 300), ("null", 0), (r#""soon""#, 0)]
        {
            let text = format!(
                r#"{{"token":"a.b.c","pairId":"p","expiresAt":null,"expiresIn":{written}}}"#
            );
            let answer: TokenAnswer = serde_json::from_str(&text).unwrap();
            assert_eq!((answer.expires_in, answer.expires_at.as_str()), (meant, ""), "{written}");
        }
    }

    #[test]
    fn invalid_ice_servers_are_reported_and_the_rest_is_read() {
        let given = serde_json::json!([
            null,
            {"urls": "stun:s"},
            {"url": "turn:old", "username": "u", "credential": "c"},
            {"username": "u"},
            {"urls": ["turn:t", 7]},
            {"urls": []},
            "stun:text",
            {"urls": ["turn:t"], "username": "u", "credential": "c", "credentialType": "password"},
            {"urls": "turn:t", "username": 7},
        ]);
        let (servers, wrong) = read_ice_servers(&given);
        let urls: Vec<_> = servers.iter().flat_map(|server| &server.urls).collect();
        assert_eq!(urls, ["stun:s", "turn:t"]);
        let named = ["null", "`url`", "no `urls`", "entry 5", "empty", "not an object", "entry 9"];
        assert_eq!(wrong.len(), named.len(), "{wrong:?}");
        for (wrong, named) in wrong.iter().zip(named) {
            assert!(wrong.contains(named), "{wrong}: {named}");
        }
        assert_eq!(read_ice_servers(&Value::Null), (Vec::new(), Vec::new()));
        assert_eq!(read_ice_servers(&serde_json::json!({})).1.len(), 1);
    }

    #[test]
    fn debug_output_omits_the_credential() {
        let server = IceServer {
            urls: vec!["turn:t:3478".into()],
            username: Some("u".into()),
            credential: Some("hush".into()),
        };
        assert!(!format!("{server:?}").contains("hush"));
    }
}
