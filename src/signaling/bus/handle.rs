//! State shared by the sockets and the task of the bus: command queue, bus state, counters.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{Command, LOST_AFTER, NodeId};
use crate::{
    lock::locked,
    signaling::{room::Note, server::counters::Family},
    types::ConnId,
};

/// Interval between checks while a server waits, at its start and end.
const CHECK_EVERY: Duration = Duration::from_millis(10);

/// Maximum number of checks.
const CHECKS: u32 = 100;

async fn wait_until(done: impl Fn() -> bool) {
    for _ in 0..CHECKS {
        if done() {
            return;
        }
        sleep(CHECK_EVERY).await;
    }
}

/// State of the bus as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusState {
    /// Not connected.
    Down,
    /// Connected, but no echo has returned yet.
    Connected,
    /// Sockets may join.
    Up,
}

/// Counters of the bus.
#[derive(Debug)]
pub struct BusCounters {
    /// Messages to and from other nodes; `stray` ones arrived for a socket that no longer exists.
    pub messages: Family,
    /// Sockets closed because of the bus: `gap`, `takeover`, `late`, `lease-lost`, `break`, `lost`.
    pub closed: Family,
    /// Peers dropped because their node is gone.
    pub unreachable: AtomicU64,
    /// Connections to the bus that broke.
    pub broken: AtomicU64,
}

impl Default for BusCounters {
    fn default() -> Self {
        Self {
            messages: Family::new(&["sent", "received", "stray"]),
            closed: Family::new(&["gap", "takeover", "late", "lease-lost", "break", "lost"]),
            unreachable: AtomicU64::new(0),
            broken: AtomicU64::new(0),
        }
    }
}

/// Passes commands from the sockets to the task of the bus.
#[derive(Debug)]
pub(in crate::signaling) struct BusHandle {
    pub(in crate::signaling) node: NodeId,
    pub(in crate::signaling) counters: BusCounters,
    /// Stays short, because each socket has few commands pending: see `Room::is_congested`.
    commands: mpsc::UnboundedSender<Command>,
    state: AtomicU8,
    /// Number of commands not yet carried out.
    unfinished: AtomicUsize,
    /// The bus's clock, µs since 1970, and the local time at which it was read.
    time: Mutex<Option<(u64, Instant)>>,
    /// Sockets that wait for a seat.
    claims: Mutex<HashMap<ConnId, oneshot::Sender<()>>>,
}

impl BusHandle {
    pub(in crate::signaling) fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let handle = Self {
            node: NodeId::random(),
            counters: BusCounters::default(),
            commands,
            state: AtomicU8::new(0),
            unfinished: AtomicUsize::new(0),
            time: Mutex::default(),
            claims: Mutex::default(),
        };
        (handle, queue)
    }

    pub(in crate::signaling) fn state(&self) -> BusState {
        match self.state.load(Ordering::Acquire) {
            0 => BusState::Down,
            1 => BusState::Connected,
            _ => BusState::Up,
        }
    }

    /// Whether sockets may join. The age of the time is checked too, because a node that was stopped
    /// has not checked its timers yet.
    pub(in crate::signaling) fn is_up(&self) -> bool {
        let fresh = |(_, at): (u64, Instant)| at.elapsed() < LOST_AFTER;
        self.state() == BusState::Up && locked(&self.time).is_some_and(fresh)
    }

    /// Records the time of the bus's clock at the local time `now`.
    pub(super) fn set_time(&self, time: u64, now: Instant) {
        *locked(&self.time) = Some((time, now));
    }

    /// The bus's time at the moment `then`, µs since 1970; 0 while it is unknown.
    pub(in crate::signaling) fn time_at(&self, then: Instant) -> u64 {
        let Some((time, at)) = *locked(&self.time) else { return 0 };
        let after = then.saturating_duration_since(at).as_micros() as u64;
        let before = at.saturating_duration_since(then).as_micros() as u64;
        time.saturating_add(after).saturating_sub(before)
    }

    pub(super) fn set_state(&self, state: BusState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Queues a command. While the bus is down, commands are dropped: once it is back, leases are
    /// renewed and the sockets that may have lost messages are closed.
    pub(in crate::signaling) fn send(&self, command: Command) {
        if self.state() == BusState::Down {
            return;
        }
        if matches!(command, Command::Publish { .. }) {
            self.counters.messages.count("sent");
        }
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        // Fails only when the server has stopped.
        let _ = self.commands.send(command);
    }

    /// `commands` commands were carried out.
    pub(super) fn finished(&self, commands: usize) {
        let less = |unfinished: usize| Some(unfinished.saturating_sub(commands));
        let _ = self.unfinished.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// All queued commands were discarded.
    pub(super) fn forget_unfinished(&self) {
        self.unfinished.store(0, Ordering::Release);
    }

    /// Waits until the queued commands are carried out, for about a second at most.
    pub(in crate::signaling) async fn flush(&self) {
        wait_until(|| self.unfinished.load(Ordering::Acquire) == 0).await;
    }

    /// Waits until sockets may join, for about a second at most.
    pub(in crate::signaling) async fn await_up(&self) {
        wait_until(|| self.is_up()).await;
    }

    /// Registers a claim before it is sent. The receiver resolves when the claim is answered, and
    /// fails if it will not be.
    pub(in crate::signaling) fn await_claim(&self, conn: &ConnId) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        locked(&self.claims).insert(conn.clone(), answer);
        // The bus may have been lost after the handshake was admitted.
        if self.state() == BusState::Down {
            locked(&self.claims).remove(conn);
        }
        answered
    }

    /// Reports that the claim of a socket was answered.
    pub(super) fn answer_claim(&self, conn: &ConnId) {
        if let Some(answer) = locked(&self.claims).remove(conn) {
            // Fails only when the client is gone.
            let _ = answer.send(());
        }
    }

    /// Reports to all waiting sockets that they get no seat.
    pub(super) fn fail_claims(&self) {
        locked(&self.claims).clear();
    }

    pub(in crate::signaling) fn note(&self, note: Note) {
        match note {
            Note::Closed(why) => self.counters.closed.count(why),
            Note::Stray => self.counters.messages.count("stray"),
            Note::Unreachable => {
                self.counters.unreachable.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
