//! What sockets and the task of the bus share: the queue of commands, the state, the counters.

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
    signaling::{room::Note, server::counters::Family, server::rooms::locked},
    types::ConnId,
};

/// Between looks, at the start and at the end of a server.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How many looks.
const LOOKS: u32 = 100;

async fn patiently(done: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if done() {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// State of the bus as this node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusState {
    /// Not connected.
    Down,
    /// Connected, and no echo yet.
    Connected,
    /// Sockets may join.
    Up,
}

/// What was counted of the bus.
#[derive(Debug)]
pub struct BusCounters {
    /// Messages to and from other nodes; `stray` came for a socket that is gone.
    pub messages: Family,
    /// Sockets closed because of the bus: `gap`, `takeover`, `late`, `lease-lost`, `break`, `lost`.
    pub closed: Family,
    /// Peers given up because their node is gone.
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

/// The way from the sockets to the bus.
#[derive(Debug)]
pub(in crate::signaling) struct Link {
    pub(in crate::signaling) node: NodeId,
    pub(in crate::signaling) counters: BusCounters,
    /// Short, as each socket has few commands under way: see `SharedRoom::is_congested`.
    commands: mpsc::UnboundedSender<Command>,
    state: AtomicU8,
    /// Commands queued and not yet carried out.
    unfinished: AtomicUsize,
    /// The bus's clock, µs since 1970, at a moment here.
    time: Mutex<Option<(u64, Instant)>>,
    /// Who waits for a seat.
    claims: Mutex<HashMap<ConnId, oneshot::Sender<()>>>,
}

impl Link {
    pub(in crate::signaling) fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, queue) = mpsc::unbounded_channel();
        let link = Self {
            node: NodeId::random(),
            counters: BusCounters::default(),
            commands,
            state: AtomicU8::new(0),
            unfinished: AtomicUsize::new(0),
            time: Mutex::default(),
            claims: Mutex::default(),
        };
        (link, queue)
    }

    pub(in crate::signaling) fn state(&self) -> BusState {
        match self.state.load(Ordering::Acquire) {
            0 => BusState::Down,
            1 => BusState::Connected,
            _ => BusState::Up,
        }
    }

    /// Whether sockets may join. A node that was stopped has not looked at the clock yet.
    pub(in crate::signaling) fn is_up(&self) -> bool {
        let fresh = |(_, at): (u64, Instant)| at.elapsed() < LOST_AFTER;
        self.state() == BusState::Up && locked(&self.time).is_some_and(fresh)
    }

    /// The bus told its time.
    pub(super) fn set_time(&self, time: u64, now: Instant) {
        *locked(&self.time) = Some((time, now));
    }

    /// The bus's time at the moment `then`, µs since 1970; 0 before it told it.
    pub(in crate::signaling) fn time_at(&self, then: Instant) -> u64 {
        let Some((time, at)) = *locked(&self.time) else { return 0 };
        let after = then.saturating_duration_since(at).as_micros() as u64;
        let before = at.saturating_duration_since(then).as_micros() as u64;
        time.saturating_add(after).saturating_sub(before)
    }

    pub(super) fn set_state(&self, state: BusState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Queues a command. While the bus is down it is dropped: what it would have done is made good
    /// when the bus is back, or its sockets are closed.
    pub(in crate::signaling) fn send(&self, command: Command) {
        if self.state() == BusState::Down {
            return;
        }
        if matches!(command, Command::Publish { .. }) {
            self.counters.messages.count("sent");
        }
        self.unfinished.fetch_add(1, Ordering::AcqRel);
        // The other end goes with the server.
        let _ = self.commands.send(command);
    }

    /// So many commands were carried out.
    pub(super) fn finished(&self, commands: usize) {
        let less = |unfinished: usize| Some(unfinished.saturating_sub(commands));
        let _ = self.unfinished.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// All commands were given up.
    pub(super) fn forget_unfinished(&self) {
        self.unfinished.store(0, Ordering::Release);
    }

    /// Waits until what was queued is carried out, but not for long.
    pub(in crate::signaling) async fn flush(&self) {
        patiently(|| self.unfinished.load(Ordering::Acquire) == 0).await;
    }

    /// Waits until sockets may join, but not for long.
    pub(in crate::signaling) async fn await_up(&self) {
        patiently(|| self.is_up()).await;
    }

    /// Waits for the answer to a claim, which is yet to be sent; an error when there will be none.
    pub(in crate::signaling) fn await_claim(&self, conn: &ConnId) -> oneshot::Receiver<()> {
        let (answer, answered) = oneshot::channel();
        locked(&self.claims).insert(conn.clone(), answer);
        // The bus may have gone after the handshake was admitted.
        if self.state() == BusState::Down {
            locked(&self.claims).remove(conn);
        }
        answered
    }

    /// Says that a socket has its seat.
    pub(super) fn answer_claim(&self, conn: &ConnId) {
        if let Some(answer) = locked(&self.claims).remove(conn) {
            // Nobody waits when the client has gone.
            let _ = answer.send(());
        }
    }

    /// Says that nobody gets a seat.
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
