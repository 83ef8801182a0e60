//! Measures all pairs, several concurrently, with the backend that provides the NATs. A pair that is not as
//! expected is measured once more with nothing else running: on an overloaded machine the checks of a
//! direct path may arrive after the relay was nominated.

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;
use tokio::task::{JoinError, JoinSet};

use super::{
    plan::{CellPlan, Effort},
    schema::{BackendName, Cell, KeyframeRecord, LabResult, SCHEMA},
};
use crate::{
    nat::Path,
    report::{
        bench::schema::{BenchResult, ConnectionRecord, Connections, Keyframes, Rtt},
        human,
        schema::FailureRecord,
    },
    types::Stage,
};

/// Provides NATs and links, and measures two peers behind them.
#[async_trait]
pub trait LabBackend: Send + Sync {
    /// What provides the NATs and links.
    fn name(&self) -> BackendName;

    /// Measures one pair. Dropping the future aborts the measurement and cleans up.
    async fn measure(&self, plan: &CellPlan, effort: &Effort)
    -> Result<Measurement, FailureRecord>;
}

/// Results of a bench between the two peers.
#[derive(Debug, Clone, Default)]
pub struct Measurement {
    /// Connections, with one record each.
    pub connections: Connections,
    /// Round-trip times.
    pub rtt: Rtt,
    /// Keyframes.
    pub keyframes: Keyframes,
    /// Why the bench ended early.
    pub ended: Option<FailureRecord>,
}

