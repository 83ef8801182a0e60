//! Bench: makes fresh connections repeatedly and measures each from its token request to its last keyframe.
//!
//! One peer measures; its remote peer is in this process ([`Slot::local_peer`]), or elsewhere and follows the wire
//! contract: `bench --respond` ([`responder`]), a plain `recv` or `send`, or an app.
//!
//! - [`plan`]: the work of a run and of each of its connections
//! - `attempt`: one connection; `setup_timeline`: its stages; `diagnosis`: why it failed
//! - `pinging`: paced pings; `prepared_keyframes`: keyframes encoded in advance; `video`: keyframes of a connection
//! - `matching`: pairs received keyframes with their announcements; `totals`: the aggregated result
//! - [`embedded`]: pairs that connect through a server in this process
//! - `local_peer`: the remote peer in this process; [`responder`]: the remote peer in another process
//! - `resources`: CPU time and memory of the run

mod attempt;
mod diagnosis;
pub mod embedded;
mod local_peer;
mod matching;
mod pinging;
pub mod plan;
mod prepared_keyframes;
mod resources;
pub mod responder;
mod setup_timeline;
mod totals;
mod video;

use std::{
    future::Future,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use self::{
    attempt::{Attempted, attempt},
    plan::BenchPlan,
    prepared_keyframes::PreparedKeyframes,
    resources::Meter,
    totals::Totals,
};
use crate::{
    peer::PeerRole,
    report::{
        bench::schema::{
            ConnectionRecord, Connections, Keyframes, NotMeasured, OneWay, Resources, Rtt,
        },
        schema::FailureRecord,
    },
    session::{CallConfig, SessionError, capture::CaptureConfig, until},
};

/// Configuration of a run.
pub struct BenchConfig {
    /// The work to do.
    pub plan: BenchPlan,
    /// Pairs of devices to connect; one concurrent connection per slot.
    pub slots: Vec<Slot>,
    /// Keyframes to send, if the measuring peer sends.
    pub capture: CaptureConfig,
    /// Timeout of the setup.
    pub timeout: Duration,
    /// Interval of the statistics of a connection.
    pub stats_interval: Duration,
    /// Whether to measure one-way times.
    pub one_way: bool,
}

/// A pair of devices that connects repeatedly.
#[derive(Clone)]
pub struct Slot {
    /// The measuring peer.
    pub measuring: CallConfig,
    /// The remote peer, if it is in this process as well.
    pub local_peer: Option<CallConfig>,
}

/// An event of a run in progress.
#[derive(Debug)]
pub enum BenchEvent {
    /// A counted connection has ended.
    Connection(Box<ConnectionRecord>),
    /// Statistics of a connection.
    Stats {
        /// Its index, from 1.
        connection: u64,
        /// W3C stats objects by their ids.
        report: Map<String, Value>,
    },
}

/// The measurements of a run.
#[derive(Debug)]
pub struct Measured {
    /// Duration of the run.
    pub duration: Duration,
    /// Connections, with a record each.
    pub connections: Connections,
    /// Round-trip times of pings.
    pub rtt: Rtt,
    /// One-way times, if the peer's clock is known.
    pub one_way: Option<OneWay>,
    /// Keyframes.
    pub keyframes: Keyframes,
    /// Resource usage.
    pub resources: Resources,
    /// Quantities that could not be measured.
    pub not_measured: Vec<NotMeasured>,
    /// Why the run ended early; `None` if it did not.
    pub ended: Option<FailureRecord>,
}

/// State shared by the connections of a run.
struct Run {
    config: BenchConfig,
    prepared: Option<PreparedKeyframes>,
    meter: Meter,
    /// Start of the first counted connection.
    start: OnceLock<Instant>,
    events: mpsc::UnboundedSender<BenchEvent>,
}

impl Run {
    fn role(&self) -> PeerRole {
        self.config.slots.first().map_or(PeerRole::Sender, |slot| slot.measuring.peer.role)
    }

    fn started(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    fn emit(&self, event: BenchEvent) {
        // The receiver is gone only while the run is being stopped.
        let _ = self.events.send(event);
    }
}

/// Makes and measures all connections; `stop` ends the run early and keeps the measurements so far.
pub async fn run(
    config: BenchConfig,
    stop: impl Future<Output = ()> + Send,
    on_event: &mut (dyn FnMut(BenchEvent) + Send),
) -> Measured {
    tokio::pin!(stop);
    let sends = config.slots.iter().any(|slot| slot.measuring.peer.role == PeerRole::Sender);
    let prepared = if sends && config.plan.keyframes > 0 {
        let wanted = config.plan.keyframes_in_all();
        tokio::select! {
            () = &mut stop => Err(interrupted()),
            started = PreparedKeyframes::start(config.capture.clone(), wanted) => started.map(Some),
        }
    } else {
        Ok(None)
    };
    let (events, mut received) = mpsc::unbounded_channel();
    let (prepared, ended) = match prepared {
        Ok(prepared) => (prepared, None),
        Err(error) => (None, Some(failure_record(error))),
    };
    let mut config = config;
    if let Some(prepared) = &prepared {
        for slot in &mut config.slots {
            slot.measuring.peer.picture_size = prepared.size;
        }
    }
    let run =
        Arc::new(Run { config, prepared, meter: Meter::start(), start: OnceLock::new(), events });
    let mut totals = Totals::default();
    if ended.is_some() {
        return totals.measured(&run, ended);
    }
    let ended = {
        let all = connect_all(&run, &mut totals);
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = &mut all => break None,
                () = &mut stop => break Some(failure_record(interrupted())),
                Some(event) = received.recv() => on_event(event),
            }
        }
    };
    while let Ok(event) = received.try_recv() {
        on_event(event);
    }
    totals.measured(&run, ended)
}

