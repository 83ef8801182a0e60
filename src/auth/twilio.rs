//! ICE servers from Twilio's Network Traversal Service: `POST /2010-04-01/Accounts/{AC}/Tokens.json`.
//!
//! Its response is 201 with `ttl` as a string and `ice_servers` with one URL each, under `urls` and again
//! under the older `url`. Account and credentials are secrets and are never logged.

use std::{fmt, time::Duration};

use reqwest::{Client, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::{http, secret::Secret};
use crate::proto::token::IceServer;

/// Base URL of Twilio's API.
pub const API: &str = "https://api.twilio.com";

/// Maximum lifetime of Twilio's credentials, which is also its default.
pub const MAX_TTL: Duration = Duration::from_hours(24);

/// Maximum size of a response, bytes.
const MAX_BYTES: usize = 64 * 1024;

/// Timeout of a request.
const WITHIN: Duration = Duration::from_secs(10);

/// Pause after a 429 without `Retry-After`.
const LIMITED_FOR: Duration = Duration::from_mins(1);

/// Why there are no ICE servers. No variant shows a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TwilioError {
    /// The account id is malformed.
    #[error("`{0}` is not a valid Twilio account SID: expected AC and 32 hexadecimal digits")]
    Account(String),
    /// The URL of the API is not usable.
    #[error("the URL of Twilio's API is not valid: {0}")]
    Url(String),
    /// 401, 403 or 404: the account, the key or its secret is wrong.
    #[error("Twilio rejected the account or key: HTTP {status}{}", code_of(*.code))]
    Refused {
        /// HTTP status.
        status: u16,
        /// Twilio's error code.
        code: Option<u64>,
    },
    /// 429: too many requests; how long to wait.
    #[error("Twilio's rate limit was exceeded; retry after {} s", .0.as_secs())]
    Limited(Duration),
    /// Another error status.
    #[error("Twilio answered HTTP {status}{}", code_of(*.code))]
    Failed {
        /// HTTP status.
        status: u16,
        /// Twilio's error code.
        code: Option<u64>,
    },
    /// No response.
    #[error("cannot reach Twilio: {0}")]
    Unreachable(String),
    /// A response that is not from this service, or an empty list.
    #[error("Twilio's response is not usable: {0}")]
    Answer(String),
}

fn code_of(code: Option<u64>) -> String {
    code.map_or_else(String::new, |code| format!(", error {code}"))
}

impl TwilioError {
    /// Stable code for programs and counters.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Account(_) | Self::Url(_) => "config",
            Self::Refused { .. } => "refused",
            Self::Limited(_) => "limited",
            Self::Failed { .. } => "failed",
            Self::Unreachable(_) => "unreachable",
            Self::Answer(_) => "garbage",
        }
    }

    /// What to do, as an imperative sentence.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Account(_) => "set --twilio-account AC…, as shown in the Twilio console",
            Self::Url(_) => "omit --twilio-url, or write https://HOST",
            Self::Refused { .. } => {
                "check --twilio-account, --twilio-key and --twilio-secret; without a key, the secret \
                 must be the account's auth token"
            }
            Self::Limited(_) => "wait, and send fewer requests",
            Self::Failed { .. } => "check https://status.twilio.com, and try again",
            Self::Unreachable(_) => "check this machine's internet connection, and try again",
            Self::Answer(_) => "check that --twilio-url is Twilio's API",
        }
    }
}

/// ICE servers, and the lifetime of their credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// As Twilio lists them.
    pub servers: Vec<IceServer>,
    /// Lifetime, from the time of the request.
    pub ttl: Duration,
}

/// An account at Twilio. `Debug` shows no secret.
#[derive(Clone)]
pub struct Twilio {
    url: Url,
    user: String,
    secret: Secret,
    http: Client,
}

