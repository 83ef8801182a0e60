//! `orion-peer bench`: measure connection success, setup time, RTT and keyframes; apply gates; report.

pub mod args;
mod show;
mod target;

use std::time::SystemTime;

use serde_json::json;

use self::{
    args::BenchArgs,
    show::BenchDisplay,
    target::{BenchTarget, described, target},
};
use super::{
    call, exports, failure::Failure, github_actions, network, output::Output, report,
    session_reporter, stop,
};
use crate::{
    bench::{self, BenchConfig, Measured, responder::ResponderEvent},
    peer::PeerRole,
    report::{
        bench::{
            BenchResult, Named,
            compare::compare,
            gates::{Gates, Measured as Wanted},
            schema::{self, Host},
            table::table,
        },
        human, whole_file,
    },
    signaling::client::redacted,
    types::Stage,
};

/// Connections started per second over a remote signaling server when no `--rate` is given: servers that
/// follow the contract accept 20 messages per second from the responder's single socket.
const SIGNAL_RATE: f64 = 2.0;

/// Runs the measurement, or responds to a bench that runs elsewhere.
///
/// # Errors
/// Exit code 1 if a connection failed and no `--min-success` allows it, or the run was interrupted;
/// 2 for conflicting flags; 3 if a gate was not met.
pub async fn run(args: BenchArgs, mut output: Output) -> Result<(), Failure> {
    if args.load.respond && args.connect.endpoint.signal.is_some() {
        return respond(&args, output).await;
    }
    output.json |= args.results.json_stream;
    let mut plan = args.load.plan()?;
    if args.connect.endpoint.signal.is_some() {
        plan.rate.get_or_insert(SIGNAL_RATE);
    }
    let gates = args.gates.gates()?;
    check_gates(&args, &gates)?;
    let baseline = report::read(&args.gates.baseline)?;
    args.results.exports.check_apart_from(&args.gates.baseline)?;
    let out = args.results.out.as_deref().map(|out| ("--out", out));
    args.results.exports.check(out.as_slice())?;
    let BenchTarget { slots, timeout, connect, networks, served } = target(&args).await?;
    let config = described(&args, &connect, networks.as_ref());
    let mut show = BenchDisplay::new(
        output,
        args.results.json_stream,
        args.results.stats.as_deref(),
        plan.connections,
    )?;
    show.start(&config);
    let started_at = jiff::Timestamp::now();
    let bench = BenchConfig {
        plan,
        slots,
        capture: args.load.capture(),
        timeout,
        stats_interval: args.results.stats_interval,
        one_way: args.load.one_way,
    };
    let measured = bench::run(bench, stop::shutdown_signal(), &mut |event| show.on(event)).await;
    let mut result = result(measured, started_at, config);
    if !baseline.is_empty() {
        let compared = compare(&baseline, &result, gates.max_regression);
        result.comparison = Some(compared);
    }
    result.checks = gates.check(&result);
    let conclusion = conclude(&mut result, &args);
    let shown = show.end(&result);
    let written = write(&args, output, result);
    if let Some(served) = served {
        served.shutdown().await;
    }
    conclusion.and(shown).and(written)
}

fn check_gates(args: &BenchArgs, gates: &Gates) -> Result<(), Failure> {
    let wanted = Wanted {
        pings: args.load.pings > 0,
        keyframes: args.load.keyframes > 0,
        ice_policy_relay: args.connect.ice_policy == super::connect::IcePolicy::Relay,
        candidates: args.connect.candidates.clone(),
        budget_bytes: Some(args.load.max_bytes),
    };
    match gates.contradiction(&wanted) {
        Some((message, remedy)) => Err(Failure::usage(message, remedy)),
        None => Ok(()),
    }
}

fn result(
    measured: Measured,
    started_at: jiff::Timestamp,
    config: serde_json::Map<String, serde_json::Value>,
) -> BenchResult {
    BenchResult {
        schema: schema::SCHEMA.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: format!("{started_at:.3}"),
        duration_s: (measured.duration.as_secs_f64() * 1e3).round() / 1e3,
        partial: measured.ended.is_some(),
        ended: measured.ended,
        host: Host {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
        },
        config,
        connections: measured.connections,
        rtt_ms: measured.rtt,
        one_way_ms: measured.one_way,
        keyframes: measured.keyframes,
        resources: measured.resources,
        not_measured: measured.not_measured,
        comparison: None,
        checks: Vec::new(),
        pass: false,
    }
}

