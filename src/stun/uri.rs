//! URIs of STUN and TURN servers: `stun:` (RFC 7064), `turn:` and `turns:` (RFC 7065).

use std::{fmt, str::FromStr};

use url::{Host, Url};

/// Port of STUN and TURN over UDP and TCP (RFC 8489 §18.6, RFC 8656 §19).
pub const PORT: u16 = 3478;

/// Port of TURN over TLS (RFC 8656 §19).
pub const TLS_PORT: u16 = 5349;

/// Transport between a client and its STUN or TURN server (RFC 8656 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// `stun:`, and `turn:` with `?transport=udp` or nothing.
    Udp,
    /// `turn:` with `?transport=tcp`.
    Tcp,
    /// `turns:`, TLS over TCP.
    Tls,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        })
    }
}

/// The address of a STUN or TURN server and the transport to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerUri {
    /// Whether the server is a TURN server rather than a STUN server.
    pub turn: bool,
    /// Host name or address; an IPv6 address has no brackets.
    pub host: String,
    /// Port; the scheme's default port if the URI has none.
    pub port: u16,
    /// Transport to the server; always UDP for STUN.
    pub transport: Transport,
}

impl ServerUri {
    /// `host:port` for lookups, with an IPv6 address in brackets.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for ServerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.endpoint();
        match (self.turn, self.transport) {
            (false, _) => write!(f, "stun:{endpoint}"),
            (true, Transport::Tls) => write!(f, "turns:{endpoint}?transport=tcp"),
            (true, transport) => write!(f, "turn:{endpoint}?transport={transport}"),
        }
    }
}

/// Why a text is not a valid URI of a STUN or TURN server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The text has no scheme.
    #[error("no scheme")]
    NoScheme,
    /// The scheme is none of `stun:`, `turn:` and `turns:`.
    #[error("unknown scheme `{0}:`")]
    UnknownScheme(String),
    /// `stuns:`, which is STUN over TLS.
    #[error("stuns: is not supported")]
    Stuns,
    /// `turns:` with `?transport=udp`.
    #[error("turns: is TLS over TCP; TURN over DTLS is not supported")]
    Dtls,
    /// `stun:` with a query, which RFC 7064 does not define.
    #[error("stun: does not take a transport")]
    StunTransport,
    /// The transport is neither `udp` nor `tcp`.
    #[error("unknown transport `{0}`")]
    UnknownTransport(String),
    /// The query is not `?transport=`.
    #[error("the only queries allowed are ?transport=udp and ?transport=tcp")]
    Query,
    /// Slashes after the scheme, as in `stun://`.
    #[error("slashes after the colon are not allowed (RFC 7064 §3.1): use `turn:HOST`")]
    Slashes,
    /// Credentials before the host, as in `user@`.
    #[error("credentials are not allowed in the URL (RFC 7065 §3.1)")]
    Credentials,
    /// A path or fragment after host and port.
    #[error("a path is not allowed")]
    Path,
    /// The host or the port is not valid.
    #[error("{0}")]
    Address(String),
}

impl FromStr for ServerUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.trim().split_once(':').ok_or(UriError::NoScheme)?;
        let (address, query) = match rest.split_once('?') {
            Some((address, query)) => (address, Some(query.to_ascii_lowercase())),
            None => (rest, None),
        };
        let asked = match query.as_deref().map(|query| query.strip_prefix("transport=")) {
            None => None,
            Some(Some("udp")) => Some(Transport::Udp),
            Some(Some("tcp")) => Some(Transport::Tcp),
            Some(Some(other)) => return Err(UriError::UnknownTransport(other.to_owned())),
            Some(None) => return Err(UriError::Query),
        };
        // Scheme and transport are ABNF literals, which are case-insensitive (RFC 7064 §3.1, RFC 7065 §3.1).
        let scheme = scheme.to_ascii_lowercase();
        let (turn, transport) = match (scheme.as_str(), asked) {
            ("stun", None) => (false, Transport::Udp),
            ("turn", asked) => (true, asked.unwrap_or(Transport::Udp)),
            ("turns", None | Some(Transport::Tcp)) => (true, Transport::Tls),
            ("turns", _) => return Err(UriError::Dtls),
            ("stun", _) => return Err(UriError::StunTransport),
            ("stuns", _) => return Err(UriError::Stuns),
            (other, _) => return Err(UriError::UnknownScheme(other.to_owned())),
        };
        let (host, port) = read_address(address)?;
        let default = if transport == Transport::Tls { TLS_PORT } else { PORT };
        Ok(Self { turn, host, port: port.unwrap_or(default), transport })
    }
}

/// Reads the URL of an ICE server. A query on `stun:`, which RFC 7064 does not define but some token responses contain,
/// is ignored.
///
/// # Errors
/// [`UriError`].
pub(crate) fn read_url(url: &str) -> Result<ServerUri, UriError> {
    match url.trim_start().get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("stun:") => {
            url.split('?').next().unwrap_or_default().parse()
        }
        _ => url.parse(),
    }
}

