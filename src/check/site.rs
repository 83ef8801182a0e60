//! The server under test, and tokens for it: from its API, or made with its secret.

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
    forge::{Signer, Template},
    plan::{CheckConfig, Device},
    rule::{Level, Miss, Need, Seen, broken},
    wire::{Answer, Request, connect},
};
use crate::auth::{jws::KeyError, unix_now};
pub use joining::{Knock, NONCE};

/// Longest pause a server may ask for between two requests, seconds.
const LONGEST_PAUSE_S: u64 = 30;

/// How often a request is repeated when the server asks for a pause.
const PATIENT_TRIES: u32 = 6;

/// How long it is remembered that there was no token: the rest of the rules need not wait for one.
const NO_TOKEN_FOR: Duration = Duration::from_secs(30);

/// Shortest life left of a token that is used again, seconds.
const FRESH_S: u64 = 60;

/// One of the devices a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
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

/// What asking for a token gave.
enum Known {
    /// A token, and its `exp`.
    Token(String, u64),
    /// None, and when that was.
    Nothing(Miss, Instant),
}

/// The server under test.
pub struct Site {
    /// What is checked, and as whom.
    pub config: CheckConfig,
    /// Signs tokens; there with the server's secret.
    pub signer: Option<Signer>,
    tokens: Mutex<HashMap<Who, Known>>,
    /// Held while the token API is asked: cases side by side must not take each other's turns.
    asking: Mutex<()>,
    /// Whether a new socket hears `hello`.
    greeting: AtomicU8,
    marks: AtomicU64,
    revoked: Mutex<bool>,
    token_api: Endpoint,
    signaling: Endpoint,
    /// Rules that were broken first: what else needs them cannot be looked at.
    without: std::sync::Mutex<Vec<&'static str>>,
}

impl Site {
    /// A server that nobody has talked to yet.
    ///
    /// # Errors
    /// The secret is no key.
    pub fn new(config: CheckConfig) -> Result<Self, KeyError> {
        let signer = config.jwt_secret.as_ref().map(Signer::new).transpose()?;
        Ok(Self {
            config,
            signer,
            tokens: Mutex::default(),
            asking: Mutex::default(),
            greeting: AtomicU8::new(UNKNOWN),
            marks: AtomicU64::new(0),
            revoked: Mutex::new(false),
            token_api: Endpoint::new("the token API"),
            signaling: Endpoint::new("the signaling server"),
            without: std::sync::Mutex::default(),
        })
    }

    /// Told that a rule is broken which others cannot do without.
    pub fn without(&self, rule: &'static str) {
        locked(&self.without).push(rule);
    }

    /// # Errors
    /// The rule is broken, which has been told: what needs it cannot be looked at.
    fn needs(&self, rule: &str) -> Result<(), Miss> {
        if locked(&self.without).contains(&rule) {
            return Err(Miss::NotRun(format!("{rule} is broken")));
        }
        Ok(())
    }

    /// The device, if the run has it.
    #[must_use]
    pub fn device(&self, who: Who) -> Option<&Device> {
        match who {
            Who::Phone => Some(&self.config.phone),
            Who::Mac => Some(&self.config.mac),
            Who::Other => self.config.other.as_ref().map(|other| &other.device),
        }
    }

    /// The id of one of the two devices.
    #[must_use]
    pub fn id(&self, who: Who) -> &str {
        self.device(who).map_or("", |device| device.id.as_str())
    }

