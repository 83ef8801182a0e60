//! Keeps sent packets for retransmission, and queues retransmissions.
//!
//! Requested packets leave one after another at the send rate: a keyframe lost as a whole must not flood the path
//! that lost it. A lost retransmission costs a whole round trip, so each is sent twice, slightly apart, as long as
//! these copies are a small share of the traffic, and once more if it was lost before.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use rtc::rtp;

use super::{WINDOW, round_trip::RoundTrip};
use crate::peer::{
    rate::SendRate,
    sequence::{extend, near},
};

/// Maximum size of the kept packets, bytes.
const MAX_BYTES: usize = 8 << 20;

/// RTP, SRTP, UDP and IP headers of a packet, bytes.
const HEADERS: usize = 12 + 16 + 8 + 28;

/// Packets may leave together if they are due within this time, the resolution of timers.
const BURST: Duration = Duration::from_millis(4);

/// Minimum time between two retransmissions of one packet; a request may be sent twice.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// Number of packets that may leave together at any rate: so few do not congest a queue.
const FEW: f64 = 4.0;

/// Time from one copy of a packet to the next: packets lost together were close together.
const COPY_SPACING: Duration = Duration::from_millis(4);

/// Copies earned by each packet that is sent for the first time.
const SPARE: f64 = 0.15;

/// Maximum number of copies that can be saved up, and the initial number.
const SPARED: (f64, f64) = (32.0, 12.0);

/// Weight of the latest packet in the share of requested packets.
const WEIGHT: f64 = 1.0 / 128.0;

/// A packet that was sent.
#[derive(Debug)]
struct KeptPacket {
    packet: rtp::Packet,
    resent: Option<Instant>,
    /// Number of times the packet is in the queue.
    queued: u8,
}

/// The packets of one RTP stream.
#[derive(Debug)]
pub(super) struct Resend {
    newest: Option<u64>,
    kept: BTreeMap<u64, KeptPacket>,
    bytes: usize,
    queue: VecDeque<u64>,
    /// Copies and the time at which each may leave.
    copies: VecDeque<(Instant, u64)>,
    /// Number of copies that may still be sent.
    spare: f64,
    /// The recent share of requested packets.
    loss: f64,
    rate: SendRate,
    /// When the next packet may leave.
    free: Option<Instant>,
}

impl Resend {
    pub(super) fn new(rate: SendRate) -> Self {
        Self {
            newest: None,
            kept: BTreeMap::new(),
            bytes: 0,
            queue: VecDeque::new(),
            copies: VecDeque::new(),
            spare: SPARED.1,
            loss: 0.0,
            rate,
            free: None,
        }
    }

    /// A packet is sent for the first time. Returns its extended sequence number.
    pub(super) fn sent(&mut self, packet: &rtp::Packet) -> u64 {
        let sequence = extend(&mut self.newest, u64::from(packet.header.sequence_number), 16);
        self.bytes += packet.payload.len();
        self.spare = (self.spare + SPARE).min(SPARED.0);
        self.loss -= self.loss * WEIGHT;
        let kept = KeptPacket { packet: packet.clone(), resent: None, queued: 0 };
        if let Some(before) = self.kept.insert(sequence, kept) {
            self.bytes -= before.packet.payload.len();
        }
        let oldest = self.newest.unwrap_or_default().saturating_sub(u64::from(WINDOW));
        while let Some(entry) = self.kept.first_entry()
            && (*entry.key() <= oldest || self.bytes > MAX_BYTES)
        {
            self.bytes -= entry.remove().packet.payload.len();
        }
        sequence
    }

    /// The peer requested these packets.
    pub(super) fn requested(
        &mut self,
        sequences: impl Iterator<Item = u16>,
        round_trip: &RoundTrip,
        now: Instant,
    ) {
        let Some(newest) = self.newest else { return };
        self.free.get_or_insert(now.checked_sub(BURST).unwrap_or(now));
        let pause = MIN_PAUSE.max(round_trip.smoothed() / 2);
        let mut copies = Vec::new();
        for sequence in sequences {
            let sequence = near(newest, u64::from(sequence), 16);
            let Some(kept) = self.kept.get_mut(&sequence) else { continue };
            let just_sent = kept.resent.is_some_and(|at| now < at + pause);
            if kept.queued > 0 || just_sent {
                continue;
            }
            kept.queued += 1;
            self.queue.push_back(sequence);
            let lost_again = kept.resent.is_some();
            if lost_again {
                kept.queued += 1;
                copies.push((now + COPY_SPACING, sequence));
            } else {
                self.loss += WEIGHT;
            }
            if self.spare >= 1.0 {
                self.spare -= 1.0;
                kept.queued += 1;
                copies.push((
                    now + if lost_again { 2 * COPY_SPACING } else { COPY_SPACING },
                    sequence,
                ));
            }
        }
        copies.sort_unstable();
        self.copies.extend(copies);
    }

    /// Whether packets were lost recently.
    pub(super) fn is_lossy(&self) -> bool {
        self.loss > WEIGHT / 2.0
    }

    /// The time from which [`Resend::take`] may return a packet.
    pub(super) fn due(&self) -> Option<Instant> {
        let free = self.free?;
        if !self.queue.is_empty() {
            return Some(free);
        }
        self.copies.front().map(|(at, _)| free.max(*at))
    }

