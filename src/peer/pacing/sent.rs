//! Packets that were sent, by transport-wide number, with the fate of each.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::estimate::Sample;
use crate::peer::sequence::near;

/// Number of packets remembered. Feedback takes a round trip; a keyframe of 100 KB has 85 packets.
const MAX_PACKETS: usize = 4096;

/// The first packet of a train returns at most this long after the minimum round trip unless the peer
/// stalled, seconds.
const STALL: f64 = 0.020;

/// Numbers start one wrap higher, so that none falls below zero.
const FIRST: u64 = 1 << 16;

#[derive(Debug, Clone, Copy)]
struct SentPacket {
    sent: f64,
    bytes: f64,
    /// On the receiver's clock, seconds.
    arrived: Option<f64>,
    /// Arrival as measured by echoes, on our clock: late by a constant part of the round trip.
    echoed: Option<f64>,
    /// RTP sequence number.
    sequence: u16,
    /// The receiver requested it again (RFC 4585 §6.2.1).
    missing: bool,
}

/// Where arrival times come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArrivalSource {
    /// Transport-wide feedback, which also reports losses.
    Feedback,
    /// Echoes sent behind some of the packets.
    Echoes,
}

/// The most recent packets sent.
#[derive(Debug)]
pub(super) struct SentLog {
    epoch: Instant,
    packets: VecDeque<SentPacket>,
    /// Number of the next packet.
    next: u64,
    /// The number after the newest packet in feedback.
    reported: u64,
    /// The number after the newest packet that an echo covers.
    echoed: u64,
    source: ArrivalSource,
}

impl SentLog {
    pub(super) fn new(epoch: Instant) -> Self {
        let packets = VecDeque::new();
        Self {
            epoch,
            packets,
            next: FIRST,
            reported: FIRST,
            echoed: FIRST,
            source: ArrivalSource::Echoes,
        }
    }

    /// Sets the source that [`SentLog::samples`], [`SentLog::acknowledged`] and
    /// [`SentLog::unacknowledged_bytes`] use.
    pub(super) fn set_source(&mut self, source: ArrivalSource) {
        self.source = source;
    }

    /// See [`SentLog::set_source`].
    pub(super) fn source(&self) -> ArrivalSource {
        self.source
    }

