//! The connection flags, shared by `send`, `recv` and `token fetch`, and their validated values. Nothing below this
//! layer depends on clap.

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
    stun::uri::is_turn,
    tls::{Trust, certificate::Fingerprint, certificates},
    types::{CandidateType, DeviceId, PairId, is_loopback},
};

/// Default path of the signaling WebSocket, used if the `--signal` URL has none.
pub const SIGNAL_PATH: &str = crate::proto::signaling::PATH;

/// Default signaling server: the dev server on this machine.
pub const DEV_SIGNAL: &str = "ws://127.0.0.1:8787";

/// Access token of the dev server, used if the token API is on this machine.
pub const DEV_ACCESS_TOKEN: &str = "dev";

/// Flags for the signaling server and the identity of this client.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct EndpointArgs {
    /// Signaling server (ws:// or wss://); default: the dev server, `ws://127.0.0.1:8787`
    #[arg(long, value_name = "URL")]
    pub signal: Option<String>,
    /// URL of the token API; default: /api/auth/webrtc-token on the signaling server
    #[arg(long, value_name = "URL")]
    pub token_url: Option<String>,
    /// Login token for the token API; default: `dev` if the API is on this machine
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse_token)]
    pub access_token: Option<SecretText>,
    /// Device ID to use; default: mac for recv, otherwise phone
    #[arg(long, value_name = "ID")]
    pub device: Option<String>,
    /// Pair to join; default: the device's only active pair
    #[arg(long, value_name = "ID")]
    pub pair: Option<String>,
    /// Extra trusted CA certificates (PEM) for wss://, https:// and turns: servers, in addition to the built-in roots;
    /// repeatable
    #[arg(long, alias = "ca", value_name = "FILE")]
    pub cacert: Vec<PathBuf>,
    /// Pin the server certificate by its SHA-256 fingerprint, ignoring its name and CA; repeatable
    #[arg(long, value_name = "SHA256")]
    pub tls_pin: Vec<Fingerprint>,
}

/// Flags for the connection to the peer.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectArgs {
    // Not a doc comment: clap would use it as the description of the whole command.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub endpoint: EndpointArgs,
    /// Signaling token to use, instead of fetching one
    #[arg(long, value_name = "JWT|@FILE", value_parser = SecretText::parse_token)]
    pub token: Option<SecretText>,
    /// ICE server (stun:, turn: or turns:), instead of those from the token API; repeatable
    #[arg(long, value_name = "URL")]
    pub ice_server: Vec<String>,
    /// User name for the TURN servers given by --ice-server
    #[arg(long, value_name = "NAME")]
    pub turn_username: Option<String>,
    /// Password for the TURN servers given by --ice-server
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    pub turn_credential: Option<SecretText>,
    /// Shared secret of the TURN servers given by --ice-server, used to generate user name and password
    #[arg(long, value_name = "TEXT|@FILE", value_parser = SecretText::parse)]
    pub turn_secret: Option<SecretText>,
    /// Use the ICE servers of a Twilio account, instead of those from the token API
    #[arg(long)]
    pub twilio: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub twilio_account: TwilioArgs,
    /// Candidates to use: all, or only relay candidates
    #[arg(long, value_name = "POLICY", value_enum, default_value_t)]
    pub ice_policy: IcePolicy,
    /// Candidate types to offer: host,srflx,relay; default: all
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = candidate)]
    pub candidates: Vec<CandidateType>,
    /// Address families to gather candidates on: udp4,udp6; default: both
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',', value_parser = address_family)]
    pub network: Vec<AddressFamily>,
    /// Network interface to gather candidates on; default: all
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Exit with an error if no peer or keyframe arrives within this time; default: wait forever
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub timeout: Option<Duration>,
}

/// Which candidates may be used: W3C `RTCIceTransportPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum IcePolicy {
    /// Candidates of any type.
    #[default]
    All,
    /// Relay candidates only.
    Relay,
}

/// Transport and address family to gather candidates on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

/// Where the signaling token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A token given by flag.
    Fixed(SecretText),
    /// The token API, called for each connection.
    Api {
        /// URL to POST to.
        url: Url,
        /// Login token, for `Authorization: Bearer`.
        access_token: SecretText,
    },
}

/// Validated signaling server and client identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// WebSocket URL of the signaling server, with its path.
    pub signal: Url,
    /// Device ID to use.
    pub device: DeviceId,
    /// Pair to join; `None` means the device's only active pair.
    pub pair: Option<PairId>,
}

/// Validated connection flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectConfig {
    /// WebSocket URL of the signaling server, with its path.
    pub signal: Url,
    /// Where the signaling token comes from.
    pub token: TokenSource,
    /// Device ID to use.
    pub device: DeviceId,
    /// Pair to join; `None` means the device's only active pair.
    pub pair: Option<PairId>,
    /// ICE servers given by flag; empty means those of the token API.
    pub ice_servers: Vec<IceServer>,
    /// The Twilio account to fetch ICE servers from.
    pub twilio: Option<TwilioArgs>,
    /// Which candidates may be used.
    pub ice_policy: IcePolicy,
    /// Candidate types to offer, without duplicates; never empty.
    pub candidates: Vec<CandidateType>,
    /// Address families to gather on, without duplicates; never empty.
    pub network: Vec<AddressFamily>,
    /// Network interface to gather on; `None` means all.
    pub interface: Option<String>,
    /// How long to wait for the peer; `None` means forever.
    pub timeout: Option<Duration>,
    /// The trusted certificates.
    pub trust: Trust,
}

