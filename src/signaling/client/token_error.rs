//! Failures to get a token, each with its stage and remedy.

use std::time::Duration;

use super::{clock::with_clock, unreachable};
use crate::{proto::token::PATH, types::Stage};

/// [`TokenError::code`] of a TLS handshake that was answered in plain text.
pub(super) const PLAIN_TEXT: &str = "tls-plain-text";

/// The reason that no token is available. No variant contains a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The URL is not valid.
    #[error("token URL `{url}`: {reason}")]
    Url {
        /// As given, without its query.
        url: String,
        /// The reason it is not valid.
        reason: String,
    },
    /// The given token is malformed.
    #[error("the token is not valid: {0}")]
    Unreadable(String),
    /// The given token has expired.
    #[error("the token expired {ago_s} s ago")]
    Expired {
        /// Time since its expiry, seconds.
        ago_s: u64,
    },
    /// The token API did not answer.
    #[error("cannot fetch a token from {url}: {reason}")]
    Unreachable {
        /// The token API.
        url: String,
        /// The stage that failed.
        stage: Stage,
        /// Error code in kebab case: see [`TokenError::code`].
        code: &'static str,
        /// The cause.
        reason: String,
    },
    /// The token API rejected the request.
    #[error("{url} returned no token: HTTP {status} {code}: {message}")]
    Refused {
        /// The token API.
        url: String,
        /// HTTP status.
        status: u16,
        /// `code` of the body, or the name of the status.
        code: String,
        /// `message` of the body, or the start of the body.
        message: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
        /// How far this machine's clock is ahead of the server's, seconds, if known.
        clock_skew: Option<f64>,
    },
    /// The token API redirects elsewhere.
    #[error("{url} redirects to {target} (HTTP {status})")]
    Redirected {
        /// The requested URL.
        url: String,
        /// HTTP status.
        status: u16,
        /// Target of the redirect, without its query.
        target: String,
    },
    /// The response is not a token response.
    #[error("{url} returned an invalid token response: {reason}")]
    Answer {
        /// The token API.
        url: String,
        /// The reason it is not valid.
        reason: String,
    },
}

impl TokenError {
    /// The stage that failed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Url { .. } => Stage::Config,
            Self::Unreachable { stage, .. } => *stage,
            _ => Stage::Token,
        }
    }

    /// Error code in kebab case, stable across versions.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Url { .. } => "bad-token-url".into(),
            Self::Unreadable(_) => "token-unreadable".into(),
            Self::Expired { .. } => "token-expired".into(),
            Self::Unreachable { code, .. } => (*code).into(),
            Self::Refused { status, .. } | Self::Redirected { status, .. } => {
                format!("token-http-{status}")
            }
            Self::Answer { .. } => "not-a-token-answer".into(),
        }
    }

    /// What the user can do about the failure.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Url { .. } => format!("use a URL like https://example.org{PATH}"),
            Self::Unreadable(_) => {
                "pass the complete JWT, three parts separated by dots, or @FILE".into()
            }
            Self::Expired { .. } => {
                "fetch a fresh token with `orion-peer token`, or use --token-url to fetch tokens \
                 automatically"
                    .into()
            }
            Self::Unreachable { stage: Stage::Dns, .. } => {
                "check the spelling of the host and this machine's network".into()
            }
            Self::Unreachable { code: PLAIN_TEXT, url, .. } => {
                let plain = url.replacen("https:", "http:", 1);
                format!("use {plain} (or --signal ws://), or the server's TLS port")
            }
            Self::Unreachable { stage: Stage::Tls, .. } => {
                "check the certificate's name and issuer (--cacert FILE trusts a private CA, \
                 --tls-pin SHA256 a single certificate) and this machine's clock"
                    .into()
            }
            Self::Unreachable { url, .. } => unreachable::remedy(url),
            Self::Refused { url, code, .. } if code == "tls-required" => {
                let secure = url.replacen("http:", "https:", 1);
                format!("use {secure} (or --signal wss://): the port requires TLS")
            }
            Self::Refused { status, retry_after, clock_skew, .. } => {
                refused(*status, *retry_after, *clock_skew)
            }
            Self::Redirected { target, .. } => {
                format!("use --token-url {target} if you trust that server")
            }
            Self::Answer { .. } => {
                format!("check host, port and path: the path of the token API is {PATH}")
            }
        }
    }

    /// Whether a retry cannot succeed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Url { .. }
            | Self::Unreadable(_)
            | Self::Expired { .. }
            | Self::Redirected { .. } => true,
            Self::Refused { status, .. } => matches!(status, 400 | 401 | 403),
            Self::Unreachable { .. } | Self::Answer { .. } => false,
        }
    }

    /// The pause requested by the server.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

fn refused(status: u16, retry_after: Option<Duration>, clock_skew: Option<f64>) -> String {
    match status {
        400 => "check --device and --pair: the server rejected the request".into(),
        401 => {
            with_clock("log in again: the access token is missing, invalid or expired", clock_skew)
        }
        403 => "check that the device belongs to an active pair of the logged-in user".into(),
        404 | 405 => format!("check the path of the token URL: it is {PATH}"),
        429 => retry_after.map_or_else(
            || "wait before trying again".into(),
            |after| format!("wait {} s before trying again", after.as_secs()),
        ),
        503 => "try again later: the pair store or the login service is down".into(),
        _ => "check the server's log".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_for_a_tls_port_suggests_https() {
        let error = TokenError::Refused {
            url: "http://h:1/api".into(),
            status: 400,
            code: "tls-required".into(),
            message: String::new(),
            retry_after: None,
            clock_skew: None,
        };
        assert!(error.remedy().contains("https://h:1/api"), "{}", error.remedy());
    }
}
