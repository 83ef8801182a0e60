//! Tests sender and receiver together over a path that loses packets, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
    time::Instant,
};

use proptest::prelude::*;
use rtc::{
    interceptor::{AttributedPacket, Interceptor, Packet, RTCPFeedback, TaggedPacket},
    rtp,
    sansio::Protocol,
    shared::TransportContext,
};

use super::*;
use crate::peer::rate::SendRate;

pub(super) const MS: Duration = Duration::from_millis(1);
const SSRC: u32 = 7;

/// A path that may delay or lose packets.
pub(super) trait LossyPath {
    /// Transit time of the `n`th packet of a direction, sent at this time; `None` if it is lost.
    fn carry(&mut self, down: bool, n: u32, at: Duration) -> Option<Duration>;
}

impl<F: FnMut(bool, u32, Duration) -> Option<Duration>> LossyPath for F {
    fn carry(&mut self, down: bool, n: u32, at: Duration) -> Option<Duration> {
        self(down, n, at)
    }
}

/// The packets that arrived at the receiver, and the cost.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Arrival of each RTP packet.
    pub(super) arrived: BTreeMap<u16, Duration>,
    /// RTP packets sent, including retransmissions.
    pub(super) rtp: u32,
    /// Number of these that were lost.
    pub(super) lost: u32,
    /// RTCP messages sent to the sender.
    pub(super) rtcp: u32,
    /// Packets that arrived twice.
    pub(super) twice: u32,
}

/// A packet in flight: arrival time, number, and whether it travels to the receiver.
type Flying = Reverse<(Duration, u32, bool)>;

pub(super) struct Rig<W> {
    sender: RepairSender,
    receiver: RepairReceiver,
    path: W,
    epoch: Instant,
    now: Duration,
    flying: BinaryHeap<Flying>,
    packets: BTreeMap<u32, Packet>,
    number: u32,
    counts: [u32; 2],
    replayed: HashSet<u16>,
    pub(super) run: Run,
}

impl<W: LossyPath> Rig<W> {
    pub(super) fn new(path: W) -> Self {
        let info = StreamInfo {
            ssrc: SSRC,
            clock_rate: 90_000,
            rtcp_feedback: vec![RTCPFeedback { typ: "nack".into(), parameter: String::new() }],
            ..StreamInfo::default()
        };
        let rtt_seed = RttSeed::default();
        let mut sender = RepairSender::new(true, SendRate::new(1_000_000_000), rtt_seed.clone());
        let mut receiver = RepairReceiver::new(true, rtt_seed, PeerRepairs::default());
        sender.bind_local_stream(&info);
        receiver.bind_remote_stream(&info);
        Self {
            sender,
            receiver,
            path,
            epoch: Instant::now(),
            now: Duration::ZERO,
            flying: BinaryHeap::new(),
            packets: BTreeMap::new(),
            number: 0,
            counts: [0; 2],
            replayed: HashSet::new(),
            run: Run::default(),
        }
    }

    fn tagged(&self, packet: Packet, at: Duration) -> TaggedPacket {
        TaggedPacket {
            now: self.epoch + at,
            transport: TransportContext::default(),
            message: AttributedPacket::new(packet),
        }
    }

    /// Sends an access unit of `count` packets, which begins with an SPS, in one burst.
    fn picture(&mut self, first: u16, count: u16, at: Duration) {
        self.paced(first, count, at, Duration::ZERO);
    }

    /// Sends an access unit with this interval between packets.
    pub(super) fn paced(&mut self, first: u16, count: u16, at: Duration, apart: Duration) {
        for index in 0..count {
            let header = rtp::header::Header {
                version: 2,
                ssrc: SSRC,
                sequence_number: first.wrapping_add(index),
                marker: index + 1 == count,
                ..rtp::header::Header::default()
            };
            let kind: u8 = if index == 0 { 0x67 } else { 0x7c };
            let packet = rtp::Packet { header, payload: vec![kind; 1000].into() };
            let at = at + u32::from(index) * apart;
            if !apart.is_zero() {
                self.until(at);
            }
            let packet = self.tagged(Packet::Rtp(packet), at);
            self.sender.handle_write(packet).unwrap();
            self.launch(at);
        }
    }

