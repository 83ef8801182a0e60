//! A call of thirty days in virtual time: packetizer, pacing, repair, transport-wide feedback, SRTP and assembler
//! over a link that loses, delays and duplicates packets, with silence, outages and sleep of any length.
//!
//! Each peer has its own monotonic clock, which stops while its machine sleeps.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rtc::{
    interceptor::{
        AttributedPacket, Interceptor, Packet, RTCPFeedback, RTPHeaderExtension,
        SenderReportBuilder, SenderReportInterceptor, StreamInfo, TaggedPacket,
    },
    rtcp, rtp,
    sansio::Protocol,
    shared::{
        TransportContext,
        marshal::{Marshal, Unmarshal},
    },
    srtp::{
        context::Context, option::srtp_replay_protection, protection_profile::ProtectionProfile,
    },
};

use super::{
    assembler::{Assembled, RtpPacket},
    incoming::Incoming,
    pacing::{Pacing, TRANSPORT_CC_URI, TransportCc},
    packetizer::packetize,
    repair::{PeerRepairs, RepairReceiver, RepairSender, RttSeed, WINDOW},
    rtp_observer::{InboundRtp, Queued},
    timestamps::Timestamps,
    video::PATIENCE,
};
use crate::units::RateSetting;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const CADENCE: Duration = Duration::from_millis(3500);

/// Time until everything repairable has been repaired.
const SETTLED: Duration = Duration::from_secs(12);

/// How a sender generates its timestamps.
#[derive(Debug, Clone, Copy, PartialEq)]
enum TimestampKind {
    /// As in this project.
    Ours,
    /// By elapsed time, even where this makes the counter jump by more than half its range.
    Elapsed,
    /// By the frame rate that a file declares, restarting at zero after each pass.
    Declared,
    /// Random values.
    Random,
}

const SENDER: usize = 0;
const RECEIVER: usize = 1;

enum Load {
    Media(Bytes),
    Reports(Vec<Box<dyn rtcp::Packet>>),
}

struct Call {
    random: StdRng,
    epoch: Instant,
    now: Duration,
    slept: [Duration; 2],
    asleep: [Option<Duration>; 2],
    up: bool,
    flights: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    loads: HashMap<u64, Load>,
    flown: u64,

    stamps: TimestampKind,
    timestamps: Timestamps,
    timestamp: u32,
    ssrc: u32,
    sequence: u16,
    waiting: VecDeque<rtp::Packet>,
    pump: Option<Instant>,
    pacing: Arc<Pacing>,
    reports: SenderReportInterceptor,
    repair: RepairSender,
    numbers: TransportCc,
    encrypts: Context,

    decrypts: Context,
    feedback: TransportCc,
    requester: RepairReceiver,
    incoming: Incoming,

    /// Keyframes sent, and whether they must arrive.
    sent: BTreeMap<u32, bool>,
    keyframes: u32,
    newest: u32,
    arrived: u32,
    max_held: usize,
}

fn stream(ssrc: u32) -> StreamInfo {
    let feedback = |typ: &str| RTCPFeedback { typ: typ.into(), parameter: String::new() };
    StreamInfo {
        ssrc,
        clock_rate: 90_000,
        rtcp_feedback: vec![feedback("nack"), feedback("transport-cc")],
        rtp_header_extensions: vec![RTPHeaderExtension { uri: TRANSPORT_CC_URI.into(), id: 3 }],
        ..StreamInfo::default()
    }
}

fn srtp() -> Context {
    let crypto = rtc::crypto::default_provider().unwrap();
    let window = Some(srtp_replay_protection(WINDOW.into()));
    let profile = ProtectionProfile::AeadAes128Gcm;
    Context::new(&[7; 16], &[9; 12], profile, window, None, crypto.crypto()).unwrap()
}

