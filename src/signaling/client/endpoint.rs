//! The WebSocket URL of a server address as given by the user.

use url::Url;

use super::{error::ClientError, redact::redacted_text};
use crate::proto::signaling::PATH;

/// The WebSocket URL: `http` becomes `ws`, `https` becomes `wss`, a URL without a path gets
/// `/api/signal`.
///
/// # Errors
/// [`ClientError::Url`] when it is not a URL with one of these schemes and a host.
pub fn endpoint(given: &str) -> Result<Url, ClientError> {
    let wrong = |reason: String| ClientError::Url { url: redacted_text(given), reason };
    let mut url = Url::parse(given.trim()).map_err(|error| wrong(error.to_string()))?;
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => {
            return Err(wrong(format!(
                "`{other}:` is not a signaling scheme: use http, https, ws or wss"
            )));
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it must not contain a user name or password".into()));
    }
    let changed = url.set_scheme(scheme);
    debug_assert!(changed.is_ok(), "all four are special schemes");
    if url.path() == "/" {
        url.set_path(PATH);
    }
    url.set_fragment(None);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_url_is_completed() {
        for (given, meant) in [
            ("http://127.0.0.1:8787", "ws://127.0.0.1:8787/api/signal"),
            ("https://example.org/", "wss://example.org/api/signal"),
            ("wss://example.org/api/signal", "wss://example.org/api/signal"),
            ("ws://h/other?x=1#f", "ws://h/other?x=1"),
            (" ws://[::1]:9 ", "ws://[::1]:9/api/signal"),
        ] {
            assert_eq!(endpoint(given).unwrap().as_str(), meant);
        }
    }

    #[test]
    fn invalid_urls_are_reported_without_secrets() {
        for given in ["", "example.org", "ftp://h/?token=hush", "http://", "ws://u:hush@h/"] {
            let error = endpoint(given).unwrap_err();
            assert!(matches!(error, ClientError::Url { .. }));
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