impl ConnectConfig {
    /// Fetches the ICE servers of `--twilio`.
    ///
    /// # Errors
    /// No account is given (exit code 2); Twilio returns no servers (exit code 1).
    pub async fn with_twilio(mut self) -> Result<Self, Failure> {
        if let Some(account) = self.twilio.take() {
            self.ice_servers.extend(account.ice_servers().await?);
        }
        Ok(self)
    }
}

impl fmt::Display for AddressFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        })
    }
}

impl EndpointArgs {
    /// Validates the signaling server and the client identity.
    ///
    /// # Errors
    /// `--signal` is not a WebSocket URL; the device or pair is empty.
    pub fn endpoint(&self, default_device: &str) -> Result<Endpoint, Failure> {
        let device = self.device.as_deref().unwrap_or(default_device);
        for (flag, value) in [("--device", Some(device)), ("--pair", self.pair.as_deref())] {
            if value.is_some_and(|value| value.trim().is_empty()) {
                return Err(Failure::usage(
                    format!("{flag} is empty"),
                    format!("specify an id: {flag} ID"),
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

    /// The trusted certificates.
    ///
    /// # Errors
    /// A `--cacert` file cannot be read or contains no usable certificate.
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

    /// The token API and its login token.
    ///
    /// # Errors
    /// `--token-url` is not an HTTP URL; there is no login token for a remote server.
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
                    format!(
                        "no login token: cannot request a signaling token from {}",
                        redacted(&url)
                    ),
                    "pass a login token with --access-token @FILE (or ORION_ACCESS_TOKEN), or a signaling \
                     token with --token @FILE",
                ));
            }
        };
        Ok((url, access_token))
    }
}

impl ConnectArgs {
    /// Validates the flags; `now` is the issue time of TURN credentials generated from `--turn-secret`.
    ///
    /// # Errors
    /// A URL is not valid, flags conflict or a flag is missing: exit code 2.
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
                "--timeout 0 leaves no time to connect",
                "use a longer timeout, or omit --timeout",
            ));
        }
        let turn = |url: &String| is_turn(url);
        if self.ice_policy == IcePolicy::Relay
            && !self.ice_server.is_empty()
            && !self.ice_server.iter().any(turn)
        {
            return Err(Failure::usage(
                "--ice-policy relay requires a TURN server, but --ice-server lists only STUN \
                 servers",
                "add --ice-server turn:HOST with --turn-secret",
            ));
        }
        let login = self.turn_login()?;
        let (candidates, network) = (self.candidate_types()?, self.address_families());
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
                "--turn-secret cannot be used together with --turn-username or --turn-credential",
                "use only --turn-secret: user name and password are generated from it",
            ),
            (Some(_), None, None) => {
                wrong("--turn-username without --turn-credential", "add --turn-credential @FILE")
            }
            (None, Some(_), None) => {
                wrong("--turn-credential without --turn-username", "add --turn-username NAME")
            }
        }
    }

    fn candidate_types(&self) -> Result<Vec<CandidateType>, Failure> {
        use CandidateType::{Host, Relay, Srflx};
        let types = without_duplicates(&self.candidates, &[Host, Srflx, Relay]);
        if self.ice_policy == IcePolicy::Relay && !types.contains(&Relay) {
            return Err(Failure::usage(
                "--ice-policy relay uses relay candidates only, but --candidates excludes them",
                "add relay to --candidates, or omit --candidates",
            ));
        }
        Ok(types)
    }

    fn address_families(&self) -> Vec<AddressFamily> {
        without_duplicates(&self.network, &[AddressFamily::Udp4, AddressFamily::Udp6])
    }
}

fn without_duplicates<T: Copy + PartialEq>(given: &[T], all: &[T]) -> Vec<T> {
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
    let remedy = format!("use {flag} {plain}://HOST:PORT or {secure}://HOST");
    let shown = redacted_text(text);
    let url = Url::parse(text).map_err(|error| {
        Failure::usage(format!("{flag} `{shown}` is not a valid URL: {error}"), &remedy)
    })?;
    if !schemes.contains(&url.scheme()) {
        let message = format!("{flag} `{shown}` has scheme `{}`", url.scheme());
        return Err(Failure::usage(message, remedy));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let message = format!("{flag} contains a user name or password, which would be logged");
        return Err(Failure::usage(
            message,
            "remove them from the URL; pass secrets with --access-token @FILE",
        ));
    }
    Ok(url)
}

fn derived_token_url(signal: &Url) -> Result<Url, Failure> {
    let mut url = signal.clone();
    let scheme = if signal.scheme() == "wss" { "https" } else { "http" };
    url.set_scheme(scheme).map_err(|()| {
        let message = format!("cannot derive the token API URL from --signal {}", redacted(signal));
        Failure::usage(message, "add --token-url URL")
    })?;
    url.set_path(crate::proto::token::PATH);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

fn candidate(text: &str) -> Result<CandidateType, String> {
    match text.trim().parse() {
        Ok(CandidateType::Prflx) => Err(
            "prflx candidates are discovered during connectivity checks and cannot be selected: expected \
             host, srflx or relay"
                .to_owned(),
        ),
        Ok(kind) => Ok(kind),
        Err(_) => Err(units::not_valid(text, "candidate type", "host, srflx or relay")),
    }
}

fn address_family(text: &str) -> Result<AddressFamily, String> {
    match text.trim() {
        "udp4" => Ok(AddressFamily::Udp4),
        "udp6" => Ok(AddressFamily::Udp6),
        "tcp" => Err(
            "ICE-TCP candidates (RFC 6544) are not supported; where UDP is blocked, use a TURN server: \
             --ice-server turns:HOST or turn:HOST?transport=tcp"
                .to_owned(),
        ),
        _ => Err(units::not_valid(text, "address family", "udp4 or udp6")),
    }
}

#[cfg(test)]
mod tests;
