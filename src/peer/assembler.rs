//! Assembles access units from RTP packets (RFC 6184 §5): reorders and joins the packets, and detects when a unit is
//! complete.
//!
//! Sans-IO: packets and the time go in, [`Assembled`] values come out. An access unit is complete as soon as its
//! first packet, its marker packet (RFC 3550 §5.1) and all packets between have arrived; it does not wait for the
//! next picture, which may be seconds away. A packet counts as the first one if it directly follows the previous
//! access unit, or contains an SPS or an access unit delimiter; if nothing has been received yet, also if it contains
//! the first macroblock of a non-IDR picture.
//!
//! Some senders never set the marker. Their access units end where the next one begins, or after a period without
//! further packets; in a stream that has markers, silence means loss.
//!
//! Sequence numbers alone determine the order. A timestamp only shows which packets belong together: between two
//! pictures it may jump by any amount (RFC 3550 §5.1), even backwards.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    depacketizer::{begins_access_unit, begins_slice, depacketize, ends_slice, first_nal_type},
    pacing::WIRE_OVERHEAD,
    sequence::extend_sequence,
};
use crate::{
    media::h264::{self, START_CODE},
    stats::{
        bottleneck::ArrivedKeyframe,
        delivery::{Arrival, Delivery},
    },
};

/// Maximum number of open access units; beyond that, the oldest is abandoned.
const MAX_OPEN: usize = 16;

/// Maximum number of finished access units remembered, so that late packets do not reopen them.
const MAX_CLOSED: usize = 64;

/// Maximum number of padding packets whose sequence numbers are remembered.
const MAX_PADDING: usize = 1024;

/// Maximum number of packets kept for one access unit: about 20 MB of payload.
const MAX_PACKETS: usize = 16 * 1024;

/// Without repair, an access unit that lacks a packet is abandoned after this long without another of its packets:
/// reordered packets have arrived by then.
const LOST_AFTER: Duration = Duration::from_millis(100);

/// Memory used by a kept packet in addition to its payload, bytes: the struct, its map entry and its allocation.
const PACKET_OVERHEAD: usize = 192;

/// One received RTP packet, decrypted.
#[derive(Debug, Clone)]
pub struct RtpPacket {
    /// RTP sequence number.
    pub sequence: u16,
    /// RTP timestamp, 90 kHz.
    pub timestamp: u32,
    /// Marker bit: the last packet of an access unit.
    pub marker: bool,
    /// RTP payload.
    pub payload: Bytes,
    /// When it was read from the socket.
    pub arrived: Instant,
    /// Whether its retransmission had been requested.
    pub retransmitted: bool,
}

/// The assembler's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assembled {
    /// A complete access unit.
    Whole(WholeAccessUnit),
    /// An access unit that was abandoned.
    Broken(BrokenAccessUnit),
}

/// An access unit whose packets have all arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WholeAccessUnit {
    /// Annex B form with four-byte start codes.
    pub data: Bytes,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Number of RTP packets it arrived in.
    pub packets: u32,
    /// Number of these whose retransmission had been requested.
    pub retransmitted: u32,
    /// Arrival of the first packet.
    pub first_packet: Instant,
    /// Arrival of the packet that completed it.
    pub completed: Instant,
    /// How its packets arrived.
    pub delivery: Delivery,
}

impl WholeAccessUnit {
    /// The values needed to judge its delivery.
    #[must_use]
    pub fn arrival_summary(&self) -> ArrivedKeyframe {
        let pixels = |(width, height)| u64::from(width) * u64::from(height);
        ArrivedKeyframe {
            first: self.first_packet,
            delivery: self.delivery,
            bytes: self.data.len() as u64,
            pixels: h264::dimensions(&self.data).map(pixels),
        }
    }
}

/// An access unit that could not be completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenAccessUnit {
    /// RTP timestamp.
    pub timestamp: u32,
    /// Number of RTP packets that arrived.
    pub packets: u32,
    /// Why it was abandoned.
    pub reason: BrokenReason,
}

