//! What a rule of the contract is: its sentence, what a server must do, and the case that looks.

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::site::Site;

/// How much of the contract is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What the production site must do: the bold fields, and that nobody gets in who may not.
    Production,
    /// All of it.
    Strict,
}

impl Level {
    /// As in flags and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Strict => "strict",
        }
    }
}

/// Beside what a case may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Nothing, and before all others: what those cannot do without.
    First,
    /// Anything: it joins no room.
    Free,
    /// Free cases: it needs the pair's room to itself.
    Room,
    /// Nothing, and after those: it floods.
    Alone,
    /// Nothing, and at the very end: the server is not the same afterwards.
    Last,
}

/// What a case needs that not every run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// The token API, and a login token for it.
    TokenApi,
    /// The secret that signs signaling tokens.
    JwtSecret,
    /// A second pair.
    OtherPair,
    /// A command that revokes the pair.
    RevokeCommand,
    /// A command that restarts the server.
    RestartCommand,
    /// A server that speaks TLS.
    Tls,
    /// A server that checks tokens of live sockets, too.
    LiveExpiry,
    /// An issuer or an audience that tokens must name.
    Policy,
}

impl Need {
    /// Why a case is not run without it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TokenApi => "needs --access-token",
            Self::JwtSecret => "needs --jwt-secret",
            Self::OtherPair => "needs --other-pair and --other-device",
            Self::RevokeCommand => "needs --revoke-command",
            Self::RestartCommand => "needs --restart-command",
            Self::Tls => "the server does not speak TLS",
            Self::LiveExpiry => "--connect-only: tokens count at connect only",
            Self::Policy => "needs --issuer or --audience",
        }
    }
}

/// What a case says when its rule does not hold, or cannot be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// The rule is broken: what was seen instead.
    Broken(String),
    /// It cannot be looked at: why.
    NotRun(String),
}

/// What a case saw of a server that keeps the rule.
pub type Seen = Result<String, Miss>;

/// A broken rule.
pub(super) fn broken<T>(what: impl Into<String>) -> Result<T, Miss> {
    Err(Miss::Broken(what.into()))
}

/// A case: looks at one server.
pub type Case = for<'s> fn(&'s Site) -> BoxFuture<'s, Seen>;

/// One rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Stable name, `group.what`.
    pub id: &'static str,
    /// The sentence of the contract.
    pub rule: &'static str,
    /// What a server must do.
    pub expected: &'static str,
    /// Where to look when it does not.
    pub remedy: &'static str,
    /// The lowest level that has it.
    pub level: Level,
    /// Takes longer than most people want to wait.
    pub slow: bool,
    /// Beside what it may run.
    pub lane: Lane,
    /// What it needs.
    pub needs: &'static [Need],
    /// The case.
    pub case: Case,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Rule {
    /// A strict rule that joins no room; `texts` are the sentence, what is expected, the remedy.
    #[must_use]
    pub const fn new(id: &'static str, texts: [&'static str; 3], case: Case) -> Self {
        let [rule, expected, remedy] = texts;
        let (level, slow, lane) = (Level::Strict, false, Lane::Free);
        Self { id, rule, expected, remedy, level, slow, lane, needs: &[], case }
    }

    /// The same, for the production site, too.
    #[must_use]
    pub const fn production(self) -> Self {
        Self { level: Level::Production, ..self }
    }

    /// The same, which takes long.
    #[must_use]
    pub const fn slow(self) -> Self {
        Self { slow: true, ..self }
    }

    /// The same in another lane.
    #[must_use]
    pub const fn lane(self, lane: Lane) -> Self {
        Self { lane, ..self }
    }

    /// The same with needs.
    #[must_use]
    pub const fn needs(self, needs: &'static [Need]) -> Self {
        Self { needs, ..self }
    }

    /// The part of the id before the dot.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.id.split('.').next().unwrap_or_default()
    }
}
