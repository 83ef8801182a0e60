//! The routes, and the handlers of health, keys and unknown paths.

use std::{net::IpAddr, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};

use super::{
    JWKS_PATH, Parts, TOKEN_PATH, hosts, metrics, readiness::is_store_ready, smuggling_guard,
    token_api,
};
use crate::{
    page,
    proto::{signaling, token::ErrorBody},
    signaling::bus::BusState,
};

/// All routes; `/metrics` only if there is no separate listener for it. `listening` is the address of the
/// listener.
pub(super) fn all(parts: &Arc<Parts>, with_metrics: bool, listening: IpAddr) -> Router {
    let mut router = operation(with_metrics).route(JWKS_PATH, get(public_keys));
    if parts.config.login.is_some() {
        router = router.route(
            TOKEN_PATH,
            axum::routing::post(token_api::answer).options(token_api::preflight),
        );
    }
    if let Some(mode) = parts.config.page.clone() {
        let answer = get(async move || Json(mode));
        let page = page::routes().route("/mode", answer);
        router = router.merge(page.layer(axum::middleware::from_fn(page::headers)));
    }
    let router =
        router.with_state(Arc::clone(parts)).merge(parts.signaling.router()).fallback(not_found);
    by_own_names(router, parts, listening).layer(axum::middleware::from_fn(smuggling_guard::check))
}

/// Rejects requests whose host is not this machine, if the configuration demands it.
fn by_own_names(router: Router, parts: &Parts, listening: IpAddr) -> Router {
    let listener = &parts.config.listener;
    if !listener.this_machine_only || listener.tls.is_some() {
        return router;
    }
    router.layer(axum::middleware::from_fn_with_state(listening, hosts::check))
}

/// The public keys with which others can verify this server's signaling tokens.
async fn public_keys(State(parts): State<Arc<Parts>>) -> impl IntoResponse {
    let caching = [(axum::http::header::CACHE_CONTROL, "public, max-age=300")];
    (caching, Json(parts.config.verifier.keys().public_jwks()))
}

/// The routes of the separate listener for metrics at this address.
pub(super) fn metrics_only(parts: &Arc<Parts>, listening: Option<IpAddr>) -> Router {
    let not_found = || async { refused("the routes are /metrics, /healthz and /readyz".into()) };
    let router = operation(true).with_state(Arc::clone(parts)).fallback(not_found);
    match listening {
        Some(address) if address.is_loopback() => by_own_names(router, parts, address),
        _ => router,
    }
}

/// The routes for operators.
fn operation(with_metrics: bool) -> Router<Arc<Parts>> {
    let router = Router::new().route("/healthz", get(healthz)).route("/readyz", get(readyz));
    if with_metrics { router.route("/metrics", get(metrics::metrics)) } else { router }
}

async fn not_found() -> impl IntoResponse {
    let message = format!("the routes are {}, {TOKEN_PATH}, /healthz and /readyz", signaling::PATH);
    refused(message)
}

fn refused(message: String) -> impl IntoResponse {
    (StatusCode::NOT_FOUND, Json(ErrorBody { code: "not-found".into(), message }))
}

/// Whether the server is alive: answers immediately, without a query.
async fn healthz(State(parts): State<Arc<Parts>>) -> impl IntoResponse {
    let word = if parts.signaling.is_draining() { "draining" } else { "ok" };
    status(word, StatusCode::OK)
}

/// Whether the server accepts new clients.
async fn readyz(State(parts): State<Arc<Parts>>) -> impl IntoResponse {
    status(health(&parts).await, StatusCode::SERVICE_UNAVAILABLE)
}

/// The response with the status `word`: 200 when it is `ok`, `otherwise` when it is not.
fn status(word: &str, otherwise: StatusCode) -> (StatusCode, Json<serde_json::Value>) {
    let status = if word == "ok" { StatusCode::OK } else { otherwise };
    (status, Json(serde_json::json!({"status": word})))
}

/// Health of the server in one word.
async fn health(parts: &Arc<Parts>) -> &'static str {
    if parts.signaling.is_draining() {
        return "draining";
    }
    if parts.signaling.bus().is_some_and(|(state, _)| state != BusState::Up) {
        return "bus-down";
    }
    if is_store_ready(parts).await { "ok" } else { "store-down" }
}