/// Why an access unit was abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenReason {
    /// Packets were missing at the deadline.
    Incomplete,
    /// A payload violates RFC 6184.
    Malformed,
    /// Too many packets or too many concurrent pictures.
    Overflow,
    /// Its stream has ended.
    Ended,
}

impl BrokenReason {
    /// The reason as text, for messages and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incomplete => "packets missing",
            Self::Malformed => "malformed payload",
            Self::Overflow => "too many packets",
            Self::Ended => "another stream has started",
        }
    }
}

impl RtpPacket {
    /// Memory used while the packet is kept, bytes.
    fn cost(&self) -> usize {
        self.payload.len() + PACKET_OVERHEAD
    }
}

/// An access unit that is not complete yet.
struct OpenUnit {
    timestamp: u32,
    /// By extended sequence number.
    packets: BTreeMap<u64, RtpPacket>,
    first_arrival: Instant,
    last_arrival: Instant,
}

impl OpenUnit {
    fn new(timestamp: u32, arrived: Instant) -> Self {
        Self { timestamp, packets: BTreeMap::new(), first_arrival: arrived, last_arrival: arrived }
    }

    fn first(&self) -> u64 {
        self.packets.first_key_value().map_or(0, |(&first, _)| first)
    }

    fn cost(&self) -> usize {
        self.packets.values().map(RtpPacket::cost).sum()
    }
}

/// An access unit that has been completed or abandoned.
struct ClosedUnit {
    timestamp: u32,
    /// Whether its last packet arrived, so that no further packets follow.
    ended: bool,
}

/// Assembles the access units of one RTP stream.
pub struct Assembler {
    /// How long an incomplete access unit may wait for its next packet.
    patience: Duration,
    /// Extended sequence number of the newest packet.
    newest: Option<u64>,
    /// Extended sequence number right after the last access unit whose end was seen.
    expected: Option<u64>,
    /// Extended sequence numbers of padding at or after `expected`.
    padding: BTreeSet<u64>,
    open: Vec<OpenUnit>,
    /// By the extended sequence number of the last packet that arrived.
    closed: BTreeMap<u64, ClosedUnit>,
    /// Size of the packets in `open`, bytes.
    held: usize,
    /// Whether any packet so far had the marker bit.
    marked: bool,
    /// Whether IDR pictures may come without parameter sets, because these are already known.
    bare: bool,
    /// Whether the peer retransmits packets.
    repaired: bool,
}

