//! What was sent: each packet by its transport-wide number, with what became of it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::estimate::Sample;
use crate::peer::sequence::near;

/// Packets remembered. Feedback comes within a round trip; a keyframe of 100 KB has 85.
const MOST: usize = 4096;

/// Numbers begin one turn up, so that none goes below zero.
const FIRST: u64 = 1 << 16;

#[derive(Debug, Clone, Copy)]
struct Packet {
    sent: f64,
    bytes: f64,
    /// On the other side's clock, seconds.
    arrived: Option<f64>,
}

/// The packets sent last.
#[derive(Debug)]
pub(super) struct SentLog {
    epoch: Instant,
    packets: VecDeque<Packet>,
    /// Number of the next one.
    next: u64,
    /// The newest one that is told of, and what follows.
    told: u64,
}

impl SentLog {
    pub(super) fn new(epoch: Instant) -> Self {
        Self { epoch, packets: VecDeque::new(), next: FIRST, told: FIRST }
    }

    /// Seconds on our clock.
    pub(super) fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }

    /// The same the other way round. Seconds that follow from what was received may be anything.
    pub(super) fn instant(&self, seconds: f64) -> Instant {
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.epoch.checked_add(since).unwrap_or(self.epoch)
    }

    /// Number of the next packet.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The number after the newest packet that is told of.
    pub(super) fn told(&self) -> u64 {
        self.told
    }

    /// A packet leaves. Gives its number.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize) -> u16 {
        if self.packets.len() == MOST {
            self.packets.pop_front();
        }
        let sent = self.seconds(now);
        self.packets.push_back(Packet { sent, bytes: bytes as f64, arrived: None });
        self.next += 1;
        (self.next - 1) as u16
    }

    fn first(&self) -> u64 {
        self.next - self.packets.len() as u64
    }

    /// The other side tells of a packet: when it arrived, in seconds, or that it has not.
    pub(super) fn report(&mut self, number: u16, arrived: Option<f64>) {
        let Some(newest) = self.next.checked_sub(1) else { return };
        let number = near(newest, u64::from(number), 16);
        if number < self.first() || number >= self.next {
            return;
        }
        self.told = self.told.max(number + 1);
        let index = (number - self.first()) as usize;
        let packet = &mut self.packets[index];
        packet.arrived = packet.arrived.or(arrived);
    }

    /// Those that arrived, of the numbers from `from` to before `to`, in the order they were sent.
    pub(super) fn samples(&self, from: u64, to: u64) -> Vec<Sample> {
        self.range(from, to)
            .filter_map(|packet| {
                let Packet { sent, bytes, arrived } = *packet;
                arrived.map(|arrived| Sample { sent, arrived, bytes })
            })
            .collect()
    }

    /// Share of the packets from `from` on that are told of and did not arrive.
    pub(super) fn lost(&self, from: u64, to: u64) -> f64 {
        let to = to.min(self.told);
        let (mut told, mut lost) = (0_u32, 0_u32);
        for packet in self.range(from, to) {
            told += 1;
            lost += u32::from(packet.arrived.is_none());
        }
        if told == 0 { 0.0 } else { f64::from(lost) / f64::from(told) }
    }

    /// Bytes sent after the newest packet that is told of.
    pub(super) fn untold_bytes(&self) -> f64 {
        self.range(self.told, self.next).map(|packet| packet.bytes).sum()
    }

    fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &Packet> {
        let first = self.first();
        let index = |number: u64| number.clamp(first, self.next) - first;
        self.packets.range(index(from) as usize..(index(to).max(index(from))) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_seconds_is_too_much() {
        let now = Instant::now();
        let log = SentLog::new(now);
        assert_eq!(log.instant(1.5), now + Duration::from_millis(1500));
        for odd in [-1.0, f64::NAN, f64::INFINITY, 1e300, 1e19] {
            assert_eq!(log.instant(odd), now, "{odd}");
        }
    }

    #[test]
    fn packets_are_found_by_their_number_also_after_its_wrap() {
        let now = Instant::now();
        let mut log = SentLog::new(now);
        for n in 0..70_000_u32 {
            assert_eq!(log.sent(now + Duration::from_millis(n.into()), 1000), n as u16);
        }
        let newest = log.next() - 1;
        log.report(69_999_u32 as u16, Some(2.0));
        log.report(69_997_u32 as u16, Some(1.0));
        log.report(69_998_u32 as u16, None);
        let samples = log.samples(newest - 2, newest + 1);
        assert_eq!(samples.iter().map(|s| s.arrived).collect::<Vec<_>>(), [1.0, 2.0]);
        assert!((log.lost(newest - 2, newest + 1) - 1.0 / 3.0).abs() < 1e-9);
        // It came late, and an older message does not take that back.
        log.report(69_998_u32 as u16, Some(3.0));
        log.report(69_998_u32 as u16, None);
        assert!(log.lost(newest - 2, newest + 1) < 1e-9);
        // What was never sent, or is forgotten.
        log.report(70_001_u32 as u16, Some(1.0));
        log.report(60_000, Some(1.0));
        assert_eq!(log.told(), newest + 1);
        assert!(log.untold_bytes() < 1e-9);
    }
}
