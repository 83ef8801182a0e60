//! Access control of the page. On loopback, every user of this machine has access, but no page of another origin and
//! no other host name (DNS rebinding); on any other address the token is required.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use rand::Rng;
use sha2::{Digest, Sha256};

use crate::page::is_loopback_host;

/// Name of the cookie that holds the token.
const COOKIE: &str = "orion-view";

/// Access control for requests.
#[derive(Debug, Clone)]
pub struct AccessControl {
    token: Option<String>,
}

/// Why a request is rejected: status, code, message.
pub type AccessError = (StatusCode, &'static str, &'static str);

impl AccessControl {
    /// Creates the access control for a listener on this address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let token =
            (!address.is_loopback()).then(|| format!("{:032x}", rand::rng().random::<u128>()));
        Self { token }
    }

    /// The token, if one is required.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The cookie to set for a client with the token in the URL.
    #[must_use]
    pub fn cookie(&self, uri: &Uri) -> Option<String> {
        let token = self.token.as_deref()?;
        let query = uri.query()?;
        let shown = url::form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "token" && same(&value, token));
        shown.then(|| format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"))
    }

    /// Checks whether a request has access.
    ///
    /// # Errors
    /// A different origin, a host that is not this one, or no token.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), AccessError> {
        let text =
            |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if self.token.is_none() && !is_loopback_host(host) {
            let message = "this page is only for this machine: open it by IP address or localhost";
            return Err((StatusCode::MISDIRECTED_REQUEST, "wrong-host", message));
        }
        let own = |origin: &str| origin.split_once("://").is_some_and(|(_, at)| at == host);
        let foreign = text(header::ORIGIN).is_some_and(|origin| !own(origin));
        let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
        // Following a link is safe: it leads to our own page.
        let followed = method == Method::GET
            && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
        if foreign
            || (!followed && site.is_some_and(|site| !matches!(site, "same-origin" | "none")))
        {
            let message = "cross-origin requests are not allowed";
            return Err((StatusCode::FORBIDDEN, "other-origin", message));
        }
        let cookies = text(header::COOKIE).unwrap_or_default();
        let shown = cookies.split(';').filter_map(|cookie| cookie.trim().split_once('='));
        match &self.token {
            Some(token)
                if !shown.into_iter().any(|(name, value)| name == COOKIE && same(value, token)) =>
            {
                let message = "open the URL with the token, as printed by orion-peer";
                Err((StatusCode::UNAUTHORIZED, "token-missing", message))
            }
            _ => Ok(()),
        }
    }
}

/// Compares two secrets in a time that does not depend on their common prefix.
fn same(shown: &str, token: &str) -> bool {
    Sha256::digest(shown) == Sha256::digest(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn code(gate: &AccessControl, method: &Method, lines: &[(&'static str, &str)]) -> &'static str {
        gate.check(method, &headers(lines)).map_or_else(|(_, code, _)| code, |()| "")
    }

    #[test]
    fn loopback_allows_only_its_own_pages() {
        let gate = AccessControl::new([127, 0, 0, 1].into());
        for host in ["127.0.0.1:8788", "localhost:8788", "[::1]:1", "LOCALHOST"] {
            assert_eq!(code(&gate, &Method::GET, &[("host", host)]), "", "{host}");
        }
        for host in ["", "evil.example:8788", "127.0.0.1.evil.example", "192.0.2.1:8788"] {
            assert_eq!(code(&gate, &Method::GET, &[("host", host)]), "wrong-host", "{host}");
        }
        let host = ("host", "127.0.0.1:8788");
        let own = ("origin", "http://127.0.0.1:8788");
        assert_eq!(code(&gate, &Method::POST, &[host, own, ("sec-fetch-site", "same-origin")]), "");
        let followed = [host, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(code(&gate, &Method::GET, &followed), "");
        assert_eq!(code(&gate, &Method::POST, &followed), "other-origin");
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "http://127.0.0.1:80"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(code(&gate, &Method::GET, &[host, foreign]), "other-origin", "{foreign:?}");
        }
    }

    #[test]
    fn other_addresses_require_a_token() {
        let gate = AccessControl::new([0, 0, 0, 0].into());
        let token = gate.token().unwrap();
        assert_eq!(token.len(), 32);
        assert_ne!(AccessControl::new([0, 0, 0, 0].into()).token(), Some(token));
        let host = ("host", "mac.example:8788");
        assert_eq!(code(&gate, &Method::GET, &[host]), "token-missing");
        assert_eq!(
            code(&gate, &Method::GET, &[host, ("cookie", "orion-view=wrong")]),
            "token-missing"
        );
        let cookie = gate.cookie(&format!("/?a=b&token={token}").parse().unwrap()).unwrap();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
        let cookie = format!("x=y; {}", cookie.split(';').next().unwrap());
        assert_eq!(code(&gate, &Method::GET, &[host, ("cookie", &cookie)]), "");
        assert_eq!(gate.cookie(&"/?token=wrong".parse().unwrap()), None);
        assert_eq!(gate.cookie(&"/".parse().unwrap()), None);
    }
}
