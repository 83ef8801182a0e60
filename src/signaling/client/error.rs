//! Connection failures of the client, each with its stage and remedy.

use std::{io, time::Duration};

use url::Url;

use super::{clock::with_clock, redact::redacted, token_error::TokenError, unreachable};
use crate::{proto::signaling::close, types::Stage};

/// The cause of a failed signaling connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL is not valid.
    #[error("signaling URL `{url}`: {reason}")]
    Url {
        /// As given, without its query.
        url: String,
        /// The reason it is not valid.
        reason: String,
    },
    /// No token is available.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The host name cannot be resolved.
    #[error("cannot resolve `{host}`: {source}")]
    Dns {
        /// The host.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// The TCP connection failed.
    #[error("cannot connect to {url}: {source}")]
    Connect {
        /// The server.
        url: String,
        /// The cause.
        source: io::Error,
    },
    /// The connection through the proxy named by the environment failed.
    #[error("proxy {proxy}: {reason}")]
    Proxy {
        /// The proxy, without its login.
        proxy: String,
        /// The cause.
        reason: String,
    },
    /// The attempt timed out.
    #[error("{url} did not answer within {} s", .after.as_secs_f32())]
    Timeout {
        /// The server.
        url: String,
        /// The timeout.
        after: Duration,
    },
    /// The TLS handshake failed.
    #[error("TLS with {url} failed: {reason}")]
    Tls {
        /// The server.
        url: String,
        /// The cause.
        reason: String,
    },
    /// The server answered the TLS handshake in plain text.
    #[error("{url} answered in plain text, not TLS")]
    PlainText {
        /// The server.
        url: String,
    },
    /// The server answered the upgrade with an HTTP error.
    #[error("{url} rejected the connection: HTTP {status} {code}: {message}")]
    Refused {
        /// The server.
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
    /// The server redirects elsewhere.
    #[error("{url} redirects to {} (HTTP {status})", redacted(.target))]
    Redirected {
        /// The server.
        url: String,
        /// HTTP status.
        status: u16,
        /// Target of the redirect.
        target: Url,
    },
    /// The server answers, but not with the WebSocket protocol.
    #[error("{url} is not a WebSocket server: {reason}")]
    NotWebSocket {
        /// The server.
        url: String,
        /// The protocol error.
        reason: String,
    },
    /// The server closed the socket permanently.
    #[error("{url} closed the connection: {code} {reason}")]
    Closed {
        /// The server.
        url: String,
        /// Close code, 4500-4999.
        code: u16,
        /// Close reason.
        reason: String,
    },
}

impl ClientError {
    /// The stage that failed.
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

    /// Error code in kebab case, stable across versions.
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

    /// What the user can do about the failure.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Url { .. } => {
                "use a URL like https://example.org or ws://127.0.0.1:8787/api/signal".into()
            }
            Self::Token(error) => error.remedy(),
            Self::Dns { host, .. } => {
                format!("check the spelling of `{host}` and this machine's network")
            }
            Self::Connect { url, .. } => unreachable::remedy(url),
            Self::Proxy { .. } => {
                "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY, or add the server to NO_PROXY".into()
            }
            Self::Redirected { target, .. } => {
                format!("use --signal {}", redacted(target))
            }
            Self::Timeout { .. } => {
                "check the port, firewalls on the path, and whether the server is overloaded".into()
            }
            Self::Tls { .. } => {
                "check the certificate's name and issuer (--cacert FILE trusts a private CA, \
                 --tls-pin SHA256 a single certificate) and this machine's clock; for a server \
                 without TLS use http:// or ws://"
                    .into()
            }
            Self::PlainText { url } => {
                let plain = url.replacen("wss:", "ws:", 1);
                format!("use {plain}, or the server's TLS port")
            }
            Self::Refused { url, code, .. } if code == "tls-required" => {
                format!("use {}: the port requires TLS", url.replacen("ws:", "wss:", 1))
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

    /// Whether a retry cannot succeed.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Redirected { .. } | Self::Closed { .. } => true,
            Self::Refused { status, .. } => matches!(status, 401 | 403),
            Self::Token(error) => error.is_final(),
            _ => false,
        }
    }

    /// Whether the server itself indicates that the failure is temporary.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Refused { status, .. } | Self::Token(TokenError::Refused { status, .. }) => {
                matches!(status, 429 | 503)
            }
            _ => false,
        }
    }

    /// The pause requested by the server.
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
            "get a fresh token; `orion-peer token inspect` shows why this one is rejected",
            clock_skew,
        ),
        403 => "check that the device belongs to the active pair named in the token".into(),
        404 => "check the path of the signaling URL: it is /api/signal".into(),
        426 => "check the proxies on the path: one of them removes the WebSocket upgrade".into(),
        429 => retry_after.map_or_else(
            || "wait before connecting again".into(),
            |after| format!("wait {} s before connecting again", after.as_secs()),
        ),
        503 => "try again later: the server or its pair store is down or draining".into(),
        _ => "check the server's log".into(),
    }
}

fn closed(code: u16) -> &'static str {
    match code {
        close::BAD_TOKEN => "get a fresh token for the same device and pair",
        close::WRONG_PAIR => "connect with a token for the pair of the messages",
        close::REPLACED => "stop one of the two clients: the same device has connected elsewhere",
        close::PAIR_REVOKED => "pair the devices again",
        close::SCHEMA_ERRORS => {
            "update the older of client and server: their protocol versions differ"
        }
        _ => "check the server's log",
    }
}
