//! Where and how to connect: the flags that `send`, `recv` and `token fetch` share, made into values
//! that are checked and mean something. Nothing below knows clap.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use url::Url;

use super::{failure::Failure, ice, secret::SecretText, twilio::TwilioArgs, units};
use crate::{
    proto::token::IceServer,
    signaling::client::{redacted, redacted_text},
    stun::{
        stream::{Trust, certificate::Fingerprint, certificates},
        uri::is_turn,
    },
    types::{CandidateType, DeviceId, PairId, is_loopback},
};

/// Path of the signaling WebSocket, taken when `--signal` has none.
pub const SIGNAL_PATH: &str = "/api/signal";

/// Signaling server taken when there is no `--signal`: the dev server of this machine.
pub const DEV_SIGNAL: &str = "ws://127.0.0.1:8787";

/// Path of the token API, taken when there is no `--token-url`.
pub const TOKEN_PATH: &str = crate::proto::token::PATH;

/// Access token of the dev server, taken when the token API is on this machine.
pub const DEV_ACCESS_TOKEN: &str = "dev";

/// Flags that say where signaling is and who is asking.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct EndpointArgs {
    /// Signaling server, ws:// or wss://; default: the dev server, `ws://127.0.0.1:8787`
    #[arg(long, value_name = "URL")]
    pub signal: Option<String>,
    /// Token API; default: the signaling server's host, at /api/auth/webrtc-token
    #[arg(long, value_name = "URL")]
    pub token_url: Option<String>,
    /// Login token for the token API; default `dev` when that is on this machine
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse_token)]
    pub access_token: Option<SecretText>,
    /// Device to be; default: mac for recv, phone otherwise
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// Pair to join; default: the device's one active pair
    #[arg(long, value_name = "ID")]
    pub pair: Option<String>,
    /// Certificates to believe besides the web's, PEM: of wss://, https:// and turns: servers;
    /// repeatable
    #[arg(long, alias = "ca", value_name = "FILE")]
    pub cacert: Vec<PathBuf>,
    /// SHA-256 of the only server certificate to believe, whatever its name and CA; repeatable
    #[arg(long, value_name = "SHA256")]
    pub tls_pin: Vec<Fingerprint>,
}

/// Flags that say where and how to connect to the peer.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    // Not a doc comment: clap would make it the text of the whole command.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Signaling token to present, instead of fetching one
    #[arg(long, value_name = "JWT|@FILE", value_parser = SecretText::parse_token)]
    pub token: Option<SecretText>,
    /// stun:, turn: or turns: server, instead of those from the token API; repeatable
    #[arg(long, value_name = "URL")]
    pub ice_server: Vec<String>,
    /// User name for the TURN servers of --ice-server
    #[arg(long, value_name = "NAME")]
    pub turn_username: Option<String>,
    /// Password for the TURN servers of --ice-server
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    pub turn_credential: Option<SecretText>,
    /// Shared secret of the TURN servers of --ice-server, to make user name and password from
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    pub turn_secret: Option<SecretText>,
    /// ICE servers of the Twilio account below, instead of those from the token API
    #[arg(long)]
    pub twilio: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub twilio_account: TwilioArgs,
    /// Candidates to use: all, or only those of TURN servers
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub ice_policy: IcePolicy,
    /// Candidate types to offer: host,srflx,relay; default all
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = candidate)]
    pub candidates: Vec<CandidateType>,
    /// Networks to gather candidates on: udp4,udp6; default both
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', value_parser = network)]
    pub network: Vec<Network>,
    /// Network interface to gather candidates on; default all
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Give up when no peer or keyframe came by then; default: wait
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub timeout: Option<Duration>,
}

/// Which candidates may be used: W3C `RTCIceTransportPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum IcePolicy {
    /// Any.
    #[default]
    All,
    /// Only relayed ones.
    Relay,
}

/// A transport and address family to gather candidates on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

/// Where the signaling token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A token as it is.
    Fixed(SecretText),
    /// The token API, asked anew for each connection.
    Api {
        /// URL to POST to.
        url: Url,
        /// Login token, for `Authorization: Bearer`.
        access_token: SecretText,
    },
}

/// Where signaling is and who is asking, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// WebSocket URL of the signaling server, with its path.
    pub signal: Url,
    /// Device to be.
    pub device: DeviceId,
    /// Pair to join; none means the device's one active pair.
    pub pair: Option<PairId>,
}