    /// The next packet to retransmit.
    pub(super) fn take(&mut self, now: Instant) -> Option<rtp::Packet> {
        let free = self.free.unwrap_or(now);
        if now < free {
            return None;
        }
        while let Some(sequence) = self.next(now) {
            let Some(kept) = self.kept.get_mut(&sequence) else { continue };
            kept.queued -= 1;
            kept.resent = Some(now);
            let bits = (kept.packet.payload.len() + HEADERS) as f64 * 8.0;
            let time = Duration::from_secs_f64(bits / self.rate.get().max(1) as f64);
            let burst = BURST.max(time.mul_f64(FEW));
            let begin = now.checked_sub(burst).map_or(free, |earliest| free.max(earliest));
            self.free = Some(begin + time);
            return Some(kept.packet.clone());
        }
        None
    }

    fn next(&mut self, now: Instant) -> Option<u64> {
        if let Some(sequence) = self.queue.pop_front() {
            return Some(sequence);
        }
        self.copies.front().filter(|(at, _)| *at <= now)?;
        self.copies.pop_front().map(|(_, sequence)| sequence)
    }

    /// A packet as it was sent.
    pub(super) fn packet(&self, sequence: u64) -> Option<rtp::Packet> {
        self.kept.get(&sequence).map(|kept| kept.packet.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(sequence: u16, bytes: usize) -> rtp::Packet {
        rtp::Packet {
            header: rtp::header::Header {
                sequence_number: sequence,
                ..rtp::header::Header::default()
            },
            payload: vec![7; bytes].into(),
        }
    }

    fn path() -> RoundTrip {
        let mut path = RoundTrip::default();
        path.sample(100 * MS);
        path
    }

    fn taken(resend: &mut Resend, now: Instant) -> Vec<u16> {
        std::iter::from_fn(|| resend.take(now)).map(|p| p.header.sequence_number).collect()
    }

    #[test]
    fn a_request_is_answered_twice_and_a_second_one_three_times() {
        let now = Instant::now();
        let mut resend = Resend::new(SendRate::new(1_000_000_000));
        for sequence in [65_534, 65_535, 0, 1] {
            resend.sent(&packet(sequence, 1000));
        }
        assert!(!resend.is_lossy());
        resend.requested([65_535, 0, 9].into_iter(), &path(), now);
        resend.requested([65_535].into_iter(), &path(), now);
        assert_eq!(
            taken(&mut resend, now),
            [65_535, 0],
            "a packet that was never sent cannot be repeated"
        );
        assert_eq!(resend.due(), Some(now + COPY_SPACING));
        assert_eq!(
            taken(&mut resend, now + COPY_SPACING),
            [65_535, 0],
            "apart from the first copies"
        );
        resend.requested([65_535].into_iter(), &path(), now + 10 * MS);
        assert_eq!(taken(&mut resend, now + 10 * MS), [] as [u16; 0], "still in flight");
        let now = now + 110 * MS;
        resend.requested([65_535, 0].into_iter(), &path(), now);
        for at in [now, now + COPY_SPACING, now + 2 * COPY_SPACING] {
            assert_eq!(taken(&mut resend, at), [65_535, 0]);
        }
        assert!(resend.due().is_none() && resend.is_lossy());
    }

    #[test]
    fn copies_are_a_small_share_of_the_traffic() {
        let mut now = Instant::now();
        let mut resend = Resend::new(SendRate::new(1_000_000_000));
        let mut resent = 0;
        for first in (0..10_000_u16).step_by(100) {
            for sequence in first..first + 100 {
                resend.sent(&packet(sequence, 1000));
            }
            // All of it gets lost.
            resend.requested(first..first + 100, &path(), now);
            now += Duration::from_secs(1);
            resent += taken(&mut resend, now).len();
        }
        assert!((11_400..=11_520).contains(&resent), "{resent} for 10,000");
    }

    #[test]
    fn a_whole_keyframe_leaves_at_the_send_rate() {
        let start = Instant::now();
        let rate = SendRate::new(8_000_000);
        let mut resend = Resend::new(rate.clone());
        for sequence in 0..100 {
            resend.sent(&packet(sequence, 1000 - HEADERS));
        }
        resend.spare = 0.0;
        resend.requested(0..100, &path(), start);
        let mut now = start;
        let mut left = Vec::new();
        while let Some(due) = resend.due() {
            now = now.max(due);
            left.extend(taken(&mut resend, now));
            if left.len() == 50 {
                rate.set(16_000_000);
            }
            now += MS;
        }
        assert_eq!(left, (0..100).collect::<Vec<_>>());
        // 100 packets: the first half take 1 ms each, the second half 0.5 ms.
        let took = now - start;
        assert!((66 * MS..80 * MS).contains(&took), "{took:?}");
    }

    #[test]
    fn memory_is_bounded() {
        let mut resend = Resend::new(SendRate::default());
        for sequence in 0..10_000_u16 {
            resend.sent(&packet(sequence, 1100));
        }
        assert_eq!(resend.kept.len(), usize::from(WINDOW));
        assert!(resend.packet(65_536 + 9999).is_some() && resend.packet(65_536).is_none());
        for sequence in 10_000..10_300_u16 {
            resend.sent(&packet(sequence, 60_000));
        }
        assert!(resend.bytes <= MAX_BYTES, "{}", resend.bytes);
        assert_eq!(
            resend.bytes,
            resend.kept.values().map(|k| k.packet.payload.len()).sum::<usize>()
        );
    }
}
