//! Sharded counters: thousands of rooms count concurrently.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use super::result::Errors;
use crate::{lock::locked, signaling::client::ClientError, stats::Histogram, types::Stage};

/// Number of shards: more than threads, so that they seldom contend.
const SHARDS: usize = 16;

/// Counters of some rooms.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Sockets that were opened.
    pub opened: u64,
    /// Handshakes that failed.
    pub failed: u64,
    /// Sockets that were lost.
    pub lost: u64,
    /// When the last handshake completed.
    pub last_opened: Option<Instant>,
    /// Durations of handshakes, ms.
    pub handshakes: Histogram,
    /// Messages.
    pub sent: u64,
    pub received: u64,
    /// Messages received before one sent earlier.
    pub disordered: u64,
    /// From the due time of a message to its arrival, ms.
    pub relay: Histogram,
    /// When the last message arrived.
    pub last_received: Option<Instant>,
    pub errors: BTreeMap<(Stage, String), Errors>,
}

impl Tally {
    pub(super) fn handshake(&mut self, took: Duration) {
        self.opened += 1;
        self.last_opened = Some(Instant::now());
        self.handshakes.record(took.as_secs_f64() * 1e3);
    }

    pub(super) fn refused(&mut self, error: &ClientError) {
        self.failed += 1;
        let remedy = remedy(error);
        self.error(error.stage(), error.code(), &error.to_string(), &remedy);
    }

    pub(super) fn relayed(&mut self, took: Duration) {
        self.received += 1;
        self.last_received = Some(Instant::now());
        self.relay.record(took.as_secs_f64() * 1e3);
    }

    /// Counts an error; keeps the message of the first of its kind.
    pub(super) fn error(&mut self, stage: Stage, code: String, message: &str, remedy: &str) {
        let errors = self.errors.entry((stage, code.clone())).or_insert_with(|| Errors {
            stage,
            code,
            count: 0,
            message: message.to_owned(),
            remedy: remedy.to_owned(),
        });
        errors.count += 1;
    }

    fn add(&mut self, other: &Self) {
        self.opened += other.opened;
        self.failed += other.failed;
        self.lost += other.lost;
        self.last_opened = self.last_opened.max(other.last_opened);
        self.handshakes.add(&other.handshakes);
        self.sent += other.sent;
        self.received += other.received;
        self.disordered += other.disordered;
        self.relay.add(&other.relay);
        self.last_received = self.last_received.max(other.last_received);
        for (key, errors) in &other.errors {
            let sum = self
                .errors
                .entry(key.clone())
                .or_insert_with(|| Errors { count: 0, ..errors.clone() });
            sum.count += errors.count;
        }
    }
}

/// The remedy: in a load test, some responses have a different meaning than for
/// a device.
fn remedy(error: &ClientError) -> String {
    match error {
        ClientError::Refused { status: 401, .. } => {
            "pass the key with which the server verifies signaling tokens: --jwt-secret, and \
             --issuer and --audience if it requires them"
                .into()
        }
        ClientError::Refused { status: 403, .. } => {
            "pass --db with the server's database, which adds the pairs: the server must know \
             them"
                .into()
        }
        ClientError::Refused { status: 429, .. } => {
            "raise --ip-rate and --max-sockets-per-ip of `serve`, or set --open-rate or \
             --source-address here: the server limits handshakes and sockets per address"
                .into()
        }
        error => error.remedy(),
    }
}

/// Counters of all rooms.
#[derive(Debug)]
pub(super) struct Tallies([Mutex<Tally>; SHARDS]);

impl Tallies {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }

    /// The counters that a room shares with others.
    pub(super) fn of(&self, room: u32) -> MutexGuard<'_, Tally> {
        locked(&self.0[room as usize % SHARDS])
    }

    /// The sum over all rooms.
    pub(super) fn sum(&self) -> Tally {
        let mut sum = Tally::default();
        for tally in &self.0 {
            sum.add(&locked(tally));
        }
        sum
    }

    /// Sockets opened, messages sent and messages received so far.
    pub(super) fn so_far(&self) -> [u64; 3] {
        self.0.iter().fold([0; 3], |[opened, sent, received], tally| {
            let tally = locked(tally);
            [opened + tally.opened, sent + tally.sent, received + tally.received]
        })
    }
}
