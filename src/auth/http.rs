//! HTTP requests to services that are asked for keys or ICE servers: bounded in time and size, no
//! redirects followed, nothing secret in what is said of a failure.

use std::{error::Error, time::Duration};

use reqwest::{Client, Response};
use url::Url;

use crate::types::is_loopback;

/// A client for requests to `url`, each at most `within` long.
pub(super) fn client(url: &Url, within: Duration) -> Result<Client, String> {
    // An error only says that there is a provider already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .timeout(within)
        .connect_timeout(within)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("orion-peer/", env!("CARGO_PKG_VERSION")));
    if url.scheme() == "http" {
        // No redirect leads to TLS, so a machine without certificates of its own will do.
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
        return Err("it holds a user name or password, which would be logged".into());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("http: is for this machine only: anybody on the way could change the \
                       answer"
            .into()),
        other => Err(format!("its scheme is `{other}`, not https")),
    }
}

/// The body of an answer, at most `most` bytes.
pub(super) async fn body(mut response: Response, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| cause(&error))? {
        if body.len() + chunk.len() > most {
            return Err(format!("the answer is longer than {most} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The innermost cause: the outer ones only repeat the URL.
pub(super) fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".into();
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
    fn services_are_asked_over_tls() {
        for good in ["https://a.example/x", "http://127.0.0.1:1/x", "http://localhost"] {
            assert!(service_url(good).is_ok(), "{good}");
        }
        for bad in ["", "a.example", "http://a.example", "ftp://a", "https://u:p@a.example"] {
            assert!(service_url(bad).is_err(), "{bad}");
        }
    }
}
