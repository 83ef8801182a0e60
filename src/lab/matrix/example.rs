//! Example results for the tests of output and reports.

use super::{
    plan::{CellPlan, Transports},
    schema::{BackendName, Cell, KeyframeRecord, LabResult, SCHEMA},
};
use crate::{
    nat::{Path, network, profile::MATRIX},
    report::{bench::schema::Setup, schema::FailureRecord},
    types::Stage,
};

/// A pair that connected as expected.
pub(super) fn cell(a: &str, b: &str) -> Cell {
    let plan = CellPlan::new(network(a).unwrap(), network(b).unwrap(), Transports::ALL, 1);
    let mut cell = Cell::unmeasured(&plan);
    cell.connections = 1;
    cell.measured = plan.expected;
    cell.agree = true;
    let (kind, setup) = match plan.expected {
        _ if a == "none" && b == "none" => ("host", 31.5),
        Path::Direct => ("srflx", 84.25),
        Path::Relay if a == "udp-blocked" => ("relay/tcp", 212.0),
        _ => ("relay/udp", 131.0 + a.len() as f64),
    };
    cell.connection_type = Some(kind.into());
    cell.by_type = [(kind.to_owned(), 1)].into();
    cell.stages = Setup {
        token: Some(2.0),
        dns: Some(0.5),
        tls: Some(1.0),
        signaling: Some(3.0),
        room: Some(1.5),
        gathering: Some(9.0),
        ice: Some(setup - 30.0),
        dtls: Some(10.0),
        data_channel: Some(3.0),
        first_keyframe: Some(41.0),
        total: Some(setup),
    };
    cell.setup_ms = Some(setup);
    cell.first_picture_ms = Some(setup + 41.0);
    cell.first_picture_from_join_ms = Some(setup + 31.0);
    cell.rtt_ms = Some(1.25);
    cell.ping_loss = Some(0.0);
    cell.keyframe = Some(KeyframeRecord {
        bytes: Some(41_000.0),
        latency_ms: Some(38.0),
        network_ms: Some(5.0),
        sent: 1,
        intact: 1,
    });
    cell
}

/// A pair that failed to connect although it should have.
pub(super) fn failed(a: &str, b: &str) -> Cell {
    let mut cell = Cell { keyframe: None, ping_loss: None, ..cell(a, b) };
    (cell.measured, cell.agree) = (Path::None, false);
    (cell.connection_type, cell.setup_ms, cell.rtt_ms) = (None, None, None);
    (cell.first_picture_ms, cell.first_picture_from_join_ms) = (None, None);
    cell.by_type.clear();
    cell.stages = Setup::default();
    cell.reason = Some(FailureRecord {
        stage: Stage::Ice,
        code: "no-pair".into(),
        message: "no pair of <candidates> got through within 15s".into(),
        remedy: "add a TURN server & try \"again\"".into(),
    });
    cell
}

/// A result with these cells.
pub(super) fn result(cells: Vec<Cell>) -> LabResult {
    LabResult {
        schema: SCHEMA.into(),
        agree: cells.iter().filter(|cell| cell.agree).count() as u64,
        total: cells.len() as u64,
        cells,
        timelines: Vec::new(),
        layer: BackendName::Simulated,
        seed: 1,
        started_at: "2026-01-02T03:04:05.678Z".into(),
        duration_s: 61.2,
        partial: false,
        versions: [("orion-peer".to_owned(), "0.1.0".to_owned())].into(),
    }
}

/// The whole matrix, with two cells that are not as expected.
pub(super) fn matrix() -> LabResult {
    let mut cells: Vec<Cell> =
        MATRIX.iter().flat_map(|a| MATRIX.iter().map(move |b| cell(a, b))).collect();
    // port/sym fails; fullcone/port is relayed.
    cells[4 * 9 + 5] = failed("port", "sym");
    let relayed = &mut cells[2 * 9 + 4];
    (relayed.measured, relayed.agree) = (Path::Relay, false);
    relayed.connection_type = Some("relay/udp".into());
    relayed.reason = Some(FailureRecord {
        stage: Stage::Ice,
        code: "relayed".into(),
        message: "expected direct, connected as 1 relay/udp".into(),
        remedy: "measure again".into(),
    });
    result(cells)
}
