//! What a run checks, and what it provides for that.

use serde::Serialize;

/// How much of the contract is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Requirements on the production server: the fields of the production contract, which are bold
    /// in the guide, and no unauthorized access.
    Production,
    /// The whole contract.
    Strict,
}

impl Level {
    /// The name in flags and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Strict => "strict",
        }
    }
}

/// A requirement of a case that not every run meets.
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
    /// A server that also enforces token expiry on live sockets.
    LiveExpiry,
    /// An issuer or an audience that tokens must name.
    Policy,
}

impl Need {
    /// Why a case is not run without it, as shown in the report.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TokenApi => "needs --access-token",
            Self::JwtSecret => "needs --jwt-secret",
            Self::OtherPair => "needs --other-pair and --other-device",
            Self::RevokeCommand => "needs --revoke-command",
            Self::RestartCommand => "needs --restart-command",
            Self::Tls => "the server does not speak TLS",
            Self::LiveExpiry => "--connect-only: tokens are checked at connect only",
            Self::Policy => "needs --issuer or --audience",
        }
    }
}
