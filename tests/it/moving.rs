//! Calls survive network changes: new addresses, another NAT, a machine that sleeps, a server that is too busy.
//! Each test prints the outage, calculated from the arrival times of keyframes. The first tests use Linux network
//! namespaces.

use std::{fs, path::Path, time::Duration};

#[cfg(target_os = "linux")]
use orion_peer::netns::{Lab, LabPlan, LabServer, Location, NetworkPlan};
use rustix::process::Signal;
use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::run::follow;
use crate::run::{Rig, Running, run, serve};

/// Waits until `recv` has received this many more keyframes.
fn more_keyframes(recv: &Running, more: usize) {
    recv.event("keyframe", recv.events("keyframe").len() + more);
}

/// Ends both, the sender first; returns the keyframes it sent.
fn sent_when_both_end(send: Running, recv: Running) -> Vec<Value> {
    send.signal(Signal::INT);
    let sent = send.end();
    sent.well();
    recv.says("said goodbye: stopped");
    recv.signal(Signal::INT);
    recv.end().well();
    sent.json().into_iter().filter(|line| line["kind"] == "keyframe").collect()
}

/// Prints the maximum time between two consecutive keyframes, and how many of the sent keyframes arrived.
fn print_outage(name: &str, dir: &Path, sent: &[Value]) {
    let text = fs::read_to_string(dir.join("frames.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<f64> = lines.iter().map(|line| line["receivedAt"].as_f64().unwrap()).collect();
    let longest = times.windows(2).map(|two| two[1] - two[0]).fold(0.0, f64::max);
    let (came, sent) = (lines.len(), sent.len());
    println!("{name}: maximum gap {longest:.2} s; {came} of {sent} keyframes arrived");
}

#[cfg(target_os = "linux")]
struct Moving {
    lab: Lab,
    _server: LabServer,
    dir: tempfile::TempDir,
    send: Running,
    recv: Running,
}

#[cfg(target_os = "linux")]
impl Moving {
    /// Starts two peers behind NATs with these profiles and waits for keyframes.
    fn new(a: &str, b: &str) -> Self {
        let network =
            |text: &str| NetworkPlan { profile: text.parse().unwrap(), ..NetworkPlan::default() };
        let orion_peer = Some(env!("CARGO_BIN_EXE_orion-peer").into());
        let plan = LabPlan { a: network(a), b: network(b), orion_peer, ..LabPlan::default() };
        let lab = Lab::start(&plan).unwrap_or_else(|error| panic!("{error}"));
        let server = lab.serve().unwrap_or_else(|error| panic!("{error}"));
        let dir = tempfile::tempdir().unwrap();
        let start = |location, words: &[&str]| {
            let mut command = lab.orion_peer(location);
            command.args(words).current_dir(dir.path()).envs(server.variables());
            follow(words.join(" "), command)
        };
        let recv = start(Location::B, &["recv", "--json", "--out", "frames"]);
        let words = ["send", "--json", "--source", "pattern:320x240", "--interval", "0.3s"];
        let send = start(Location::A, &words);
        recv.event("keyframe", 3);
        Self { lab, _server: server, dir, send, recv }
    }

    /// Runs shell commands in the network namespace of a peer.
    fn shell(&self, location: Location, script: &str) {
        let mut command = self.lab.command(location, "sh");
        let output = command.args(["-ec", script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
    }

    /// Runs shell commands in the NAT next to a peer.
    fn shell_in_nat(&self, location: Location, script: &str) {
        let mut command = self.lab.command_at_layer(location, 0, "sh");
        let output = command.args(["-ec", script]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {said}");
    }

    /// Checks that keyframes flow again without intervention.
    fn continues(self, name: &str) {
        more_keyframes(&self.recv, 5);
        self.send.signal(Signal::INT);
        let sent = self.send.end();
        sent.well();
        self.recv.says("said goodbye");
        self.recv.signal(Signal::INT);
        self.recv.end().well();
        let sent: Vec<Value> =
            sent.json().into_iter().filter(|line| line["kind"] == "keyframe").collect();
        print_outage(name, &self.dir.path().join("frames"), &sent);
    }
}

/// A script that replaces the address with another one in the same network.
#[cfg(target_os = "linux")]
fn another_address(net: &str) -> String {
    format!(
        "ip addr del {net}.2/24 dev eth0; ip addr add {net}.77/24 dev eth0; \
         ip route replace default via {net}.1"
    )
}

#[cfg(target_os = "linux")]
#[test]
fn the_phone_gets_another_address() {
    let moving = Moving::new("port", "port");
    moving.shell(Location::A, &another_address("192.168.1"));
    moving.send.says("this machine's network has changed");
    moving.continues("the phone's address changes");
}

#[cfg(target_os = "linux")]
#[test]
fn the_mac_gets_another_address() {
    let moving = Moving::new("port", "port");
    moving.shell(Location::B, &another_address("192.168.2"));
    moving.continues("the Mac's address changes");
}

#[cfg(target_os = "linux")]
#[test]
fn the_phone_has_no_network_for_some_seconds() {
    let moving = Moving::new("port", "port");
    moving.shell(Location::A, "ip addr del 192.168.1.2/24 dev eth0");
    moving.send.says("this machine has no network");
    std::thread::sleep(Duration::from_secs(6));
    moving.shell(
        Location::A,
        "ip addr add 192.168.1.99/24 dev eth0; ip route replace default via 192.168.1.1",
    );
    moving.continues("6 s without any address");
}

/// The NAT gets another address from its provider and another type; its old mappings are lost.
#[cfg(target_os = "linux")]
#[test]
fn the_nat_of_the_phone_restarts_with_another_type() {
    let moving = Moving::new("port", "port");
    let layer = "sym".parse::<orion_peer::nat::Profile>().unwrap().layers[0];
    let rules = orion_peer::netns::rules::rules(&layer, "203.0.113.4".parse().unwrap()).unwrap();
    let file = moving.dir.path().join("sym.nft");
    fs::write(&file, format!("flush ruleset\n{}", rules.loadable())).unwrap();
    moving.shell_in_nat(
        Location::A,
        &format!(
            "ip addr flush dev wan; ip link set wan down; ip link set wan address 02:00:00:00:04:04; \
             ip link set wan up; nft -f {}; ip addr add 203.0.113.4/24 dev wan; \
             ip route replace default via 203.0.113.1",
            file.display()
        ),
    );
    // Outgoing packets still arrive; incoming ones do not.
    moving.send.says("nothing has been received for 4 s: looking for another path");
    moving.send.says("connected to the receiver again");
    moving.continues("another NAT");
}

fn asleep(name: &str, long: Duration, who: impl Fn(&Running, &Running) -> u32) {
    let rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:320x240", &["--interval", "0.3s"]);
    recv.event("keyframe", 3);
    let process = rustix::process::Pid::from_raw(who(&send, &recv).cast_signed()).unwrap();
    rustix::process::kill_process(process, Signal::STOP).unwrap();
    std::thread::sleep(long);
    rustix::process::kill_process(process, Signal::CONT).unwrap();
    more_keyframes(&recv, 5);
    let sent = sent_when_both_end(send, recv);
    print_outage(name, &rig.path("frames"), &sent);
}

#[test]
fn the_mac_sleeps_for_a_minute() {
    asleep("the Mac sleeps for 60 s", Duration::from_mins(1), |_, recv| recv.pid());
}

#[test]
fn the_phone_sleeps_for_a_minute() {
    asleep("the phone sleeps for 60 s", Duration::from_mins(1), |send, _| send.pid());
}

#[test]
fn the_mac_sleeps_for_some_seconds() {
    asleep("the Mac sleeps for 8 s", Duration::from_secs(8), |_, recv| recv.pid());
}

#[test]
fn a_server_that_requests_a_delay_is_retried_later() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--ip-rate", "1:30/min"];
    let (server, signal, _) = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0", &more);
    let signal = format!("ws://{signal}");
    let words = |command| vec![command, "--json", "--signal", signal.as_str()];
    let start = |words: Vec<&str>| crate::run::start(dir.path(), &words);
    let recv = start([words("recv"), vec!["--count", "2"]].concat());
    let source = ["--source", "pattern:320x240", "--interval", "0.3s", "--count", "2"];
    let send = start([words("send"), source.to_vec()].concat());
    let (sent, received) = (send.end(), recv.end());
    sent.well();
    received.well();
    assert!(
        sent.stderr.contains("429") || received.stderr.contains("429"),
        "neither peer had to wait"
    );
    server.signal(Signal::TERM);
    server.end().well();
}

#[test]
fn once_ends_with_the_first_connection() {
    let rig = Rig::new();
    let recv = rig.recv("frames", &["--once"]);
    let send = rig.send("pattern:320x240", &["--count", "2"]);
    send.end().well();
    let received = recv.end();
    received.well();
    assert_eq!(received.summary()["keyframes"]["received"], 2);
    let recv = rig.recv("more", &["--count", "2"]);
    let send = rig.send("pattern:320x240", &["--once"]);
    recv.end().well();
    send.end().well();
    assert_eq!(run(&rig.path(""), &["recv", "--once", "--count", "0"]).code, Some(2));
}

/// Media does not need signaling: nothing is lost or late while it is down.
#[test]
fn the_server_is_down_for_some_seconds() {
    let mut rig = Rig::new();
    let recv = rig.recv("frames", &[]);
    let send = rig.send("pattern:320x240", &["--interval", "0.3s"]);
    recv.event("keyframe", 3);
    rig.server.signal(Signal::TERM);
    recv.says("signaling: ");
    std::thread::sleep(Duration::from_secs(3));
    let address = rig.signal.trim_start_matches("ws://").to_owned();
    let (server, ..) = serve(rig.dir.path(), &address, &rig.turn, &[]);
    std::mem::replace(&mut rig.server, server).end().well();
    more_keyframes(&recv, 20);
    let sent = sent_when_both_end(send, recv);
    print_outage("the server is down for 3 s", &rig.path("frames"), &sent);
    let text = fs::read_to_string(rig.path("frames").join("frames.jsonl")).unwrap();
    assert_eq!(text.lines().count(), sent.len(), "a keyframe was lost");
}

/// The newer socket of a device takes precedence: the sender offers to it, and the older one reports why it ends.
#[test]
fn a_second_mac_takes_over() {
    let rig = Rig::new();
    let first = rig.recv("first", &[]);
    let send = rig.send("pattern:320x240", &["--interval", "0.3s"]);
    first.event("keyframe", 3);
    let second = rig.recv("second", &["--count", "5"]);
    let ended = first.end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("4502"), "{}", ended.stderr);
    second.end().well();
    send.signal(Signal::INT);
    send.end().well();
}