/// Where and how to connect, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectConfig {
    /// WebSocket URL of the signaling server, with its path.
    pub signal: Url,
    /// Where the signaling token comes from.
    pub token: TokenSource,
    /// Device to be.
    pub device: DeviceId,
    /// Pair to join; none means the device's one active pair.
    pub pair: Option<PairId>,
    /// ICE servers given by flag; none means those of the token API.
    pub ice_servers: Vec<IceServer>,
    /// The Twilio account whose ICE servers are still to be fetched.
    pub twilio: Option<TwilioArgs>,
    /// Which candidates may be used.
    pub ice_policy: IcePolicy,
    /// Candidate types to offer, none twice; never empty.
    pub candidates: Vec<CandidateType>,
    /// Networks to gather on, none twice; never empty.
    pub network: Vec<Network>,
    /// Network interface to gather on; none means all.
    pub interface: Option<String>,
    /// How long to wait for the peer; none means for ever.
    pub timeout: Option<Duration>,
    /// The certificates that servers are believed by.
    pub trust: Trust,
}

impl ConnectConfig {
    /// Fetches the ICE servers of `--twilio`.
    ///
    /// # Errors
    /// No account is named (exit code 2); Twilio gives none (exit code 1).
    pub async fn with_twilio(mut self) -> Result<Self, Failure> {
        if let Some(account) = self.twilio.take() {
            self.ice_servers.extend(account.ice_servers().await?);
        }
        Ok(self)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        })
    }
}

impl EndpointArgs {
    /// Checks where signaling is and who is asking.
    ///
    /// # Errors
    /// `--signal` is no WebSocket URL; the device or pair is empty.
    pub fn endpoint(&self, default_device: &str) -> Result<Endpoint, Failure> {
        let device = self.device.as_deref().unwrap_or(default_device);
        for (flag, value) in [("--device", Some(device)), ("--pair", self.pair.as_deref())] {
            if value.is_some_and(|value| value.trim().is_empty()) {
                return Err(Failure::usage(
                    format!("{flag} is empty"),
                    format!("name one: {flag} ID"),
                ));
            }
        }
        Ok(Endpoint {
            signal: self.signal_url()?,
            device: device.into(),
            pair: self.pair.as_deref().map(PairId::from),
        })
    }

    fn signal_url(&self) -> Result<Url, Failure> {
        let mut url =
            http_like_url("--signal", self.signal.as_deref().unwrap_or(DEV_SIGNAL), ["ws", "wss"])?;
        if url.path() == "/" {
            url.set_path(SIGNAL_PATH);
        }
        Ok(url)
    }

    /// The certificates that servers are believed by.
    ///
    /// # Errors
    /// A file of `--cacert` cannot be read, or holds no certificate that can be used.
    pub fn trust(&self) -> Result<Trust, Failure> {
        let mut added = Vec::new();
        for path in &self.cacert {
            let wrong = |error: String, remedy: &str| {
                Failure::usage(format!("--cacert {}: {error}", path.display()), remedy)
            };
            let pem = std::fs::read(path).map_err(|error| {
                wrong(format!("cannot be read: {error}"), "check the path and its permissions")
            })?;
            let found =
                certificates(&pem).map_err(|error| wrong(error.to_string(), error.remedy()))?;
            added.extend(found);
        }
        if added.is_empty() && self.tls_pin.is_empty() {
            return Ok(Trust::web());
        }
        Ok(Trust::of(&added, &self.tls_pin))
    }

    /// The token API to ask, and the login token for it.
    ///
    /// # Errors
    /// `--token-url` is no HTTP URL; there is no login token for a server elsewhere.
    pub fn token_api(&self) -> Result<(Url, SecretText), Failure> {
        let url = match &self.token_url {
            Some(text) => http_like_url("--token-url", text, ["http", "https"])?,
            None => derived_token_url(&self.signal_url()?)?,
        };
        let access_token = match &self.access_token {
            Some(token) => token.clone(),
            None if is_loopback(&url) => SecretText::new(DEV_ACCESS_TOKEN),
            None => {
                return Err(Failure::usage(
                    format!("no login token to ask {} for a signaling token with", redacted(&url)),
                    "give --access-token @FILE (or ORION_ACCESS_TOKEN), or a signaling token with \
                     --token @FILE",
                ));
            }
        };
        Ok((url, access_token))
    }
}

