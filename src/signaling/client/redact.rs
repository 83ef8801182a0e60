//! URLs without their secrets, for messages and logs.

use url::Url;

/// The URL for messages: without user, password and query, which may contain secrets.
#[must_use]
pub fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Both fail only for URLs that cannot contain a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// The same for a text that may not be a valid URL.
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
    fn secrets_are_removed_from_invalid_urls() {
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
}
