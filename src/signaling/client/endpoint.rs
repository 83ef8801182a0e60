//! What people give as the server's address, and the WebSocket URL it means.

use url::Url;

use super::error::ClientError;
use crate::proto::signaling::PATH;

/// The WebSocket URL: `http` becomes `ws`, `https` becomes `wss`, a URL without a path gets
/// `/api/signal`.
///
/// # Errors
/// [`ClientError::Url`] when it is not a URL of one of these schemes with a host.
pub fn endpoint(given: &str) -> Result<Url, ClientError> {
    let wrong = |reason: String| ClientError::Url { url: redacted_text(given), reason };
    let mut url = Url::parse(given.trim()).map_err(|error| wrong(error.to_string()))?;
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => return Err(wrong(format!("`{other}:` is not a scheme for signaling"))),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("user and password do not belong into it".into()));
    }
    let changed = url.set_scheme(scheme);
    debug_assert!(changed.is_ok(), "all four schemes are special ones");
    if url.path() == "/" {
        url.set_path(PATH);
    }
    url.set_fragment(None);
    Ok(url)
}

/// The URL for messages: without user, password and query, which may hold secrets.
#[must_use]
pub fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot hold a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// The same for what was given as a URL and may not be one.
#[must_use]
pub fn redacted_text(given: &str) -> String {
    if let Ok(url) = Url::parse(given)
        && url.has_host()
    {
        return redacted(&url);
    }
    let text = given.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    let path = rest.find('/').unwrap_or(rest.len());
    let host = rest[..path].rfind('@').map_or(0, |at| at + 1);
    let colon = if scheme.is_empty() { "" } else { "://" };
    format!("{scheme}{colon}{}", &rest[host..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_it() {
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
    fn secrets_are_left_out_of_what_may_not_be_a_url() {
        for (given, shown) in [
            ("wss://u:hush@h.example/x?token=hush#hush", "wss://h.example/x"),
            ("user:hush@h.example", "h.example"),
            ("ftp://u:hush@h:x/y", "ftp://h:x/y"),
            ("wss://h.example/@x", "wss://h.example/@x"),
            ("h.example/@x?hush", "h.example/@x"),
            ("http://", "http://"),
            ("", ""),
        ] {
            assert_eq!(redacted_text(given), shown, "{given}");
        }
    }

    #[test]
    fn wrong_ones_are_named_without_secrets() {
        for given in ["", "example.org", "ftp://h/?token=hush", "http://", "ws://u:hush@h/"] {
            let error = endpoint(given).unwrap_err();
            assert!(matches!(error, ClientError::Url { .. }));
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
