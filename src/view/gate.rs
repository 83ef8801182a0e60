//! Who may look. On loopback everyone on this machine may, but no page of another origin, and no name
//! that was made to lead here (DNS rebinding); on any other address only who has the token.

use std::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use rand::Rng;
use sha2::{Digest, Sha256};

use crate::page::is_loopback_host;

/// Name of the cookie that holds the token.
const COOKIE: &str = "orion-view";

/// What a request has to show.
#[derive(Debug, Clone)]
pub struct Gate {
    token: Option<String>,
}

/// Why a request is refused: status, code, message.
pub type Refusal = (StatusCode, &'static str, &'static str);

impl Gate {
    /// For a listener on this address.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let token =
            (!address.is_loopback()).then(|| format!("{:032x}", rand::rng().random::<u128>()));
        Self { token }
    }

    /// The token, where one is needed.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// The cookie to set for one who shows the token in the URL.
    #[must_use]
    pub fn cookie(&self, uri: &Uri) -> Option<String> {
        let token = self.token.as_deref()?;
        let query = uri.query()?;
        let shown = url::form_urlencoded::parse(query.as_bytes())
            .any(|(name, value)| name == "token" && same(&value, token));
        shown.then(|| format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"))
    }

    /// # Errors
    /// Another origin, a host that is not this one, no token.
    pub fn check(&self, method: &Method, headers: &HeaderMap) -> Result<(), Refusal> {
        let text =
            |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
        let host = text(header::HOST).unwrap_or_default();
        if self.token.is_none() && !is_loopback_host(host) {
            let message = "this page is for this machine: open it by its IP address or localhost";
            return Err((StatusCode::MISDIRECTED_REQUEST, "wrong-host", message));
        }
        let own = |origin: &str| origin.split_once("://").is_some_and(|(_, at)| at == host);
        let foreign = text(header::ORIGIN).is_some_and(|origin| !own(origin));
        let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
        // A link that is followed is no danger: the page it leads to is ours.
        let followed = method == Method::GET
            && headers.get("sec-fetch-mode").is_some_and(|mode| mode == "navigate");
        if foreign
            || (!followed && site.is_some_and(|site| !matches!(site, "same-origin" | "none")))
        {
            let message = "a page of another origin may not use this one";
            return Err((StatusCode::FORBIDDEN, "other-origin", message));
        }
        let cookies = text(header::COOKIE).unwrap_or_default();
        let shown = cookies.split(';').filter_map(|cookie| cookie.trim().split_once('='));
        match &self.token {
            Some(token)
                if !shown.into_iter().any(|(name, value)| name == COOKIE && same(value, token)) =>
            {
                let message = "open the URL with the token that orion-peer has printed";
                Err((StatusCode::UNAUTHORIZED, "token-missing", message))
            }
            _ => Ok(()),
        }
    }
}

/// Whether two secrets are the same, in a time that does not tell how far they are.
fn same(shown: &str, token: &str) -> bool {
    Sha256::digest(shown) == Sha256::digest(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn code(gate: &Gate, method: &Method, lines: &[(&'static str, &str)]) -> &'static str {
        gate.check(method, &headers(lines)).map_or_else(|(_, code, _)| code, |()| "")
    }

    #[test]
    fn loopback_is_for_pages_of_its_own() {
        let gate = Gate::new([127, 0, 0, 1].into());
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
    fn elsewhere_there_is_a_token() {
        let gate = Gate::new([0, 0, 0, 0].into());
        let token = gate.token().unwrap();
        assert_eq!(token.len(), 32);
        assert_ne!(Gate::new([0, 0, 0, 0].into()).token(), Some(token));
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
