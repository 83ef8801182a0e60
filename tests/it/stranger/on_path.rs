//! An attacker on the path of both peers of a kernel lab: sees all traffic, and injects datagrams into each link
//! that appear to come from the peer's own address and port. Linux with `ip` and `nft` only.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use orion_peer::{
    nat::LinkSettings,
    netns::{Capture, Datagram, Injector, Lab, LabPlan, LabServer, Location, NetworkPlan},
};

use super::{Call, flood::now, packets::Packets};
use crate::run::{HANG, follow};

/// Signaling, STUN and TURN of a lab: the attack is on the traffic between the peers.
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// Datagrams kept for each direction, to be replayed.
const KEPT: usize = 64;

/// Interval of injections at each peer: about a thousand datagrams per second.
const PAUSE: Duration = Duration::from_millis(1);

/// The traffic of a peer.
#[derive(Default)]
struct Seen {
    /// Source of the datagrams it receives, and its own address for them.
    flows: Vec<(SocketAddrV4, SocketAddrV4)>,
    /// The most recent datagrams in each direction.
    datagrams: VecDeque<Vec<u8>>,
}

impl Seen {
    fn take(&mut self, peer: Ipv4Addr, datagram: Datagram) {
        let Datagram { from, to, payload } = datagram;
        let inward = *to.ip() == peer;
        if payload.is_empty() || [*from.ip(), *to.ip()].contains(&SERVER) {
            return;
        }
        if inward && !self.flows.contains(&(from, to)) {
            self.flows.push((from, to));
        }
        self.datagrams.push_back(payload);
        if self.datagrams.len() > 2 * KEPT {
            self.datagrams.pop_front();
        }
    }
}

/// The attacker at one peer.
struct Attacker {
    seen: Arc<Mutex<Seen>>,
    injector: Injector,
}

impl Attacker {
    fn new(lab: &Lab, location: Location) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let peer = lab.address(location);
        let capture: Capture = lab.capture(location).unwrap();
        let sees = Arc::clone(&seen);
        // Ends with the lab.
        thread::spawn(move || {
            for datagram in capture {
                sees.lock().unwrap().take(peer, datagram);
            }
        });
        Self { seen, injector: lab.injector(location).unwrap() }
    }

    /// Injects for this long after the peer's first datagram; returns the number of datagrams.
    fn attack(mut self, lasts: Duration, seed: u64) -> JoinHandle<u64> {
        thread::spawn(move || {
            let mut packets = Packets::new(seed);
            let waiting = Instant::now();
            while self.seen.lock().unwrap().flows.is_empty() {
                assert!(waiting.elapsed() < HANG, "no datagram of the peer was captured");
                thread::sleep(PAUSE);
            }
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < lasts {
                let (flows, payload) = {
                    let seen = self.seen.lock().unwrap();
                    (seen.flows.clone(), forged(&mut packets, &seen.datagrams))
                };
                for (from, to) in flows {
                    self.injector.send(&Datagram { from, to, payload: payload.clone() }).unwrap();
                    count += 1;
                }
                thread::sleep(PAUSE);
            }
            count
        })
    }
}

/// Random data, a replayed datagram, or a datagram changed in one place, which may be in its header.
fn forged(packets: &mut Packets, seen: &VecDeque<Vec<u8>>) -> Vec<u8> {
    let again = seen.get(packets.below(seen.len().max(1))).cloned();
    match (packets.below(6), again) {
        (0, Some(again)) => again,
        (1, Some(mut again)) => {
            let at = packets.below(again.len());
            again[at] ^= 1 << packets.below(8);
            again
        }
        (2, Some(mut again)) => {
            let at = packets.below(again.len().min(16));
            again[at] = packets.below(256) as u8;
            again
        }
        (3, _) => packets.handshake(),
        _ => packets.any(),
    }
}

fn network() -> NetworkPlan {
    let link = LinkSettings { delay: Duration::from_millis(3), ..LinkSettings::default() };
    NetworkPlan { profile: "port".parse().unwrap(), link, ..NetworkPlan::default() }
}

/// Starts a call in a lab, and returns it with its attackers, which observe it from the start.
fn call() -> (Call, [Attacker; 2], LabServer, Lab, tempfile::TempDir) {
    let orion_peer = Some(env!("CARGO_BIN_EXE_orion-peer").into());
    let plan = LabPlan { a: network(), b: network(), orion_peer, ..LabPlan::default() };
    let lab =
        Lab::start(&plan).unwrap_or_else(|error| panic!("{error}\n  try: {}", error.remedy()));
    let server = lab.serve().unwrap();
    let attackers = [Location::A, Location::B].map(|location| Attacker::new(&lab, location));
    let dir = tempfile::tempdir().unwrap();
    let start = |location, words: &[&str]| {
        let mut command = lab.orion_peer(location);
        command.args(words).current_dir(dir.path()).envs(server.variables());
        follow(words.join(" "), command)
    };
    let recv = start(Location::B, &["recv", "--json", "--out", "frames"]);
    let words = ["send", "--json", "--source", "pattern:320x240", "--interval", "0.3s"];
    let send = start(Location::A, &words);
    (Call { send, recv }, attackers, server, lab, dir)
}

/// Attacks both peers for this long; prints the result.
fn attacked(name: &str, lasts: Duration, established: bool) {
    let (call, attackers, _server, _lab, _dir) = call();
    if established {
        call.recv.event("keyframe", 5);
    }
    let started = now();
    let [a, b] = attackers;
    let [a, b] = [a.attack(lasts, 1), b.attack(lasts, 2)].map(|thread| thread.join().unwrap());
    let ended = now();
    assert!(a > 300 && b > 300, "{a} and {b} datagrams injected");
    if established {
        call.goes_on_after(ended);
    } else {
        call.recv.event("keyframe", call.recv.events("keyframe").len() + 5);
    }
    let times = call.keyframes();
    let during = times.iter().filter(|at| (started..ended).contains(*at)).count();
    let first = times.iter().find(|at| **at > ended).unwrap() - ended;
    let summaries = call.end();
    println!(
        "{name}: {a} and {b} datagrams in {:.1} s; {during} keyframes in that time, the next {first:.2} s after \
         it; lost {} and {}",
        ended - started,
        summaries[0]["connectionsLost"],
        summaries[1]["connectionsLost"],
    );
}

#[test]
fn an_attacker_on_the_path_does_not_end_a_call() {
    attacked("during a call", Duration::from_secs(5), true);
}

#[test]
fn an_attacker_on_the_path_does_not_prevent_a_call() {
    attacked("during setup", Duration::from_secs(3), false);
}
