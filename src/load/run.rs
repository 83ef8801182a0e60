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
    plan::{LoadPlan, Pace},
    result::{Cpu, LoadResult, Memory, Relayed, Sockets},
    room,
    shared::{Phase, RunState},
    tally::{Tallies, Tally},
    usage::{self, Usage},
};

/// Interval at which the run checks its progress.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Timeout for messages in flight after the last one was sent.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeout for closing the rooms.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Sockets open, and sockets in total.
    Opening(u64, u64),
    /// All sockets that could be opened are now open and idle.
    Idle,
    /// Messages sent, and messages received.
    Relaying(u64, u64),
}

/// Runs a plan until its end or until `stop` completes.
pub async fn run(
    plan: LoadPlan,
    on_progress: &(dyn Fn(Progress) + Sync),
    stop: impl Future<Output = ()>,
) -> LoadResult {
    let pid = plan.server_pid;
    let before = pid.and_then(usage::of);
    let shared = Arc::new(RunState {
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
    let mut usage_at = UsageSamples { before, ..UsageSamples::default() };
    let partial = tokio::select! {
        biased;
        () = stop => true,
        () = phases(&shared, on_progress, &mut usage_at) => false,
    };
    usage_at.end = usage_at.end.or_else(|| pid.and_then(usage::of));
    shared.phase.send_replace(Phase::Stop);
    let closed = async { while rooms.join_next().await.is_some() {} };
    if timeout(CLOSE_TIMEOUT, closed).await.is_err() {
        tracing::debug!("rooms were still open when the run ended");
    }
    result(&shared, &usage_at, partial)
}

/// Resource usage of the server at each phase of the run.
#[derive(Debug, Default)]
struct UsageSamples {
    before: Option<Usage>,
    opened: Option<Usage>,
    idle: Option<Usage>,
    relay_start: Option<Instant>,
    end: Option<Usage>,
}

async fn phases(
    shared: &RunState,
    on_progress: &(dyn Fn(Progress) + Sync),
    usage_at: &mut UsageSamples,
) {
    let plan = &shared.plan;
    let usage = || plan.server_pid.and_then(usage::of);
    while shared.settled.load(Ordering::Relaxed) < plan.rooms {
        sleep(POLL_INTERVAL).await;
        on_progress(Progress::Opening(shared.tallies.so_far()[0], u64::from(plan.rooms) * 2));
    }
    usage_at.opened = usage();
    on_progress(Progress::Idle);
    sleep(plan.idle).await;
    usage_at.idle = usage();
    let Some(relay) = plan.relay else { return };
    let from = Instant::now();
    usage_at.relay_start = Some(from);
    shared.phase.send_replace(Phase::Relay { from });
    while from.elapsed() < relay.duration {
        sleep(POLL_INTERVAL.min(relay.duration.saturating_sub(from.elapsed()))).await;
        let [_, sent, received] = shared.tallies.so_far();
        on_progress(Progress::Relaying(sent, received));
    }
    usage_at.end = usage();
    shared.phase.send_replace(Phase::Drain);
    let drain_start = Instant::now();
    while drain_start.elapsed() < DRAIN_TIMEOUT {
        sleep(POLL_INTERVAL).await;
        let [_, sent, received] = shared.tallies.so_far();
        if received >= sent {
            break;
        }
    }
}

fn result(shared: &RunState, usage_at: &UsageSamples, partial: bool) -> LoadResult {
    let (plan, tally) = (&shared.plan, shared.tallies.sum());
    let seconds = tally.last_opened.map_or(0.0, |at| (at - shared.epoch).as_secs_f64());
    let memory =
        usage_at.before.zip(usage_at.idle.or(usage_at.opened)).map(|(before, idle)| Memory {
            before: before.memory,
            idle: idle.memory,
            end: usage_at.relay_start.and(usage_at.end).map(|end| end.memory),
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
            requested: u64::from(plan.rooms) * 2,
            opened: tally.opened,
            failed: tally.failed,
            lost: tally.lost,
            seconds,
            per_second: per(tally.opened, seconds),
            handshake_ms: tally.handshakes.spread(),
        },
        relay: relayed(plan, &tally, usage_at),
        memory,
        cpu: cpu(&tally, usage_at),
        errors: tally.errors.into_values().collect(),
        checks: Vec::new(),
    }
}

fn redacted(plan: &LoadPlan) -> String {
    let mut url = plan.signal.clone();
    url.set_query(None);
    url.to_string()
}

fn relayed(plan: &LoadPlan, tally: &Tally, usage_at: &UsageSamples) -> Option<Relayed> {
    let (relay, from) = plan.relay.zip(usage_at.relay_start)?;
    let seconds = tally.last_received.map_or(0.0, |at| (at - from).as_secs_f64());
    Some(Relayed {
        requested_per_second: match relay.pace {
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

fn cpu(tally: &Tally, usage_at: &UsageSamples) -> Option<Cpu> {
    let micros = |from: Usage, to: Usage, count: u64| {
        (count > 0).then(|| (to.cpu - from.cpu) * 1e6 / count as f64)
    };
    let opening = usage_at.before.zip(usage_at.opened);
    let relaying = usage_at.idle.zip(usage_at.end).filter(|_| usage_at.relay_start.is_some());
    opening.map(|(before, opened)| Cpu {
        micros_per_handshake: micros(before, opened, tally.opened),
        micros_per_message: relaying.and_then(|(idle, end)| micros(idle, end, tally.received)),
    })
}

fn per(count: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| count as f64 / seconds)
}