    /// Seconds on our clock.
    pub(super) fn seconds(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.epoch).as_secs_f64()
    }

    /// The inverse of [`SentLog::seconds`]. Seconds derived from received data may have any value.
    pub(super) fn instant(&self, seconds: f64) -> Instant {
        let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        self.epoch.checked_add(since).unwrap_or(self.epoch)
    }

    /// Number of the next packet.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The number after the newest acknowledged packet.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged_by(self.source)
    }

    /// Like [`SentLog::acknowledged`], but by this source.
    pub(super) fn acknowledged_by(&self, source: ArrivalSource) -> u64 {
        match source {
            ArrivalSource::Feedback => self.reported,
            ArrivalSource::Echoes => self.echoed,
        }
    }

    /// A packet leaves, with its RTP sequence number. Returns its transport-wide number.
    pub(super) fn sent(&mut self, now: Instant, bytes: usize, sequence: u16) -> u16 {
        if self.packets.len() == MAX_PACKETS {
            self.packets.pop_front();
        }
        let sent = self.seconds(now);
        let bytes = bytes as f64;
        let (arrived, echoed, missing) = (None, None, false);
        self.packets.push_back(SentPacket { sent, bytes, arrived, echoed, sequence, missing });
        self.next += 1;
        (self.next - 1) as u16
    }

    fn first(&self) -> u64 {
        self.next - self.packets.len() as u64
    }

    /// The peer reports when a packet arrived, in seconds, or that it has not arrived.
    pub(super) fn report(&mut self, number: u16, arrived: Option<f64>) {
        let Some(newest) = self.next.checked_sub(1) else { return };
        let number = near(newest, u64::from(number), 16);
        if number < self.first() || number >= self.next {
            return;
        }
        self.reported = self.reported.max(number + 1);
        let index = (number - self.first()) as usize;
        let packet = &mut self.packets[index];
        packet.arrived = packet.arrived.or(arrived);
    }

    /// The peer requested a packet again: the one with this RTP sequence number among the packets from
    /// number `from` on.
    pub(super) fn missing(&mut self, sequence: u16, from: u64) {
        let from = (from.clamp(self.first(), self.next) - self.first()) as usize;
        if let Some(packet) = self.packets.range_mut(from..).find(|it| it.sequence == sequence) {
            packet.missing = true;
        }
    }

    /// The echo behind packet `number` returned at `now`; without a queue it would have taken `least`
    /// seconds. Packets from `first` on that the last echo did not cover are assumed to have arrived
    /// evenly in between.
    pub(super) fn echo(&mut self, number: u64, first: u64, now: f64, least: f64) {
        let from = self.echoed.max(first).max(self.first());
        if number < from || number >= self.next {
            return;
        }
        // Packets before the first echo of a train may be lost, as their echoes are.
        let from = if from == first { number } else { from };
        let index = |number: u64| (number - self.first()) as usize;
        let (start, end) = (index(from), index(number));
        let before = start.checked_sub(1).filter(|_| from > first);
        let before = before.and_then(|before| self.packets[before].echoed);
        let covered = self.packets.range(start..=end);
        let total: f64 = covered.clone().map(|packet| packet.bytes).sum();
        let soonest = (self.packets[start].sent + least).min(now);
        // If the peer stalled before the first packet, the packets behind it would appear to have met no
        // queue.
        let now = if number == first && now - soonest > STALL { soonest } else { now };
        let mut then = before.unwrap_or(soonest);
        let begin = then;
        let mut passed = 0.0;
        for packet in self.packets.range_mut(start..=end) {
            passed += packet.bytes;
            let evenly = begin + (now - begin) * passed / total.max(1.0);
            then = evenly.max(packet.sent + least).min(now).max(then);
            packet.echoed = Some(then);
        }
        self.echoed = number + 1;
    }

    /// The packets numbered `from..to` that arrived, in the order they were sent.
    pub(super) fn samples(&self, from: u64, to: u64) -> Vec<Sample> {
        self.range(from, to)
            .filter_map(|packet| {
                let SentPacket { sent, bytes, arrived, echoed, .. } = *packet;
                let arrived = match self.source {
                    ArrivalSource::Feedback => arrived,
                    ArrivalSource::Echoes => echoed,
                };
                arrived.map(|arrived| Sample { sent, arrived, bytes })
            })
            .collect()
    }

    /// Share of lost packets among the packets numbered `from..to` whose fate is known.
    pub(super) fn lost(&self, from: u64, to: u64) -> f64 {
        let (mut known, mut lost) = (0_u32, 0_u32);
        for (number, packet) in (from.max(self.first())..).zip(self.range(from, to)) {
            let reported = number < self.reported;
            known += u32::from(reported || number < self.echoed);
            lost += u32::from(reported && packet.arrived.is_none() || packet.missing);
        }
        if known == 0 { 0.0 } else { f64::from(lost.min(known)) / f64::from(known) }
    }

    /// Bytes sent after the newest acknowledged packet.
    pub(super) fn unacknowledged_bytes(&self) -> f64 {
        self.range(self.acknowledged(), self.next).map(|packet| packet.bytes).sum()
    }

    fn range(&self, from: u64, to: u64) -> impl Iterator<Item = &SentPacket> {
        let first = self.first();
        let index = |number: u64| number.clamp(first, self.next) - first;
        self.packets.range(index(from) as usize..(index(to).max(index(from))) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seconds_is_accepted() {
        let now = Instant::now();
        let log = SentLog::new(now);
        assert_eq!(log.instant(1.5), now + Duration::from_millis(1500));
        for odd in [-1.0, f64::NAN, f64::INFINITY, 1e300, 1e19] {
            assert_eq!(log.instant(odd), now, "{odd}");
        }
    }

    #[test]
    fn packets_are_found_by_number_even_after_it_wraps() {
        let now = Instant::now();
        let mut log = SentLog::new(now);
        log.set_source(ArrivalSource::Feedback);
        for n in 0..70_000_u32 {
            assert_eq!(log.sent(now + Duration::from_millis(n.into()), 1000, 0), n as u16);
        }
        let newest = log.next() - 1;
        log.report(69_999_u32 as u16, Some(2.0));
        log.report(69_997_u32 as u16, Some(1.0));
        log.report(69_998_u32 as u16, None);
        let samples = log.samples(newest - 2, newest + 1);
        assert_eq!(samples.iter().map(|s| s.arrived).collect::<Vec<_>>(), [1.0, 2.0]);
        assert!((log.lost(newest - 2, newest + 1) - 1.0 / 3.0).abs() < 1e-9);
        // It arrived late, and an older message does not undo that.
        log.report(69_998_u32 as u16, Some(3.0));
        log.report(69_998_u32 as u16, None);
        assert!(log.lost(newest - 2, newest + 1) < 1e-9);
        // Packets that were never sent, or have been forgotten.
        log.report(70_001_u32 as u16, Some(1.0));
        log.report(60_000, Some(1.0));
        assert_eq!(log.acknowledged(), newest + 1);
        assert!(log.unacknowledged_bytes() < 1e-9);
    }

    #[test]
    fn an_echo_shows_when_the_packets_before_it_arrived() {
        let now = Instant::now();
        let mut log = SentLog::new(now);
        let first = log.next();
        (0..12).for_each(|_| _ = log.sent(now, 1000, 0));
        log.echo(first, first, 0.030, 0.020);
        log.echo(first + 5, first, 0.080, 0.020);
        let arrived = |log: &SentLog| -> Vec<f64> {
            log.samples(first, log.next()).iter().map(|s| (s.arrived * 1e3).round()).collect()
        };
        assert_eq!(arrived(&log), [30.0, 40.0, 50.0, 60.0, 70.0, 80.0]);
        assert_eq!(log.acknowledged(), first + 6);
        assert!((log.unacknowledged_bytes() - 6000.0).abs() < 1e-9);
        // An echo that was overtaken, and one for a packet that was never sent.
        log.echo(first + 3, first, 0.090, 0.020);
        log.echo(first + 12, first, 0.090, 0.020);
        assert_eq!(arrived(&log).len(), 6);
        log.set_source(ArrivalSource::Feedback);
        assert_eq!((arrived(&log).len(), log.acknowledged()), (0, first));
    }

    #[test]
    fn packets_before_the_first_echo_of_a_train_may_be_lost() {
        let now = Instant::now();
        let mut log = SentLog::new(now);
        let first = log.next();
        (0..12).for_each(|_| _ = log.sent(now, 1000, 0));
        log.echo(first + 9, first, 0.030, 0.020);
        assert_eq!(log.samples(first, log.next()).len(), 1);
        log.echo(first + 11, first, 0.034, 0.020);
        assert_eq!(log.samples(first, log.next()).len(), 3);
    }

    #[test]
    fn a_peer_that_stalled_does_not_look_fast() {
        let now = Instant::now();
        let mut log = SentLog::new(now);
        let first = log.next();
        (0..6).for_each(|_| _ = log.sent(now, 1000, 0));
        log.echo(first, first, 0.120, 0.020);
        log.echo(first + 5, first, 0.120, 0.020);
        let samples = log.samples(first, log.next());
        assert!(samples.last().unwrap().arrived - samples[0].arrived > 0.09, "{samples:?}");
    }

    #[test]
    fn packets_requested_again_count_as_lost() {
        let now = Instant::now();
        let mut log = SentLog::new(now);
        let first = log.next();
        (0..10).for_each(|sequence| _ = log.sent(now, 1000, 65_530_u16.wrapping_add(sequence)));
        log.missing(65_531, first + 2);
        assert!(log.lost(first, log.next()) < 1e-9, "a packet of an earlier train");
        for sequence in [65_534, 1, 500] {
            log.missing(sequence, first);
        }
        assert!(
            log.lost(first, log.next()) < 1e-9,
            "the fate of the other packets is not known yet"
        );
        log.echo(first, first, 0.1, 0.1);
        log.echo(first + 9, first, 0.1, 0.1);
        assert!((log.lost(first, log.next()) - 0.2).abs() < 1e-9);
    }
}