/// SPS, PPS and an IDR slice that holds the number; 2 to 100 KB.
fn keyframe(number: u32) -> Bytes {
    let size = 2_000 + (number.wrapping_mul(2_654_435_761) >> 12) as usize % 98_000;
    let mut data = BytesMut::new();
    for (header, body) in [(0x67, 18), (0x68, 8), (0x65, size)] {
        data.put_slice(&[0, 0, 0, 1, header, 0x88]);
        data.put_slice(format!("{number:08x}").as_bytes());
        data.put_bytes(0xab, body);
    }
    data.freeze()
}

fn number_of(unit: &[u8]) -> u32 {
    u32::from_str_radix(std::str::from_utf8(&unit[6..14]).unwrap(), 16).unwrap()
}

impl Call {
    fn new(seed: u64, stamps: TimestampKind) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let epoch = Instant::now();
        let pacing = Pacing::new(RateSetting::Auto);
        let rtt_seed = RttSeed::default();
        let mut call = Self {
            epoch,
            now: Duration::ZERO,
            slept: [Duration::ZERO; 2],
            asleep: [None; 2],
            up: true,
            flights: BinaryHeap::new(),
            loads: HashMap::new(),
            flown: 0,
            stamps,
            timestamps: Timestamps::new(u32::MAX - random.random_range(0..1_000_000), epoch),
            timestamp: random.random(),
            ssrc: 0,
            sequence: random.random::<u16>() & 0x7fff,
            waiting: VecDeque::new(),
            pump: None,
            reports: SenderReportBuilder::new().build(),
            repair: RepairSender::new(true, pacing.rate().clone(), rtt_seed.clone()),
            numbers: TransportCc::new(Arc::clone(&pacing)),
            pacing,
            encrypts: srtp(),
            decrypts: srtp(),
            feedback: TransportCc::new(Pacing::new(RateSetting::Auto)),
            requester: RepairReceiver::new(true, rtt_seed, PeerRepairs::default()),
            incoming: Incoming::new(PATIENCE),
            sent: BTreeMap::new(),
            keyframes: 0,
            newest: 0,
            arrived: 0,
            max_held: 0,
            random,
        };
        call.restart(true);
        call
    }

    /// Restarts the sender, with a new SSRC or only with different sequence numbers and timestamps.
    fn restart(&mut self, new_source: bool) {
        if new_source {
            let before = stream(self.ssrc);
            self.reports.unbind_local_stream(&before);
            self.repair.unbind_local_stream(&before);
            self.numbers.unbind_local_stream(&before);
            self.ssrc += 1;
            self.sequence = self.random.random::<u16>() & 0x7fff;
            let info = stream(self.ssrc);
            self.reports.bind_local_stream(&info);
            self.repair.bind_local_stream(&info);
            self.numbers.bind_local_stream(&info);
            self.feedback.bind_remote_stream(&info);
            self.requester.bind_remote_stream(&info);
        } else {
            // SRTP drops packets whose sequence number goes back (RFC 3711 §3.3.2).
            self.sequence = self.sequence.wrapping_add(self.random.random_range(1..32_000));
        }
        self.timestamp = self.random.random();
    }

    /// The current time on a peer's clock.
    fn at(&self, side: usize) -> Instant {
        let frozen =
            self.asleep[side].map_or(Duration::ZERO, |since| self.now.saturating_sub(since));
        self.epoch + self.now.saturating_sub(self.slept[side] + frozen)
    }

    fn tagged(&self, packet: Packet, side: usize) -> TaggedPacket {
        let message = AttributedPacket::new(packet);
        TaggedPacket { now: self.at(side), transport: TransportContext::default(), message }
    }

    fn send_keyframe(&mut self) {
        self.keyframes += 1;
        self.sent.insert(self.keyframes, self.up);
        let timestamp = match self.stamps {
            TimestampKind::Ours => {
                // Occasionally the wall clock is changed between capture and sending.
                let ages = [20, 20, 20, 86_400_000, 0];
                let age = ages[self.random.random_range(0..ages.len())];
                self.timestamps.next(self.at(SENDER), Duration::from_millis(age))
            }
            TimestampKind::Elapsed => (self.now.as_millis() as u64 * 90) as u32,
            TimestampKind::Declared => (self.keyframes % 50) * 3_000,
            TimestampKind::Random => self.random.random(),
        };
        let payloads = packetize(&keyframe(self.keyframes));
        let count = payloads.len();
        self.pacing.begin(self.at(SENDER), count, false);
        for (index, payload) in payloads.into_iter().enumerate() {
            let header = rtp::header::Header {
                version: 2,
                marker: index + 1 == count,
                payload_type: 102,
                sequence_number: self.sequence,
                timestamp: timestamp.wrapping_add(self.timestamp),
                ssrc: self.ssrc,
                ..rtp::header::Header::default()
            };
            self.sequence = self.sequence.wrapping_add(1);
            self.waiting.push_back(rtp::Packet { header, payload });
        }
        self.pump();
    }

    /// Sends packets as pacing allows.
    fn pump(&mut self) {
        self.pump = None;
        while let Some(packet) = self.waiting.front() {
            self.pump = self.pacing.poll(self.at(SENDER), packet.payload.len());
            if self.pump.is_some() {
                break;
            }
            let Some(packet) = self.waiting.pop_front() else { break };
            let tagged = self.tagged(Packet::Rtp(packet), SENDER);
            self.reports.handle_write(tagged).unwrap();
            self.leave();
        }
    }

    /// Passes outgoing packets through the chains, in order, to the wire.
    fn leave(&mut self) {
        while let Some(packet) = self.reports.poll_write() {
            self.repair.handle_write(packet).unwrap();
        }
        while let Some(packet) = self.repair.poll_write() {
            self.numbers.handle_write(packet).unwrap();
        }
        while let Some(packet) = self.numbers.poll_write() {
            self.launch(packet.message.packet, RECEIVER);
        }
        while let Some(packet) = self.requester.poll_write().or_else(|| self.feedback.poll_write())
        {
            self.launch(packet.message.packet, SENDER);
        }
    }

    fn launch(&mut self, packet: Packet, to: usize) {
        let load = match packet {
            Packet::Rtp(packet) => {
                let plain = packet.marshal().unwrap();
                Load::Media(self.encrypts.encrypt_rtp(&plain).unwrap().freeze())
            }
            Packet::Rtcp(packets) => Load::Reports(packets),
            _ => return,
        };
        if !self.up || self.random.random_bool(0.02) {
            return;
        }
        let takes = Duration::from_micros(self.random.random_range(20_000..26_000));
        self.fly(self.now + takes, load.copied(), to);
        if self.random.random_bool(0.01) {
            self.fly(self.now + takes * 2, load, to);
        }
    }

    fn fly(&mut self, due: Duration, load: Load, to: usize) {
        self.flown += 1;
        self.loads.insert(self.flown, load);
        self.flights.push(Reverse((due, self.flown, to)));
    }

    fn land(&mut self) {
        let Some(Reverse((_, number, to))) = self.flights.pop() else { return };
        let load = self.loads.remove(&number).unwrap();
        if self.asleep[to].is_some() {
            return;
        }
        match load {
            Load::Media(bytes) => {
                let Ok(mut plain) = self.decrypts.decrypt_rtp(&bytes) else { return };
                let packet = Packet::Rtp(rtp::Packet::unmarshal(&mut plain).unwrap());
                self.feedback.handle_read(self.tagged(packet, to)).unwrap();
                while let Some(packet) = self.feedback.poll_read() {
                    self.requester.handle_read(packet).unwrap();
                }
                while let Some(packet) = self.requester.poll_read() {
                    if let Packet::Rtp(packet) = packet.message.packet {
                        self.assemble(&packet);
                    }
                }
            }
            Load::Reports(packets) if to == SENDER => {
                let packet = self.tagged(Packet::Rtcp(packets), to);
                self.numbers.handle_read(packet).unwrap();
                while let Some(packet) = self.numbers.poll_read() {
                    self.repair.handle_read(packet).unwrap();
                }
                while self.repair.poll_read().is_some() {}
                self.pump();
            }
            Load::Reports(packets) => {
                let packet = self.tagged(Packet::Rtcp(packets), to);
                self.requester.handle_read(packet).unwrap();
                while self.requester.poll_read().is_some() {}
            }
        }
    }

    fn assemble(&mut self, packet: &rtp::Packet) {
        let header = &packet.header;
        let made = self.incoming.push(InboundRtp {
            ssrc: header.ssrc,
            payload_type: header.payload_type,
            packet: RtpPacket {
                sequence: header.sequence_number,
                timestamp: header.timestamp,
                marker: header.marker,
                payload: packet.payload.clone(),
                arrived: self.at(RECEIVER),
                retransmitted: false,
            },
            _queued: Queued::default(),
        });
        self.max_held = self.max_held.max(self.incoming.held());
        self.take(made);
    }

    fn take(&mut self, made: Vec<Assembled>) {
        for one in made {
            let Assembled::Whole(unit) = one else { continue };
            let number = number_of(&unit.data);
            assert!(unit.data == keyframe(number), "different bytes arrived");
            let must = self.sent.remove(&number).expect("it arrived twice, or was never sent");
            assert!(!must || number > self.newest, "{number} arrived after {}", self.newest);
            self.newest = self.newest.max(number);
            self.arrived += 1;
        }
    }

    /// When the next timer of a peer is due.
    fn timer(&mut self, side: usize) -> Option<Duration> {
        if self.asleep[side].is_some() {
            return None;
        }
        let due = if side == SENDER {
            [self.reports.poll_timeout(), self.repair.poll_timeout(), self.pump]
        } else {
            [
                self.requester.poll_timeout(),
                self.feedback.poll_timeout(),
                self.incoming.next_expiry(),
            ]
        };
        let due = due.into_iter().flatten().min()?;
        Some(due.saturating_duration_since(self.epoch) + self.slept[side])
    }

    fn run_timers(&mut self, side: usize) {
        let now = self.at(side);
        if side == SENDER {
            self.reports.handle_timeout(now).unwrap();
            self.repair.handle_timeout(now).unwrap();
            if self.pump.is_some_and(|due| due <= now) {
                self.pump();
            }
        } else {
            self.requester.handle_timeout(now).unwrap();
            self.feedback.handle_timeout(now).unwrap();
            let made = self.incoming.expire(now);
            self.take(made);
        }
        self.leave();
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let flight = self.flights.peek().map(|Reverse((due, ..))| (*due, 2));
            let timers = [SENDER, RECEIVER].map(|side| self.timer(side).map(|due| (due, side)));
            let next = timers.into_iter().chain([flight]).flatten().min();
            let Some((due, what)) = next.filter(|(due, _)| *due <= end) else { break };
            self.now = self.now.max(due);
            if what == 2 {
                self.land();
                self.leave();
            } else {
                self.run_timers(what);
            }
        }
        self.now = end;
    }

    /// Lets a machine sleep: its clock stops, and packets sent to it are lost.
    fn sleep(&mut self, side: usize, time: Duration) {
        self.asleep[side] = Some(self.now);
        self.pass(time);
        self.asleep[side] = None;
        self.slept[side] += time;
    }

    /// Delays all timers of both peers by this time; packets in flight are lost.
    fn stall(&mut self, time: Duration) {
        self.now += time;
        self.flights.clear();
        self.loads.clear();
        self.run_timers(SENDER);
        self.run_timers(RECEIVER);
    }

    /// Sends keyframes at the usual cadence. Afterward all that must arrive have arrived, and nothing is held.
    fn burst(&mut self, count: u32) {
        for _ in 0..count {
            self.send_keyframe();
            self.pass(CADENCE);
        }
        self.pass(SETTLED);
        let lost: Vec<_> = self.sent.iter().filter(|(_, must)| **must).collect();
        assert!(lost.is_empty(), "lost: {lost:?} at {:?} of {:?}", self.now, self.stamps);
        assert_eq!(self.incoming.held(), 0);
        assert!(self.flights.len() < 100 && self.waiting.is_empty());
        let rate = self.pacing.rate().get();
        assert!(rate > 1_000_000, "{rate} bits per second at {:?}", self.now);
    }

    /// A random disturbance between two bursts.
    fn interlude(&mut self) {
        let silence = [60 * SECOND, HOUR, HOUR * 67 / 10, HOUR * 133 / 10, 72 * HOUR];
        match self.random.random_range(0..12) {
            0 => self.pass(silence[0]),
            1 => self.pass(silence[1]),
            2 => self.pass(silence[2]),
            3 => self.pass(silence[3]),
            4 => self.stall(silence[2]),
            5 => self.stall(silence[3]),
            6 => self.stall(silence[4]),
            7 => self.sleep(SENDER, 2 * HOUR),
            8 => self.sleep(RECEIVER, 3 * HOUR),
            9 => {
                // Twenty whole keyframes are lost.
                self.up = false;
                self.burst(20);
                self.up = true;
                self.pass(SETTLED);
            }
            10 if self.stamps != TimestampKind::Ours => self.restart(true),
            11 if self.stamps != TimestampKind::Ours => self.restart(false),
            _ => self.pass(10 * SECOND),
        }
    }

    fn live(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let count = self.random.random_range(1..60);
            self.burst(count);
            self.interlude();
        }
        self.burst(5);
        println!(
            "{:?}: {} keyframes, {} arrived, {} flights, at most {} bytes held",
            self.stamps, self.keyframes, self.arrived, self.flown, self.max_held
        );
        // After an outage, everything that can be repaired arrives in one burst: 2048 packets.
        assert!(self.max_held < 3 << 20, "{} bytes held", self.max_held);
    }
}

