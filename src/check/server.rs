//! The server under test, and tokens for it: from its token API, or signed with its secret.

mod commands;
mod endpoint;
mod joining;

use std::{
    collections::HashMap,
    io,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use self::endpoint::Endpoint;
use super::{
    finding::{CaseError, Finding, violation},
    forge::{Signer, Template},
    level::{Level, Need},
    plan::{CheckConfig, Device},
    wire::{Answer, Request, connect},
};
use crate::{
    auth::{jws::KeyError, unix_now},
    lock::locked,
};
pub use joining::{HandshakeAttempt, NONCE};

/// Maximum pause honored between two requests, seconds.
const MAX_PAUSE_S: u64 = 30;

/// Maximum number of attempts for a request while the server asks for pauses.
const MAX_TRIES: u32 = 6;

/// How long a failure to get a token is cached, so that the remaining rules do not wait for it
/// again.
const FAILURE_CACHED_FOR: Duration = Duration::from_secs(30);

/// Minimum remaining lifetime of a token that is used again, seconds.
const MIN_REMAINING_S: u64 = 60;

/// One of the devices that a run acts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Party {
    /// The phone.
    Phone,
    /// The Mac.
    Mac,
    /// A device of another pair.
    Other,
}

const UNKNOWN: u8 = 0;
const GREETS: u8 = 1;
const SILENT: u8 = 2;

/// Outcome of the last attempt to get a token.
enum CachedToken {
    /// A token, and its `exp`.
    Token(String, u64),
    /// The failure, and when it happened.
    Failed(CaseError, Instant),
}

/// The server under test.
pub struct ServerUnderTest {
    /// What is checked, and as which devices.
    pub config: CheckConfig,
    /// Signs tokens; present when the server's secret is known.
    pub signer: Option<Signer>,
    tokens: Mutex<HashMap<Party, CachedToken>>,
    /// Held during a request to the token API: concurrent cases must not use up each other's rate
    /// limit.
    asking: Mutex<()>,
    /// Whether the server sends `hello` on a new socket.
    greeting: AtomicU8,
    unique_texts: AtomicU64,
    revoked: Mutex<bool>,
    token_api: Endpoint,
    signaling: Endpoint,
    /// Prerequisite rules that failed: cases that depend on them cannot be run.
    failed_prerequisites: std::sync::Mutex<Vec<&'static str>>,
}

impl ServerUnderTest {
    /// A server that has not been contacted yet.
    ///
    /// # Errors
    /// The secret is not a valid key.
    pub fn new(config: CheckConfig) -> Result<Self, KeyError> {
        let signer = config.jwt_secret.as_ref().map(Signer::new).transpose()?;
        Ok(Self {
            config,
            signer,
            tokens: Mutex::default(),
            asking: Mutex::default(),
            greeting: AtomicU8::new(UNKNOWN),
            unique_texts: AtomicU64::new(0),
            revoked: Mutex::new(false),
            token_api: Endpoint::new("the token API"),
            signaling: Endpoint::new("the signaling server"),
            failed_prerequisites: std::sync::Mutex::default(),
        })
    }

    /// Records the failure of a rule that other cases depend on.
    pub fn prerequisite_failed(&self, rule: &'static str) {
        locked(&self.failed_prerequisites).push(rule);
    }

    /// # Errors
    /// The rule failed, which has been reported: cases that depend on it cannot be run.
    fn require(&self, rule: &str) -> Result<(), CaseError> {
        if locked(&self.failed_prerequisites).contains(&rule) {
            return Err(CaseError::NotRun(format!("{rule} failed")));
        }
        Ok(())
    }

    /// The device, if it was given.
    #[must_use]
    pub fn device(&self, party: Party) -> Option<&Device> {
        match party {
            Party::Phone => Some(&self.config.phone),
            Party::Mac => Some(&self.config.mac),
            Party::Other => self.config.other.as_ref().map(|other| &other.device),
        }
    }

    /// The id of one of the two devices.
    #[must_use]
    pub fn id(&self, party: Party) -> &str {
        self.device(party).map_or("", |device| device.id.as_str())
    }

    /// Text that is unique within this run.
    #[must_use]
    pub fn unique_text(&self) -> String {
        format!("orion-check-{}", self.unique_texts.fetch_add(1, Ordering::Relaxed))
    }