impl ConnectArgs {
    /// Checks the flags and makes them mean something; `now` dates TURN credentials made from
    /// `--turn-secret`.
    ///
    /// # Errors
    /// A URL, a combination of flags or a missing one: exit code 2, with what to give instead.
    pub fn resolve(&self, default_device: &str, now: SystemTime) -> Result<ConnectConfig, Failure> {
        let endpoint = self.endpoint.endpoint(default_device)?;
        let token = if let Some(token) = &self.token {
            TokenSource::Fixed(token.clone())
        } else {
            let (url, access_token) = self.endpoint.token_api()?;
            TokenSource::Api { url, access_token }
        };
        if self.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Err(Failure::usage(
                "--timeout 0 waits for nothing",
                "give a longer one, or none",
            ));
        }
        let turn = |url: &String| is_turn(url);
        if self.ice_policy == IcePolicy::Relay
            && !self.ice_server.is_empty()
            && !self.ice_server.iter().any(turn)
        {
            return Err(Failure::usage(
                "--ice-policy relay needs a TURN server, and --ice-server names none",
                "give --ice-server turn:HOST with --turn-secret, too",
            ));
        }
        let login = self.turn_login()?;
        let (candidates, network) = (self.candidate_types()?, self.networks());
        Ok(ConnectConfig {
            signal: endpoint.signal,
            token,
            device: endpoint.device,
            pair: endpoint.pair,
            ice_servers: ice::servers(&self.ice_server, &login, now)?,
            twilio: self.twilio.then(|| self.twilio_account.clone()),
            ice_policy: self.ice_policy,
            candidates,
            network,
            interface: self.interface.clone().filter(|name| !name.is_empty()),
            timeout: self.timeout,
            trust: self.endpoint.trust()?,
        })
    }

    fn turn_login(&self) -> Result<ice::TurnLogin, Failure> {
        let wrong = |message: &str, remedy: &str| Err(Failure::usage(message, remedy));
        match (&self.turn_username, &self.turn_credential, &self.turn_secret) {
            (None, None, None) => Ok(ice::TurnLogin::None),
            (Some(username), Some(credential), None) => {
                Ok(ice::TurnLogin::Fixed(username.clone(), credential.clone()))
            }
            (None, None, Some(secret)) => Ok(ice::TurnLogin::Secret(secret.clone())),
            (_, _, Some(_)) => wrong(
                "--turn-secret together with --turn-username or --turn-credential",
                "give the secret alone: user name and password are made from it",
            ),
            (Some(_), None, None) => wrong(
                "--turn-username without --turn-credential",
                "give --turn-credential @FILE, too",
            ),
            (None, Some(_), None) => {
                wrong("--turn-credential without --turn-username", "give --turn-username NAME, too")
            }
        }
    }

    fn candidate_types(&self) -> Result<Vec<CandidateType>, Failure> {
        use CandidateType::{Host, Relay, Srflx};
        let types = without_repeats(&self.candidates, &[Host, Srflx, Relay]);
        if self.ice_policy == IcePolicy::Relay && !types.contains(&Relay) {
            return Err(Failure::usage(
                "--ice-policy relay uses relay candidates only, but --candidates leaves them out",
                "add relay to --candidates, or leave --candidates out",
            ));
        }
        Ok(types)
    }

    fn networks(&self) -> Vec<Network> {
        without_repeats(&self.network, &[Network::Udp4, Network::Udp6])
    }
}

fn without_repeats<T: Copy + PartialEq>(given: &[T], all: &[T]) -> Vec<T> {
    let mut kept = Vec::new();
    for one in if given.is_empty() { all } else { given } {
        if !kept.contains(one) {
            kept.push(*one);
        }
    }
    kept
}

fn http_like_url(flag: &str, text: &str, schemes: [&str; 2]) -> Result<Url, Failure> {
    let [plain, secure] = schemes;
    let remedy = format!("write {flag} {plain}://HOST:PORT or {secure}://HOST");
    let shown = redacted_text(text);
    let url = Url::parse(text).map_err(|error| {
        Failure::usage(format!("{flag} `{shown}` is not a valid URL: {error}"), &remedy)
    })?;
    if !schemes.contains(&url.scheme()) {
        let message = format!("{flag} `{shown}` has scheme `{}`", url.scheme());
        return Err(Failure::usage(message, remedy));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let message = format!("{flag} holds a user name or password, which would be printed");
        return Err(Failure::usage(message, "give secrets with --access-token @FILE"));
    }
    Ok(url)
}

fn derived_token_url(signal: &Url) -> Result<Url, Failure> {
    let mut url = signal.clone();
    let scheme = if signal.scheme() == "wss" { "https" } else { "http" };
    url.set_scheme(scheme).map_err(|()| {
        let message = format!("no token API can be derived from --signal {}", redacted(signal));
        Failure::usage(message, "give --token-url URL")
    })?;
    url.set_path(TOKEN_PATH);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn candidate(text: &str) -> Result<CandidateType, String> {
    match text.trim().parse() {
        Ok(CandidateType::Prflx) => Err(
            "prflx candidates come up during checks and cannot be asked for; write host, srflx \
                 or relay"
                .to_owned(),
        ),
        Ok(kind) => Ok(kind),
        Err(_) => Err(format!("`{text}` is no candidate type; write host, srflx or relay")),
    }
}

fn network(text: &str) -> Result<Network, String> {
    match text.trim() {
        "udp4" => Ok(Network::Udp4),
        "udp6" => Ok(Network::Udp6),
        "tcp" => Err(
            "ICE-TCP candidates (RFC 6544) are not supported; where UDP is blocked, a TURN server helps: \
             --ice-server turns:HOST or turn:HOST?transport=tcp"
                .to_owned(),
        ),
        _ => Err(format!("`{text}` is no network; write udp4 or udp6")),
    }
}

#[cfg(test)]
mod tests;