impl Load {
    fn copied(&self) -> Self {
        match self {
            Self::Media(bytes) => Self::Media(bytes.clone()),
            Self::Reports(packets) => Self::Reports(packets.clone()),
        }
    }
}

#[test]
fn thirty_days_of_our_own_timestamps() {
    Call::new(1, TimestampKind::Ours).live(30 * 24 * HOUR);
}

#[test]
fn thirty_days_of_elapsed_time_timestamps() {
    Call::new(2, TimestampKind::Elapsed).live(30 * 24 * HOUR);
}

#[test]
fn thirty_days_of_declared_timestamps() {
    Call::new(3, TimestampKind::Declared).live(30 * 24 * HOUR);
}

#[test]
fn thirty_days_of_arbitrary_timestamps() {
    Call::new(4, TimestampKind::Random).live(30 * 24 * HOUR);
}

/// A limitation of `rtc-srtp` 0.21.1 (`context/mod.rs:45`) that cannot be worked around here; `media_gate` reports
/// it.
#[test]
fn srtp_fails_when_more_than_half_a_wrap_is_lost() {
    for (lost, readable) in [(30_000, true), (40_000, false)] {
        let (mut encrypts, mut decrypts) = (srtp(), srtp());
        let mut packet = |number: u32| {
            let header = rtp::header::Header {
                version: 2,
                sequence_number: number as u16,
                ssrc: 1,
                ..rtp::header::Header::default()
            };
            let packet = rtp::Packet { header, payload: Bytes::from_static(&[0x65; 20]) };
            encrypts.encrypt_rtp(&packet.marshal().unwrap()).unwrap()
        };
        assert!((0..70_000).all(|number| decrypts.decrypt_rtp(&packet(number)).is_ok()));
        (70_000..70_000 + lost).for_each(|number| drop(packet(number)));
        let after = (70_000 + lost..270_000 + lost)
            .filter(|&number| decrypts.decrypt_rtp(&packet(number)).is_ok());
        assert_eq!(after.count() > 190_000, readable, "{lost} lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn a_day_of_any_sender(seed: u64, kind in 0..4_usize) {
        let stamps = [TimestampKind::Ours, TimestampKind::Elapsed, TimestampKind::Declared, TimestampKind::Random][kind];
        Call::new(seed, stamps).live(24 * HOUR);
    }
}