    /// One request to the token API.
    ///
    /// # Errors
    /// There was no HTTP response.
    pub async fn request_token(
        &self,
        login: Option<&str>,
        body: &str,
    ) -> Result<Answer, CaseError> {
        self.request_token_as(login, body, None).await
    }

    /// Like [`ServerUnderTest::request_token`], with another `Host` if one is given.
    ///
    /// # Errors
    /// As [`ServerUnderTest::request_token`].
    pub async fn request_token_as(
        &self,
        login: Option<&str>,
        body: &str,
        host: Option<&str>,
    ) -> Result<Answer, CaseError> {
        let url = &self.config.token_url;
        let request = Request::new("POST", url).to_host(host);
        let mut request = request.header("Connection", "close");
        if let Some(login) = login {
            request = request.header("Authorization", &format!("Bearer {login}"));
        }
        let request = request.header("Accept", "application/json").json(body);
        self.token_api.check_reachable()?;
        let answer = self.with_timeout(async {
            let mut stream = connect(url, &self.config.trust, None)
                .await
                .map_err(|error| no_connection(&error))?;
            request.exchange(&mut stream).await
        });
        self.token_api.record(answer.await)
    }

    /// Like [`ServerUnderTest::request_token`], but waits and retries when the server asks for a
    /// pause.
    ///
    /// # Errors
    /// As [`ServerUnderTest::request_token`].
    pub async fn request_token_with_retries(
        &self,
        login: Option<&str>,
        body: &str,
    ) -> Result<Answer, CaseError> {
        let _guard = self.asking.lock().await;
        let mut tries = 1;
        loop {
            let answer = self.request_token(login, body).await?;
            let Some(pause) = pause(&answer, tries) else { return Ok(answer) };
            sleep(pause).await;
            tries += 1;
        }
    }

    /// The login token of a device, as sent in the request.
    ///
    /// # Errors
    /// None was given, or the server issues no token for it.
    pub fn login(&self, party: Party) -> Result<String, CaseError> {
        self.require("token.200")?;
        let login = self.device(party).and_then(|device| device.login.as_ref());
        let login = login.ok_or_else(|| CaseError::NotRun(Need::TokenApi.reason().into()))?;
        Ok(String::from_utf8_lossy(login.expose()).into_owned())
    }

    /// The body of a token request for a device.
    #[must_use]
    pub fn token_request_body(&self, party: Party) -> Value {
        let mut body = json!({"deviceId": self.id(party)});
        let pair = match (party, &self.config.other) {
            (Party::Other, Some(other)) => Some(&other.pair),
            (Party::Other, None) => None,
            _ => self.config.pair.as_ref(),
        };
        if let Some(pair) = pair {
            body["pairId"] = json!(pair);
        }
        body
    }

    /// A response with a fresh token.
    ///
    /// # Errors
    /// The server issued none.
    pub async fn fetch(&self, party: Party) -> Result<Answer, CaseError> {
        let login = self.login(party)?;
        let body = self.token_request_body(party).to_string();
        let answer = self.request_token_with_retries(Some(&login), &body).await?;
        match answer.status {
            200 => Ok(answer),
            _ => violation(format!("no token: {}", answer.summary())),
        }
    }

    /// A valid token of a device: from the API, or signed with the secret. It may have been used before.
    ///
    /// # Errors
    /// No token is available.
    pub async fn token(&self, party: Party) -> Result<String, CaseError> {
        let mut tokens = self.tokens.lock().await;
        match tokens.get(&party) {
            Some(CachedToken::Token(token, exp)) if *exp > unix_now() + MIN_REMAINING_S => {
                return Ok(token.clone());
            }
            Some(CachedToken::Failed(why, at)) if at.elapsed() < FAILURE_CACHED_FOR => {
                return Err(why.clone());
            }
            _ => {}
        }
        let token = self.new_token(party).await;
        let cached = match &token {
            Ok(token) => {
                let exp = Template::of(token).and_then(|template| template.claims["exp"].as_u64());
                CachedToken::Token(token.clone(), exp.unwrap_or_default())
            }
            Err(why) => CachedToken::Failed(why.clone(), Instant::now()),
        };
        tokens.insert(party, cached);
        token
    }

