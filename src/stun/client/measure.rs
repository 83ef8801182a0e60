//! Measures round trips, a paced keyframe and throughput through an allocation. The relayed address sends to itself,
//! so that only the path to the server and back is measured, without a NAT in between; a server that forbids this
//! can be measured with a peer that returns everything.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Client, ClientError};

/// Marks our packets.
const MARK: [u8; 4] = *b"orpd";

/// Pause between two round trips.
const PING_EVERY: Duration = Duration::from_millis(20);

/// How long to wait for the last packets.
const TAIL: Duration = Duration::from_secs(1);

/// Payload of a video packet, bytes.
const PACKET_BYTES: usize = 1188;

/// Size of a keyframe, bytes.
pub const BURST_BYTES: usize = 100_000;

/// Pacing of the burst: bits per second, and bits sent immediately.
const PACE: (f64, f64) = (8e6, 120e3);

/// Duration of the throughput measurement and its maximum number of bytes: relayed traffic costs money.
const THROUGHPUT: (Duration, u64) = (Duration::from_millis(800), 4_000_000);

/// A packet counts as lost once this many later ones have returned.
const REORDERED: u32 = 16;

/// All packets in flight count as lost if nothing returns for this long.
const STALLED: Duration = Duration::from_millis(400);

/// Initial and maximum number of packets in flight: a round trip of 100 ms at 80 Mbit/s has 840.
const WINDOW: (f64, f64) = (10.0, 1000.0);

/// The result of sending a burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Burst {
    /// Packets sent.
    pub sent: u32,
    /// Packets that returned.
    pub received: u32,
    /// Time from the first packet sent to the last one returned.
    pub took: Duration,
}

impl Burst {
    /// Share of packets lost, 0 to 1.
    #[must_use]
    pub fn loss(&self) -> f64 {
        1.0 - f64::from(self.received) / f64::from(self.sent.max(1))
    }
}

/// The result of keeping as many packets in flight as the path carries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Throughput {
    /// Packets sent.
    pub sent: u32,
    /// Packets that returned.
    pub received: u32,
    /// Rate of the payload that returned in the second half of the measurement. This is a lower bound: a path with
    /// long round trips is not yet full by then.
    pub bits_per_second: f64,
}

/// The window of packets in flight, which depends on loss and on returned packets (as in TCP, RFC 5681 §3.1).
#[derive(Debug)]
struct Window {
    size: f64,
    grows: bool,
    sent: u32,
    /// Numbers of the packets that returned.
    back: std::collections::BTreeSet<u32>,
    /// All packets below this number have returned or are lost.
    settled: u32,
    lost: u32,
    /// Losses below this number do not shrink the window again.
    recovered_at: u32,
}

impl Window {
    fn new() -> Self {
        let back = std::collections::BTreeSet::new();
        Self { size: WINDOW.0, grows: true, sent: 0, back, settled: 0, lost: 0, recovered_at: 0 }
    }

    fn is_open(&self) -> bool {
        let in_flight = self.sent - self.settled - self.back.range(self.settled..).count() as u32;
        f64::from(in_flight) < self.size
    }

    /// Records a returned packet. Returns whether it was awaited and returned for the first time.
    fn came_back(&mut self, number: u32) -> bool {
        if number >= self.sent || !self.back.insert(number) {
            return false;
        }
        self.size = (self.size + if self.grows { 1.0 } else { 1.0 / self.size }).min(WINDOW.1);
        let newest = self.back.last().copied().unwrap_or_default();
        self.settle(newest.saturating_sub(REORDERED));
        true
    }

    /// Counts all packets in flight as lost.
    fn stalled(&mut self) {
        self.settle(self.sent);
    }

    fn settle(&mut self, until: u32) {
        while self.settled < until || self.back.contains(&self.settled) {
            if !self.back.contains(&self.settled) {
                self.lost += 1;
                if self.settled >= self.recovered_at {
                    self.recovered_at = self.sent;
                    self.grows = false;
                    self.size = (self.size * 0.7).max(2.0);
                }
            }
            self.settled += 1;
        }
    }
}

