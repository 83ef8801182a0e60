//! `doctor` behind real netfilter NATs, with coturn outside: it must name the NAT that it is behind and report
//! which transports work. Requires Linux with `ip`, `nft` and coturn.

use std::{process::Stdio, thread};

use orion_peer::{
    nat::{Path, Profile, expected, profile::MATRIX, theory::Relays},
    netns::{CoturnOptions, Lab, LabPlan, Location, NetworkPlan, SERVER},
};
use serde_json::Value;

use crate::certificates::Certificates;

const ORION_PEER: &str = env!("CARGO_BIN_EXE_orion-peer");

/// Maximum number of concurrent runs; each mostly waits for responses that do not arrive.
const MAX_CONCURRENT: usize = 3;

const USER: (&str, &str) = ("phone", "north");

fn profile(text: &str) -> Profile {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The report of `doctor --json` behind this NAT, and its exit code.
fn examine(nat: &str, user_namespace: bool) -> (Value, Option<i32>) {
    let network = NetworkPlan { profile: profile(nat), ..NetworkPlan::default() };
    let plan = LabPlan {
        a: network,
        user_namespace,
        orion_peer: Some(ORION_PEER.into()),
        ..LabPlan::default()
    };
    let lab =
        Lab::start(&plan).unwrap_or_else(|error| panic!("{error}\n  try: {}", error.remedy()));
    let certificates = Certificates::for_names(&[&SERVER.to_string()]);
    let file = |name: &str, pem: &str| {
        let path = lab.file(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let tls = (file("cert.pem", &certificates.server), file("key.pem", &certificates.key));
    let options = CoturnOptions {
        user: Some((USER.0.into(), USER.1.into())),
        tls: Some(tls),
        ..CoturnOptions::default()
    };
    let _coturn = lab.coturn(&options).unwrap_or_else(|error| panic!("{error}"));
    let authority = file("ca.pem", &certificates.ca);
    let mut command = lab.orion_peer(Location::A);
    command.args(["doctor", "--no-signal", "--json"]);
    for url in [
        format!("stun:{SERVER}:3478"),
        format!("turn:{SERVER}:3478?transport=udp"),
        format!("turn:{SERVER}:3478?transport=tcp"),
        format!("turns:{SERVER}:5349"),
    ] {
        command.args(["--ice-server", &url]);
    }
    command.args(["--turn-username", USER.0]).arg("--ca").arg(authority);
    command.env("ORION_TURN_CREDENTIAL", USER.1).stdin(Stdio::null());
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(stdout.trim())
        .unwrap_or_else(|error| panic!("{nat}: {error}: {stdout}{:?}", output.stderr));
    (report, output.status.code())
}

/// The behavior in the report, or `-` if it is not known exactly.
fn behaviour(report: &Value, which: &str) -> String {
    report["nat"][which]["is"].as_str().unwrap_or("-").to_owned()
}

/// Errors in the report of a machine behind this NAT.
fn mistakes(nat: &str, (report, exit): &(Value, Option<i32>)) -> Vec<String> {
    let truth = profile(nat);
    let mut wrong = Vec::new();
    let mut hold = |what: &str, found: String, wanted: String| {
        if found != wanted {
            wrong.push(format!("{nat}: {what}: {found}, not {wanted}"));
        }
    };
    hold("exit code", format!("{exit:?}"), "Some(0)".into());
    hold("udp", report["nat"]["udp"].to_string(), truth.passes_udp().to_string());
    if truth.passes_udp() {
        hold("translated", report["nat"]["translated"].to_string(), truth.translates().to_string());
        let word = |b: Option<orion_peer::nat::Behaviour>| b.map_or("-", |b| b.as_str()).to_owned();
        hold("mapping", behaviour(report, "mapping"), word(truth.mapping()));
        // Without a NAT, nothing is filtered.
        let filtering =
            if nat == "none" { "endpoint-independent".to_owned() } else { word(truth.filtering()) };
        hold("filtering", behaviour(report, "filtering"), filtering);
    }
    // For a stack of NATs, only its combined behavior is visible.
    let name = match nat {
        "port+port" => "port",
        "port+sym" => "sym",
        name => name,
    };
    hold("profile", report["nat"]["profile"].as_str().unwrap_or("-").into(), name.into());
    let relays = if truth.passes_udp() { "[\"udp\",\"tcp\",\"tls\"]" } else { "[\"tcp\",\"tls\"]" };
    hold("relays", report["verdict"]["relays"].to_string(), relays.into());
    let direct: Vec<&str> = MATRIX
        .into_iter()
        .filter(|other| expected(&truth, &profile(other), Relays::ALL) == Path::Direct)
        .collect();
    hold("direct", report["verdict"]["direct"].to_string(), serde_json::json!(direct).to_string());
    wrong
}

fn examine_all(nats: &[&str], user_namespace: bool) {
    let queue = std::sync::Mutex::new(nats.iter());
    let wrong = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..MAX_CONCURRENT {
            scope.spawn(|| {
                loop {
                    let Some(nat) = queue.lock().unwrap().next() else { return };
                    let report = examine(nat, user_namespace);
                    let mistakes = mistakes(nat, &report);
                    if !mistakes.is_empty() {
                        wrong.lock().unwrap().push(format!(
                            "{}\n{}",
                            mistakes.join("\n"),
                            report.0
                        ));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn doctor_names_the_nat_it_is_behind() {
    let others = ["sym-sequential", "adm-eif", "adm-adf", "apdm-eif", "apdm-adf"];
    let nats: Vec<&str> = MATRIX.into_iter().chain(others).collect();
    examine_all(&nats, false);
}

#[test]
fn doctor_names_the_nat_in_a_user_namespace_too() {
    examine_all(&["fullcone", "sym", "udp-blocked"], true);
}
