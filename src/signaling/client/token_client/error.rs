//! Why there is no token, and what to try.

use std::time::Duration;

use super::{PATH, PLAIN_TEXT};
use crate::{
    signaling::{client::unreachable, client::with_clock},
    types::Stage,
};

/// Why there is no token. No variant shows a token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The address is not usable.
    #[error("token URL `{url}`: {reason}")]
    Url {
        /// As given, without its query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// What was given as a token is none.
    #[error("the token cannot be read: {0}")]
    Unreadable(String),
    /// The given token is over.
    #[error("the token expired {ago_s} s ago")]
    Expired {
        /// Seconds since then.
        ago_s: u64,
    },
    /// No answer.
    #[error("cannot fetch a token from {url}: {reason}")]
    Unreachable {
        /// The token API.
        url: String,
        /// Where it failed.
        stage: Stage,
        /// What failed, in kebab case: see [`TokenError::code`].
        code: &'static str,
        /// The cause.
        reason: String,
    },
    /// An error answer.
    #[error("{url} gave no token: HTTP {status} {code}: {message}")]
    Refused {
        /// The token API.
        url: String,
        /// HTTP status.
        status: u16,
        /// `code` of the body, or the status' name.
        code: String,
        /// `message` of the body, or the start of the body.
        message: String,
        /// `Retry-After`.
        retry_after: Option<Duration>,
        /// How far this machine's clock is ahead of the server's, seconds, when it shows.
        clock_skew: Option<f64>,
    },
    /// The token API is elsewhere.
    #[error("{url} redirects to {target} (HTTP {status})")]
    Redirected {
        /// The token API as it was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// Where to, without its query.
        target: String,
    },
    /// An answer that is not the token API's.
    #[error("{url} answered what is no token answer: {reason}")]
    Answer {
        /// The token API.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

impl TokenError {
    /// Where it failed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Url { .. } => Stage::Config,
            Self::Unreachable { stage, .. } => *stage,
            _ => Stage::Token,
        }
    }

    /// The failure in kebab case, for programs: stable from version to version.
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

    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Url { .. } => format!("give a URL like https://example.org{PATH}"),
            Self::Unreadable(_) => {
                "give the whole JWT, three parts with dots, or @file that holds it".into()
            }
            Self::Expired { .. } => {
                "fetch a fresh one with `orion-peer token`, or give --token-url so that it is \
                 fetched by itself"
                    .into()
            }
            Self::Unreachable { stage: Stage::Dns, .. } => {
                "check the spelling of the host and this machine's network".into()
            }
            Self::Unreachable { code: PLAIN_TEXT, url, .. } => {
                let plain = url.replacen("https:", "http:", 1);
                format!("give {plain} (or --signal ws://), or the port where it speaks TLS")
            }
            Self::Unreachable { stage: Stage::Tls, .. } => {
                "check the certificate's name and issuer (--cacert FILE names a CA of your own, \
                 --tls-pin SHA256 one certificate) and this machine's clock"
                    .into()
            }
            Self::Unreachable { url, .. } => unreachable::remedy(url),
            Self::Refused { url, code, .. } if code == "tls-required" => {
                let secure = url.replacen("http:", "https:", 1);
                format!("give {secure} (or --signal wss://): the port speaks TLS")
            }
            Self::Refused { status, retry_after, clock_skew, .. } => {
                refused(*status, *retry_after, *clock_skew)
            }
            Self::Redirected { target, .. } => {
                format!("give --token-url {target}, if that is the server you mean")
            }
            Self::Answer { .. } => format!("check host, port and path: the token API is {PATH}"),
        }
    }

    /// Whether trying again cannot help.
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

    /// The pause the server asked for.
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
        400 => "check --device and --pair: the server does not understand the request".into(),
        401 => {
            with_clock("log in again: the access token is missing, wrong or expired", clock_skew)
        }
        403 => "check that the device is in an active pair of the logged-in user".into(),
        404 | 405 => format!("check the path of the token URL: it is {PATH}"),
        429 => retry_after.map_or_else(
            || "wait before asking again".into(),
            |after| format!("wait {} s before asking again", after.as_secs()),
        ),
        503 => "the pair store or the login service is down: try again later".into(),
        _ => "see the server's log".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_speaks_tls_is_told_as_one() {
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