fn packet(number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length.max(8)];
    packet[..4].copy_from_slice(&MARK);
    packet[4..8].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> Option<u32> {
    let rest = packet.strip_prefix(&MARK)?;
    Some(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?))
}

impl Client {
    /// Sends small packets to `peer`, which returns them, and measures the round trips of those that arrive.
    ///
    /// # Errors
    /// [`ClientError`] if the connection fails.
    pub async fn round_trips(
        &mut self,
        peer: SocketAddr,
        count: u32,
    ) -> Result<Vec<Duration>, ClientError> {
        let mut sent = Vec::new();
        let mut times = Vec::new();
        for index in 0..count {
            sent.push(Instant::now());
            self.send_to(peer, &packet(index, 64)).await?;
            let last = index + 1 == count;
            let until = Instant::now() + if last { TAIL } else { PING_EVERY };
            while times.len() < sent.len()
                && let Some((_, data)) = self.receive(until).await?
            {
                let of = number(&data).and_then(|number| sent.get(number as usize));
                times.extend(of.map(Instant::elapsed));
            }
        }
        Ok(times)
    }

    /// Sends a keyframe's worth of packets, paced like video, to `peer`, which returns them.
    ///
    /// # Errors
    /// [`ClientError`] if the connection fails.
    pub async fn burst(&mut self, peer: SocketAddr) -> Result<Burst, ClientError> {
        // Above all numbers used for round trips, so that late packets of those do not count here.
        const FIRST: u32 = 1 << 16;
        let total = BURST_BYTES.div_ceil(PACKET_BYTES) as u32;
        let started = Instant::now();
        let mut seen = std::collections::HashSet::new();
        let mut last = started;
        let (rate, burst) = PACE;
        for index in 0..total {
            let bits = f64::from(index) * PACKET_BYTES as f64 * 8.0;
            let due = started + Duration::from_secs_f64((bits - burst).max(0.0) / rate);
            while Instant::now() < due
                && let Some((_, data)) = self.receive(due).await?
            {
                note(&mut seen, &mut last, &data, FIRST);
            }
            self.send_to(peer, &packet(FIRST + index, PACKET_BYTES)).await?;
        }
        let until = Instant::now() + TAIL;
        while (seen.len() as u32) < total
            && let Some((_, data)) = self.receive(until).await?
        {
            note(&mut seen, &mut last, &data, FIRST);
        }
        Ok(Burst { sent: total, received: seen.len() as u32, took: last - started })
    }

    /// Keeps as many packets in flight to `peer`, which returns them, as the path carries without loss.
    ///
    /// # Errors
    /// [`ClientError`] if the connection fails.
    pub async fn throughput(&mut self, peer: SocketAddr) -> Result<Throughput, ClientError> {
        // Above all numbers used for bursts.
        const FIRST: u32 = 1 << 24;
        let (time, bytes) = THROUGHPUT;
        let max = (bytes / PACKET_BYTES as u64) as u32;
        let started = Instant::now();
        let end = started + time;
        let mut window = Window::new();
        let mut arrivals = Vec::new();
        while Instant::now() < end {
            while window.sent < max && window.is_open() {
                self.send_to(peer, &packet(FIRST + window.sent, PACKET_BYTES)).await?;
                window.sent += 1;
            }
            if window.settled >= window.sent {
                break;
            }
            match self.receive(end.min(Instant::now() + STALLED)).await? {
                Some((_, data)) => {
                    let back = number(&data).and_then(|number| number.checked_sub(FIRST));
                    if back.is_some_and(|number| window.came_back(number)) {
                        arrivals.push(started.elapsed());
                    }
                }
                None => window.stalled(),
            }
        }
        Ok(Throughput {
            sent: window.settled,
            received: window.settled - window.lost,
            bits_per_second: rate_of_second_half(&arrivals),
        })
    }
}

