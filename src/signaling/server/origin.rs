//! Decides which web pages may open a socket and read token responses (RFC 6454): pages of the listed
//! origins, and the server's own page, if it has one, under any name of the server.

use axum::http::{HeaderMap, header};

use super::{SignalingConfig, request::Arrival};
use crate::types::is_loopback;

/// The `Origin`s that may open a socket. Requests without the header (native apps) are always allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// No origin: only native apps.
    #[default]
    None,
    /// The listed origins (`https://example.org`), compared exactly, and pages served from this
    /// machine.
    Loopback(Vec<String>),
    /// The listed origins, compared exactly.
    Listed(Vec<String>),
    /// All origins.
    Any,
}

impl Origins {
    /// Whether pages of `origin` may open a socket.
    #[must_use]
    pub fn allow(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::None => false,
            Self::Listed(listed) => listed.iter().any(|one| one == origin),
            Self::Loopback(listed) => {
                listed.iter().any(|one| one == origin) || is_loopback_origin(origin)
            }
        }
    }
}

fn is_loopback_origin(origin: &str) -> bool {
    url::Url::parse(origin).is_ok_and(|url| is_loopback(&url))
}

/// Whether a request comes from a page that may connect, or does not come from a page.
#[must_use]
pub fn may_connect(
    config: &SignalingConfig,
    headers: &HeaderMap,
    arrival: Option<&Arrival>,
) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    origin.to_str().is_ok_and(|origin| {
        config.origins.allow(origin) || (config.own_page && is_own(origin, headers, arrival))
    })
}

/// Whether `origin` matches the `Host` and the scheme of the request itself. Any host name is accepted:
/// a page of this origin was served by this server, or by an attacker whose domain now resolves to this
/// server (DNS rebinding) and who has no token.
fn is_own(origin: &str, headers: &HeaderMap, arrival: Option<&Arrival>) -> bool {
    let mut hosts = headers.get_all(header::HOST).into_iter();
    let (Some(Ok(host)), None) = (hosts.next().map(|host| host.to_str()), hosts.next()) else {
        return false;
    };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let expected = match scheme {
        "https" => true,
        "http" => false,
        _ => return false,
    };
    let secure = arrival.and_then(|arrival| arrival.secure);
    !host.is_empty()
        && authority.eq_ignore_ascii_case(host)
        && secure.is_none_or(|secure| secure == expected)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn origins_are_compared_exactly() {
        let listed = Origins::Listed(vec!["https://a.example".into()]);
        assert!(listed.allow("https://a.example"));
        for origin in ["http://a.example", "https://a.example.evil", "null", "http://localhost"] {
            assert!(!listed.allow(origin), "{origin}");
        }
        let loopback = Origins::Loopback(Vec::new());
        for origin in ["http://localhost:8787", "http://127.0.0.1", "http://[::1]:1"] {
            assert!(loopback.allow(origin), "{origin}");
        }
        for origin in ["http://localhost.evil", "http://192.0.2.1", "null", ""] {
            assert!(!loopback.allow(origin), "{origin}");
        }
    }

    fn may(own_page: bool, origin: &'static str, host: &'static str, secure: Option<bool>) -> bool {
        let config = SignalingConfig {
            origins: Origins::Listed(vec!["https://listed.example".into()]),
            own_page,
            ..SignalingConfig::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        headers.insert(header::HOST, HeaderValue::from_static(host));
        may_connect(&config, &headers, Some(&Arrival { local: None, secure }))
    }

    #[test]
    fn the_servers_own_page_may_connect_under_any_name_of_the_server() {
        for (origin, host, secure) in [
            ("https://192.0.2.7:8787", "192.0.2.7:8787", Some(true)),
            ("https://[2001:db8::7]:8787", "[2001:db8::7]:8787", Some(true)),
            ("http://mac.local:8787", "mac.local:8787", Some(false)),
            // A proxy that terminates TLS.
            ("https://signal.example", "signal.example", None),
            ("https://listed.example", "192.0.2.7:8787", Some(true)),
        ] {
            assert!(may(true, origin, host, secure), "{origin} at {host}");
        }
        for (origin, host, secure) in [
            ("https://evil.example", "192.0.2.7:8787", Some(true)),
            ("https://192.0.2.7", "192.0.2.7:8787", Some(true)),
            ("https://192.0.2.7:8788", "192.0.2.7:8787", Some(true)),
            ("http://192.0.2.7:8787", "192.0.2.7:8787", Some(true)),
            ("https://192.0.2.7:8787", "192.0.2.7:8787", Some(false)),
            ("https://192.0.2.7:8787.evil.example", "192.0.2.7:8787", Some(true)),
            ("null", "192.0.2.7:8787", Some(true)),
            ("capacitor://localhost", "localhost", Some(true)),
            ("https://", "", Some(true)),
        ] {
            assert!(!may(true, origin, host, secure), "{origin} at {host}");
        }
    }

    #[test]
    fn without_an_own_page_only_listed_origins_may_connect() {
        assert!(!may(false, "https://192.0.2.7:8787", "192.0.2.7:8787", Some(true)));
        assert!(may(false, "https://listed.example", "192.0.2.7:8787", Some(true)));
    }
}
