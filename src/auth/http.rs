//! HTTP requests to services that provide keys or ICE servers: bounded in time and size, without following
//! redirects, and without secrets in error messages.

use std::{error::Error, time::Duration};

use reqwest::{Client, Response};
use url::Url;

use crate::types::is_loopback;

/// A client for requests to `url`, each with the timeout `within`.
pub(super) fn client(url: &Url, within: Duration) -> Result<Client, String> {
    // An error only means that a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(within)
        .connect_timeout(within)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("orion-peer/", env!("CARGO_PKG_VERSION")));
    if url.scheme() == "http" {
        // No redirect leads to TLS, so no root certificates are needed.
        builder = builder.tls_certs_only([]);
    }
    // A proxy cannot reach this machine's loopback.
    let builder = if is_loopback(url) { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| cause(&error))
}

/// Checks the URL of a service: `https:`, or `http:` on this machine.
pub(super) fn service_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|error| error.to_string())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it contains a username or password, which would be logged".into());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("http: is allowed on this machine only, because it can be tampered with on \
                       the network"
            .into()),
        other => Err(format!("its scheme is `{other}`, not https")),
    }
}

/// The body of a response, at most `max` bytes.
pub(super) async fn body(mut response: Response, max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + chunk.len() > max {
            return Err(format!("the response is larger than {max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The innermost cause: the outer ones only repeat the URL.
pub(super) fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "request timed out".into();
    }
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |&error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_services_require_tls() {
        for good in ["https://a.example/x", "http://127.0.0.1:1/x", "http://localhost"] {
            assert!(service_url(good).is_ok(), "{good}");
        }
        for bad in ["", "a.example", "http://a.example", "ftp://a", "https://u:p@a.example"] {
            assert!(service_url(bad).is_err(), "{bad}");
        }
    }
}