/// Sets `pass`, or returns the failure the command ends with.
fn conclude(result: &mut BenchResult, args: &BenchArgs) -> Result<(), Failure> {
    if let Some(ended) = &result.ended {
        let failure = Failure::new(ended.stage, ended.message.clone(), ended.remedy.clone());
        return Err(failure.in_result());
    }
    let connections = &result.connections;
    let failed = connections.attempted - connections.succeeded;
    let first = connections.failures.first().cloned();
    let unmet: Vec<&str> =
        result.checks.iter().filter(|check| !check.pass).map(|check| check.name.as_str()).collect();
    if failed > 0 && args.gates.min_success.is_none() {
        let (stage, message, remedy) = first
            .map_or((Stage::Ice, String::new(), String::new()), |f| (f.stage, f.message, f.remedy));
        let message =
            format!("{failed} of {} connections failed: {message}", connections.attempted);
        return Err(Failure::new(stage, message, remedy).in_result());
    }
    if !unmet.is_empty() {
        let message = format!("not met: {}", unmet.join(", "));
        let remedy = match first {
            Some(failure) => format!(
                "a connection failed at {}: {}; {}",
                failure.stage, failure.message, failure.remedy
            ),
            None => {
                "see the result for the measured values and by how much each gate was missed".into()
            }
        };
        return Err(Failure::new(Stage::Gate, message, remedy).in_result());
    }
    result.pass = true;
    Ok(())
}

/// Writes the result to every requested output.
fn write(args: &BenchArgs, output: Output, result: BenchResult) -> Result<(), Failure> {
    let runs = [Named { name: "this run".to_owned(), result }];
    let result = &runs[0].result;
    let shown = if args.results.json_stream {
        Ok(())
    } else {
        output.event(result).and_then(|()| output.page(table(&runs).trim_end()))
    };
    let saved = match &args.results.out {
        Some(out) => whole_file::write(out, format!("{}\n", json!(result)).as_bytes())
            .map_err(|error| exports::unwritable("--out", out, &error)),
        None => Ok(()),
    };
    let exported = args.results.exports.write(&runs);
    github_actions::publish(&runs, output);
    shown.and(saved).and(exported)
}

async fn respond(args: &BenchArgs, output: Output) -> Result<(), Failure> {
    if args.load.role == args::Role::Recv {
        output.line("--role is ignored with --respond: a responder always receives");
    }
    let connect = args.connect.resolve("mac", SystemTime::now())?.with_twilio().await?;
    let mut call = call::call_config(&connect, PeerRole::Receiver)?;
    call.peer.control_life_time = args.load.control_life_time();
    let networks = args.network.for_single_peer(args.load.link_rate())?;
    call.peer.repair = !args.load.no_repair;
    call.peer.phone_bitrate = args.load.phone_bitrate;
    network::attach(networks.as_ref(), &mut call.peer, 0, 0)?;
    if let Some(networks) = &networks {
        output.line(networks.sides[0].describe());
    }
    let signal = redacted(&connect.signal);
    output.line(format!("responding as {} at {signal}; stop with Ctrl-C", connect.device));
    let mut failed = None;
    let mut connections = 0u64;
    let mut notify = |event: ResponderEvent| {
        let line = match &event {
            ResponderEvent::Joined => "joined the room".to_owned(),
            ResponderEvent::Connected(kind) => {
                connections += 1;
                format!("connection {connections}: {kind}")
            }
            ResponderEvent::Ended { keyframes, intact } => format!(
                "connection {connections} ended: {} received, {intact} intact",
                human::counted(*keyframes, "keyframe")
            ),
            ResponderEvent::Line(line) => line.clone(),
        };
        output.line(line);
        let line = match event {
            ResponderEvent::Joined => json!({"kind": "joined", "event": "joined"}),
            ResponderEvent::Connected(kind) => {
                json!({"kind": "connected", "event": "connected", "type": kind})
            }
            ResponderEvent::Ended { keyframes, intact } => {
                json!({"kind": "ended", "event": "ended", "keyframes": keyframes, "intact": intact})
            }
            ResponderEvent::Line(text) => json!({"kind": "line", "event": "line", "text": text}),
        };
        if let Err(failure) = output.event(&line) {
            failed.get_or_insert(failure);
        }
    };
    bench::responder::run(call, stop::shutdown_signal(), &mut notify)
        .await
        .map_err(session_reporter::failure)?;
    failed.map_or(Ok(()), Err)
}
