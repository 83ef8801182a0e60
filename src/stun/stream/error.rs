//! Why connecting to a server over TCP or TLS failed, and what to try.

use std::{io, net::SocketAddr, time::Duration};

use rustls::CertificateError;

use crate::tls::certificate::{Presented, Wrong, plain};

/// Why connecting failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// Nothing listens at this address.
    #[error("TCP port {} of {} is closed", .0.port(), .0.ip())]
    Refused(SocketAddr),
    /// The destination is unreachable.
    #[error("TCP to {address}: {reason}")]
    Unreachable {
        /// The server.
        address: SocketAddr,
        /// Error of the operating system.
        reason: String,
    },
    /// The server did not answer.
    #[error("no {step} with {address} within {} s", .within.as_secs())]
    Timeout {
        /// The server.
        address: SocketAddr,
        /// `TCP connection` or `TLS handshake`.
        step: &'static str,
        /// How long an answer was awaited.
        within: Duration,
    },
    /// The port answers, but not with TLS.
    #[error("{0} answers in plain text, not TLS")]
    PlainText(SocketAddr),
    /// The server closed the connection during the TLS handshake.
    #[error("{0} closed the connection during the TLS handshake")]
    Closed(SocketAddr),
    /// An established connection ended.
    #[error("the connection to {address} has ended: {reason}")]
    Ended {
        /// The server.
        address: SocketAddr,
        /// Why it ended.
        reason: String,
    },
    /// No certificate can be issued for this host.
    #[error("`{host}` is not a host name that a certificate can be issued for")]
    NoName {
        /// The host.
        host: String,
    },
    /// The certificate is for other hosts.
    #[error("the certificate is not for {host}{}", names(.presented))]
    Name {
        /// The host to which the connection was made.
        host: String,
        /// The hosts for which it is valid, as far as they are known.
        presented: Vec<String>,
    },
    /// The certificate has expired.
    #[error("the certificate of {0} has expired")]
    Expired(String),
    /// The certificate is not valid yet.
    #[error("the certificate of {0} is not valid yet")]
    NotYet(String),
    /// The certificate is signed by a CA that is not trusted.
    #[error(
        "the certificate of {host} is signed by an unknown CA; the server presented one {presented}"
    )]
    UnknownCa {
        /// The host.
        host: String,
        /// The hosts and the fingerprint of the certificate.
        presented: String,
    },
    /// The certificate matches none of the pinned fingerprints.
    #[error(
        "the certificate of {host} matches none of the pinned fingerprints; the server presented one {presented}"
    )]
    Pin {
        /// The host.
        host: String,
        /// The hosts and the fingerprint of the certificate.
        presented: String,
    },
    /// The server presents a CA certificate as its own.
    #[error("{0} presents a CA certificate instead of a server certificate")]
    CaAsServer(String),
    /// Any other TLS error.
    #[error("TLS to {host}: {reason}")]
    Tls {
        /// The host.
        host: String,
        /// The error of rustls.
        reason: String,
    },
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() { String::new() } else { format!(", but for {}", presented.join(", ")) }
}

impl DialError {
    pub(super) fn from_tcp(address: SocketAddr, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused(address),
            io::ErrorKind::TimedOut => {
                Self::Timeout { address, step: "TCP connection", within: super::DIAL_WITHIN }
            }
            _ => Self::Unreachable { address, reason: error.to_string() },
        }
    }

    pub(super) fn from_tls(address: SocketAddr, host: &str, error: &io::Error) -> Self {
        let host = host.to_owned();
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            None if error.kind() == io::ErrorKind::UnexpectedEof
                || error.kind() == io::ErrorKind::ConnectionReset =>
            {
                Self::Closed(address)
            }
            Some(rustls::Error::InvalidMessage(_)) => Self::PlainText(address),
            _ => match tls.and_then(Presented::in_error) {
                Some(presented) => Self::from_certificate(host, presented),
                None => Self::Tls { host, reason: error.to_string() },
            },
        }
    }

    fn from_certificate(host: String, presented: &Presented) -> Self {
        let wrong = match &presented.wrong {
            Wrong::Pin => return Self::Pin { host, presented: presented.certificate() },
            Wrong::Certificate(wrong) => wrong,
        };
        match wrong {
            CertificateError::NotValidForName => Self::Name { host, presented: Vec::new() },
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::Name { host, presented: presented.iter().map(|name| plain(name)).collect() }
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::Expired(host)
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYet(host)
            }
            CertificateError::UnknownIssuer => {
                Self::UnknownCa { host, presented: presented.certificate() }
            }
            CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
                Self::CaAsServer(host)
            }
            wrong => Self::Tls { host, reason: wrong.to_string() },
        }
    }

    /// The failure in kebab case, for programs: stable from version to version.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "tcp-refused",
            Self::Unreachable { .. } => "tcp-unreachable",
            Self::Timeout { step: "TLS handshake", .. } => "tls-timeout",
            Self::Timeout { .. } => "tcp-timeout",
            Self::PlainText(_) => "tls-plain-text",
            Self::Closed(_) => "tls-closed",
            Self::Ended { .. } => "tcp-ended",
            Self::NoName { .. } | Self::Name { .. } => "tls-name",
            Self::Expired(_) => "tls-expired",
            Self::NotYet(_) => "tls-not-yet-valid",
            Self::UnknownCa { .. } | Self::CaAsServer(_) => "tls-unknown-ca",
            Self::Pin { .. } => "tls-pin",
            Self::Tls { .. } => "tls-failed",
        }
    }

    /// Whether the TCP connection succeeded and TLS failed.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.code().starts_with("tls")
    }

    /// How to fix it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Refused(address) => {
                format!(
                    "check that the server is running and listens on TCP port {}",
                    address.port()
                )
            }
            Self::Unreachable { .. } => "check this machine's network and routes".into(),
            Self::Timeout { step: "TLS handshake", .. } | Self::Closed(_) => {
                "check that the server uses TLS on this port; for TCP without TLS, use \
                 turn:HOST:PORT?transport=tcp"
                    .into()
            }
            Self::Timeout { address, .. } => format!(
                "check the host and that no firewall on the path blocks TCP port {}",
                address.port()
            ),
            Self::PlainText(_) => {
                "specify the server's TLS port, or use turn:HOST:PORT?transport=tcp".into()
            }
            Self::Ended { .. } => {
                "check the server's log and whether a device on the path ends idle or long \
                 connections"
                    .into()
            }
            Self::NoName { .. } | Self::Name { .. } => {
                "use a host name for which the certificate is valid, or give the server a \
                 certificate for this name"
                    .into()
            }
            Self::Expired(_) => {
                "renew the server's certificate or correct this machine's clock".into()
            }
            Self::NotYet(_) => "correct the clock of this machine or of the server".into(),
            Self::UnknownCa { .. } => {
                "pass the CA's certificate with --cacert FILE, or this certificate's SHA-256 with \
                 --tls-pin; if the CA is well known, let the server send its intermediate \
                 certificates"
                    .into()
            }
            Self::Pin { .. } => "if the server has a new certificate, pass its SHA-256 with \
                                 --tls-pin; otherwise, the connection is being intercepted"
                .into(),
            Self::CaAsServer(_) => {
                "let the server present a certificate signed by its CA, not the \
                                    CA's own (openssl req -x509 creates a CA certificate unless \
                                    given -addext basicConstraints=CA:FALSE)"
                    .into()
            }
            Self::Tls { .. } => "check the server's certificate and TLS versions".into(),
        }
    }
}