impl fmt::Debug for Twilio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twilio").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Twilio {
    /// The account `account` (`AC…`) at the API at `base`, with an API key `key` (`SK…`) and its
    /// secret; without a key `secret` is the account's auth token.
    ///
    /// # Errors
    /// [`TwilioError::Account`] and [`TwilioError::Url`].
    pub fn new(
        base: &str,
        account: &str,
        key: Option<&str>,
        secret: Secret,
    ) -> Result<Self, TwilioError> {
        let digits = account.strip_prefix("AC").unwrap_or_default();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TwilioError::Account(account.to_owned()));
        }
        let mut url = http::service_url(base).map_err(TwilioError::Url)?;
        let path = url.path().trim_end_matches('/');
        url.set_path(&format!("{path}/2010-04-01/Accounts/{account}/Tokens.json"));
        let http = http::client(&url, WITHIN).map_err(TwilioError::Url)?;
        Ok(Self { url, user: key.unwrap_or(account).to_owned(), secret, http })
    }

    /// The same account with a shorter timeout; for tests.
    ///
    /// # Errors
    /// [`TwilioError::Url`]
    pub fn within(self, within: Duration) -> Result<Self, TwilioError> {
        let http = http::client(&self.url, within).map_err(TwilioError::Url)?;
        Ok(Self { http, ..self })
    }

    /// Requests ICE servers whose credentials are valid for `ttl`.
    ///
    /// # Errors
    /// [`TwilioError`]
    pub async fn fetch(&self, ttl: Duration) -> Result<Lease, TwilioError> {
        let response = self
            .http
            .post(self.url.clone())
            .basic_auth(&self.user, Some(String::from_utf8_lossy(self.secret.expose())))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!("Ttl={}", ttl.as_secs()))
            .send()
            .await
            .map_err(|error| TwilioError::Unreachable(http::cause(&error)))?;
        if response.status() == StatusCode::CREATED {
            let body = http::body(response, MAX_BYTES).await.map_err(TwilioError::Answer)?;
            return read(&body);
        }
        Err(rejection(response).await)
    }
}

/// The error of a response; only the error number is taken from its text.
async fn rejection(response: Response) -> TwilioError {
    let status = response.status();
    let pause = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(LIMITED_FOR, Duration::from_secs);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return TwilioError::Limited(pause);
    }
    let body = http::body(response, MAX_BYTES).await.unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (code, status) = (body.get("code").and_then(Value::as_u64), status.as_u16());
    match status {
        401 | 403 | 404 => TwilioError::Refused { status, code },
        _ => TwilioError::Failed { status, code },
    }
}

#[derive(Deserialize)]
struct Answer {
    ttl: Ttl,
    ice_servers: Vec<Server>,
}

/// Documented, and sent, as a number in a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ttl {
    Text(String),
    Number(u64),
}

#[derive(Deserialize)]
struct Server {
    #[serde(default)]
    urls: Option<Urls>,
    /// The older name of `urls`.
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    credential: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Urls {
    One(String),
    Many(Vec<String>),
}

fn read(body: &[u8]) -> Result<Lease, TwilioError> {
    // serde's own message could quote the response, which contains credentials.
    let wrong = |what: &str| TwilioError::Answer(what.to_owned());
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| wrong("it is not JSON with `ttl` and `ice_servers`"))?;
    let seconds = match answer.ttl {
        Ttl::Text(text) => text.trim().parse().ok(),
        Ttl::Number(number) => Some(number),
    };
    let max = MAX_TTL.as_secs();
    let ttl = seconds
        .filter(|seconds| (1..=max).contains(seconds))
        .ok_or_else(|| wrong("its `ttl` is not a number of seconds up to one day"))?;
    let servers: Vec<IceServer> = answer.ice_servers.into_iter().filter_map(usable).collect();
    if servers.is_empty() {
        return Err(wrong("its list of ICE servers is empty"));
    }
    Ok(Lease { servers, ttl: Duration::from_secs(ttl) })
}

/// One entry; `None` when it has no ICE server URL, or only TURN URLs without credentials.
fn usable(server: Server) -> Option<IceServer> {
    let mut urls = match (server.urls, server.url) {
        (Some(Urls::One(one)), _) | (None, Some(one)) => vec![one],
        (Some(Urls::Many(many)), _) => many,
        (None, None) => Vec::new(),
    };
    let complete = server.username.is_some() && server.credential.is_some();
    urls.retain(|url| match url.split_once(':') {
        Some(("stun" | "stuns", host)) => !host.is_empty(),
        Some(("turn" | "turns", host)) => !host.is_empty() && complete,
        _ => false,
    });
    let (username, credential) = (server.username, server.credential);
    (!urls.is_empty()).then_some(IceServer { urls, username, credential })
}
