//! Measures all pairs, several at once, over whichever layer makes the NATs. A pair that does not come
//! out as expected is measured once more with nothing beside it: on a machine that is overloaded the
//! checks of a direct way may come after the relay was taken.

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
    schema::{Cell, KeyframeRecord, LabResult, LayerName, SCHEMA},
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

/// Makes NATs and links, and measures two peers behind them.
#[async_trait]
pub trait Layer: Send + Sync {
    /// What it makes them with.
    fn name(&self) -> LayerName;

    /// Measures one pair. Dropping the future ends it and cleans up.
    async fn measure(&self, plan: &CellPlan, effort: &Effort)
    -> Result<Measurement, FailureRecord>;
}

/// What a bench between the two peers measured.
#[derive(Debug, Clone, Default)]
pub struct Measurement {
    /// Connections, with a record each.
    pub connections: Connections,
    /// Round-trip times.
    pub rtt: Rtt,
    /// Keyframes.
    pub keyframes: Keyframes,
    /// Why it ended before its end.
    pub ended: Option<FailureRecord>,
}

impl From<BenchResult> for Measurement {
    fn from(result: BenchResult) -> Self {
        let BenchResult { connections, rtt_ms: rtt, keyframes, ended, .. } = result;
        Self { connections, rtt, keyframes, ended }
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Job {
    /// The pairs.
    pub plans: Vec<CellPlan>,
    /// How much is measured of each.
    pub effort: Effort,
    /// Pairs measured at once.
    pub parallel: usize,
    /// The seed that was asked for.
    pub seed: u64,
}

/// Measures all pairs; `stop` ends the run early, with those that are done. `tell` hears of each pair
/// when it is done, once; the result has them in the order of the job.
pub async fn run(
    job: Job,
    layer: Arc<dyn Layer>,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(&Cell) + Send),
) -> LabResult {
    let (begun, started_at) = (Instant::now(), jiff::Timestamp::now());
    let name = layer.name();
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
                let (layer, effort) = (Arc::clone(&layer), job.effort);
                let plan = job.plans[index].clone();
                running.spawn(async move { (index, measure(&*layer, &plan, &effort).await) });
            }
            tokio::select! {
                ended = running.join_next() => match ended {
                    Some(ended) => {
                        let Some((index, mut cell)) = unpanicked(ended) else { continue };
                        let before = done.get(&index).map_or(0, |cell| cell.attempts);
                        cell.attempts += before;
                        if cell.agree || before > 0 || job.parallel < 2 || total < 2 {
                            tell(&cell);
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
        duration_s: (begun.elapsed().as_secs_f64() * 1e3).round() / 1e3,
        versions: versions(),
    }
}

/// A result without pairs, for time lines to be added to.
#[must_use]
pub fn no_pairs(seed: u64) -> LabResult {
    LabResult {
        schema: SCHEMA.to_owned(),
        agree: 0,
        total: 0,
        partial: false,
        cells: Vec::new(),
        timelines: Vec::new(),
        layer: LayerName::Kernel,
        seed,
        started_at: format!("{:.3}", jiff::Timestamp::now()),
        duration_s: 0.0,
        versions: versions(),
    }
}

/// A bug in here must not pass for a pair that does not connect.
fn unpanicked<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => None,
    }
}

/// Measures one pair.
pub(super) async fn measure(layer: &dyn Layer, plan: &CellPlan, effort: &Effort) -> Cell {
    let deadline = effort.deadline();
    let measured = tokio::time::timeout(deadline, layer.measure(plan, effort)).await;
    let measured = measured.unwrap_or_else(|_| {
        Err(FailureRecord {
            stage: Stage::Ice,
            code: "deadline".into(),
            message: format!("this pair was not done within {deadline:?}"),
            remedy: "is the machine overloaded? give a smaller --parallel".into(),
        })
    });
    cell(plan, measured)
}

/// What came of one pair.
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
    // Of two as frequent the first by name, so that the same run says the same.
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
    // What a link loses may break a keyframe; on one that loses nothing, nothing may break.
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

/// Why a first picture was not in time, of the latest of them.
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
        message: format!("first picture: {took}, at most {} is asked for", human::millis(limit)),
        remedy: "see which stage of the set-up takes the time, or ask for a longer \
                 max-first-picture"
            .into(),
    })
}

/// Whether no link of the two loses packets, by chance or by a full queue.
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

/// Why a pair does not agree although it connected.
fn difference(plan: &CellPlan, cell: &Cell) -> Option<FailureRecord> {
    if cell.agree {
        return None;
    }
    let kinds: Vec<String> =
        cell.by_type.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let (code, remedy) = match (plan.expected, cell.measured) {
        (Path::Direct, Path::Relay) => (
            "relayed",
            "a direct way exists: was a check lost on the way (--loss), or the relay nominated first? \
             measure again with more --connections",
        ),
        (Path::None, _) => ("connected", "does the scenario expect less than the servers offer?"),
        _ => ("not-relayed", "does the NAT do what its profile says? look at --kernel, too"),
    };
    Some(FailureRecord {
        stage: Stage::Ice,
        code: code.into(),
        message: format!("expected {}, connected as {}", plan.expected, kinds.join(", ")),
        remedy: remedy.into(),
    })
}

/// What measured.
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
