//! Strangers: an attacker that can reach a port of a peer, or sits on its path, but knows none of its secrets, cannot
//! end or delay a call, or make its memory grow. Linux only, because ports are looked up in `/proc`.
//!
//! `ORION_STRANGER_SECONDS=60 cargo nextest run --release -E 'test(/^stranger::/)'` floods for longer than the
//! usual run of all tests: a million packets in a minute.

mod flood;
mod on_path;
mod packets;
mod process;

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use self::{
    flood::{Flood, Plan, Sent, now},
    packets::{CHANGE_CIPHER_SPEC, Packets, alert},
    process::{cpu, memory},
};
use crate::run::{Rig, Running, as_sent};

/// Maximum time after the end of an attack until keyframes flow again, seconds.
const RESUMES_WITHIN: f64 = 5.0;

/// Maximum memory that a flood may cost permanently, bytes.
const MAX_GROWN: u64 = 40_000_000;

/// Packets of a flood, a second.
const PER_SECOND: u64 = 16_667;

/// Default duration of a flood, seconds.
const SECONDS: u64 = 6;

/// A call of two peers.
struct Call {
    send: Running,
    recv: Running,
}

impl Call {
    /// Starts both peers; nothing is established yet.
    fn start(rig: &Rig, more: &[&str]) -> Self {
        let recv = rig.recv("frames", more);
        let send = rig.send("pattern:320x240", &[&["--interval", "0.25s"], more].concat());
        Self { send, recv }
    }

    fn pids(&self) -> [u32; 2] {
        [self.send.pid(), self.recv.pid()]
    }

    /// Five more keyframes arrive, the first of them soon after `end`, Unix seconds.
    fn goes_on_after(&self, end: f64) {
        let received = |keyframe: &Value| keyframe["receivedAt"].as_f64().unwrap();
        // An earlier keyframe may be reported after it.
        let first = received(&self.recv.event_where("keyframe", |it| received(it) > end));
        let earlier = self.keyframes().iter().filter(|at| **at <= end).count();
        self.recv.event("keyframe", earlier + 5);
        assert!(first - end < RESUMES_WITHIN, "{:.1} s without a keyframe", first - end);
    }

    /// Arrival times, Unix seconds.
    fn keyframes(&self) -> Vec<f64> {
        let keyframes = self.recv.events("keyframe");
        keyframes.iter().map(|keyframe| keyframe["receivedAt"].as_f64().unwrap()).collect()
    }

    /// Ends both; the summaries of the sender and the receiver.
    fn end(self) -> [Value; 2] {
        self.send.signal(Signal::INT);
        let sent = self.send.end();
        self.recv.says("said goodbye: stopped");
        self.recv.signal(Signal::INT);
        let received = self.recv.end();
        as_sent(&received.events("keyframe"), &sent.events("keyframe"));
        [sent, received].map(|ended| {
            ended.well();
            ended.summary()
        })
    }
}

/// Asserts that no connection was lost, not even one that was replaced.
#[track_caller]
fn nothing_lost(summaries: &[Value; 2]) {
    for summary in summaries {
        assert_eq!(summary["connectionsLost"]["count"], 0, "{summary}");
    }
}

/// One unauthenticated packet does not close the data channel, whichever peer gets it.
#[test]
fn a_strangers_change_cipher_spec_has_no_effect() {
    let rig = Rig::new();
    let call = Call::start(&rig, &[]);
    call.recv.event("keyframe", 5);
    for pid in [call.recv.pid(), call.send.pid()] {
        let plan = Plan { to: vec![pid], spared: None, count: 500, over: Duration::from_secs(1) };
        let sent = Flood::start(plan, || CHANGE_CIPHER_SPEC.to_vec()).end();
        assert_eq!(sent.count, 500);
        call.goes_on_after(now());
    }
    nothing_lost(&call.end());
}

/// Floods for 3 s after the first port is open: before, during and after the handshake.
fn set_up_under(packet: impl FnMut() -> Vec<u8> + Send + 'static) {
    let rig = Rig::new();
    let call = Call::start(&rig, &[]);
    let plan = Plan {
        to: call.pids().to_vec(),
        spared: None,
        count: 15_000,
        over: Duration::from_secs(3),
    };
    let Sent { count, time: [started, ended], ports } = Flood::start(plan, packet).end();
    assert!(count > 10_000, "{count}");
    call.goes_on_after(ended);
    let first = call.keyframes()[0];
    println!(
        "{count} to {ports} ports; the first keyframe arrived {:.2} s after them",
        first - started
    );
    assert!(started < first, "the call was established before the first packet was sent");
    nothing_lost(&call.end());
}

#[test]
fn a_strangers_alerts_do_not_end_a_handshake() {
    let mut number = 0_u8;
    set_up_under(move || {
        number = number.wrapping_add(1);
        alert(number)
    });
}

#[test]
fn a_strangers_handshake_messages_do_not_end_a_handshake() {
    let mut packets = Packets::new(16);
    set_up_under(move || packets.handshake());
}

/// How long floods last, seconds.
fn seconds() -> u64 {
    let text = std::env::var("ORION_STRANGER_SECONDS").ok();
    text.map_or(SECONDS, |text| text.parse().expect("ORION_STRANGER_SECONDS is a number"))
}

/// Memory of the sender and the receiver in an undisturbed call, bytes.
fn undisturbed(more: &[&str]) -> [u64; 2] {
    let rig = Rig::new();
    let call = Call::start(&rig, more);
    call.recv.event("keyframe", 10);
    let memory = call.pids().map(memory);
    nothing_lost(&call.end());
    memory
}

/// Packets of every kind before, during and after the setup; with a relay also to its ports.
fn flooded(name: &str, more: &[&str], relayed: bool) {
    let before = undisturbed(more);
    let rig = Rig::new();
    let call = Call::start(&rig, more);
    let mut to = call.pids().to_vec();
    // On loopback the relay cannot distinguish a stranger that floods it from the peers, so it would also limit their
    // requests.
    let spared = rig.turn.parse().ok();
    if relayed {
        to.push(rig.server.pid());
    }
    let count = seconds() * PER_SECOND;
    let plan = Plan { to, spared, count, over: Duration::from_secs(seconds()) };
    let mut packets = Packets::new(1);
    let sent = Flood::start(plan, move || packets.any()).end();
    assert!(sent.count > count * 9 / 10, "{} of {count}", sent.count);
    call.goes_on_after(sent.time[1]);
    let times = call.keyframes();
    let [started, ended] = sent.time;
    let during = times.iter().filter(|at| (started..ended).contains(*at)).count();
    let used = call.pids().map(cpu);
    let grown =
        std::array::from_fn::<_, 2, _>(|end| memory(call.pids()[end]).saturating_sub(before[end]));
    println!(
        "{name}: {} packets to {} ports in {:.1} s; {during} keyframes in that time; CPU of send and recv \
         {:.1} s and {:.1} s; {} and {} KB more",
        sent.count,
        sent.ports,
        ended - started,
        used[0],
        used[1],
        grown[0] / 1000,
        grown[1] / 1000,
    );
    assert!(grown.iter().all(|grown| *grown < MAX_GROWN), "{grown:?} bytes more");
    assert!(during > 0, "no keyframe arrived during the flood");
    nothing_lost(&call.end());
}

#[test]
fn a_flood_of_every_kind_of_packet_is_survived() {
    flooded("direct", &[], false);
}

#[test]
fn a_flood_through_the_relay_is_survived() {
    flooded("relay", &["--ice-policy", "relay"], true);
}