    /// Forgets sequence numbers that arrived long before this one, because they are reused after a
    /// wrap.
    pub(super) fn forget(&mut self, before: u16) {
        self.replayed.retain(|sequence| before.wrapping_sub(*sequence) < WINDOW);
    }

    fn launch(&mut self, at: Duration) {
        while let Some(packet) = self.sender.poll_write() {
            self.run.rtp += 1;
            self.fly(packet.message.packet, true, at);
        }
        while let Some(packet) = self.receiver.poll_write() {
            self.run.rtcp += 1;
            self.fly(packet.message.packet, false, at);
        }
    }

    fn fly(&mut self, packet: Packet, down: bool, at: Duration) {
        let count = &mut self.counts[usize::from(down)];
        *count += 1;
        let Some(takes) = self.path.carry(down, *count - 1, at) else {
            self.run.lost += u32::from(down);
            return;
        };
        self.number += 1;
        self.packets.insert(self.number, packet);
        self.flying.push(Reverse((at + takes, self.number, down)));
    }

    /// Lets time pass until `end`.
    pub(super) fn until(&mut self, end: Duration) {
        loop {
            let timers = [self.sender.poll_timeout(), self.receiver.poll_timeout()];
            let timer =
                timers.iter().flatten().min().map(|at| at.saturating_duration_since(self.epoch));
            let flight = self.flying.peek().map(|Reverse((due, ..))| *due);
            let Some(now) = [timer, flight].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                return;
            };
            // A timer may be overdue; the clock does not go back.
            let now = now.max(self.now);
            self.now = now;
            if flight.is_some_and(|due| due <= now) {
                self.land();
            } else {
                self.sender.handle_timeout(self.epoch + now).unwrap();
                self.receiver.handle_timeout(self.epoch + now).unwrap();
            }
            self.launch(now);
        }
    }

    fn land(&mut self) {
        let Some(Reverse((at, number, down))) = self.flying.pop() else { return };
        let Some(packet) = self.packets.remove(&number) else { return };
        if let Packet::Rtp(packet) = &packet {
            let sequence = packet.header.sequence_number;
            // Like the replay protection of SRTP.
            if !self.replayed.insert(sequence) {
                self.run.twice += 1;
                return;
            }
            self.run.arrived.insert(sequence, at);
        }
        let packet = self.tagged(packet, at);
        if down {
            self.receiver.handle_read(packet).unwrap();
            while self.receiver.poll_read().is_some() {}
        } else {
            self.sender.handle_read(packet).unwrap();
            while self.sender.poll_read().is_some() {}
        }
    }
}

/// Sends one keyframe of `count` packets over this path.
fn one(count: u16, path: impl LossyPath) -> Run {
    let mut rig = Rig::new(path);
    rig.picture(1000, count, Duration::ZERO);
    rig.until(Duration::from_secs(20));
    rig.run
}

/// Loses the packets to the receiver for which `lost` is true.
fn loses(lost: impl Fn(u32) -> bool) -> impl LossyPath {
    move |down: bool, n: u32, _: Duration| (!(down && lost(n))).then_some(50 * MS)
}

/// A uniform pseudo-random number from 0 to 1 (`SplitMix64`).
pub(super) fn share(state: &mut u64) -> f64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[test]
fn without_loss_nothing_is_retransmitted() {
    for delay in [Duration::ZERO, MS, 50 * MS, 70 * MS] {
        let run = one(85, |_: bool, _: u32, _: Duration| Some(delay));
        assert_eq!((run.arrived.len(), run.rtp), (85, 85), "{delay:?}");
    }
}

