//! `GET /metrics`: counters, gauges and histograms in the Prometheus text format, version 0.0.4.
//!
//! Every label has a fixed list of values, so that no client can make the page grow.

mod bus;
pub mod exposition;

use std::sync::{Arc, atomic::Ordering};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

pub use self::exposition::{counter, gauge};
use self::exposition::{head, histogram, labelled, line};
use super::Parts;
use crate::auth::unix_now;

/// Handles `GET /metrics`.
pub(super) async fn metrics(State(parts): State<Arc<Parts>>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], render(&parts)).into_response()
}

fn render(parts: &Parts) -> String {
    let mut text = String::with_capacity(16 * 1024);
    process(&mut text, parts);
    http(&mut text, parts);
    signaling(&mut text, parts);
    store(&mut text, parts);
    let answers = &parts.tokens.answers;
    labelled(&mut text, "orion_token_answers_total", "status", "Token API responses.", answers);
    if let Some(twilio) = &parts.config.twilio {
        twilio.metrics(&mut text, unix_now());
    }
    if let Some(extra) = &parts.config.extra_metrics {
        extra(&mut text);
    }
    text
}

fn process(text: &mut String, parts: &Parts) {
    head(text, "orion_build_info", "Version of the running build; always 1.", "gauge");
    line(text, format_args!("orion_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    let help = "Time at which the server started, seconds since 1970.";
    let started = usize::try_from(parts.started).unwrap_or(usize::MAX);
    gauge(text, "orion_start_time_seconds", help, started);
    let draining = usize::from(parts.signaling.is_draining());
    gauge(text, "orion_draining", "1 while the server drains its sockets, otherwise 0.", draining);
}

fn http(text: &mut String, parts: &Parts) {
    let traffic = &parts.traffic;
    let open = usize::try_from(traffic.open()).unwrap_or(usize::MAX);
    gauge(text, "orion_http_connections", "Open HTTP connections, not counting sockets.", open);
    let help = "HTTP connections dropped on arrival, by the limit they exceeded.";
    labelled(text, "orion_http_connections_refused_total", "limit", help, &traffic.refused);
    let name = "orion_http_requests_total";
    head(text, name, "Requests answered, by route and status class.", "counter");
    for answers in &traffic.routes {
        let route = answers.route.name();
        for (code, count) in answers.statuses.read() {
            line(text, format_args!("{name}{{route=\"{route}\",code=\"{code}\"}} {count}"));
        }
    }
    let help =
        "Time from a request's header to its response; for route signal, the whole handshake.";
    let routes = traffic.routes.iter().map(|answers| (answers.route.name(), &answers.durations));
    histogram(text, "orion_http_request_seconds", "route", help, routes);
    labelled(text, "orion_tls_handshakes_total", "result", "TLS handshakes.", &traffic.tls);
    let help = "Duration of successful TLS handshakes.";
    histogram(text, "orion_tls_handshake_seconds", "", help, [("", &traffic.tls_handshake)]);
    if let Some(tls) = &parts.config.listener.tls {
        let help = "TLS certificates reloaded because their files had changed.";
        labelled(text, "orion_tls_reloads_total", "result", help, tls.reloads());
        if let Some(end) = tls.expires() {
            let name = "orion_tls_certificate_expires_seconds";
            head(
                text,
                name,
                "Time at which the TLS certificate expires, seconds since 1970.",
                "gauge",
            );
            line(text, format_args!("{name} {end}"));
        }
    }
}

fn signaling(text: &mut String, parts: &Parts) {
    let signaling = &parts.signaling;
    let counters = signaling.counters();
    gauge(text, "orion_signaling_sockets", "Open sockets.", signaling.sockets());
    gauge(text, "orion_signaling_rooms", "Pairs with an open socket.", signaling.rooms());
    for (name, help, count) in [
        ("sockets_opened_total", "Sockets opened.", &counters.opened),
        ("received_bytes_total", "Bytes of messages received from sockets.", &counters.bytes_in),
        ("sent_bytes_total", "Bytes of messages sent to sockets.", &counters.bytes_out),
    ] {
        let count = [("", count.load(Ordering::Relaxed))];
        counter(text, &format!("orion_signaling_{name}"), "", help, count);
    }
    for (name, label, help, family) in [
        (
            "messages_relayed_total",
            "type",
            "Messages relayed or held for the peer.",
            &counters.relayed,
        ),
        (
            "messages_undeliverable_total",
            "type",
            "Messages dropped because the peer was absent.",
            &counters.undeliverable,
        ),
        ("message_errors_total", "reason", "Messages answered with an error.", &counters.errors),
        ("handshakes_refused_total", "reason", "Handshakes refused.", &counters.refused),
        ("sockets_closed_total", "code", "Sockets closed, by close code.", &counters.closed),
    ] {
        labelled(text, &format!("orion_signaling_{name}"), label, help, family);
    }
    let help = "Time from queuing a message for the other device to writing it to the socket.";
    histogram(text, "orion_signaling_relay_seconds", "", help, [("", &counters.relay)]);
    bus::render(text, signaling);
}

fn store(text: &mut String, parts: &Parts) {
    let store = &parts.signaling.counters().store;
    let up = usize::from(store.is_up());
    gauge(text, "orion_store_up", "Whether the pair store answered the latest query.", up);
    let errors = [("", store.errors.load(Ordering::Relaxed))];
    counter(text, "orion_store_errors_total", "", "Failed queries to the pair store.", errors);
    let help = "Duration of queries to the pair store, as measured by the server.";
    histogram(text, "orion_store_seconds", "", help, [("", &store.durations)]);
}
