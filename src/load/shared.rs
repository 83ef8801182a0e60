//! State shared by the run and its rooms.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use tokio::sync::{Semaphore, watch};

use super::{plan::LoadPlan, tally::Tallies};

/// State shared by all rooms of a run.
#[derive(Debug)]
pub(super) struct RunState {
    pub plan: LoadPlan,
    /// Reference for the times in messages.
    pub epoch: Instant,
    pub phase: watch::Sender<Phase>,
    pub openings: Semaphore,
    pub tallies: Tallies,
    /// Rooms that are open or have failed to open.
    pub settled: AtomicU32,
}

/// Phase of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// Rooms open, then idle.
    Open,
    /// Messages are sent, from `from` on.
    Relay { from: Instant },
    /// No more messages are sent.
    Drain,
    /// Rooms close.
    Stop,
}

impl RunState {
    /// Counts a room that is open or has failed to open.
    pub(super) fn room_settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }
}
