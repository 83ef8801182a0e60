//! Client of the token API, `POST /api/auth/webrtc-token`.

mod error;

use std::{
    error::Error,
    fmt, io,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use reqwest::{Response, header};
use url::Url;

pub use self::error::TokenError;
use super::{
    Access, MAX_REDIRECTS, TokenProvider, clock_skew, error_body, http_date, read_claims, redacted,
    redirect, rustls_error, stays, tls_reason,
};
use crate::{
    proto::token::{ErrorBody, IceServer, TokenAnswer, TokenRequest, read_ice_servers},
    stun::stream::Trust,
    types::{DeviceId, PairId, Stage, epoch_seconds, is_loopback},
};

/// Path of the token API.
pub const PATH: &str = "/api/auth/webrtc-token";

/// Longest time for one request.
const WITHIN: Duration = Duration::from_secs(10);

/// [`TokenError::code`] of TLS with a server that speaks plain HTTP.
const PLAIN_TEXT: &str = "tls-plain-text";

/// Longest answer read, bytes.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Most URLs of ICE servers taken from an answer: as many as libwebrtc takes TURN servers
/// (`kMaxTurnServers`, `api/candidate.h`). Each is asked from every local address.
const MAX_ICE_URLS: usize = 32;

/// Fetches signaling tokens. `Debug` leaves the access token out.
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
    /// A client of the token API at `url` (without a path: at [`PATH`]) for one device.
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

    /// The same client, which believes these certificates, too.
    ///
    /// # Errors
    /// [`TokenError::Unreachable`] when TLS does not take them.
    pub fn trusting(self, trust: &Trust) -> Result<Self, TokenError> {
        let http = http_client(&self.url, trust)?;
        Ok(Self { http, ..self })
    }

    /// Asks for a token.
    ///
    /// # Errors
    /// [`TokenError`]
    pub async fn fetch(&self) -> Result<TokenAnswer, TokenError> {
        self.ask().await.map(|(answer, _)| answer)
    }

    /// The first answer that is no redirect to another path of the same host.
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

    /// The answer, and how far this machine's clock is ahead of the server's, seconds.
    async fn ask(&self) -> Result<(TokenAnswer, Option<f64>), TokenError> {
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
            return Err(TokenError::Answer { url, reason: "its token is empty".into() });
        }
        let given: usize = answer.ice_servers.iter().map(|server| server.urls.len()).sum();
        if given > MAX_ICE_URLS {
            tracing::warn!(
                "{url} names {given} URLs of ICE servers: the first {MAX_ICE_URLS} are used"
            );
            limit(&mut answer.ice_servers);
        }
        Ok((answer, clock_skew))
    }
}

/// Reads an answer. An ICE server that cannot be read is left out, with a warning.
fn read_answer(body: &[u8], url: &str) -> serde_json::Result<TokenAnswer> {
    let mut body: serde_json::Value = serde_json::from_slice(body)?;
    let given = body.as_object_mut().and_then(|members| members.remove("iceServers"));
    let mut answer: TokenAnswer = serde_json::from_value(body)?;
    let (servers, wrong) = read_ice_servers(&given.unwrap_or_default());
    for why in wrong {
        tracing::warn!("{url}: an ICE server is left out: {why}");
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
        let (answer, clock_skew) = self.ask().await?;
        // The claims say the expiry without regard to the clocks' formats; a token whose claims
        // cannot be read may still be good for its server.
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

/// Leaves the first [`MAX_ICE_URLS`] URLs, and the servers that have some of them.
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
    // A token is fetched every few minutes. A connection kept from the last time would, after a change of
    // network, only show that it is dead when the time is up.
    builder = builder.pool_max_idle_per_host(0);
    // The certificates that a wss:// server is trusted by, whatever this machine's own list holds.
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
        let reason = format!("`{}:` is neither http: nor https:", url.scheme());
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
            let reason = format!("it is longer than {MAX_ANSWER_BYTES} bytes");
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
        PLAIN_TEXT => "it answered in plain text, not TLS".to_owned(),
        _ => tls_error(error).map_or_else(|| causes(error), tls_reason),
    };
    TokenError::Unreachable { url: url.to_owned(), stage, code, reason }
}

/// Where a request failed, and the code for it.
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

/// The TLS failure behind a failed request.
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

/// The pause of a `Retry-After` header, seconds or a date (RFC 9110 §10.2.3). A date is the server's, so it counts from
/// the answer's own `date`, or from `now` without one.
pub(super) fn retry_after(
    header: Option<&str>,
    date: Option<&str>,
    now: SystemTime,
) -> Option<Duration> {
    let header = header?.trim();
    if let Ok(seconds) = header.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = date.and_then(http_date).unwrap_or(epoch_seconds(now) as i64);
    Some(Duration::from_secs(http_date(header)?.saturating_sub(seconds).try_into().unwrap_or(0)))
}

/// Makes ring the process' cryptography for TLS, unless something else is already.
pub(in crate::signaling) fn install_crypto() {
    // An error only says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
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
    fn retry_after_is_in_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_450);
        let date = Some("Wed, 21 Oct 2015 07:27:00 GMT");
        let pause = |header, date| retry_after(header, date, now).map(|pause| pause.as_secs());
        assert_eq!(pause(Some(" 7 "), date), Some(7));
        assert_eq!(pause(Some("Wed, 21 Oct 2015 07:28:00 GMT"), date), Some(60));
        // By this machine's clock it is 07:27:30.
        assert_eq!(pause(Some("Wed, 21 Oct 2015 07:28:00 GMT"), None), Some(30));
        assert_eq!(pause(Some("Wed, 21 Oct 2015 07:26:00 GMT"), date), Some(0), "over");
        for unreadable in [None, Some("soon"), Some("-1"), Some("")] {
            assert_eq!(pause(unreadable, date), None);
        }
    }

    #[test]
    fn ice_servers_beyond_the_limit_are_left_out() {
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