impl Assembler {
    /// An assembler that abandons an access unit when none of its packets has arrived for `patience`.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            newest: None,
            expected: None,
            padding: BTreeSet::new(),
            open: Vec::new(),
            closed: BTreeMap::new(),
            held: 0,
            marked: false,
            bare: false,
            repaired: true,
        }
    }

    /// Sets whether lost packets are retransmitted. If not, an access unit that lacks a packet is abandoned quickly.
    pub(super) fn set_repaired(&mut self, repaired: bool) {
        self.repaired = repaired;
    }

    /// Sets whether the parameter sets are known independently of the stream (`sprop-parameter-sets`).
    pub(super) fn set_bare(&mut self, bare: bool) {
        self.bare = bare;
    }

    /// Size of all packets of incomplete access units, including overhead, bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Processes one packet; packets may arrive out of order or more than once.
    pub fn push(&mut self, packet: RtpPacket) -> Vec<Assembled> {
        let sequence = extend_sequence(&mut self.newest, packet.sequence);
        self.marked |= packet.marker;
        let mut made = Vec::new();
        if packet.payload.is_empty() {
            self.pad(sequence);
            self.complete(&mut made);
            return made;
        }
        if self.is_closed(packet.timestamp, sequence) {
            return made;
        }
        let index = self.opened(packet.timestamp, packet.arrived);
        let open = &mut self.open[index];
        open.last_arrival = packet.arrived;
        let cost = packet.cost();
        if let Entry::Vacant(place) = open.packets.entry(sequence) {
            place.insert(packet);
            self.held += cost;
        }
        if open.packets.len() > MAX_PACKETS {
            return vec![self.abandon(index, BrokenReason::Overflow)];
        }
        if self.open.len() > MAX_OPEN {
            made.extend(self.shed());
        }
        self.complete(&mut made);
        made
    }

    /// Index in `open` of the access unit with this timestamp, which is created if necessary.
    fn opened(&mut self, timestamp: u32, arrived: Instant) -> usize {
        let found = self.open.iter().position(|open| open.timestamp == timestamp);
        found.unwrap_or_else(|| {
            self.open.push(OpenUnit::new(timestamp, arrived));
            self.open.len() - 1
        })
    }

    /// Abandons the oldest access unit, to limit memory use.
    pub(super) fn shed(&mut self) -> Option<Assembled> {
        let oldest = (0..self.open.len()).min_by_key(|&index| self.open[index].first())?;
        Some(self.abandon(oldest, BrokenReason::Overflow))
    }

    /// Records a padding packet. Padding between access units (libwebrtc's probing) uses sequence numbers, and may
    /// arrive before earlier packets.
    fn pad(&mut self, sequence: u64) {
        if self.expected.is_none_or(|expected| expected <= sequence) {
            self.padding.insert(sequence);
        }
        if self.padding.len() > MAX_PADDING {
            self.padding.pop_first();
        }
        self.skip_padding();
    }

    fn skip_padding(&mut self) {
        let Some(expected) = &mut self.expected else { return };
        while let Some(&first) = self.padding.first()
            && first <= *expected
        {
            *expected = (*expected).max(first + 1);
            self.padding.pop_first();
        }
    }

    /// Abandons access units that have waited too long at `now`.
    pub fn expire(&mut self, now: Instant) -> Vec<Assembled> {
        let patience = self.patience;
        let silent_for =
            |open: &OpenUnit, time| now.saturating_duration_since(open.last_arrival) >= time;
        let settle = self.settle();
        let mut made = Vec::new();
        self.hand_out(&mut made, |all, open| silent_for(open, settle) && all.may_be_whole(open));
        let lost: Vec<u32> =
            self.open.iter().filter(|one| self.has_lost(one)).map(|one| one.timestamp).collect();
        made.extend(self.abandon_all(BrokenReason::Incomplete, |open| {
            let lost = lost.contains(&open.timestamp) && silent_for(open, LOST_AFTER);
            lost || silent_for(open, patience)
        }));
        self.complete(&mut made);
        made
    }

    /// Abandons everything: the stream has ended.
    pub(super) fn end(&mut self) -> Vec<Assembled> {
        self.abandon_all(BrokenReason::Ended, |_| true)
    }

    /// When to call [`Assembler::expire`] next.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        let wait = |open| match open {
            open if self.may_be_whole(open) => self.settle(),
            open if self.has_lost(open) => LOST_AFTER.min(self.patience),
            _ => self.patience,
        };
        self.open.iter().map(|open| open.last_arrival + wait(open)).min()
    }

    /// Whether a packet is missing that will not be retransmitted.
    fn has_lost(&self, open: &OpenUnit) -> bool {
        !self.repaired && !self.has_all(open)
    }

    /// How long a stream without markers must be silent for an access unit to count as ended.
    fn settle(&self) -> Duration {
        self.patience / 4
    }

    /// Delivers complete access units, oldest first; a newer picture does not wait for an older one.
    fn complete(&mut self, made: &mut Vec<Assembled>) {
        self.hand_out(made, |all, open| all.has_ended(open) && all.has_all(open));
    }

    fn hand_out(&mut self, made: &mut Vec<Assembled>, which: impl Fn(&Self, &OpenUnit) -> bool) {
        while let Some(index) = (0..self.open.len())
            .filter(|&index| which(self, &self.open[index]))
            .min_by_key(|&index| self.open[index].first())
        {
            let open = self.open.remove(index);
            self.close(&open, true);
            made.push(join(&open));
        }
    }

    /// Whether the last packet that arrived ends the access unit: it has the marker, or the next access unit
    /// follows.
    fn has_ended(&self, open: &OpenUnit) -> bool {
        let Some((&last, tail)) = open.packets.last_key_value() else { return false };
        tail.marker
            || self.open.iter().any(|other| {
                other.timestamp != open.timestamp && other.packets.contains_key(&(last + 1))
            })
    }

    /// Whether this could be a complete access unit from a sender without markers.
    fn may_be_whole(&self, open: &OpenUnit) -> bool {
        let tail = open.packets.last_key_value();
        !self.marked
            && tail.is_some_and(|(_, tail)| ends_slice(&tail.payload))
            && self.has_all(open)
    }

    /// Whether all packets from the first of the access unit to the last received one are present.
    fn has_all(&self, open: &OpenUnit) -> bool {
        let (Some((&first, head)), Some((&last, _))) =
            (open.packets.first_key_value(), open.packets.last_key_value())
        else {
            return false;
        };
        let head = &head.payload;
        let bare = self.bare && begins_slice(head, 5);
        last - first + 1 == open.packets.len() as u64
            && match self.expected {
                Some(expected) if expected == first => true,
                Some(_) => begins_access_unit(head) || bare,
                // An IDR picture cannot be decoded without its parameter sets: they are still in transit.
                None => matches!(first_nal_type(head), 6 | 7 | 9) || begins_slice(head, 1) || bare,
            }
    }

    /// Whether a packet belongs to a closed access unit, or to one older than all that are remembered.
    fn is_closed(&self, timestamp: u32, sequence: u64) -> bool {
        let oldest = self.closed.first_key_value().map_or(0, |(&last, _)| last);
        let follows = |last: u64, closed: &ClosedUnit| {
            !closed.ended && sequence.saturating_sub(last) < MAX_PACKETS as u64
        };
        self.closed.len() == MAX_CLOSED && sequence < oldest
            || self.closed.iter().any(|(&last, closed)| {
                closed.timestamp == timestamp && (sequence <= last || follows(last, closed))
            })
    }

    fn abandon_all(
        &mut self,
        reason: BrokenReason,
        which: impl Fn(&OpenUnit) -> bool,
    ) -> Vec<Assembled> {
        let mut made = Vec::new();
        while let Some(index) = self.open.iter().position(&which) {
            made.push(self.abandon(index, reason));
        }
        made
    }

    fn abandon(&mut self, index: usize, reason: BrokenReason) -> Assembled {
        let open = self.open.remove(index);
        let ended = open.packets.last_key_value().is_some_and(|(_, tail)| tail.marker);
        self.close(&open, ended);
        let (timestamp, packets) = (open.timestamp, open.packets.len() as u32);
        Assembled::Broken(BrokenAccessUnit { timestamp, packets, reason })
    }

    /// Records where the next access unit begins, and that this one must not be reopened.
    fn close(&mut self, open: &OpenUnit, ended: bool) {
        self.held = self.held.saturating_sub(open.cost());
        let Some((&last, _)) = open.packets.last_key_value() else { return };
        if ended {
            self.expected = self.expected.max(Some(last + 1));
            self.skip_padding();
        }
        self.closed.insert(last, ClosedUnit { timestamp: open.timestamp, ended });
        if self.closed.len() > MAX_CLOSED {
            self.closed.pop_first();
        }
    }
}

