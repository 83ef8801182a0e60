//! The bench: fresh connections, each measured from the token request to its last keyframe.
//!
//! One side measures; the other one is in this process ([`Slot::partner`]), or anywhere else and
//! speaks the contract: `bench --respond` ([`respond`]), a plain `recv` or `send`, an app.
//!
//! - [`plan`]: what a run and each of its connections has to do
//! - `attempt`: one connection; `milestones`: its stages; `diagnosis`: why it failed
//! - `pinging`: paced pings; `pictures`: keyframes encoded ahead; `video`: keyframes under way
//! - `matching`: keyframes and what their sender said of them; `sums`: what it all adds up to
//! - [`embedded`]: pairs that meet at a server in this process
//! - `partner`: the other side in this process; [`respond`]: the other side in another one
//! - `resources`: what the run takes of the machine

mod attempt;
mod diagnosis;
pub mod embedded;
mod matching;
mod milestones;
mod partner;
mod pictures;
mod pinging;
pub mod plan;
mod resources;
pub mod respond;
mod sums;
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
    pictures::Pictures,
    plan::Plan,
    resources::Meter,
    sums::Sums,
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

/// What is measured, and between whom.
pub struct BenchConfig {
    /// What there is to do.
    pub plan: Plan,
    /// Pairs of devices to connect; as many connections as there are slots may be open at once.
    pub slots: Vec<Slot>,
    /// Keyframes to send, when the measuring side sends.
    pub capture: CaptureConfig,
    /// How long a set-up may take.
    pub timeout: Duration,
    /// Time between two statistics of a connection.
    pub stats_interval: Duration,
    /// Whether one-way times are wanted.
    pub one_way: bool,
}

/// A pair of devices that connects again and again.
#[derive(Clone)]
pub struct Slot {
    /// The side that measures.
    pub measuring: CallConfig,
    /// The other side, when it is in this process, too.
    pub partner: Option<CallConfig>,
}

/// What a run tells while it goes on.
#[derive(Debug)]
pub enum BenchEvent {
    /// A connection that counts has ended.
    Connection(Box<ConnectionRecord>),
    /// getStats of a connection.
    Stats {
        /// Its index, from 1.
        connection: u64,
        /// W3C stats objects by their ids.
        report: Map<String, Value>,
    },
}

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// Length of the run.
    pub duration: Duration,
    /// Connections, with a record each.
    pub connections: Connections,
    /// Round-trip times of pings.
    pub rtt: Rtt,
    /// One-way times, when the other side's clock is known.
    pub one_way: Option<OneWay>,
    /// Keyframes.
    pub keyframes: Keyframes,
    /// What it took of the machine.
    pub resources: Resources,
    /// What could not be measured.
    pub not_measured: Vec<NotMeasured>,
    /// Why the run ended before its end; none when it did not.
    pub ended: Option<FailureRecord>,
}

/// What the connections of a run share.
struct Run {
    config: BenchConfig,
    pictures: Option<Pictures>,
    meter: Meter,
    /// When the connections that count began.
    begun: OnceLock<Instant>,
    events: mpsc::UnboundedSender<BenchEvent>,
}

impl Run {
    fn role(&self) -> PeerRole {
        self.config.slots.first().map_or(PeerRole::Sender, |slot| slot.measuring.peer.role)
    }

    fn begun(&self) -> Instant {
        *self.begun.get_or_init(Instant::now)
    }

    fn tell(&self, event: BenchEvent) {
        // Nobody listens any more: the run is being stopped.
        let _ = self.events.send(event);
    }
}

/// Makes and measures all connections; `stop` ends the run early, with what was measured so far.
pub async fn run(
    config: BenchConfig,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(BenchEvent) + Send),
) -> Measured {
    tokio::pin!(stop);
    let sends = config.slots.iter().any(|slot| slot.measuring.peer.role == PeerRole::Sender);
    let pictures = if sends && config.plan.keyframes > 0 {
        let wanted = config.plan.keyframes_in_all();
        tokio::select! {
            () = &mut stop => Err(interrupted()),
            started = Pictures::start(config.capture.clone(), wanted) => started.map(Some),
        }
    } else {
        Ok(None)
    };
    let (events, mut told) = mpsc::unbounded_channel();
    let (pictures, ended) = match pictures {
        Ok(pictures) => (pictures, None),
        Err(error) => (None, Some(failure_record(error))),
    };
    let mut config = config;
    if let Some(pictures) = &pictures {
        for slot in &mut config.slots {
            slot.measuring.peer.picture_size = pictures.size;
        }
    }
    let run =
        Arc::new(Run { config, pictures, meter: Meter::start(), begun: OnceLock::new(), events });
    let mut sums = Sums::default();
    if ended.is_some() {
        return sums.measured(&run, ended);
    }
    let ended = {
        let all = connect_all(&run, &mut sums);
        tokio::pin!(all);
        loop {
            tokio::select! {
                () = &mut all => break None,
                () = &mut stop => break Some(failure_record(interrupted())),
                Some(event) = told.recv() => tell(event),
            }
        }
    };
    while let Ok(event) = told.try_recv() {
        tell(event);
    }
    sums.measured(&run, ended)
}

fn interrupted() -> SessionError {
    SessionError {
        stage: crate::types::Stage::Interrupted,
        code: "interrupted".into(),
        message: "stopped before all connections were made".into(),
        remedy: "let it run to its end; what was measured until then is in the result".into(),
    }
}

fn failure_record(error: SessionError) -> FailureRecord {
    let SessionError { stage, code, message, remedy } = error;
    FailureRecord { stage, code, message, remedy }
}

/// Warm-up connections one after the other, then the others, as many at once as there are slots.
async fn connect_all(run: &Arc<Run>, sums: &mut Sums) {
    let plan = &run.config.plan;
    for _ in 0..plan.warmup {
        attempt(run, &run.config.slots[0], 0, plan.warmup_share()).await;
    }
    let free = Arc::new(Mutex::new((0..run.config.slots.len()).collect::<Vec<usize>>()));
    let begun = run.begun();
    let mut attempts: JoinSet<Attempted> = JoinSet::new();
    for nth in 0..plan.connections {
        while attempts.len() >= run.config.slots.len() {
            joined(sums, attempts.join_next().await);
        }
        let due = begun + plan.due(nth);
        loop {
            tokio::select! {
                biased;
                Some(attempted) = attempts.join_next() => joined(sums, Some(attempted)),
                () = until(Some(due.into())) => break,
            }
        }
        let (run, free) = (Arc::clone(run), Arc::clone(&free));
        attempts.spawn(async move {
            let slot = free.lock().expect("no holder of this lock panics").pop().unwrap_or(0);
            let share = run.config.plan.share(nth);
            let attempted = attempt(&run, &run.config.slots[slot], nth + 1, share).await;
            free.lock().expect("no holder of this lock panics").push(slot);
            run.tell(BenchEvent::Connection(Box::new(attempted.record.clone())));
            attempted
        });
    }
    while let Some(attempted) = attempts.join_next().await {
        joined(sums, Some(attempted));
    }
}

fn joined(sums: &mut Sums, attempted: Option<Result<Attempted, JoinError>>) {
    match attempted {
        Some(Ok(attempted)) => sums.add(attempted),
        // A bug in here must not pass for a failed connection.
        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => {}
    }
}