#[test]
fn every_lost_packet_is_repaired() {
    // The first packet, the last one, or some in between are lost.
    let patterns = [
        ("the first", 0, 0, 1),
        ("the last", 84, 84, 1),
        ("all but the last", 0, 83, 1),
        ("all", 0, 84, 1),
        ("all, and the first repeats", 0, 87, 1),
        ("every second", 1, 84, 2),
        ("the first half", 0, 41, 1),
    ];
    for (name, first, last, step) in patterns {
        let run = one(85, loses(|n| (first..=last).contains(&n) && (n - first) % step == 0));
        assert_eq!(run.arrived.len(), 85, "{name}");
        // The packets, one retransmission of each, and a few copies.
        assert!(run.rtp <= 85 + 88 + 25, "{name}: {} sent", run.rtp);
    }
}

#[test]
fn a_lost_tail_arrives_after_two_round_trips() {
    for (lost, within) in [(1, 300 * MS), (5, 450 * MS)] {
        let run = one(85, loses(|n| n < 85 && n >= 85 - lost));
        let last = run.arrived.values().max().unwrap();
        // The round trip is still unknown and assumed to be 150 ms.
        assert!(*last <= within, "{lost} lost: {last:?}");
    }
}

#[test]
fn an_outage_of_a_second_only_causes_delay() {
    let outage = |down: bool, n: u32, at: Duration| {
        let dark = (5 * MS..1005 * MS).contains(&at) || (down && (30..85).contains(&n) && at < MS);
        (!dark).then_some(50 * MS)
    };
    let run = one(85, outage);
    assert_eq!(run.arrived.len(), 85);
    let last = *run.arrived.values().max().unwrap();
    assert!(last < Duration::from_millis(1005 + 400 + 200), "{last:?}");
}

#[test]
fn without_repair_lost_packets_stay_lost() {
    let mut rig = Rig::new(loses(|n| n == 3 || n == 9));
    rig.sender = RepairSender::new(false, SendRate::default(), RttSeed::default());
    let info = StreamInfo { ssrc: SSRC, clock_rate: 90_000, ..StreamInfo::default() };
    rig.receiver = RepairReceiver::new(false, RttSeed::default(), PeerRepairs::default());
    rig.sender.bind_local_stream(&info);
    rig.receiver.bind_remote_stream(&info);
    rig.picture(0, 10, Duration::ZERO);
    rig.until(Duration::from_secs(10));
    assert_eq!(rig.run.arrived.len(), 8);
    assert!((9..=12).contains(&rig.run.rtcp), "{} reports in ten seconds", rig.run.rtcp);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_partial_loss_is_repaired(
        seed: u64,
        loss in 0.0..0.5_f64,
        delay in 0..200_u32,
        jitter in 0..60_u32,
        first: u16,
        count in 1..150_u16,
        pictures in 1..4_u16,
    ) {
        let mut state = seed;
        let path = move |_: bool, _: u32, _: Duration| {
            let lost = share(&mut state) < loss;
            let takes = delay * MS + (jitter * MS).mul_f64(share(&mut state));
            (!lost).then_some(takes)
        };
        let mut rig = Rig::new(path);
        for picture in 0..pictures {
            let at = u32::from(picture) * Duration::from_millis(3500);
            // SRTP's own counter requires a first sequence number in the lower half.
            rig.picture((first & 0x7fff).wrapping_add(picture * count), count, at);
            rig.until(at + Duration::from_millis(3499));
        }
        rig.until(Duration::from_secs(40));
        let all = (0..count * pictures).map(|index| (first & 0x7fff).wrapping_add(index));
        let never: Vec<u16> = all.filter(|sequence| !rig.run.arrived.contains_key(sequence)).collect();
        prop_assert!(never.is_empty(), "never arrived: {:?} of {:?}", never, rig.run);
    }
}
