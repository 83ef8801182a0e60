//! The phases of a run: open, idle, relay, drain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    plan::{Pace, Plan},
    result::{Cpu, LoadResult, Memory, Relayed, Sockets},
    room,
    tally::{Tallies, Tally},
    usage::{self, Usage},
};

/// How often the run looks at itself.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long messages under way may take after the last was sent.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// How long the rooms may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// What all rooms share.
#[derive(Debug)]
pub(super) struct Shared {
    pub plan: Plan,
    /// Times of messages count from here.
    pub epoch: Instant,
    pub phase: watch::Sender<Phase>,
    pub openings: Semaphore,
    pub tallies: Tallies,
    settled: AtomicU32,
}

/// Where the run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Phase {
    /// Rooms open, then idle.
    Open,
    /// Messages are sent; they count from `from`.
    Relay { from: Instant },
    /// No more messages are sent.
    Drain,
    /// Rooms close.
    Stop,
}

impl Shared {
    /// A room is open, or will not be.
    pub(super) fn is_settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many of all sockets are open.
    Opening(u64, u64),
    /// All that can be are open, and nothing is sent.
    Idle,
    /// So many messages were sent, and so many came.
    Relaying(u64, u64),
}

/// Runs a plan, or the part of it until `stop` completes.
pub async fn run(
    plan: Plan,
    tell: &(dyn Fn(Progress) + Sync),
    stop: impl Future<Output = ()>,
) -> LoadResult {
    let pid = plan.server_pid;
    let before = pid.and_then(usage::of);
    let shared = Arc::new(Shared {
        epoch: Instant::now(),
        phase: watch::Sender::new(Phase::Open),
        openings: Semaphore::new(plan.parallel.max(1)),
        tallies: Tallies::new(),
        settled: AtomicU32::new(0),
        plan,
    });
    let mut rooms = JoinSet::new();
    for index in 0..shared.plan.rooms {
        rooms.spawn(room::run(Arc::clone(&shared), index));
    }
    let mut seen = Seen { before, ..Seen::default() };
    let partial = tokio::select! {
        biased;
        () = stop => true,
        () = phases(&shared, tell, &mut seen) => false,
    };
    seen.end = seen.end.or_else(|| pid.and_then(usage::of));
    shared.phase.send_replace(Phase::Stop);
    let closed = async { while rooms.join_next().await.is_some() {} };
    if timeout(CLOSE_WITHIN, closed).await.is_err() {
        tracing::debug!("rooms were left when the run ended");
    }
    result(&shared, &seen, partial)
}

/// The server at each turn of the run.
#[derive(Debug, Default)]
struct Seen {
    before: Option<Usage>,
    opened: Option<Usage>,
    idle: Option<Usage>,
    relay_began: Option<Instant>,
    end: Option<Usage>,
}

async fn phases(shared: &Shared, tell: &(dyn Fn(Progress) + Sync), seen: &mut Seen) {
    let plan = &shared.plan;
    let usage = || plan.server_pid.and_then(usage::of);
    while shared.settled.load(Ordering::Relaxed) < plan.rooms {
        sleep(LOOK_EVERY).await;
        tell(Progress::Opening(shared.tallies.so_far()[0], u64::from(plan.rooms) * 2));
    }
    seen.opened = usage();
    tell(Progress::Idle);
    sleep(plan.idle).await;
    seen.idle = usage();
    let Some(relay) = plan.relay else { return };
    let from = Instant::now();
    seen.relay_began = Some(from);
    shared.phase.send_replace(Phase::Relay { from });
    while from.elapsed() < relay.duration {
        sleep(LOOK_EVERY.min(relay.duration.saturating_sub(from.elapsed()))).await;
        let [_, sent, received] = shared.tallies.so_far();
        tell(Progress::Relaying(sent, received));
    }
    seen.end = usage();
    shared.phase.send_replace(Phase::Drain);
    let begun = Instant::now();
    while begun.elapsed() < DRAIN_WITHIN {
        sleep(LOOK_EVERY).await;
        let [_, sent, received] = shared.tallies.so_far();
        if received >= sent {
            break;
        }
    }
}

fn result(shared: &Shared, seen: &Seen, partial: bool) -> LoadResult {
    let (plan, tally) = (&shared.plan, shared.tallies.sum());
    let seconds = tally.last_opened.map_or(0.0, |at| (at - shared.epoch).as_secs_f64());
    let memory = seen.before.zip(seen.idle.or(seen.opened)).map(|(before, idle)| Memory {
        before: before.memory,
        idle: idle.memory,
        end: seen.relay_began.and(seen.end).map(|end| end.memory),
        per_socket: (tally.opened > 0)
            .then(|| idle.memory.saturating_sub(before.memory) as f64 / tally.opened as f64),
    });
    LoadResult {
        schema: super::result::SCHEMA.to_owned(),
        partial,
        signal: redacted(plan),
        tls: plan.signal.scheme() == "wss",
        rooms: plan.rooms,
        sockets: Sockets {
            asked: u64::from(plan.rooms) * 2,
            opened: tally.opened,
            failed: tally.failed,
            lost: tally.lost,
            seconds,
            per_second: per(tally.opened, seconds),
            handshake_ms: tally.handshakes.spread(),
        },
        relay: relayed(plan, &tally, seen),
        memory,
        cpu: cpu(&tally, seen),
        errors: tally.errors.into_values().collect(),
        checks: Vec::new(),
    }
}

fn redacted(plan: &Plan) -> String {
    let mut url = plan.signal.clone();
    url.set_query(None);
    url.to_string()
}

fn relayed(plan: &Plan, tally: &Tally, seen: &Seen) -> Option<Relayed> {
    let (relay, from) = plan.relay.zip(seen.relay_began)?;
    let seconds = tally.last_received.map_or(0.0, |at| (at - from).as_secs_f64());
    Some(Relayed {
        asked_per_second: match relay.pace {
            Pace::PerSecond(rate) => Some(rate),
            Pace::Window(_) => None,
        },
        bytes: relay.bytes,
        sent: tally.sent,
        received: tally.received,
        lost: tally.sent.saturating_sub(tally.received),
        disordered: tally.disordered,
        seconds,
        per_second: per(tally.received, seconds),
        latency_ms: tally.relay.spread(),
    })
}

fn cpu(tally: &Tally, seen: &Seen) -> Option<Cpu> {
    let micros = |from: Usage, to: Usage, count: u64| {
        (count > 0).then(|| (to.cpu - from.cpu) * 1e6 / count as f64)
    };
    let opening = seen.before.zip(seen.opened);
    let relaying = seen.idle.zip(seen.end).filter(|_| seen.relay_began.is_some());
    opening.map(|(before, opened)| Cpu {
        micros_per_handshake: micros(before, opened, tally.opened),
        micros_per_message: relaying.and_then(|(idle, end)| micros(idle, end, tally.received)),
    })
}

fn per(count: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| count as f64 / seconds)
}