impl From<BenchResult> for Measurement {
    fn from(result: BenchResult) -> Self {
        let BenchResult { connections, rtt_ms: rtt, keyframes, ended, .. } = result;
        Self { connections, rtt, keyframes, ended }
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The pairs to measure.
    pub plans: Vec<CellPlan>,
    /// How much to measure for each pair.
    pub effort: Effort,
    /// Number of pairs measured concurrently.
    pub parallel: usize,
    /// The requested seed.
    pub seed: u64,
}

/// Measures all pairs. `stop` ends the run early and keeps the completed pairs. `report` is called once for
/// each completed pair; the result lists pairs in the order of the job.
pub async fn run(
    job: Job,
    backend: Arc<dyn LabBackend>,
    stop: impl Future<Output = ()> + Send,
    report: &mut (dyn FnMut(&Cell) + Send),
) -> LabResult {
    let (started, started_at) = (Instant::now(), jiff::Timestamp::now());
    let name = backend.name();
    let total = job.plans.len();
    let mut done: BTreeMap<usize, Cell> = BTreeMap::new();
    {
        tokio::pin!(stop);
        let mut running: JoinSet<(usize, Cell)> = JoinSet::new();
        let mut waiting: VecDeque<usize> = (0..total).collect();
        let mut again = VecDeque::new();
        loop {
            if waiting.is_empty() && running.is_empty() {
                waiting.extend(again.pop_front());
            }
            while running.len() < job.parallel.max(1)
                && let Some(index) = waiting.pop_front()
            {
                let (backend, effort) = (Arc::clone(&backend), job.effort);
                let plan = job.plans[index].clone();
                running.spawn(async move { (index, measure(&*backend, &plan, &effort).await) });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => {
                        let Some((index, mut cell)) = unpanicked(ended) else { continue };
                        let before = done.get(&index).map_or(0, |cell| cell.attempts);
                        cell.attempts += before;
                        if cell.agree || before > 0 || job.parallel < 2 || total < 2 {
                            report(&cell);
                        } else {
                            again.push_back(index);
                        }
                        done.insert(index, cell);
                    }
                    None => break,
                },
                () = &mut stop => {
                    running.shutdown().await;
                    break;
                }
            }
        }
    }
    let cells: Vec<Cell> = done.into_values().collect();
    LabResult {
        schema: SCHEMA.to_owned(),
        agree: cells.iter().filter(|cell| cell.agree).count() as u64,
        total: total as u64,
        partial: cells.len() < total,
        cells,
        timelines: Vec::new(),
        layer: name,
        seed: job.seed,
        started_at: format!("{started_at:.3}"),
        duration_s: (started.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        versions: versions(),
    }
}

/// A result without pairs, to which timelines are added.
#[must_use]
pub fn no_pairs(seed: u64) -> LabResult {
    LabResult {
        schema: SCHEMA.to_owned(),
        agree: 0,
        total: 0,
        partial: false,
        cells: Vec::new(),
        timelines: Vec::new(),
        layer: BackendName::Kernel,
        seed,
        started_at: format!("{:.3}", jiff::Timestamp::now()),
        duration_s: 0.0,
        versions: versions(),
    }
}

/// Resumes a panic: a bug must not look like a pair that fails to connect.
fn unpanicked<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// Measures one pair.
pub(super) async fn measure(backend: &dyn LabBackend, plan: &CellPlan, effort: &Effort) -> Cell {
    let deadline = effort.deadline();
    let measured = tokio::time::timeout(deadline, backend.measure(plan, effort)).await;
    let measured = measured.unwrap_or_else(|_| {
        Err(FailureRecord {
            stage: Stage::Ice,
            code: "deadline".into(),
            message: format!("the pair was not measured within {deadline:?}"),
            remedy: "use a lower --parallel: the machine may be overloaded".into(),
        })
    });
    cell(plan, measured)
}

/// The cell of one pair.
fn cell(plan: &CellPlan, measured: Result<Measurement, FailureRecord>) -> Cell {
    let mut cell = Cell::unmeasured(plan);
    cell.attempts = 1;
    let measured = match measured {
        Ok(measured) => measured,
        Err(reason) => {
            cell.reason = Some(reason);
            return cell;
        }
    };
    let Measurement { connections, rtt, keyframes, ended } = measured;
    let records = &connections.records;
    cell.connections = connections.attempted;
    for kind in records.iter().filter(|record| connected(record)).filter_map(kind) {
        *cell.by_type.entry(kind.to_owned()).or_default() += 1;
    }
    // On a tie, the first by name, so that the result is deterministic.
    let most = cell.by_type.iter().rev().max_by_key(|(_, count)| **count);
    cell.connection_type = most.map(|(kind, _)| kind.clone());
    cell.measured = records.iter().map(path).max().unwrap_or(Path::None);
    cell.stages = connections.setup_ms.map(|stage| stage.p50);
    cell.setup_ms = cell.stages.total;
    let first_picture = &connections.first_picture_ms;
    cell.first_picture_ms = first_picture.from_start.p50;
    cell.first_picture_from_join_ms = first_picture.from_join.p50;
    cell.rtt_ms = rtt.spread.p50;
    cell.ping_loss = (rtt.sent > 0).then(|| rtt.lost as f64 / rtt.sent as f64);
    cell.keyframe = keyframes.sent.filter(|sent| *sent > 0).map(|sent| KeyframeRecord {
        bytes: keyframes.bytes.p50,
        latency_ms: keyframes.latency_ms.p50,
        network_ms: keyframes.stages_ms.network.p50,
        sent,
        intact: keyframes.intact.unwrap_or_default(),
    });
    // A lossy link may break a keyframe; on a lossless one nothing may break.
    let lossless = plan.expected != Path::None && lossless(plan);
    let as_expected =
        |record: &ConnectionRecord| path(record) == plan.expected && (record.ok || !lossless);
    let late = late(plan, records);
    cell.agree =
        ended.is_none() && !records.is_empty() && records.iter().all(as_expected) && late.is_none();
    let failure = records.iter().find_map(|record| record.failure.clone());
    cell.reason = ended.or(failure).or(late).or_else(|| difference(plan, &cell));
    cell
}

/// The failure for a first picture that was too late; the latest one counts.
fn late(plan: &CellPlan, records: &[ConnectionRecord]) -> Option<FailureRecord> {
    let limit = plan.max_first_picture.filter(|_| plan.expected != Path::None)?;
    let limit = limit.as_secs_f64() * 1e3;
    let first = |record: &ConnectionRecord| record.first_picture_ms.from_start;
    let latest = records.iter().map(|record| first(record).unwrap_or(f64::INFINITY));
    let latest = latest.max_by(f64::total_cmp).filter(|latest| *latest > limit)?;
    let took = if latest.is_finite() { human::millis(latest) } else { "never".to_owned() };
    Some(FailureRecord {
        stage: Stage::Video,
        code: "first-picture-late".into(),
        message: format!("first picture: {took}, maximum {}", human::millis(limit)),
        remedy: "check which setup stage is slow, or raise max-first-picture".into(),
    })
}

/// Whether neither link loses packets, at random or through a full queue.
fn lossless(plan: &CellPlan) -> bool {
    [&plan.a.link, &plan.b.link].iter().all(|link| link.loss == 0.0 && link.rate.is_none())
}

fn connected(record: &ConnectionRecord) -> bool {
    record.setup_ms.total.is_some() && record.connection_type.is_some()
}

fn kind(record: &ConnectionRecord) -> Option<&str> {
    record.connection_type.as_deref()
}

fn path(record: &ConnectionRecord) -> Path {
    match kind(record) {
        _ if !connected(record) => Path::None,
        Some(kind) if kind.starts_with("relay") => Path::Relay,
        _ => Path::Direct,
    }
}

/// Why a pair that connected is not as expected.
fn difference(plan: &CellPlan, cell: &Cell) -> Option<FailureRecord> {
    if cell.agree {
        return None;
    }
    let kinds: Vec<String> =
        cell.by_type.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (code, remedy) = match (plan.expected, cell.measured) {
        (Path::Direct, Path::Relay) => (
            "relayed",
            "a direct path exists: was a check lost (--loss), or the relay nominated first? \
             measure again with more --connections",
        ),
        (Path::None, _) => (
            "connected",
            "check whether the scenario and the TURN servers match: no path was expected",
        ),
        _ => ("not-relayed", "check with --kernel whether the NAT behaves like its profile"),
    };
    Some(FailureRecord {
        stage: Stage::Ice,
        code: code.into(),
        message: format!("expected {}, connected as {}", plan.expected, kinds.join(", ")),
        remedy: remedy.into(),
    })
}

/// Versions of the software that measured.
fn versions() -> BTreeMap<String, String> {
    let manifest = include_str!("../../../Cargo.toml");
    let webrtc = manifest.lines().find_map(|line| line.strip_prefix("webrtc = \"="));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let os = format!("{} {}", std::env::consts::OS, kernel.trim());
    [
        ("orion-peer", env!("CARGO_PKG_VERSION")),
        ("webrtc", webrtc.map_or("", |version| version.trim_end_matches('"'))),
        ("os", os.trim_end()),
    ]
    .into_iter()
    .filter(|(_, version)| !version.is_empty())
    .map(|(name, version)| (name.to_owned(), version.to_owned()))
    .collect()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
