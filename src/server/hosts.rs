//! A dev server has a well-known login, so it answers only requests whose host is this machine.
//! Otherwise any web page could use a name that resolves to this machine (DNS rebinding) to fetch tokens and
//! TURN credentials. With TLS the certificate prevents that, because it is not valid for such a name.

use std::net::IpAddr;

use axum::{
    Json,
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::{
    page::{host_address, is_loopback_host},
    proto::token::ErrorBody,
};

/// Forwards requests whose host is this machine, and answers all others with 421 (RFC 9110 §15.5.20).
/// `listening` is the address of the listener.
pub(super) async fn check(
    State(listening): State<IpAddr>,
    request: Request,
    next: Next,
) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let target = request.uri().authority().map(Authority::as_str);
    // Every browser sends the host of the URL, so a request without one is not from a browser.
    if host.into_iter().chain(target).all(|host| is_own(host, listening)) {
        return next.run(request).await;
    }
    let message = "this dev server serves this machine only: use localhost or its IP address, \
                   or start it with --jwt-secret to use another name";
    let body = ErrorBody { code: "wrong-host".into(), message: message.into() };
    (StatusCode::MISDIRECTED_REQUEST, Json(body)).into_response()
}

fn is_own(host: &str, listening: IpAddr) -> bool {
    let address = host_address(host);
    let listens_there =
        address.is_some_and(|ip| ip == listening.to_canonical() || listening.is_unspecified());
    listens_there || is_loopback_host(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_hosts_are_rejected() {
        let own = |host: &str, listening: &str| is_own(host, listening.parse().unwrap());
        assert!(own("localhost:1", "127.0.0.1") && own("127.0.0.1:8787", "127.0.0.1"));
        assert!(own("10.0.0.5:8787", "10.0.0.5") && own("10.0.0.5:8787", "0.0.0.0"));
        assert!(!own("10.0.0.5:8787", "127.0.0.1"));
        for listening in ["127.0.0.1", "10.0.0.5", "0.0.0.0", "::"] {
            assert!(!own("evil.example:8787", listening), "{listening}");
            assert!(!own("", listening), "{listening}");
        }
    }
}