/// Payload bits per second of the arrivals in the second half of the time.
fn rate_of_second_half(arrivals: &[Duration]) -> f64 {
    let Some(last) = arrivals.last() else { return 0.0 };
    let half = *last / 2;
    let before = arrivals.partition_point(|at| *at <= half);
    let Some(first) = arrivals.get(before.saturating_sub(1)) else { return 0.0 };
    let time = last.saturating_sub(*first).as_secs_f64();
    let packets = arrivals.len() - before;
    if time > 0.0 { packets as f64 * PACKET_BYTES as f64 * 8.0 / time } else { 0.0 }
}

fn note(seen: &mut std::collections::HashSet<u32>, last: &mut Instant, data: &[u8], first: u32) {
    if let Some(number) = number(data).filter(|number| *number >= first)
        && seen.insert(number)
    {
        *last = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn packets_are_identified_by_number() {
        assert_eq!(number(&packet(7, 64)), Some(7));
        assert_eq!(packet(7, PACKET_BYTES).len(), PACKET_BYTES);
        assert_eq!(number(b"orp"), None);
        assert_eq!(number(b"xxxx0000"), None);
    }

    #[test]
    fn the_loss_of_a_burst_is_computed() {
        let burst = Burst { sent: 80, received: 60, took: Duration::from_millis(100) };
        assert!((burst.loss() - 0.25).abs() < 1e-9);
    }

    /// Simulates a path with a queue that carries `rate` packets per second and returns them after `delay`.
    fn through_a_path(rate: f64, queue: usize, delay: Duration) -> (Window, f64) {
        let mut window = Window::new();
        let mut arrivals: Vec<Duration> = Vec::new();
        let mut in_flight = VecDeque::<(Duration, u32)>::new();
        let (mut now, mut free_at) = (Duration::ZERO, Duration::ZERO);
        let packet_time = Duration::from_secs_f64(1.0 / rate);
        while now < THROUGHPUT.0 {
            while window.is_open() && window.sent < 3367 {
                let waiting = free_at.saturating_sub(now).as_secs_f64() * rate;
                if waiting < queue as f64 {
                    free_at = free_at.max(now) + packet_time;
                    in_flight.push_back((free_at + delay, window.sent));
                }
                window.sent += 1;
            }
            match in_flight.pop_front() {
                Some((at, number)) => {
                    now = at;
                    assert!(window.came_back(number));
                    assert!(!window.came_back(number), "twice");
                    arrivals.push(now);
                }
                None if window.settled >= window.sent => break,
                None => {
                    now += STALLED;
                    window.stalled();
                }
            }
        }
        assert!(!window.came_back(u32::MAX), "never sent");
        (window, rate_of_second_half(&arrivals))
    }

    #[test]
    fn throughput_matches_the_path() {
        let bits = PACKET_BYTES as f64 * 8.0;
        for (mbits, delay) in [(1.0, 5), (9.0, 1), (9.0, 40), (30.0, 20), (200.0, 1)] {
            let rate = mbits * 1e6 / bits;
            let (window, measured) = through_a_path(rate, 60, Duration::from_millis(delay));
            let measured = measured / 1e6;
            assert!((0.85 * mbits..1.05 * mbits).contains(&measured), "{mbits}: {measured}");
            assert!(window.lost * 5 < window.sent, "{mbits}: {} of {}", window.lost, window.sent);
        }
    }

    #[test]
    fn a_path_that_drops_everything_has_no_throughput() {
        let (window, measured) = through_a_path(1e-3, 0, Duration::ZERO);
        assert_eq!((window.lost, window.settled), (window.sent, window.sent));
        assert!(measured.abs() < f64::EPSILON && window.sent > 0);
        assert!(rate_of_second_half(&[Duration::ZERO; 3]).abs() < f64::EPSILON);
    }
}
