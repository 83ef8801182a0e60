//! The checks before a request is upgraded to a WebSocket (RFC 6455 §4.2.1).
//!
//! A rejection is an HTTP response with a JSON body, so that a client can distinguish a rejected
//! token from a server that is down. The token is in `Authorization`, in a subprotocol (for
//! browsers), or in the query.

use std::{sync::Arc, time::Instant};

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Shared, origin, refusal::Refusal};
use crate::{
    auth::{jwt::TokenError, unix_now},
    pairs::Role,
    proto::{
        claims::Claims,
        signaling::{BEARER_SUBPROTOCOL, SUBPROTOCOL},
    },
};

/// A request that passed all checks.
#[derive(Debug)]
pub(super) struct Admitted {
    pub claims: Claims,
    pub role: Role,
    /// The user of the pair.
    pub user: String,
    /// Arrival time of the request.
    pub at: Instant,
    accept: String,
    echo_protocol: bool,
}

impl Admitted {
    /// `101 Switching Protocols`; `orion.v1` is the only subprotocol that is echoed.
    pub(super) fn response(&self) -> Response {
        let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
        if self.echo_protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        }
        response
    }
}

/// Checks a request, cheapest checks first.
pub(super) async fn admit(shared: &Shared, request: &Parts) -> Result<Admitted, Refusal> {
    let at = Instant::now();
    let accept = websocket_key(request)?;
    if !origin::may_connect(&shared.config, &request.headers, request.extensions.get()) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "origin",
            "this origin is not in the server's list of allowed origins",
        ));
    }
    while_open(shared)?;
    if !shared.is_bus_up() {
        let message = "the bus between the nodes is not available; try again";
        return Err(Refusal::unavailable("bus-down", message));
    }
    shared.quota.address(request.extensions.get())?;
    let protocols = subprotocols(&request.headers);
    let token = find_token(request, &protocols, shared.config.allow_query_token)?;
    let claims =
        shared.verifier.check(&token, unix_now()).await.map_err(|error| token_refused(&error))?;
    shared.quota.pair(&claims.pair_id)?;
    let (role, user) = role_in_pair(shared, &claims).await?;
    shared.quota.user(&user)?;
    Ok(Admitted { claims, role, user, at, accept, echo_protocol: protocols.contains(&SUBPROTOCOL) })
}

/// The rejection of a token that is not valid or cannot be checked at the moment.
fn token_refused(error: &TokenError) -> Refusal {
    if matches!(error, TokenError::KeysUnavailable(_)) {
        tracing::error!(%error, "cannot check the token of a handshake");
        return Refusal::unavailable(
            error.code(),
            "tokens cannot be checked at the moment; try again",
        );
    }
    Refusal::new(StatusCode::UNAUTHORIZED, error.code(), error.to_string())
}

/// Checks the WebSocket headers; returns the value of `Sec-WebSocket-Accept`.
fn websocket_key(request: &Parts) -> Result<String, Refusal> {
    let headers = &request.headers;
    let upgrade = request.method == Method::GET
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket");
    if !upgrade || headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") {
        let message = "this is a WebSocket endpoint (version 13): connect with ws:// or wss://";
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, "upgrade-required", message));
    }
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16))
        .map(|key| derive_accept_key(key.as_bytes()))
        .ok_or_else(|| {
            let message = "Sec-WebSocket-Key must be 16 bytes in base64";
            Refusal::new(StatusCode::BAD_REQUEST, "bad-handshake", message)
        })
}

/// Items of a comma-separated header, which may span several lines (RFC 9110 §5.6.1).
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(token))
}

fn subprotocols(headers: &HeaderMap) -> Vec<&str> {
    items(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect()
}

/// The token of a request: from `Authorization`, otherwise the subprotocol, otherwise the query.
fn find_token(request: &Parts, protocols: &[&str], allow_query: bool) -> Result<String, Refusal> {
    let refuse =
        |message: &str| Err(Refusal::new(StatusCode::UNAUTHORIZED, "token-missing", message));
    if let Some(value) = request.headers.get(header::AUTHORIZATION) {
        return match bearer(value) {
            Some(token) => Ok(token.to_owned()),
            None => refuse("Authorization must be `Bearer <token>`"),
        };
    }
    if let Some(token) = protocols.iter().find_map(|p| p.strip_prefix(BEARER_SUBPROTOCOL)) {
        return Ok(token.to_owned());
    }
    let query = request.uri.query().unwrap_or_default();
    let queried = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "token");
    match queried {
        Some((_, token)) if allow_query => Ok(token.into_owned()),
        Some(_) => refuse("this server does not accept tokens in the query: use Authorization"),
        None => refuse("the token is missing: use `Authorization: Bearer <token>`"),
    }
}

/// The token of `Bearer <token>` (RFC 6750 §2.1); the scheme is case-insensitive.
#[must_use]
pub fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The role of the token's device and the user, if the pair is active and contains the device. The
/// response is the same for an unknown pair, a revoked pair and a device outside the pair.
async fn role_in_pair(shared: &Shared, claims: &Claims) -> Result<(Role, String), Refusal> {
    let found = shared.counters.store.watch(shared.store.active_pair(&claims.pair_id)).await;
    let pair = match found {
        Ok(pair) => pair,
        Err(error) if error.is_outage() => {
            tracing::warn!(%error, "handshake rejected");
            let message = "the pair store is not available; try again";
            return Err(Refusal::unavailable("store-down", message));
        }
        Err(error) => {
            tracing::info!(%error, "the store cannot look up this pair id; treating it as unknown");
            None
        }
    };
    pair.and_then(|pair| Some((pair.role(&claims.sub)?, pair.user_id))).ok_or_else(|| {
        let message = "the device does not belong to an active pair with this id";
        Refusal::new(StatusCode::FORBIDDEN, "not-in-pair", message)
    })
}

fn while_open(shared: &Shared) -> Result<(), Refusal> {
    if *shared.draining.borrow() {
        return Err(Refusal::unavailable("draining", "the server is restarting; try again"));
    }
    Ok(())
}

/// A socket's slot in the server's limit. A server that started to drain during the handshake has
/// taken all slots itself.
pub(super) fn place(shared: &Shared) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(&shared.sockets).try_acquire_owned().or_else(|_| {
        while_open(shared)?;
        Err(Refusal::unavailable(
            "overloaded",
            "the server has reached its limit of sockets; try again",
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bearer_scheme_is_case_insensitive() {
        let read = |text: &'static str| bearer(&HeaderValue::from_static(text)).map(str::to_owned);
        assert_eq!(read("Bearer a.b.c"), Some("a.b.c".into()));
        assert_eq!(read("bearer  a.b.c"), Some("a.b.c".into()));
        for text in ["Basic a", "Bearer", "Bearer ", "a.b.c", ""] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
