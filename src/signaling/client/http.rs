//! HTTP helpers that the signaling client and the token client share: TLS errors, redirects, error bodies, `Retry-After`.

use std::{
    io,
    time::{Duration, SystemTime},
};

use url::Url;

use super::clock::http_date;
use crate::{proto::token::ErrorBody, tls::certificate::Presented, types::epoch_seconds};

/// Maximum number of redirects that are followed, all on one host.
pub(in crate::signaling) const MAX_REDIRECTS: usize = 3;

/// The cause of a TLS error; an untrusted certificate is described.
pub(in crate::signaling) fn tls_reason(error: &rustls::Error) -> String {
    Presented::in_error(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The TLS error inside an I/O error; the HTTP client wraps it twice.
pub(in crate::signaling) fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| inner.downcast_ref().and_then(rustls_error))
}

/// The target of a redirect, if the status is one (RFC 9110 §15.4).
pub(in crate::signaling) fn redirect(at: &Url, status: u16, location: Option<&str>) -> Option<Url> {
    matches!(status, 301 | 302 | 303 | 307 | 308).then(|| at.join(location?).ok()).flatten()
}

/// Whether a redirect may be followed with the same secrets: to the same host and port, or on the same host from
/// plain text to TLS.
pub(in crate::signaling) fn stays(from: &Url, to: &Url) -> bool {
    let secured = matches!((from.scheme(), to.scheme()), ("http", "https") | ("ws", "wss"));
    let same =
        from.scheme() == to.scheme() && from.port_or_known_default() == to.port_or_known_default();
    from.host() == to.host() && (secured || same)
}

/// The `{code, message}` of an error response, or a substitute from its status and text.
pub(in crate::signaling) fn error_body(reason: Option<&str>, body: &[u8]) -> ErrorBody {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text: String =
            String::from_utf8_lossy(body).chars().filter(|c| !c.is_control()).take(200).collect();
        let message =
            if text.is_empty() { "the response has no explanation".to_owned() } else { text };
        ErrorBody { code: reason.unwrap_or("Unknown").to_owned(), message }
    })
}

/// The pause of a `Retry-After` header, seconds or a date (RFC 9110 §10.2.3). A date is on the server's clock, so it
/// counts from the response's own `date`, or from `now` without one.
pub(in crate::signaling) fn retry_after(
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

/// Makes ring the TLS provider of the process, unless one is installed already.
pub(in crate::signaling) fn install_crypto() {
    // An error only means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_one_host() {
        let url = |text: &str| Url::parse(text).unwrap();
        let target = |at: &str, location| redirect(&url(at), 308, Some(location));
        for (at, location, meant, followed) in [
            ("ws://h:1/api/signal", "/v2/signal?x=1", "ws://h:1/v2/signal?x=1", true),
            ("http://h/api", "https://h/api", "https://h/api", true),
            ("https://h/api", "http://h/api", "http://h/api", false),
            ("https://h/api", "https://other/api", "https://other/api", false),
            ("https://h/api", "https://h:8443/api", "https://h:8443/api", false),
        ] {
            let found = target(at, location).unwrap();
            assert_eq!(found.as_str(), meant);
            assert_eq!(stays(&url(at), &found), followed, "{at} {location}");
        }
        assert_eq!(redirect(&url("http://h"), 304, Some("/")), None);
        assert_eq!(redirect(&url("http://h"), 301, None), None);
    }

    #[test]
    fn retry_after_is_a_number_of_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_450);
        let date = Some("Wed, 21 Oct 2015 07:27:00 GMT");
        let pause = |header, date| retry_after(header, date, now).map(|pause| pause.as_secs());
        assert_eq!(pause(Some(" 7 "), date), Some(7));
        assert_eq!(pause(Some("Wed, 21 Oct 2015 07:28:00 GMT"), date), Some(60));
        // By this machine's clock it is 07:27:30.
        assert_eq!(pause(Some("Wed, 21 Oct 2015 07:28:00 GMT"), None), Some(30));
        assert_eq!(pause(Some("Wed, 21 Oct 2015 07:26:00 GMT"), date), Some(0), "past");
        for unreadable in [None, Some("soon"), Some("-1"), Some("")] {
            assert_eq!(pause(unreadable, date), None);
        }
    }
}
