//! What can keep the client from connecting, each with its stage and what to try.

use std::{io, time::Duration};

use url::Url;

use super::{clock::with_clock, endpoint::redacted};
use crate::{
    proto::signaling::close,
    signaling::{client::token_client::TokenError, client::unreachable},
    types::Stage,
};

/// Why there is no signaling connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not usable.
    #[error("signaling URL `{url}`: {reason}")]
    Url {
        /// As given, without its query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No token to connect with.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The host name has no address.
    #[error("cannot resolve `{host}`: {source}")]
    Dns {
        /// The host.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// No TCP connection.
    #[error("cannot connect to {url}: {source}")]
    Connect {
        /// The server.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// No way through the proxy that the environment names.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy, without its login.
        proxy: String,
        /// The cause.
        reason: String,
    },
    /// The attempt took too long.
    #[error("{url} did not answer within {} s", .after.as_secs_f32())]
    Timeout {
        /// The server.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// No TLS.
    #[error("TLS with {url} failed: {reason}")]
    Tls {
        /// The server.
        url: String,
        /// The cause.
        reason: String,
    },
    /// TLS was tried, but no TLS is spoken there.
    #[error("{url} answered in plain text, not TLS")]
    PlainText {
        /// The server.
        url: String,
    },
    /// The server answered the upgrade with an HTTP error.
    #[error("{url} refused the connection: HTTP {status} {code}: {message}")]
    Refused {
        /// The server.
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
    /// The server sends its clients elsewhere.
    #[error("{url} redirects to {} (HTTP {status})", redacted(.target))]
    Redirected {
        /// The server.
        url: String,
        /// HTTP status.
        status: u16,
        /// Where to.
        target: Url,
    },
    /// Something answers there, but not the WebSocket protocol.
    #[error("{url} is not a WebSocket server: {reason}")]
    NotWebSocket {
        /// The server.
        url: String,
        /// How it shows.
        reason: String,
    },
    /// The server closed the socket for good.
    #[error("{url} closed the connection: {code} {reason}")]
    Closed {
        /// The server.
        url: String,
        /// Close code, 4500-4999.
        code: u16,
        /// Its reason.
        reason: String,
    },
}

impl ClientError {
    /// Where it failed.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Url { .. } => Stage::Config,
            Self::Token(error) => error.stage(),
            Self::Dns { .. } => Stage::Dns,
            Self::Tls { .. } | Self::PlainText { .. } => Stage::Tls,
            Self::Refused { status: 401, .. } | Self::Closed { code: close::BAD_TOKEN, .. } => {
                Stage::Token
            }
            Self::Connect { .. }
            | Self::Proxy { .. }
            | Self::Redirected { .. }
            | Self::Timeout { .. }
            | Self::Refused { .. }
            | Self::NotWebSocket { .. }
            | Self::Closed { .. } => Stage::Signaling,
        }
    }

    /// The failure in kebab case, for programs: stable from version to version.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Url { .. } => "bad-url".into(),
            Self::Token(error) => error.code(),
            Self::Dns { .. } => "dns-failed".into(),
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => "tcp-refused".into(),
                io::ErrorKind::TimedOut => "timeout".into(),
                _ => "tcp-failed".into(),
            },
            Self::Proxy { .. } => "proxy-failed".into(),
            Self::Timeout { .. } => "timeout".into(),
            Self::Tls { .. } => "tls-failed".into(),
            Self::PlainText { .. } => "tls-plain-text".into(),
            Self::Refused { status, .. } | Self::Redirected { status, .. } => {
                format!("http-{status}")
            }
            Self::NotWebSocket { .. } => "not-websocket".into(),
            Self::Closed { code, .. } => format!("closed-{code}"),
        }
    }

    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Url { .. } => {
                "give a URL like https://example.org or ws://127.0.0.1:8787/api/signal".into()
            }
            Self::Token(error) => error.remedy(),
            Self::Dns { host, .. } => {
                format!("check the spelling of `{host}` and this machine's network")
            }
            Self::Connect { url, .. } => unreachable::remedy(url),
            Self::Proxy { .. } => {
                "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or name the server in NO_PROXY".into()
            }
            Self::Redirected { target, .. } => {
                format!("give --signal {}", redacted(target))
            }
            Self::Timeout { .. } => {
                "check the port, firewalls between, and whether the server is overloaded".into()
            }
            Self::Tls { .. } => {
                "check the certificate's name and issuer (--cacert FILE names a CA of your own, \
                 --tls-pin SHA256 one certificate) and this machine's clock; a server without TLS is given as http:// or ws://"
                    .into()
            }
            Self::PlainText { url } => {
                let plain = url.replacen("wss:", "ws:", 1);
                format!("give {plain}, or the port where the server speaks TLS")
            }
            Self::Refused { url, code, .. } if code == "tls-required" => {
                format!("give {}: the port speaks TLS", url.replacen("ws:", "wss:", 1))
            }
            Self::Refused { status, retry_after, clock_skew, .. } => {
                refused(*status, *retry_after, *clock_skew)
            }
            Self::NotWebSocket { .. } => {
                "check host, port and path: the signaling path is /api/signal".into()
            }
            Self::Closed { code, .. } => closed(*code).into(),
        }
    }

    /// Whether trying again cannot help.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Redirected { .. } | Self::Closed { .. } => true,
            Self::Refused { status, .. } => matches!(status, 401 | 403),
            Self::Token(error) => error.is_final(),
            _ => false,
        }
    }

    /// Whether the server itself says that it is only for now.
    #[must_use]
    pub fn is_for_now(&self) -> bool {
        match self {
            Self::Refused { status, .. } | Self::Token(TokenError::Refused { status, .. }) => {
                matches!(status, 429 | 503)
            }
            _ => false,
        }
    }

    /// The pause the server asked for.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Token(error) => error.retry_after(),
            _ => None,
        }
    }
}

fn refused(status: u16, retry_after: Option<Duration>, clock_skew: Option<f64>) -> String {
    match status {
        401 => with_clock(
            "get a fresh token; `orion-peer token inspect` says why this one is refused",
            clock_skew,
        ),
        403 => "check that the device belongs to the active pair the token names".into(),
        404 => "check the path of the signaling URL: it is /api/signal".into(),
        426 => "the URL leads to the right server, but something between removes the WebSocket \
                upgrade: check proxies"
            .into(),
        429 => retry_after.map_or_else(
            || "wait before connecting again".into(),
            |after| format!("wait {} s before connecting again", after.as_secs()),
        ),
        503 => "the server or its pair store is down or draining: try again later".into(),
        _ => "see the server's log".into(),
    }
}

fn closed(code: u16) -> &'static str {
    match code {
        close::BAD_TOKEN => "get a fresh token for the same device and pair",
        close::WRONG_PAIR => "connect with a token of the pair the messages are for",
        close::REPLACED => "the same device connected elsewhere: stop one of the two",
        close::PAIR_REVOKED => "pair the devices again",
        close::SCHEMA_ERRORS => "the two sides speak different versions: update the older one",
        _ => "see the server's log",
    }
}
