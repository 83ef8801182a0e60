//! `GET /metrics`: counters and gauges in the Prometheus text format, version 0.0.4.

use std::{
    fmt::Write,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use super::Parts;
use crate::{auth::unix_now, signaling::counters::Family};

/// The route.
pub(super) async fn metrics(State(parts): State<Arc<Parts>>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], render(&parts)).into_response()
}

fn render(parts: &Parts) -> String {
    let mut text = String::with_capacity(4096);
    let signaling = &parts.signaling;
    let counters = signaling.counters();
    gauge(&mut text, "orion_signaling_sockets", "Sockets open now.", signaling.sockets());
    gauge(&mut text, "orion_signaling_rooms", "Pairs with a socket open now.", signaling.rooms());
    let opened = [("", counters.opened.load(Ordering::Relaxed))];
    let name = "orion_signaling_sockets_opened_total";
    counter(&mut text, name, "", "Sockets opened.", opened);
    for (name, label, help, family) in [
        ("messages_relayed_total", "type", "Messages relayed or held.", &counters.relayed),
        (
            "messages_undeliverable_total",
            "type",
            "Messages dropped because the peer was away.",
            &counters.undeliverable,
        ),
        ("message_errors_total", "reason", "Messages answered with an error.", &counters.errors),
        ("handshakes_refused_total", "reason", "Handshakes refused.", &counters.refused),
        ("sockets_closed_total", "code", "Sockets closed, by close code.", &counters.closed),
    ] {
        labelled(&mut text, &format!("orion_signaling_{name}"), label, help, family);
    }
    let answers = &parts.tokens.answers;
    labelled(&mut text, "orion_token_answers_total", "status", "Token API answers.", answers);
    if let Some(twilio) = &parts.config.twilio {
        twilio.metrics(&mut text, unix_now());
    }
    if let Some(extra) = &parts.config.extra_metrics {
        extra(&mut text);
    }
    text
}

fn labelled(text: &mut String, name: &str, label: &str, help: &str, family: &Family) {
    counter(text, name, label, help, family.read());
}

/// Appends one counter for each value of its label; an empty label means there is just one.
pub fn counter<'a>(
    text: &mut String,
    name: &str,
    label: &str,
    help: &str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) {
    write_line(text, format_args!("# HELP {name} {help}\n# TYPE {name} counter"));
    for (value, count) in values {
        if label.is_empty() {
            write_line(text, format_args!("{name} {count}"));
        } else {
            write_line(text, format_args!("{name}{{{label}=\"{value}\"}} {count}"));
        }
    }
}

/// Appends one gauge.
pub fn gauge(text: &mut String, name: &str, help: &str, value: usize) {
    write_line(text, format_args!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"));
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}
