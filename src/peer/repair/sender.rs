//! The sender's part of repair: retransmits requested packets, and repeats the last packet until it has
//! arrived.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use rtc::{
    interceptor::{Attribute, AttributedPacket, Interceptor, Packet, StreamInfo, TaggedPacket},
    rtcp::{
        receiver_report::ReceiverReport,
        reception_report::ReceptionReport,
        sender_report::SenderReport,
        transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack},
    },
    sansio::Protocol,
    shared::{TransportContext, error::Error},
};

use super::{
    RttSeed, has_nack, resend::Resend, round_trip::RoundTrip, rtx::AsSent, tail_probe::TailProbe,
};
use crate::peer::rate::SendRate;

/// Number of sender reports remembered until a receiver report answers them.
const MAX_REPORTS: usize = 8;

/// One of our streams.
struct SentStream {
    resend: Resend,
    tail_probe: TailProbe,
    round_trip: RoundTrip,
    /// Middle 32 bits of the NTP times of the last sender reports, and when they left.
    reports: VecDeque<(u32, Instant)>,
}

impl SentStream {
    fn on_report(&mut self, report: &ReceptionReport, now: Instant) {
        let answered = self.reports.iter().find(|(ntp, _)| *ntp == report.last_sender_report);
        if let Some((_, sent)) = answered.filter(|_| report.last_sender_report != 0) {
            let held = Duration::from_secs_f64(f64::from(report.delay) / 65_536.0);
            self.round_trip.sample(now.saturating_duration_since(*sent).saturating_sub(held));
        }
        let answer = self.tail_probe.acknowledged(report.last_sequence_number as u16, now);
        if let Some(answer) = answer.filter(|_| !self.round_trip.is_measured()) {
            self.round_trip.sample(answer);
        }
    }

    fn on_nack(&mut self, nack: &TransportLayerNack, now: Instant) {
        let requested = nack.nacks.iter().flat_map(NackPair::packet_list);
        self.resend.requested(requested, &self.round_trip, now);
    }

    fn take(&mut self, now: Instant) -> Option<AttributedPacket> {
        let retransmission =
            |packet| AttributedPacket::new(Packet::Rtp(packet)).with(Attribute::Retransmission);
        if let Some(packet) = self.resend.take(now) {
            return Some(retransmission(packet));
        }
        let last = self.tail_probe.take(&self.round_trip, now)?;
        self.resend.packet(last).map(|packet| AsSent::mark(retransmission(packet)))
    }

    fn due(&self) -> Option<Instant> {
        [self.resend.due(), self.tail_probe.due()].into_iter().flatten().min()
    }
}

/// The interceptor. It replaces the crate's NACK responder.
pub(in crate::peer) struct RepairSender {
    answers: bool,
    rate: SendRate,
    seed: RttSeed,
    streams: HashMap<u32, SentStream>,
    read_queue: VecDeque<TaggedPacket>,
    write_queue: VecDeque<TaggedPacket>,
}

impl RepairSender {
    pub(in crate::peer) fn new(answers: bool, rate: SendRate, seed: RttSeed) -> Self {
        Self {
            answers,
            rate,
            seed,
            streams: HashMap::new(),
            read_queue: VecDeque::new(),
            write_queue: VecDeque::new(),
        }
    }

    fn on_rtcp(&mut self, packets: &[Box<dyn rtc::rtcp::Packet>], now: Instant) {
        for packet in packets {
            let packet = packet.as_any();
            if let Some(nack) = packet.downcast_ref::<TransportLayerNack>() {
                if let Some(stream) = self.streams.get_mut(&nack.media_ssrc) {
                    stream.on_nack(nack, now);
                }
                continue;
            }
            let receiver = packet.downcast_ref::<ReceiverReport>().map(|report| &report.reports);
            let sender = packet.downcast_ref::<SenderReport>().map(|report| &report.reports);
            for report in receiver.or(sender).into_iter().flatten() {
                if let Some(stream) = self.streams.get_mut(&report.ssrc) {
                    stream.on_report(report, now);
                }
            }
        }
    }

    /// Records our own sender reports, to which receiver reports refer.
    fn on_rtcp_out(&mut self, packets: &[Box<dyn rtc::rtcp::Packet>], now: Instant) {
        for packet in packets {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>()
                && let Some(stream) = self.streams.get_mut(&report.ssrc)
            {
                stream.reports.truncate(MAX_REPORTS - 1);
                stream.reports.push_front(((report.ntp_time >> 16) as u32, now));
            }
        }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for RepairSender {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtcp(packets) = &message.message.packet {
            self.on_rtcp(packets, message.now);
        }
        self.read_queue.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.read_queue.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), Error> {
        match &message.message.packet {
            Packet::Rtp(packet) => {
                if let Some(stream) = self.streams.get_mut(&packet.header.ssrc) {
                    let sequence = stream.resend.sent(packet);
                    let early = packet.header.marker && stream.resend.is_lossy();
                    stream.tail_probe.sent(sequence, early, &stream.round_trip, message.now);
                }
            }
            Packet::Rtcp(packets) => self.on_rtcp_out(packets, message.now),
            _ => {}
        }
        self.write_queue.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.write_queue.pop_front()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        for stream in self.streams.values_mut() {
            while let Some(message) = stream.take(now) {
                let transport = TransportContext::default();
                self.write_queue.push_back(TaggedPacket { now, transport, message });
            }
        }
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.streams.values().filter_map(SentStream::due).min()
    }
}

impl Interceptor for RepairSender {
    fn bind_local_stream(&mut self, info: &StreamInfo) {
        if !self.answers || !has_nack(info) {
            return;
        }
        let stream = SentStream {
            resend: Resend::new(self.rate.clone()),
            tail_probe: TailProbe::default(),
            round_trip: RoundTrip::new(self.seed.clone()),
            reports: VecDeque::new(),
        };
        self.streams.insert(info.ssrc, stream);
    }

    fn unbind_local_stream(&mut self, info: &StreamInfo) {
        self.streams.remove(&info.ssrc);
    }

    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}
