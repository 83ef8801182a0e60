//! Packets from unrelated sockets to every UDP port of some processes, at a steady pace.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use super::process::udp_ports;
use crate::run::HANG;

/// Interval of port lookups, because connections are opened and closed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Packets sent in one burst when the sender is late.
const BURST: u64 = 200;

/// Volume, duration and targets of a flood.
pub struct Plan {
    /// Ids of the target processes.
    pub to: Vec<u32>,
    /// An address that is not attacked.
    pub spared: Option<SocketAddr>,
    /// Number of packets.
    pub count: u64,
    /// Duration, counted from when the first port is open.
    pub over: Duration,
}

/// Summary of a flood.
pub struct Sent {
    /// Number of packets.
    pub count: u64,
    /// Start and end, Unix seconds.
    pub time: [f64; 2],
    /// Number of attacked ports.
    pub ports: usize,
}

/// A running flood.
pub struct Flood(JoinHandle<Sent>);

/// The current time, Unix seconds.
pub fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

impl Flood {
    /// Starts as soon as one of the processes has a port.
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
    // Without IPv6 the processes have no IPv6 ports either.
    let v6 = UdpSocket::bind("[::]:0").ok();
    let waiting = Instant::now();
    let mut ports = plan.ports();
    while ports.is_empty() {
        assert!(waiting.elapsed() < HANG, "no process has a UDP port");
        thread::sleep(Duration::from_millis(1));
        ports = plan.ports();
    }
    let (started, started_at) = (Instant::now(), now());
    let (mut looked, mut all) = (started, ports.clone());
    let mut round = ports.clone().into_iter();
    let (mut tried, mut count) = (0, 0);
    while tried < plan.count {
        let share = started.elapsed().as_secs_f64() / plan.over.as_secs_f64();
        let due = ((plan.count as f64 * share) as u64).clamp(tried, plan.count);
        for _ in 0..(due - tried).min(BURST) {
            let Some(to) = round.next().or_else(|| {
                round = ports.clone().into_iter();
                round.next()
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
    Sent { count, time: [started_at, now()], ports: all.len() }
}
