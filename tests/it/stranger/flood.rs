//! Packets from unrelated sockets to every UDP port of some processes, at a steady pace.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use super::process::udp_ports;
use crate::run::HANG;

/// Ports are looked up so often while there are some: connections come and go.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Packets sent at once when the sender is late.
const BURST: u64 = 200;

/// How much is sent in which time, and to whom.
pub struct Plan {
    /// The processes.
    pub to: Vec<u32>,
    /// An address that is spared.
    pub spared: Option<SocketAddr>,
    /// Packets.
    pub count: u64,
    /// From the first port on.
    pub over: Duration,
}

/// What was sent.
pub struct Sent {
    /// Packets.
    pub count: u64,
    /// When it began and ended, Unix seconds.
    pub time: [f64; 2],
    /// Ports that were sent something.
    pub ports: usize,
}

/// A stranger at work.
pub struct Flood(JoinHandle<Sent>);

/// Now, Unix seconds.
pub fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

impl Flood {
    /// Begins as soon as one of the processes has a port.
    pub fn start(plan: Plan, packet: impl FnMut() -> Vec<u8> + Send + 'static) -> Self {
        Self(thread::spawn(move || flood(&plan, packet)))
    }

    /// Waits until everything is sent.
    pub fn end(self) -> Sent {
        self.0.join().unwrap()
    }
}

impl Plan {
    fn ports(&self) -> BTreeSet<SocketAddr> {
        let mut ports: BTreeSet<_> = self.to.iter().flat_map(|pid| udp_ports(*pid)).collect();
        ports.retain(|port| Some(*port) != self.spared);
        ports
    }
}

fn flood(plan: &Plan, mut packet: impl FnMut() -> Vec<u8>) -> Sent {
    let v4 = UdpSocket::bind("0.0.0.0:0").unwrap();
    // Without IPv6 there is no port of it either.
    let v6 = UdpSocket::bind("[::]:0").ok();
    let waiting = Instant::now();
    let mut ports = plan.ports();
    while ports.is_empty() {
        assert!(waiting.elapsed() < HANG, "no process has a UDP port");
        thread::sleep(Duration::from_millis(1));
        ports = plan.ports();
    }
    let (begun, begun_at) = (Instant::now(), now());
    let (mut looked, mut all) = (begun, ports.clone());
    let mut turn = ports.clone().into_iter();
    let (mut tried, mut count) = (0, 0);
    while tried < plan.count {
        let share = begun.elapsed().as_secs_f64() / plan.over.as_secs_f64();
        let due = ((plan.count as f64 * share) as u64).clamp(tried, plan.count);
        for _ in 0..(due - tried).min(BURST) {
            let Some(to) = turn.next().or_else(|| {
                turn = ports.clone().into_iter();
                turn.next()
            }) else {
                break;
            };
            let socket = if to.is_ipv4() { Some(&v4) } else { v6.as_ref() };
            let sent = socket.map(|socket| socket.send_to(&packet(), to));
            count += u64::from(matches!(sent, Some(Ok(_))));
        }
        tried += (due - tried).min(BURST);
        if looked.elapsed() >= LOOK_EVERY {
            looked = Instant::now();
            ports = plan.ports();
            all.extend(ports.iter().copied());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Sent { count, time: [begun_at, now()], ports: all.len() }
}