/// Whether a URL names a TURN server, judging only by its scheme.
#[must_use]
pub fn is_turn(url: &str) -> bool {
    let scheme = url.trim_start().split(':').next().unwrap_or_default();
    ["turn", "turns"].iter().any(|turn| scheme.eq_ignore_ascii_case(turn))
}

fn read_address(address: &str) -> Result<(String, Option<u16>), UriError> {
    if address.starts_with("//") {
        return Err(UriError::Slashes);
    }
    if address.contains('@') {
        return Err(UriError::Credentials);
    }
    if address.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(UriError::Address(format!("an IPv6 address must be in brackets: [{address}]")));
    }
    // `http` is used only for its grammar of host and port. The parser omits its default port, 80.
    let url = Url::parse(&format!("http://{address}"))
        .map_err(|error| UriError::Address(error.to_string()))?;
    if !matches!(url.path(), "" | "/") || address.ends_with('/') || url.fragment().is_some() {
        return Err(UriError::Path);
    }
    let host = match url.host() {
        Some(Host::Ipv6(ip)) => ip.to_string(),
        Some(host) => host.to_string(),
        None => return Err(UriError::Address("no host".to_owned())),
    };
    let written = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    Ok((host, url.port().or(written)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written() {
        for (text, turn, host, port, transport, written) in [
            ("stun:s", false, "s", 3478, Transport::Udp, "stun:s:3478"),
            (
                "turn:T.example",
                true,
                "t.example",
                3478,
                Transport::Udp,
                "turn:t.example:3478?transport=udp",
            ),
            ("turn:t:80", true, "t", 80, Transport::Udp, "turn:t:80?transport=udp"),
            (
                "turn:t:443?transport=tcp",
                true,
                "t",
                443,
                Transport::Tcp,
                "turn:t:443?transport=tcp",
            ),
            ("turns:t", true, "t", 5349, Transport::Tls, "turns:t:5349?transport=tcp"),
            (
                "turns:[::1]?transport=tcp",
                true,
                "::1",
                5349,
                Transport::Tls,
                "turns:[::1]:5349?transport=tcp",
            ),
            (
                "turn:[2001:db8::2]:80",
                true,
                "2001:db8::2",
                80,
                Transport::Udp,
                "turn:[2001:db8::2]:80?transport=udp",
            ),
            ("stun:192.0.2.1:1", false, "192.0.2.1", 1, Transport::Udp, "stun:192.0.2.1:1"),
            (
                "STUN:[2001:DB8::2]",
                false,
                "2001:db8::2",
                3478,
                Transport::Udp,
                "stun:[2001:db8::2]:3478",
            ),
            (
                " Turn:t?TRANSPORT=Tcp ",
                true,
                "t",
                3478,
                Transport::Tcp,
                "turn:t:3478?transport=tcp",
            ),
            (
                "TURNS:t:443?transport=TCP",
                true,
                "t",
                443,
                Transport::Tls,
                "turns:t:443?transport=tcp",
            ),
        ] {
            let uri: ServerUri = text.parse().unwrap();
            assert_eq!(uri, ServerUri { turn, host: host.into(), port, transport }, "{text}");
            assert_eq!(uri.to_string(), written);
            assert_eq!(written.parse(), Ok(uri), "the written form can be read");
        }
    }

    #[test]
    fn errors_name_the_cause() {
        for (text, wrong) in [
            ("t.example", UriError::NoScheme),
            ("http:t", UriError::UnknownScheme("http".into())),
            ("stuns:s", UriError::Stuns),
            ("turns:t?transport=udp", UriError::Dtls),
            ("stun:s?transport=udp", UriError::StunTransport),
            ("turn:t?transport=sctp", UriError::UnknownTransport("sctp".into())),
            ("turn:t?x=1", UriError::Query),
            ("stun://s", UriError::Slashes),
            ("TURN://u:p@t:3478?transport=UDP", UriError::Slashes),
            ("STUNS:s", UriError::Stuns),
            ("turns:t?transport=UDP", UriError::Dtls),
            ("turn:u@t", UriError::Credentials),
            ("turn:t/path", UriError::Path),
            ("turn:t/", UriError::Path),
            ("turn:t#f", UriError::Path),
        ] {
            assert_eq!(text.parse::<ServerUri>(), Err(wrong), "{text}");
        }
        for text in
            ["stun:", "turn:t:99999", "turn:::1", "turn:[::1", "turn: t", "stun:2001:db8::1"]
        {
            let wrong = text.parse::<ServerUri>().unwrap_err();
            assert!(matches!(wrong, UriError::Address(_)), "{text}: {wrong:?}");
        }
    }
}
