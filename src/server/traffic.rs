//! Counters of the HTTP listener. Their labels are fixed lists, so that no client can add one.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use axum::http::StatusCode;

use super::{JWKS_PATH, TOKEN_PATH};
use crate::{
    proto::signaling,
    signaling::{server::counters::Family, server::meter::Durations},
};

/// A route, as counters and logs name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Signal,
    Token,
    Jwks,
    Healthz,
    Readyz,
    Metrics,
    Page,
    Other,
}

impl Route {
    /// Every route.
    pub(super) const ALL: [Self; 8] = [
        Self::Signal,
        Self::Token,
        Self::Jwks,
        Self::Healthz,
        Self::Readyz,
        Self::Metrics,
        Self::Page,
        Self::Other,
    ];

    pub(super) fn of(path: &str) -> Self {
        match path {
            signaling::PATH => Self::Signal,
            TOKEN_PATH => Self::Token,
            JWKS_PATH => Self::Jwks,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/" | "/mode" => Self::Page,
            _ => Self::Other,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Token => "token",
            Self::Jwks => "jwks",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Page => "page",
            Self::Other => "other",
        }
    }
}

/// Responses on one route.
#[derive(Debug)]
pub(super) struct Answers {
    pub route: Route,
    /// By status class.
    pub statuses: Family,
    /// From the end of the header to the response.
    pub durations: Durations,
}

/// Counters of the HTTP listener.
#[derive(Debug)]
pub(super) struct Traffic {
    /// Open connections, not counting sockets.
    pub open: AtomicU64,
    /// Connections dropped on arrival, by the limit they exceeded.
    pub refused: Family,
    /// TLS handshakes, by result.
    pub tls: Family,
    /// Duration of successful handshakes.
    pub tls_handshake: Durations,
    /// In the order of [`Route::ALL`].
    pub routes: [Answers; Route::ALL.len()],
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            open: AtomicU64::new(0),
            refused: Family::new(&["all", "address"]),
            tls: Family::new(&["ok", "failed", "timeout", "plain-http"]),
            tls_handshake: Durations::default(),
            routes: Route::ALL.map(|route| Answers {
                route,
                statuses: Family::new(&["1xx", "2xx", "3xx", "4xx", "5xx"]),
                durations: Durations::default(),
            }),
        }
    }
}

impl Traffic {
    /// Counts a response.
    pub(super) fn answered(&self, route: Route, status: StatusCode, took: Duration) {
        let Some(answers) = self.routes.iter().find(|answers| answers.route == route) else {
            return;
        };
        answers.statuses.count(match status.as_u16() {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            _ => "5xx",
        });
        answers.durations.observe(took);
    }

    /// Open connections, not counting sockets.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }
}