/// Joins the packets of a complete access unit.
fn join(open: &OpenUnit) -> Assembled {
    let (timestamp, packets) = (open.timestamp, open.packets.len() as u32);
    let size: usize = open.packets.values().map(|p| p.payload.len() + START_CODE.len()).sum();
    let mut data = BytesMut::with_capacity(size);
    let mut in_fragment = false;
    for packet in open.packets.values() {
        if depacketize(&packet.payload, &mut data, &mut in_fragment).is_none() {
            return Assembled::Broken(BrokenAccessUnit {
                timestamp,
                packets,
                reason: BrokenReason::Malformed,
            });
        }
    }
    if in_fragment || data.is_empty() {
        return Assembled::Broken(BrokenAccessUnit {
            timestamp,
            packets,
            reason: BrokenReason::Malformed,
        });
    }
    Assembled::Whole(WholeAccessUnit {
        data: data.freeze(),
        timestamp,
        packets,
        retransmitted: open.packets.values().filter(|p| p.retransmitted).count() as u32,
        first_packet: open.first_arrival,
        completed: open.last_arrival,
        delivery: delivery(open),
    })
}

fn delivery(open: &OpenUnit) -> Delivery {
    let arrival = |packet: &RtpPacket| Arrival {
        at: packet.arrived.saturating_duration_since(open.first_arrival),
        bytes: packet.payload.len() + WIRE_OVERHEAD,
        retransmitted: packet.retransmitted,
    };
    Delivery::of(open.packets.values().map(arrival).collect())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use proptest::prelude::*;

    use super::*;
    use crate::peer::packetizer::packetize;

    const PATIENCE: Duration = Duration::from_millis(500);

    /// SPS, PPS and an IDR slice of `size` bytes, filled from `seed`.
    fn keyframe(size: usize, seed: u8) -> Bytes {
        let mut data = BytesMut::new();
        for (header, length) in [(0x67, 18), (0x68, 8), (0x65, size)] {
            data.put_slice(&START_CODE);
            data.put_u8(header);
            data.put_u8(0x88);
            data.extend((2..length).map(|i| (i as u8).wrapping_mul(seed) | 1));
        }
        data.freeze()
    }

    fn packets(unit: &Bytes, sequence: u16, timestamp: u32, now: Instant) -> Vec<RtpPacket> {
        let payloads = packetize(unit);
        let last = payloads.len() - 1;
        payloads
            .into_iter()
            .enumerate()
            .map(|(index, payload)| RtpPacket {
                sequence: sequence.wrapping_add(index as u16),
                timestamp,
                marker: index == last,
                payload,
                arrived: now,
                retransmitted: false,
            })
            .collect()
    }

    fn whole(made: &[Assembled]) -> Vec<&Bytes> {
        made.iter()
            .filter_map(|one| match one {
                Assembled::Whole(unit) => Some(&unit.data),
                Assembled::Broken(_) => None,
            })
            .collect()
    }

    #[test]
    fn without_repair_incomplete_units_are_abandoned_quickly() {
        let now = Instant::now();
        let unit = keyframe(20_000, 7);
        for (repaired, wait) in [(true, PATIENCE), (false, LOST_AFTER)] {
            let mut assembler = Assembler::new(PATIENCE);
            assembler.set_repaired(repaired);
            let mut sent = packets(&unit, 10, 90_000, now);
            sent.remove(5);
            assert!(sent.into_iter().all(|packet| assembler.push(packet).is_empty()));
            assert_eq!(assembler.next_expiry(), Some(now + wait));
            let made = assembler.expire(now + wait);
            assert!(matches!(made[..], [Assembled::Broken(_)]), "{made:?}");
            // The last packet of the next unit is only late: nothing indicates that it was lost.
            let mut next = packets(&unit, 100, 180_000, now);
            let last = next.pop().unwrap();
            for packet in next {
                assembler.push(packet);
            }
            assert!(assembler.expire(now + LOST_AFTER).is_empty());
            assert!(matches!(assembler.push(last)[..], [Assembled::Whole(_)]));
        }
    }

    #[test]
    fn a_keyframe_is_restored_byte_for_byte_at_its_marker() {
        let now = Instant::now();
        let unit = keyframe(100_000, 7);
        let mut assembler = Assembler::new(PATIENCE);
        let sent = packets(&unit, 65_500, u32::MAX, now);
        let count = sent.len() as u32;
        let made: Vec<_> = sent.into_iter().flat_map(|p| assembler.push(p)).collect();
        let [Assembled::Whole(got)] = &made[..] else { panic!("{made:?}") };
        assert_eq!(got.data, unit);
        assert_eq!(got.packets, count);
    }

    #[test]
    fn a_missing_packet_is_awaited_for_a_limited_time() {
        let now = Instant::now();
        let unit = keyframe(20_000, 3);
        let mut sent = packets(&unit, 0, 90_000, now);
        let late = sent.remove(4);
        let mut assembler = Assembler::new(PATIENCE);
        for packet in sent.clone() {
            assert!(assembler.push(packet).is_empty());
        }
        assert_eq!(assembler.next_expiry(), Some(now + PATIENCE));
        assert_eq!(whole(&assembler.push(late)), [&unit]);

        let mut assembler = Assembler::new(PATIENCE);
        for packet in sent {
            assembler.push(packet);
        }
        assert!(assembler.expire(now + PATIENCE / 2).is_empty());
        let made = assembler.expire(now + PATIENCE);
        let [Assembled::Broken(broken)] = &made[..] else { panic!("{made:?}") };
        assert_eq!(broken.reason, BrokenReason::Incomplete);
        assert_eq!(assembler.next_expiry(), None);
    }

    fn unmarked(unit: &Bytes, sequence: u16, timestamp: u32, now: Instant) -> Vec<RtpPacket> {
        let sent = packets(unit, sequence, timestamp, now).into_iter();
        sent.map(|packet| RtpPacket { marker: false, ..packet }).collect()
    }

    #[test]
    fn without_markers_an_access_unit_ends_where_the_next_begins_or_after_silence() {
        let now = Instant::now();
        let (one, two) = (keyframe(5_000, 3), keyframe(7_000, 5));
        let mut assembler = Assembler::new(PATIENCE);
        let first = unmarked(&one, 65_530, 90_000, now);
        let next = 65_530_u16.wrapping_add(first.len() as u16);
        for packet in first {
            assert_eq!(assembler.push(packet), []);
        }
        let made: Vec<_> = unmarked(&two, next, 180_000, now)
            .into_iter()
            .flat_map(|p| assembler.push(p))
            .collect();
        assert_eq!(whole(&made), [&one]);
        // Nothing follows: after some silence it counts as complete, before it would be abandoned.
        let at = assembler.next_expiry().unwrap();
        assert_eq!(at, now + PATIENCE / 4);
        assert_eq!(assembler.expire(now + PATIENCE / 5), []);
        assert_eq!(whole(&assembler.expire(at)), [&two]);
        assert_eq!(assembler.next_expiry(), None);
    }

    #[test]
    fn without_markers_missing_packets_are_still_detected() {
        let now = Instant::now();
        let unit = keyframe(5_000, 3);
        for missing in [0, 2, packets(&unit, 0, 1, now).len() - 1] {
            let mut assembler = Assembler::new(PATIENCE);
            let mut sent = unmarked(&unit, 10, 90_000, now);
            sent.remove(missing);
            for packet in sent {
                assert_eq!(assembler.push(packet), []);
            }
            let made = assembler.expire(now + PATIENCE);
            assert!(matches!(made[..], [Assembled::Broken(_)]), "{missing}: {made:?}");
        }
        // A sender that has set the marker once always sets it: silence means loss.
        let mut assembler = Assembler::new(PATIENCE);
        for packet in packets(&unit, 0, 1, now) {
            assembler.push(packet);
        }
        let sent = unmarked(&unit, packets(&unit, 0, 1, now).len() as u16, 2, now);
        for packet in sent {
            assert_eq!(assembler.push(packet), []);
        }
        assert_eq!(assembler.expire(now + PATIENCE / 2), []);
    }

    #[test]
    fn an_idr_picture_alone_is_complete_if_its_parameter_sets_are_known() {
        let now = Instant::now();
        let mut data = BytesMut::from(&START_CODE[..]);
        data.put_slice(&[0x65, 0x88, 0x84, 1, 2, 3]);
        let unit = data.freeze();
        for known in [false, true] {
            let mut assembler = Assembler::new(PATIENCE);
            assembler.set_bare(known);
            let made: Vec<_> =
                packets(&unit, 7, 9, now).into_iter().flat_map(|p| assembler.push(p)).collect();
            assert_eq!(whole(&made).len(), usize::from(known));
        }
    }

    #[test]
    fn a_picture_without_its_first_packet_is_not_complete() {
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        let mut sent = packets(&keyframe(5_000, 3), 10, 90_000, now);
        let parameter_sets = sent.remove(0);
        for packet in packets(&keyframe(2_000, 5), 10 - 3, 0, now) {
            assembler.push(packet);
        }
        for packet in sent {
            assert!(whole(&assembler.push(packet)).is_empty());
        }
        assert_eq!(whole(&assembler.push(parameter_sets)).len(), 1);
    }

    /// A packet with a whole non-IDR picture; with an empty payload it is padding.
    fn packet(sequence: u16, timestamp: u32, payload: &'static [u8], now: Instant) -> RtpPacket {
        let (payload, marker) = (Bytes::from_static(payload), !payload.is_empty());
        RtpPacket { sequence, timestamp, marker, payload, arrived: now, retransmitted: false }
    }

    #[test]
    fn padding_may_arrive_before_earlier_packets() {
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        let unit = keyframe(20_000, 3);
        let first = packets(&unit, 0, 0, now);
        let mut sent = packets(&unit, first.len() as u16, 3000, now);
        let next = (first.len() + sent.len()) as u16;
        let made: Vec<_> = first.into_iter().flat_map(|p| assembler.push(p)).collect();
        assert_eq!(whole(&made), [&unit]);
        let late = sent.remove(4);
        sent.push(packet(next, 3000, &[], now));
        sent.push(packet(next + 2, 6000, &[0x41, 0x9a], now));
        for packet in sent {
            assert!(assembler.push(packet).is_empty());
        }
        assert_eq!(whole(&assembler.push(late)), [&unit]);
        // With the last padding packet, the picture after it is known to be complete.
        assert_eq!(whole(&assembler.push(packet(next + 1, 3000, &[], now))).len(), 1);
        assert_eq!(assembler.next_expiry(), None);
    }

    #[test]
    fn a_flood_of_padding_is_not_retained() {
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        for sequence in 0..60_000 {
            assembler.push(packet(sequence, 0, &[], now));
        }
        assert_eq!(assembler.padding.len(), MAX_PADDING);
        let unit = keyframe(20_000, 3);
        let made: Vec<_> =
            packets(&unit, 60_000, 3000, now).into_iter().flat_map(|p| assembler.push(p)).collect();
        assert_eq!(whole(&made), [&unit]);
        assert!(assembler.padding.is_empty());
    }

    /// Sends pictures that start at these sequence numbers and have these timestamps; returns how many arrive.
    fn received(assembler: &mut Assembler, sent: &[(u16, u32)], now: Instant) -> usize {
        let unit = keyframe(20_000, 3);
        let all = sent.iter().flat_map(|&(first, timestamp)| packets(&unit, first, timestamp, now));
        let made: Vec<_> = all.flat_map(|packet| assembler.push(packet)).collect();
        assert!(whole(&made).iter().all(|got| **got == unit));
        whole(&made).len()
    }

    /// After 6.6 hours of silence, the timestamp has advanced by more than half its range.
    #[test]
    fn pictures_arrive_after_any_jump_of_the_timestamp() {
        let now = Instant::now();
        for jump in
            [1 << 31, (1 << 31) + 1, 0x9000_0000, u32::MAX - 90_000, 0, 1_u32.wrapping_neg()]
        {
            let mut assembler = Assembler::new(PATIENCE);
            let before: Vec<_> = (0..100).map(|n| (n * 20, u32::from(n) * 315_000)).collect();
            assert_eq!(received(&mut assembler, &before, now), 100);
            let begin = (99 * 315_000_u32).wrapping_add(jump);
            let after: Vec<_> =
                (0..100).map(|n| (2000 + n * 20, begin + u32::from(n) * 315_000)).collect();
            assert_eq!(received(&mut assembler, &after, now), 100, "{jump:#x}");
        }
    }

    #[test]
    fn pictures_arrive_after_any_jump_of_the_sequence_number() {
        let now = Instant::now();
        for jump in [3000, 32_767, 32_768, 40_000, 60_000, 63_000] {
            let mut assembler = Assembler::new(PATIENCE);
            let stream = |first: u16, timestamp: u32| {
                let place = move |n: u16| first.wrapping_add(n * 20);
                (0..100)
                    .map(move |n| (place(n), timestamp + u32::from(n) * 3000))
                    .collect::<Vec<_>>()
            };
            assert_eq!(received(&mut assembler, &stream(500, 0), now), 100);
            // Timestamps that restart: a file in a loop.
            let restarted = stream(500 + 1980_u16.wrapping_add(jump), 0);
            assert_eq!(received(&mut assembler, &restarted, now), 100, "{jump}");
        }
    }

    #[test]
    fn late_duplicates_do_not_reopen_a_finished_picture() {
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        let unit = keyframe(5_000, 3);
        for number in 0..200_u16 {
            let sent = packets(&unit, number * 10, u32::from(number), now);
            let made: Vec<_> = sent.iter().cloned().flat_map(|p| assembler.push(p)).collect();
            assert_eq!(whole(&made).len(), 1);
            if number % 7 == 0 {
                assert!(sent.into_iter().all(|packet| assembler.push(packet).is_empty()));
            }
        }
        // These packets are older than all pictures that are remembered.
        for packet in packets(&unit, 1000, 100, now) {
            assert!(assembler.push(packet).is_empty());
        }
        assert_eq!((assembler.next_expiry(), assembler.held()), (None, 0));
    }

    #[test]
    fn held_bytes_are_counted_and_released() {
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        for number in 0..40_u16 {
            for packet in
                packets(&keyframe(20_000, 3), number * 100, u32::from(number), now).drain(1..)
            {
                assembler.push(packet);
            }
            let kept: usize = assembler.open.iter().map(OpenUnit::cost).sum();
            assert_eq!(assembler.held(), kept);
            assert!(assembler.open.len() <= MAX_OPEN);
        }
        assert!(assembler.held() > 16 * 20_000);
        assembler.expire(now + PATIENCE);
        assert_eq!(assembler.held(), 0);
    }

    #[test]
    fn hostile_payloads_are_not_fatal() {
        let now = Instant::now();
        for payload in [
            &[0x78, 0, 0, 0][..],
            &[0x78, 0xff, 0xff, 1],
            &[0x7c],
            &[0x7c, 0x45],
            &[0, 1],
            &[0x1e, 9],
        ] {
            let mut assembler = Assembler::new(PATIENCE);
            let made = assembler.push(RtpPacket {
                sequence: 1,
                timestamp: 1,
                marker: true,
                payload: Bytes::copy_from_slice(payload),
                arrived: now,
                retransmitted: false,
            });
            assert!(whole(&made).is_empty(), "{payload:x?}");
            let mut clean: Vec<Assembled> = Vec::new();
            for packet in packets(&keyframe(3_000, 9), 2, 90_001, now) {
                clean.extend(assembler.push(packet));
            }
            assert_eq!(whole(&clean).len(), 1, "{payload:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_picture_arrives_once_in_any_order_with_duplicates(
            seed in any::<u64>(), first in any::<u16>(), count in 1usize..5,
        ) {
            let now = Instant::now();
            let units: Vec<Bytes> =
                (0..count).map(|i| keyframe(3_000 + 1_500 * i, 3 + i as u8)).collect();
            let mut sequence = first;
            let mut got = Vec::new();
            let mut assembler = Assembler::new(PATIENCE);
            let mut state = seed | 1;
            for (index, unit) in units.iter().enumerate() {
                let mut sent = packets(unit, sequence, (index as u32).wrapping_mul(315_000), now);
                sequence = sequence.wrapping_add(sent.len() as u16);
                sent.extend(sent.clone());
                for i in (1..sent.len()).rev() {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    sent.swap(i, (state >> 33) as usize % (i + 1));
                }
                for packet in sent {
                    got.extend(assembler.push(packet));
                }
            }
            // Not `prop_assert_eq`, which would print every byte.
            prop_assert!(whole(&got) == units.iter().collect::<Vec<_>>());
        }

        #[test]
        fn random_packets_never_panic(
            input in proptest::collection::vec(
                (any::<u16>(), 0u32..4, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..60,
            ),
        ) {
            let now = Instant::now();
            let mut assembler = Assembler::new(PATIENCE);
            for (sequence, timestamp, marker, payload) in input {
                assembler.push(RtpPacket {
                    sequence, timestamp, marker, payload: payload.into(), arrived: now, retransmitted: false,
                });
            }
            assembler.expire(now + PATIENCE);
            prop_assert!(assembler.next_expiry().is_none());
        }
    }
}
