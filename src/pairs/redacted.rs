//! URLs of stores as they appear in messages.

use url::Url;

/// A URL without its password and its query.
#[must_use]
pub fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // It fails for a URL without a password.
    let _ = url.set_password(None);
    url.into()
}