fn interrupted() -> SessionError {
    SessionError {
        stage: crate::types::Stage::Interrupted,
        code: "interrupted".into(),
        message: "stopped before all connections were measured".into(),
        remedy: "let the run finish; the result contains the measurements up to this point".into(),
    }
}

fn failure_record(error: SessionError) -> FailureRecord {
    let SessionError { stage, code, message, remedy } = error;
    FailureRecord { stage, code, message, remedy }
}

/// Makes the warm-up connections one at a time, then the counted ones, concurrently with one per slot.
async fn connect_all(run: &Arc<Run>, totals: &mut Totals) {
    let plan = &run.config.plan;
    for _ in 0..plan.warmup {
        attempt(run, &run.config.slots[0], 0, plan.warmup_share()).await;
    }
    let free = Arc::new(Mutex::new((0..run.config.slots.len()).collect::<Vec<usize>>()));
    let start = run.started();
    let mut attempts: JoinSet<Attempted> = JoinSet::new();
    for nth in 0..plan.connections {
        while attempts.len() >= run.config.slots.len() {
            joined(totals, attempts.join_next().await);
        }
        let due = start + plan.due(nth);
        loop {
            tokio::select! {
                biased;
                Some(attempted) = attempts.join_next() => joined(totals, Some(attempted)),
                () = until(Some(due.into())) => break,
            }
        }
        let (run, free) = (Arc::clone(run), Arc::clone(&free));
        attempts.spawn(async move {
            let slot = free.lock().expect("no holder of this lock panics").pop().unwrap_or(0);
            let share = run.config.plan.share(nth);
            let attempted = attempt(&run, &run.config.slots[slot], nth + 1, share).await;
            free.lock().expect("no holder of this lock panics").push(slot);
            run.emit(BenchEvent::Connection(Box::new(attempted.record.clone())));
            attempted
        });
    }
    while let Some(attempted) = attempts.join_next().await {
        joined(totals, Some(attempted));
    }
}

fn joined(totals: &mut Totals, attempted: Option<Result<Attempted, JoinError>>) {
    match attempted {
        Some(Ok(attempted)) => totals.add(attempted),
        // A bug in this program must not count as a failed connection.
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => {}
    }
}
