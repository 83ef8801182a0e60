//! Requests a report from a peer in another process: its connection type, and which keyframes arrived.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::Connection;
use crate::{
    peer::PeerRole,
    proto::control::{BenchReport, ControlMessage, ReportedKeyframe},
};

/// Timeout and interval of the report requests.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// A report is also requested after every batch of this many keyframes: it covers only the newest ones.
const REPORT_EACH: usize = 50;

/// A peer that has not reported after this many requests is assumed not to be a responder.
const REPORT_TRIES: u32 = 4;

/// The state of the report requests, and the reports received.
#[derive(Debug, Default)]
pub(super) struct RemoteReport {
    start: Option<Instant>,
    /// When the next request is due.
    pub(super) due: Option<Instant>,
    tries: u32,
    /// The peer's connection type; `None` before its first report.
    pub(super) connection: Option<String>,
    pub(super) answered: bool,
    /// Keyframes received completely, by sequence number.
    pub(super) keyframes: HashMap<u64, ReportedKeyframe>,
}

impl RemoteReport {
    /// Adds a report.
    pub(super) fn take(&mut self, report: BenchReport) {
        self.answered = true;
        self.connection = report.connection_type.or(self.connection.take());
        self.keyframes
            .extend(report.keyframes.into_iter().map(|reported| (reported.seq, reported)));
    }
}

impl Connection<'_> {
    /// Requests reports while keyframes are sent: a report covers only the newest ones.
    pub(super) async fn request_periodically(&self) {
        if !self.peer_is_local && self.video.entries().len().is_multiple_of(REPORT_EACH) {
            self.request_report().await;
        }
    }

    /// Requests the outcome of the keyframes from a peer in another process; returns true if there is nothing more to
    /// wait for.
    pub(super) async fn reported(&mut self, now: Instant) -> bool {
        if self.peer_is_local || self.role == PeerRole::Receiver {
            return true;
        }
        let start = *self.remote_report.start.get_or_insert(now);
        let sent = self.video.entries().len();
        let complete = self.remote_report.answered && self.remote_report.keyframes.len() >= sent;
        let silent = !self.remote_report.answered && self.remote_report.tries >= REPORT_TRIES;
        if complete || now >= start + REPORT_TIMEOUT || silent {
            return true;
        }
        if self.remote_report.due.is_none_or(|due| now >= due) {
            self.remote_report.due = Some(now + REPORT_INTERVAL);
            self.remote_report.tries += 1;
            self.request_report().await;
        }
        false
    }

    async fn request_report(&self) {
        if let Some(peer) = &self.peer {
            // A lost request is repeated.
            let _ = peer.send_control(&ControlMessage::BenchReportRequest).await;
        }
    }
}
