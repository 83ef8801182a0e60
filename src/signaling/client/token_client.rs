//! Client of the token API, `POST /api/auth/webrtc-token`.

use std::{
    error::Error,
    fmt, io,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use reqwest::{Response, header};
use url::Url;

pub use super::token_error::TokenError;
use super::{
    access::{Access, TokenProvider, read_claims},
    clock::clock_skew,
    http::{
        MAX_REDIRECTS, error_body, install_crypto, redirect, retry_after, rustls_error, stays,
        tls_reason,
    },
    redact::redacted,
    token_error::PLAIN_TEXT,
};
use crate::{
    proto::token::{ErrorBody, IceServer, PATH, TokenAnswer, TokenRequest, read_ice_servers},
    tls::Trust,
    types::{DeviceId, PairId, Stage, is_loopback},
};

/// Timeout of one request.
const WITHIN: Duration = Duration::from_secs(10);

/// Maximum size of a response, bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Maximum number of ICE server URLs used from a response: as many TURN servers as libwebrtc accepts
/// (`kMaxTurnServers`, `api/candidate.h`). Each is contacted from every local address.
const MAX_ICE_URLS: usize = 32;

/// Fetches signaling tokens. `Debug` omits the access token.
#[derive(Clone)]
pub struct TokenClient {
    url: Url,
    access_token: String,
    request: TokenRequest,
    http: reqwest::Client,
}

impl fmt::Debug for TokenClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenClient")
            .field("url", &redacted(&self.url))
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

impl TokenClient {
    /// A client of the token API at `url` (the path defaults to [`PATH`]) for one device.
    ///
    /// # Errors
    /// [`TokenError::Url`] when the URL is not `http` or `https`.
    pub fn new(
        url: &str,
        access_token: impl Into<String>,
        device: DeviceId,
        pair: Option<PairId>,
    ) -> Result<Self, TokenError> {
        install_crypto();
        let url = token_url(url)?;
        let http = http_client(&url, &Trust::web())?;
        let request = TokenRequest { device_id: device, pair_id: pair };
        Ok(Self { url, access_token: access_token.into(), request, http })
    }

    /// The same client with other trusted certificates.
    ///
    /// # Errors
    /// [`TokenError::Unreachable`] if the HTTP client cannot be built with them.
    pub fn trusting(self, trust: &Trust) -> Result<Self, TokenError> {
        let http = http_client(&self.url, trust)?;
        Ok(Self { http, ..self })
    }

    /// Requests a token.
    ///
    /// # Errors
    /// [`TokenError`] when the token API does not return one.
    pub async fn fetch(&self) -> Result<TokenAnswer, TokenError> {
        self.request_token().await.map(|(answer, _)| answer)
    }

    /// The response after following redirects on the same host.
    async fn post(&self) -> Result<Response, TokenError> {
        let mut url = self.url.clone();
        let mut redirects = 0;
        loop {
            let response = self
                .http
                .post(url.clone())
                .bearer_auth(self.access_token.trim())
                .json(&self.request)
                .send()
                .await
                .map_err(|error| unreachable_at(&redacted(&url), &error))?;
            let status = response.status().as_u16();
            let location = header_text(&response, header::LOCATION);
            let Some(target) = redirect(&url, status, location) else { return Ok(response) };
            if redirects == MAX_REDIRECTS || !stays(&url, &target) {
                let (url, target) = (redacted(&url), redacted(&target));
                return Err(TokenError::Redirected { url, status, target });
            }
            redirects += 1;
            url = target;
        }
    }

    /// The response, and how far this machine's clock is ahead of the server's, seconds.
    async fn request_token(&self) -> Result<(TokenAnswer, Option<f64>), TokenError> {
        let response = self.post().await?;
        let (url, status) = (redacted(response.url()), response.status());
        let now = SystemTime::now();
        let date = header_text(&response, header::DATE);
        let retry_after = retry_after(header_text(&response, header::RETRY_AFTER), date, now);
        let clock_skew = clock_skew(date, now);
        let body = read(response, &url).await?;
        if !status.is_success() {
            let ErrorBody { code, message } = error_body(status.canonical_reason(), &body);
            let status = status.as_u16();
            return Err(TokenError::Refused {
                url,
                status,
                code,
                message,
                retry_after,
                clock_skew,
            });
        }
        let mut answer = read_answer(&body, &url)
            .map_err(|error| TokenError::Answer { url: url.clone(), reason: error.to_string() })?;
        if answer.token.is_empty() {
            return Err(TokenError::Answer { url, reason: "the token is empty".into() });
        }
        let given: usize = answer.ice_servers.iter().map(|server| server.urls.len()).sum();
        if given > MAX_ICE_URLS {
            tracing::warn!(
                "{url} returned {given} ICE server URLs: using the first {MAX_ICE_URLS}"
            );
            limit(&mut answer.ice_servers);
        }
        Ok((answer, clock_skew))
    }
}

/// Parses a response. An invalid ICE server is ignored, with a warning.
fn read_answer(body: &[u8], url: &str) -> serde_json::Result<TokenAnswer> {
    let mut body: serde_json::Value = serde_json::from_slice(body)?;
    let given = body.as_object_mut().and_then(|members| members.remove("iceServers"));
    let mut answer: TokenAnswer = serde_json::from_value(body)?;
    let (servers, wrong) = read_ice_servers(&given.unwrap_or_default());
    for why in wrong {
        tracing::warn!("{url}: ignoring an ICE server: {why}");
    }
    answer.ice_servers = servers;
    Ok(answer)
}

fn header_text(response: &Response, name: header::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

#[async_trait]
impl TokenProvider for TokenClient {
    async fn access(&self) -> Result<Access, TokenError> {
        let (answer, clock_skew) = self.request_token().await?;
        // The claims have the expiry in seconds, whatever the format of the response; a token with unreadable
        // claims may still be valid for its server.
        let claims = read_claims(&answer.token).ok();
        Ok(Access {
            exp: claims.map(|claims| claims.exp),
            device_id: Some(self.request.device_id.clone()),
            token: answer.token,
            pair_id: answer.pair_id,
            ice_servers: answer.ice_servers,
            clock_skew,
        })
    }
}

/// Keeps the first [`MAX_ICE_URLS`] URLs, and removes servers without URLs.
fn limit(servers: &mut Vec<IceServer>) {
    let mut left = MAX_ICE_URLS;
    for server in servers.iter_mut() {
        server.urls.truncate(left);
        left -= server.urls.len();
    }
    servers.retain(|server| !server.urls.is_empty());
}

fn http_client(url: &Url, trust: &Trust) -> Result<reqwest::Client, TokenError> {
    let cannot = |error: reqwest::Error| TokenError::Unreachable {
        url: redacted(url),
        stage: Stage::Tls,
        code: "tls-failed",
        reason: causes(&error),
    };
    let mut builder =
        reqwest::Client::builder().timeout(WITHIN).redirect(reqwest::redirect::Policy::none());
    // A token is fetched every few minutes. After a change of network, a pooled connection would fail only at
    // the timeout.
    builder = builder.pool_max_idle_per_host(0);
    // The same trusted certificates as for a wss:// server, regardless of this machine's own list.
    builder = builder.tls_backend_preconfigured(trust.client().as_ref().clone());
    // A proxy cannot reach this machine's loopback.
    let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
    builder.build().map_err(cannot)
}

fn token_url(given: &str) -> Result<Url, TokenError> {
    let shown = || given.split(['?', '#']).next().unwrap_or_default().to_owned();
    let mut url = Url::parse(given.trim())
        .map_err(|error| TokenError::Url { url: shown(), reason: error.to_string() })?;
    if !matches!(url.scheme(), "http" | "https") {
        let reason = format!("`{}:` is not supported: use http or https", url.scheme());
        return Err(TokenError::Url { url: redacted(&url), reason });
    }
    if url.path() == "/" {
        url.set_path(PATH);
    }
    Ok(url)
}

async fn read(mut response: Response, url: &str) -> Result<Vec<u8>, TokenError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable_at(url, &error))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            let reason = format!("the response exceeds {MAX_ANSWER_BYTES} bytes");
            return Err(TokenError::Answer { url: url.to_owned(), reason });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn unreachable_at(url: &str, error: &reqwest::Error) -> TokenError {
    let (stage, code) = failed_step(error);
    let reason = match code {
        "timeout" => "no answer within 10 s".to_owned(),
        PLAIN_TEXT => "the server answered in plain text, not TLS".to_owned(),
        _ => tls_error(error).map_or_else(|| causes(error), tls_reason),
    };
    TokenError::Unreachable { url: url.to_owned(), stage, code, reason }
}

/// The stage at which a request failed, and the error code.
fn failed_step(error: &reqwest::Error) -> (Stage, &'static str) {
    if chain(error).any(|cause| cause.to_string().contains("dns error")) {
        return (Stage::Dns, "dns-failed");
    }
    match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => return (Stage::Tls, PLAIN_TEXT),
        Some(_) => return (Stage::Tls, "tls-failed"),
        None => {}
    }
    let refused = io_errors(error).any(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let code = match () {
        () if error.is_timeout() => "timeout",
        () if refused => "tcp-refused",
        () if error.is_connect() => "tcp-failed",
        () => "token-unreachable",
    };
    (Stage::Token, code)
}

fn io_errors(error: &reqwest::Error) -> impl Iterator<Item = &io::Error> {
    chain(error).filter_map(|cause| cause.downcast_ref())
}

/// The TLS error of a failed request.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    chain(error)
        .filter_map(|cause| cause.downcast_ref())
        .chain(io_errors(error).filter_map(rustls_error))
        .next()
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The innermost cause: the outer ones only repeat the URL.
fn causes(error: &reqwest::Error) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_completed_and_checked() {
        for (given, meant) in [
            ("http://127.0.0.1:8787", "http://127.0.0.1:8787/api/auth/webrtc-token"),
            ("https://example.org/other", "https://example.org/other"),
        ] {
            assert_eq!(token_url(given).unwrap().as_str(), meant);
        }
        for wrong in ["", "example.org", "ws://h", "ftp://u:hush@h/?t=hush"] {
            let error = token_url(wrong).unwrap_err();
            assert_eq!(error.stage(), Stage::Config);
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn ice_servers_beyond_the_limit_are_ignored() {
        let server = |urls: usize| IceServer {
            urls: vec!["stun:127.0.0.1".into(); urls],
            username: None,
            credential: None,
        };
        for (given, left) in [
            (vec![1; 5000], vec![1; MAX_ICE_URLS]),
            (vec![5000], vec![MAX_ICE_URLS]),
            (vec![30, 0, 5, 5], vec![30, 2]),
            (vec![2, 3], vec![2, 3]),
        ] {
            let mut servers: Vec<_> = given.into_iter().map(server).collect();
            limit(&mut servers);
            let urls: Vec<_> = servers.iter().map(|server| server.urls.len()).collect();
            assert_eq!(urls, left);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let client = TokenClient::new("http://127.0.0.1:1", "hush", "phone".into(), None).unwrap();
        assert!(!format!("{client:?}").contains("hush"));
    }
}