    /// Text that no other message of this run has.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("orion-check-{}", self.marks.fetch_add(1, Ordering::Relaxed))
    }

    /// One request to the token API.
    ///
    /// # Errors
    /// There was no HTTP answer.
    pub async fn ask(&self, login: Option<&str>, body: &str) -> Result<Answer, Miss> {
        self.ask_as(login, body, None).await
    }

    /// The same by another `Host`, if there is one.
    ///
    /// # Errors
    /// As [`Site::ask`].
    pub async fn ask_as(
        &self,
        login: Option<&str>,
        body: &str,
        host: Option<&str>,
    ) -> Result<Answer, Miss> {
        let url = &self.config.token_url;
        let request = Request::new("POST", url).to_host(host);
        let mut request = request.header("Connection", "close");
        if let Some(login) = login {
            request = request.header("Authorization", &format!("Bearer {login}"));
        }
        let request = request.header("Accept", "application/json").json(body);
        self.token_api.worth_asking()?;
        let answer = self.in_time(async {
            let mut stream = connect(url, &self.config.trust, None)
                .await
                .map_err(|error| no_connection(&error))?;
            request.exchange(&mut stream).await
        });
        self.token_api.note(answer.await)
    }

    /// The same; waits as long as the server asks for.
    ///
    /// # Errors
    /// As [`Site::ask`].
    pub async fn ask_politely(&self, login: Option<&str>, body: &str) -> Result<Answer, Miss> {
        let _turn = self.asking.lock().await;
        let mut tries = 1;
        loop {
            let answer = self.ask(login, body).await?;
            let Some(pause) = pause(&answer, tries) else { return Ok(answer) };
            sleep(pause).await;
            tries += 1;
        }
    }

    /// The login of a device, as it goes over the wire.
    ///
    /// # Errors
    /// The run has none, or gets no token with it.
    pub fn login(&self, who: Who) -> Result<String, Miss> {
        self.needs("token.200")?;
        let login = self.device(who).and_then(|device| device.login.as_ref());
        let login = login.ok_or_else(|| Miss::NotRun(Need::TokenApi.reason().into()))?;
        Ok(String::from_utf8_lossy(login.expose()).into_owned())
    }

    /// The body that asks for a token of a device.
    #[must_use]
    pub fn token_request(&self, who: Who) -> Value {
        let mut body = json!({"deviceId": self.id(who)});
        let pair = match (who, &self.config.other) {
            (Who::Other, Some(other)) => Some(&other.pair),
            (Who::Other, None) => None,
            _ => self.config.pair.as_ref(),
        };
        if let Some(pair) = pair {
            body["pairId"] = json!(pair);
        }
        body
    }

    /// A fresh token answer.
    ///
    /// # Errors
    /// The server gave none.
    pub async fn fetch(&self, who: Who) -> Result<Answer, Miss> {
        let login = self.login(who)?;
        let body = self.token_request(who).to_string();
        let answer = self.ask_politely(Some(&login), &body).await?;
        match answer.status {
            200 => Ok(answer),
            _ => broken(format!("no token: {}", answer.summary())),
        }
    }

    /// A good token of a device: from the API, or made with the secret. It may have been used before.
    ///
    /// # Errors
    /// There is none.
    pub async fn token(&self, who: Who) -> Result<String, Miss> {
        let mut tokens = self.tokens.lock().await;
        match tokens.get(&who) {
            Some(Known::Token(token, exp)) if *exp > unix_now() + FRESH_S => {
                return Ok(token.clone());
            }
            Some(Known::Nothing(why, at)) if at.elapsed() < NO_TOKEN_FOR => {
                return Err(why.clone());
            }
            _ => {}
        }
        let given = self.new_token(who).await;
        let known = match &given {
            Ok(token) => {
                let exp = Template::of(token).and_then(|template| template.claims["exp"].as_u64());
                Known::Token(token.clone(), exp.unwrap_or_default())
            }
            Err(why) => Known::Nothing(why.clone(), Instant::now()),
        };
        tokens.insert(who, known);
        given
    }

    /// A token that was not used before.
    ///
    /// # Errors
    /// As [`Site::token`].
    pub async fn new_token(&self, who: Who) -> Result<String, Miss> {
        if self.device(who).is_some_and(|device| device.login.is_some()) {
            let token = self.fetch(who).await?.json()["token"].as_str().map(str::to_owned);
            return token.ok_or_else(|| Miss::Broken("the token answer has no `token`".into()));
        }
        self.forge(who, |template| template).await
    }

    /// Header and claims of a good token.
    ///
    /// # Errors
    /// There is none.
    pub async fn template(&self, who: Who) -> Result<Template, Miss> {
        if self.device(who).is_some_and(|device| device.login.is_some()) {
            let token = self.token(who).await?;
            return Template::of(&token)
                .ok_or_else(|| Miss::Broken("the token is no compact JWS of JSON".into()));
        }
        let Some(signer) = &self.signer else {
            return Err(Miss::NotRun("needs --access-token or --jwt-secret".into()));
        };
        let body = self.token_request(who);
        let Some(pair) = body["pairId"].as_str() else {
            return Err(Miss::NotRun("needs --pair where there is no token API".into()));
        };
        let mut claims = json!({"sub": self.id(who), "pairId": pair});
        for (name, value) in [("iss", &self.config.issuer), ("aud", &self.config.audience)] {
            if let Some(value) = value {
                claims[name] = json!(value);
            }
        }
        Ok(Template { header: signer.header(), claims })
    }

    /// A token signed with the server's secret, changed by `change`.
    ///
    /// # Errors
    /// The run has no secret, or there is no good token to start from.
    pub async fn forge(
        &self,
        who: Who,
        change: impl FnOnce(Template) -> Template,
    ) -> Result<String, Miss> {
        let Some(signer) = &self.signer else {
            return Err(Miss::NotRun(Need::JwtSecret.reason().into()));
        };
        // Boxed: a template may come from a token that is made here.
        let template = Box::pin(self.template(who)).await?;
        signer.sign(&change(template.at(unix_now())))
    }

    /// The pair of the phone and the Mac.
    ///
    /// # Errors
    /// There is no token to read it from.
    pub async fn pair(&self) -> Result<String, Miss> {
        if let Some(pair) = &self.config.pair {
            return Ok(pair.as_str().to_owned());
        }
        let claims = self.template(Who::Phone).await?.claims;
        let pair = claims["pairId"].as_str();
        pair.map(str::to_owned).ok_or_else(|| Miss::Broken("the token has no `pairId`".into()))
    }

    /// An HTTP exchange, bounded.
    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T, Miss>>) -> Result<T, Miss> {
        let within = 2 * self.config.patience.answer;
        tokio::time::timeout(within, exchange)
            .await
            .unwrap_or_else(|_| broken(format!("no HTTP answer within {} s", within.as_secs_f64())))
    }

    /// Sees a token refused with this status and `{code, message}`; in production any 4xx will do.
    ///
    /// # Errors
    /// It was not.
    pub fn no_token(&self, answer: &Answer, status: u16) -> Seen {
        let lenient = self.config.level == Level::Production;
        let body = answer.json();
        let explained = ["code", "message"].iter().all(|key| body[key].is_string());
        match answer.status {
            400..500 if lenient => Ok(answer.summary()),
            found if found != status => broken(answer.summary()),
            _ if !explained => {
                broken(format!("{} without a JSON body {{code, message}}", answer.summary()))
            }
            _ => Ok(answer.summary()),
        }
    }
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn no_connection(error: &io::Error) -> Miss {
    Miss::Broken(format!("cannot connect: {error}"))
}

/// How long to wait before the request is made again; none when its answer counts.
fn pause(answer: &Answer, tries: u32) -> Option<Duration> {
    let busy = matches!(answer.status, 429 | 503) && tries < PATIENT_TRIES;
    let seconds = answer.retry_after().filter(|_| busy)?;
    Some(Duration::from_secs(seconds.clamp(1, LONGEST_PAUSE_S)))
}
