//! Rejects requests that a proxy and this server could interpret differently, which enables request
//! smuggling and logins that depend on which of two header lines is read (RFC 9110 §5.3, RFC 9112 §3.2 and
//! §11.2).
//!
//! The HTTP parser itself rejects malformed lines and lengths; these checks cover the rest.

use axum::{
    Json,
    extract::Request,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::proto::token::ErrorBody;

/// Header fields that may occur only once.
const SINGLE: [HeaderName; 6] = [
    header::HOST,
    header::AUTHORIZATION,
    header::ORIGIN,
    header::CONTENT_TYPE,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
];

/// Forwards well-formed requests, and answers others with 400.
pub(super) async fn check(request: Request, next: Next) -> Response {
    // The parser removes a Content-Length next to Transfer-Encoding, so it is unknown whether there was
    // one. After a request with both, the connection must be closed (RFC 9112 §6.1).
    let last = request.headers().contains_key(header::TRANSFER_ENCODING);
    let fault = target_fault(&request).or_else(|| fault(request.version(), request.headers()));
    let (mut response, last) = match fault {
        None => (next.run(request).await, last),
        Some(message) => {
            let body = ErrorBody { code: "malformed".into(), message };
            ((StatusCode::BAD_REQUEST, Json(body)).into_response(), true)
        }
    };
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A target such as `healthz` is valid for CONNECT only (RFC 9112 §3.2.3).
fn target_fault(request: &Request) -> Option<String> {
    let uri = request.uri();
    let bare = uri.authority().is_some() && uri.scheme().is_none();
    (bare && request.method() != Method::CONNECT).then(|| "the path must begin with a slash".into())
}

/// What is wrong with the header of a request, if anything.
fn fault(version: Version, headers: &HeaderMap) -> Option<String> {
    let count = |name: &HeaderName| headers.get_all(name).iter().count();
    if let Some(name) = SINGLE.iter().find(|name| count(name) > 1) {
        return Some(format!("`{name}` may occur only once"));
    }
    match headers.get(header::HOST) {
        None if version == Version::HTTP_11 => return Some("`host` is missing".into()),
        Some(host) if !is_host(host.as_bytes()) => {
            return Some("`host` must be a name or address, optionally with a port".into());
        }
        _ => {}
    }
    let body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    (body && headers.contains_key(header::UPGRADE))
        .then(|| "an upgrade request must have no body".into())
}

fn is_host(host: &[u8]) -> bool {
    host.is_empty() || (!host.contains(&b'@') && Authority::try_from(host).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(version: Version, lines: &[(&'static str, &'static str)]) -> Option<String> {
        let lines = lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        fault(version, &headers)
    }

    #[test]
    fn ordinary_requests_pass() {
        for lines in [
            &[("host", "h.example")][..],
            &[("host", "h.example:8787"), ("content-length", "9")],
            &[("host", "[::1]:8787"), ("transfer-encoding", "chunked")],
            &[("host", "h"), ("upgrade", "websocket"), ("content-length", "0")],
            &[("host", ""), ("sec-websocket-protocol", "a"), ("sec-websocket-protocol", "b")],
        ] {
            assert_eq!(verdict(Version::HTTP_11, lines), None, "{lines:?}");
        }
        assert_eq!(verdict(Version::HTTP_10, &[]), None);
    }

    #[test]
    fn ambiguous_requests_are_rejected() {
        for (lines, word) in [
            (&[][..], "host"),
            (&[("host", "a"), ("host", "a")], "host"),
            (&[("host", "a b")], "host"),
            (&[("host", "a@b")], "host"),
            (&[("host", "a/b")], "host"),
            (&[("host", "a"), ("authorization", "x"), ("authorization", "y")], "authorization"),
            (&[("host", "a"), ("origin", "x"), ("origin", "x")], "origin"),
            (&[("host", "a"), ("upgrade", "websocket"), ("content-length", "5")], "no body"),
            (&[("host", "a"), ("upgrade", "h2c"), ("transfer-encoding", "chunked")], "no body"),
        ] {
            let message = verdict(Version::HTTP_11, lines).unwrap_or_else(|| panic!("{lines:?}"));
            assert!(message.contains(word), "{lines:?}: {message}");
        }
    }
}
