//! The runner over fake backends: order, stopping, deadlines, and the contents of a cell.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::*;
use crate::{
    lab::matrix::plan::Transports,
    nat::{network, profile::MATRIX},
    report::bench::schema::Setup,
    stats::Spread,
};

/// When a backend completes its measurements.
enum Ends {
    /// After a while.
    Soon,
    /// In reverse order, for this many.
    Backwards(usize),
    /// The first so many immediately, the others never.
    Only(usize),
}

/// A backend whose pairs connect as theory predicts.
struct Theory {
    ends: Ends,
    asked: watch::Sender<usize>,
    done: watch::Sender<usize>,
    running: AtomicUsize,
    max_running: AtomicUsize,
}

fn theory(ends: Ends) -> Arc<Theory> {
    let (asked, done) = (watch::Sender::new(0), watch::Sender::new(0));
    Arc::new(Theory { ends, asked, done, running: 0.into(), max_running: 0.into() })
}

/// Waits until a count reaches `count`.
async fn reaches(counted: &watch::Sender<usize>, count: usize) {
    counted.subscribe().wait_for(|now| *now >= count).await.unwrap();
}

#[async_trait]
impl LabBackend for Theory {
    fn name(&self) -> BackendName {
        BackendName::Simulated
    }

    async fn measure(&self, plan: &CellPlan, _: &Effort) -> Result<Measurement, FailureRecord> {
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.max_running.fetch_max(now, Ordering::SeqCst);
        let nth = *self.asked.borrow();
        self.asked.send_modify(|asked| *asked += 1);
        match self.ends {
            Ends::Soon => {
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
            Ends::Backwards(all) => reaches(&self.done, all - 1 - nth).await,
            Ends::Only(first) if nth >= first => std::future::pending().await,
            Ends::Only(_) => {}
        }
        self.done.send_modify(|done| *done += 1);
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(measurement(match plan.expected {
            Path::Direct => &["srflx"],
            Path::Relay => &["relay/udp"],
            Path::None => &[""],
        }))
    }
}

/// A measurement of connections of these types; an empty type did not connect.
fn measurement(kinds: &[&str]) -> Measurement {
    let record = |kind: &&str| ConnectionRecord {
        ok: !kind.is_empty(),
        connection_type: (!kind.is_empty()).then(|| (*kind).to_owned()),
        setup_ms: Setup { total: (!kind.is_empty()).then_some(50.0), ..Setup::default() },
        failure: kind.is_empty().then(|| failure("no-pair")),
        ..ConnectionRecord::default()
    };
    let total = Spread { p50: Some(50.0), ..Spread::default() };
    Measurement {
        connections: Connections {
            attempted: kinds.len() as u64,
            records: kinds.iter().map(record).collect(),
            setup_ms: Setup { total, ..Setup::default() },
            ..Connections::default()
        },
        ..Measurement::default()
    }
}

fn failure(code: &str) -> FailureRecord {
    FailureRecord {
        stage: Stage::Ice,
        code: code.into(),
        message: "why".into(),
        remedy: "what".into(),
    }
}

fn plan(a: &str, b: &str) -> CellPlan {
    CellPlan::new(network(a).unwrap(), network(b).unwrap(), Transports::ALL, 1)
}

fn job(parallel: usize) -> Job {
    let plans = MATRIX.iter().flat_map(|a| MATRIX.iter().map(move |b| plan(a, b))).collect();
    Job { plans, effort: Effort::default(), parallel, seed: 1 }
}

#[tokio::test]
async fn cells_are_in_the_order_of_the_job_regardless_of_completion() {
    let backend = theory(Ends::Backwards(81));
    let mut reported = Vec::new();
    let result = run(job(100), backend.clone(), std::future::pending(), &mut |cell| {
        reported.push((cell.a.clone(), cell.b.clone()));
    })
    .await;
    let pairs = |cells: &[Cell]| -> Vec<_> {
        cells.iter().map(|cell| (cell.a.clone(), cell.b.clone())).collect()
    };
    let asked: Vec<_> = MATRIX
        .iter()
        .flat_map(|a| MATRIX.iter().map(move |b| ((*a).to_owned(), (*b).to_owned())))
        .collect();
    assert_eq!(pairs(&result.cells), asked);
    assert_eq!(reported.first(), asked.last(), "reported as they end");
    assert_eq!((result.agree, result.total, result.partial), (81, 81, false));
    assert!(result.all_agree());
    assert_eq!(result.versions["webrtc"].split('.').count(), 3, "{:?}", result.versions);
}

#[tokio::test]
async fn no_more_run_concurrently_than_allowed() {
    let backend = theory(Ends::Soon);
    run(job(4), backend.clone(), std::future::pending(), &mut |_| {}).await;
    assert_eq!(backend.max_running.load(Ordering::SeqCst), 4);
    assert_eq!(*backend.asked.borrow(), 81);
}

/// The second of two pairs is relayed in its first measurement only, the first one in every measurement.
#[tokio::test]
async fn an_unexpected_result_is_measured_again_alone() {
    #[derive(Default)]
    struct Overloaded {
        asked: std::sync::Mutex<Vec<String>>,
        running: AtomicUsize,
    }
    #[async_trait]
    impl LabBackend for Overloaded {
        fn name(&self) -> BackendName {
            BackendName::Simulated
        }
        async fn measure(&self, plan: &CellPlan, _: &Effort) -> Result<Measurement, FailureRecord> {
            let beside = self.running.fetch_add(1, Ordering::SeqCst);
            let nth = {
                let mut asked = self.asked.lock().unwrap();
                asked.push(plan.a.name.clone());
                asked.iter().filter(|name| **name == plan.a.name).count()
            };
            assert!(nth == 1 || beside == 0, "beside {beside} others");
            tokio::task::yield_now().await;
            self.running.fetch_sub(1, Ordering::SeqCst);
            Ok(measurement(if nth == 1 || plan.a.name == "port" {
                &["relay/udp"]
            } else {
                &["host"]
            }))
        }
    }
    let plans = vec![plan("port", "none"), plan("addr", "none"), plan("sym", "sym")];
    let backend = Arc::new(Overloaded::default());
    let mut reported = Vec::new();
    let result =
        run(Job { plans, ..job(3) }, backend.clone(), std::future::pending(), &mut |cell| {
            reported.push((cell.a.clone(), cell.agree));
        })
        .await;
    let seen: Vec<_> = result.cells.iter().map(|cell| (cell.agree, cell.attempts)).collect();
    assert_eq!(seen, [(false, 2), (true, 2), (true, 1)]);
    reported.sort();
    assert_eq!(reported, [("addr".into(), true), ("port".into(), false), ("sym".into(), true)]);
}

#[tokio::test]
async fn a_stop_keeps_completed_cells() {
    let backend = theory(Ends::Only(20));
    // The 40th is requested when the first 20 are done.
    let stop = reaches(&backend.asked, 40);
    let result = run(job(20), backend.clone(), stop, &mut |_| {}).await;
    assert_eq!((result.cells.len(), result.total, result.partial), (20, 81, true));
    assert!(!result.all_agree());
}

#[tokio::test]
async fn a_pair_that_never_ends_is_abandoned() {
    struct Silent;
    #[async_trait]
    impl LabBackend for Silent {
        fn name(&self) -> BackendName {
            BackendName::Kernel
        }
        async fn measure(&self, _: &CellPlan, _: &Effort) -> Result<Measurement, FailureRecord> {
            std::future::pending().await
        }
    }
    // With nothing to connect, no time is needed.
    let effort = Effort { connections: 0, ..Effort::default() };
    let job = Job { plans: vec![plan("port", "sym")], effort, ..job(1) };
    let result = run(job, Arc::new(Silent), std::future::pending(), &mut |_| {}).await;
    let cell = &result.cells[0];
    assert_eq!((cell.measured, cell.agree), (Path::None, false));
    assert_eq!(cell.reason.as_ref().unwrap().code, "deadline");
    assert_eq!(result.layer, BackendName::Kernel);
}

#[test]
fn a_cell_shows_the_worst_connection_and_agrees_when_all_do() {
    for (a, b, kinds, measured, kind, agree, code) in [
        ("port", "port", &["srflx"][..], Path::Direct, Some("srflx"), true, None),
        (
            "port",
            "port",
            &["srflx", "relay/udp", "srflx"],
            Path::Relay,
            Some("srflx"),
            false,
            Some("relayed"),
        ),
        ("sym", "port", &["relay/tcp"], Path::Relay, Some("relay/tcp"), true, None),
        ("sym", "port", &["srflx"], Path::Direct, Some("srflx"), false, Some("not-relayed")),
        ("sym", "port", &["relay/udp", ""], Path::None, Some("relay/udp"), false, Some("no-pair")),
        ("port", "port", &[""], Path::None, None, false, Some("no-pair")),
        ("none", "none", &["host", "srflx"], Path::Direct, Some("host"), true, None),
        ("port", "port", &[], Path::None, None, false, Some("not-relayed")),
    ] {
        let cell = cell(&plan(a, b), Ok(measurement(kinds)));
        assert_eq!(cell.measured, measured, "{a} {b} {kinds:?}");
        assert_eq!(cell.connection_type.as_deref(), kind, "{a} {b} {kinds:?}");
        assert_eq!(cell.agree, agree, "{a} {b} {kinds:?}");
        assert_eq!(cell.reason.map(|reason| reason.code).as_deref(), code, "{a} {b} {kinds:?}");
    }
}

#[test]
fn failing_agrees_where_no_path_exists() {
    let none = Transports::NONE;
    let plan = CellPlan::new(network("sym").unwrap(), network("sym").unwrap(), none, 1);
    let failed = cell(&plan, Ok(measurement(&["", ""])));
    assert!(failed.agree && failed.reason.is_some());
    let connected = cell(&plan, Ok(measurement(&["srflx"])));
    assert_eq!(connected.reason.unwrap().code, "connected");
    let broken = cell(&plan, Err(failure("no-lab")));
    assert!(!broken.agree, "a broken lab proves nothing about the pair");
}

#[test]
fn only_a_lossy_link_may_break_a_keyframe() {
    let mut broken = measurement(&["srflx"]);
    (broken.connections.records[0].ok, broken.connections.records[0].failure) =
        (false, Some(failure("no-keyframe")));
    let mut plan = plan("port", "port");
    let clear = cell(&plan, Ok(broken.clone()));
    assert!(!clear.agree && clear.measured == Path::Direct);
    plan.b.link.loss = 0.02;
    let lossy = cell(&plan, Ok(broken));
    assert!(lossy.agree);
    assert_eq!(lossy.reason.unwrap().code, "no-keyframe", "it is still reported");
}

#[test]
fn a_run_that_ended_early_does_not_agree() {
    let cut = Measurement { ended: Some(failure("source")), ..measurement(&["srflx"]) };
    let cell = cell(&plan("port", "port"), Ok(cut));
    assert!(!cell.agree);
    assert_eq!(cell.reason.unwrap().code, "source");
}