    /// A token that has not been used before.
    ///
    /// # Errors
    /// As [`ServerUnderTest::token`].
    pub async fn new_token(&self, party: Party) -> Result<String, CaseError> {
        if self.device(party).is_some_and(|device| device.login.is_some()) {
            let token = self.fetch(party).await?.json()["token"].as_str().map(str::to_owned);
            return token.ok_or_else(|| CaseError::Violation("the response has no `token`".into()));
        }
        self.forge(party, |template| template).await
    }

    /// Header and claims of a valid token.
    ///
    /// # Errors
    /// No token is available.
    pub async fn template(&self, party: Party) -> Result<Template, CaseError> {
        if self.device(party).is_some_and(|device| device.login.is_some()) {
            let token = self.token(party).await?;
            return Template::of(&token).ok_or_else(|| {
                CaseError::Violation("the token is not a compact JWS of JSON objects".into())
            });
        }
        let Some(signer) = &self.signer else {
            return Err(CaseError::NotRun("needs --access-token or --jwt-secret".into()));
        };
        let body = self.token_request_body(party);
        let Some(pair) = body["pairId"].as_str() else {
            return Err(CaseError::NotRun("needs --pair when there is no token API".into()));
        };
        let mut claims = json!({"sub": self.id(party), "pairId": pair});
        for (name, value) in [("iss", &self.config.issuer), ("aud", &self.config.audience)] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        Ok(Template { header: signer.header(), claims })
    }

    /// A token modified by `change` and signed with the server's secret.
    ///
    /// # Errors
    /// The secret was not given, or there is no valid token to start from.
    pub async fn forge(
        &self,
        party: Party,
        change: impl FnOnce(Template) -> Template,
    ) -> Result<String, CaseError> {
        let Some(signer) = &self.signer else {
            return Err(CaseError::NotRun(Need::JwtSecret.reason().into()));
        };
        // Boxed because it is recursive: a template may come from a token that is signed here.
        let template = Box::pin(self.template(party)).await?;
        signer.sign(&change(template.at(unix_now())))
    }

    /// The pair of the phone and the Mac.
    ///
    /// # Errors
    /// There is no token to read it from.
    pub async fn pair(&self) -> Result<String, CaseError> {
        if let Some(pair) = &self.config.pair {
            return Ok(pair.as_str().to_owned());
        }
        let claims = self.template(Party::Phone).await?.claims;
        let pair = claims["pairId"].as_str();
        pair.map(str::to_owned)
            .ok_or_else(|| CaseError::Violation("the token has no `pairId`".into()))
    }

    /// An HTTP exchange with a timeout.
    async fn with_timeout<T>(
        &self,
        exchange: impl Future<Output = Result<T, CaseError>>,
    ) -> Result<T, CaseError> {
        let within = 2 * self.config.timeouts.answer;
        tokio::time::timeout(within, exchange).await.unwrap_or_else(|_| {
            violation(format!("no HTTP response within {} s", within.as_secs_f64()))
        })
    }

    /// Expects a response with this status and `{code, message}`; level `production` accepts any 4xx.
    ///
    /// # Errors
    /// The response is different.
    pub fn expect_no_token(&self, answer: &Answer, status: u16) -> Finding {
        let lenient = self.config.level == Level::Production;
        let body = answer.json();
        let explained = ["code", "message"].iter().all(|key| body[key].is_string());
        match answer.status {
            400..500 if lenient => Ok(answer.summary()),
            found if found != status => violation(answer.summary()),
            _ if !explained => {
                violation(format!("{} without a JSON body {{code, message}}", answer.summary()))
            }
            _ => Ok(answer.summary()),
        }
    }
}

fn no_connection(error: &io::Error) -> CaseError {
    CaseError::Violation(format!("cannot connect: {error}"))
}

/// How long to wait before a retry; `None` when the response is final.
fn pause(answer: &Answer, tries: u32) -> Option<Duration> {
    let busy = matches!(answer.status, 429 | 503) && tries < MAX_TRIES;
    let seconds = answer.retry_after().filter(|_| busy)?;
    Some(Duration::from_secs(seconds.clamp(1, MAX_PAUSE_S)))
}
