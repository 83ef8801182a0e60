//! What to check, and as which devices.

use std::time::Duration;

use url::Url;

use super::level::{Level, Need};
use crate::{
    auth::secret::Secret,
    tls::Trust,
    types::{DeviceId, PairId},
};

/// How a token is presented to the signaling server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenIn {
    /// `Authorization: Bearer`.
    #[default]
    Header,
    /// Subprotocol `bearer.<jwt>`.
    Subprotocol,
    /// `?token=`.
    Query,
}

/// A device of the pair and its login.
#[derive(Debug, Clone)]
pub struct Device {
    /// Device id, the `sub` claim.
    pub id: DeviceId,
    /// Login token for the token API.
    pub login: Option<Secret>,
}

/// A device of another pair.
#[derive(Debug, Clone)]
pub struct OtherPair {
    /// Its id.
    pub pair: PairId,
    /// One of its devices.
    pub device: Device,
}

/// How long a case waits for each kind of event.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// For something that must arrive.
    pub answer: Duration,
    /// For something that must not arrive.
    pub quiet: Duration,
    /// For a slow handshake to be aborted (contract: 5 s).
    pub handshake: Duration,
    /// For a dead peer to be detected (contract: a ping every 25 s, 10 s for the pong).
    pub dead: Duration,
    /// From a token's expiry to the end of its socket (contract: grace period of 25 s).
    pub grace: Duration,
    /// For a revocation to reach live sockets (contract: 30 s).
    pub revocation: Duration,
    /// For a restarted server to accept connections again.
    pub restart: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(5),
            quiet: Duration::from_secs(1),
            handshake: Duration::from_secs(8),
            dead: Duration::from_secs(40),
            grace: Duration::from_secs(30),
            revocation: Duration::from_secs(33),
            restart: Duration::from_secs(30),
        }
    }
}

/// What to check.
#[derive(Debug, Clone)]
pub struct CheckConfig {
    /// The WebSocket, `ws:` or `wss:`.
    pub signal: Url,
    /// The token API.
    pub token_url: Url,
    /// Trusted certificates.
    pub trust: Trust,
    /// The phone.
    pub phone: Device,
    /// The Mac.
    pub mac: Device,
    /// The pair of the two devices; if `None`, the one that the token API returns.
    pub pair: Option<PairId>,
    /// A device of another pair.
    pub other: Option<OtherPair>,
    /// Key that signs signaling tokens: HS256 secret or PEM key.
    pub jwt_secret: Option<Secret>,
    /// The issuer that tokens must name.
    pub issuer: Option<String>,
    /// The audience that tokens must name.
    pub audience: Option<String>,
    /// How tokens are presented.
    pub token_in: TokenIn,
    /// The server checks tokens at connect only.
    pub connect_only: bool,
    /// Shell command that revokes the pair; its id is in `ORION_CHECK_PAIR`.
    pub revoke_command: Option<String>,
    /// Shell command that restarts the server.
    pub restart_command: Option<String>,
    /// How much of the contract is checked.
    pub level: Level,
    /// Also run slow rules.
    pub slow: bool,
    /// Which rules to run, by id.
    pub selection: Selection,
    /// Maximum number of concurrent cases.
    pub parallel: usize,
    /// Timeout of a case that is not slow.
    pub case_timeout: Duration,
    /// How long cases wait.
    pub timeouts: Timeouts,
}

impl CheckConfig {
    /// Checks the whole contract against a server at `signal` and `token_url`, as two
    /// devices.
    #[must_use]
    pub fn new(signal: Url, token_url: Url, phone: Device, mac: Device) -> Self {
        Self {
            signal,
            token_url,
            trust: Trust::web(),
            phone,
            mac,
            pair: None,
            other: None,
            jwt_secret: None,
            issuer: None,
            audience: None,
            token_in: TokenIn::Header,
            connect_only: false,
            revoke_command: None,
            restart_command: None,
            level: Level::Strict,
            slow: false,
            selection: Selection::default(),
            parallel: 4,
            case_timeout: Duration::from_secs(30),
            timeouts: Timeouts::default(),
        }
    }

    /// Whether this run provides what a rule needs.
    #[must_use]
    pub fn has(&self, need: Need) -> bool {
        match need {
            Need::TokenApi => self.phone.login.is_some() && self.mac.login.is_some(),
            Need::JwtSecret => self.jwt_secret.is_some(),
            Need::OtherPair => self.other.is_some(),
            Need::RevokeCommand => self.revoke_command.is_some(),
            Need::RestartCommand => self.restart_command.is_some(),
            Need::Tls => self.signal.scheme() == "wss",
            Need::LiveExpiry => !self.connect_only,
            Need::Policy => self.issuer.is_some() || self.audience.is_some(),
        }
    }
}

/// Rules by id; `*` matches any text.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Rules to run; all when empty.
    pub only: Vec<String>,
    /// Rules to leave out; takes precedence over `only`.
    pub skip: Vec<String>,
}

impl Selection {
    /// Whether the rule with this id is run.
    #[must_use]
    pub fn includes(&self, id: &str) -> bool {
        let among = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, id));
        (self.only.is_empty() || among(&self.only)) && !among(&self.skip)
    }
}

/// Whether `pattern`, in which `*` matches any text, matches all of `id`.
pub(super) fn matches(pattern: &str, id: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == id };
    let Some(left) = id.strip_prefix(start) else { return false };
    (0..=left.len()).any(|at| left.is_char_boundary(at) && matches(rest, &left[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_ids() {
        for (pattern, id, taken) in [
            ("token.200", "token.200", true),
            ("token.*", "token.200", true),
            ("*.4502-*", "close.4502-replaced", true),
            ("*", "anything", true),
            ("token", "token.200", false),
            ("*.40", "token.401", false),
            ("a*b*c", "a-c-b", false),
        ] {
            assert_eq!(matches(pattern, id), taken, "{pattern} {id}");
        }
    }

    #[test]
    fn skip_takes_precedence_over_only() {
        let selection = Selection { only: vec!["token.*".into()], skip: vec!["*.200".into()] };
        assert!(selection.includes("token.claims"));
        assert!(!selection.includes("token.200"));
        assert!(!selection.includes("close.1003-binary"));
    }
}
