//! A side in another process is asked what it saw: how it is connected, and which keyframes arrived.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::Connection;
use crate::{
    peer::PeerRole,
    proto::control::{BenchReport, ControlMessage, ReportedKeyframe},
};

/// How long and how often the other side is asked for its report.
const REPORT_WITHIN: Duration = Duration::from_secs(3);
const REPORT_AGAIN: Duration = Duration::from_millis(200);

/// The other side is also asked after so many keyframes: it tells of the newest ones only.
const REPORT_EACH: usize = 50;

/// A side that has not reported after this many questions is no responder.
const REPORT_TRIES: u32 = 4;

/// How far asking the other side for its report has come.
#[derive(Debug, Default)]
pub(super) struct Reporting {
    begun: Option<Instant>,
    /// When it is asked again.
    pub(super) due: Option<Instant>,
    tries: u32,
    /// How it is connected; none before its first report.
    pub(super) connection: Option<String>,
    pub(super) answered: bool,
    /// Keyframes that came whole, by their number.
    pub(super) keyframes: HashMap<u64, ReportedKeyframe>,
}

impl Reporting {
    /// Adds what a report tells.
    pub(super) fn take(&mut self, report: BenchReport) {
        self.answered = true;
        self.connection = report.connection_type.or(self.connection.take());
        self.keyframes.extend(report.keyframes.into_iter().map(|told| (told.seq, told)));
    }
}

impl Connection<'_> {
    /// Asks while keyframes go on: a report holds the newest ones only.
    pub(super) async fn ask_now_and_then(&self) {
        if !self.told && self.video.entries().len().is_multiple_of(REPORT_EACH) {
            self.ask_for_report().await;
        }
    }

    /// Asks the other side what became of the keyframes, when it is in another process; true when
    /// there is nothing more to wait for.
    pub(super) async fn reported(&mut self, now: Instant) -> bool {
        if self.told || self.role == PeerRole::Receiver {
            return true;
        }
        let begun = *self.report.begun.get_or_insert(now);
        let sent = self.video.entries().len();
        let complete = self.report.answered && self.report.keyframes.len() >= sent;
        let silent = !self.report.answered && self.report.tries >= REPORT_TRIES;
        if complete || now >= begun + REPORT_WITHIN || silent {
            return true;
        }
        if self.report.due.is_none_or(|due| now >= due) {
            self.report.due = Some(now + REPORT_AGAIN);
            self.report.tries += 1;
            self.ask_for_report().await;
        }
        false
    }

    async fn ask_for_report(&self) {
        if let Some(peer) = &self.peer {
            // Lost or not open: it is asked again.
            let _ = peer.send_control(&ControlMessage::BenchReportRequest).await;
        }
    }
}
