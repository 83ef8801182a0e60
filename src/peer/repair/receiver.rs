//! The receiver's part of repair: requests missing packets and reports arrivals.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use rtc::{
    interceptor::{AttributedPacket, Interceptor, Packet, StreamInfo, TaggedPacket},
    rtcp::{
        receiver_report::ReceiverReport, sender_report::SenderReport,
        transport_feedbacks::transport_layer_nack::TransportLayerNack,
    },
    rtp,
    sansio::Protocol,
    shared::{TransportContext, error::Error},
};

use super::{
    RttSeed, has_nack,
    report::ReceptionCounter,
    request::{Requests, pack},
    round_trip::RoundTrip,
};
use crate::peer::depacketizer::begins_access_unit;

/// Maximum number of concurrent streams; a new stream replaces the one that has been silent longest.
pub(super) const MAX_STREAMS: usize = 16;

/// Whether the peer retransmits lost packets: it agreed on NACK, and has answered a request or may still do so.
/// Clones share the value.
#[derive(Debug, Clone)]
pub(in crate::peer) struct PeerRepairs(Arc<AtomicBool>);

impl Default for PeerRepairs {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl PeerRepairs {
    /// Whether the peer retransmits, as far as is known now.
    pub(in crate::peer) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, repairs: bool) {
        self.0.store(repairs, Ordering::Relaxed);
    }
}

/// One of the remote peer's streams.
struct ReceivedStream {
    last_arrival: Option<Instant>,
    reception: ReceptionCounter,
    /// None if the stream is not repaired.
    requests: Option<Requests>,
}

/// The interceptor. It replaces the crate's NACK generator and also sends receiver reports.
pub(in crate::peer) struct RepairReceiver {
    /// Whether to request missing packets.
    requests_missing: bool,
    seed: RttSeed,
    peer_repairs: PeerRepairs,
    /// SSRC of our RTCP.
    ssrc: u32,
    streams: HashMap<u32, ReceivedStream>,
    read_queue: VecDeque<TaggedPacket>,
    write_queue: VecDeque<TaggedPacket>,
}

impl RepairReceiver {
    /// `peer_repairs` is kept up to date.
    pub(in crate::peer) fn new(
        requests_missing: bool,
        seed: RttSeed,
        peer_repairs: PeerRepairs,
    ) -> Self {
        Self {
            requests_missing,
            seed,
            peer_repairs,
            ssrc: rand::random(),
            streams: HashMap::new(),
            read_queue: VecDeque::new(),
            write_queue: VecDeque::new(),
        }
    }

    fn on_rtp(&mut self, packet: &rtp::Packet, now: Instant) {
        let header = &packet.header;
        let Some(stream) = self.streams.get_mut(&header.ssrc) else { return };
        stream.last_arrival = Some(now);
        stream.reception.arrived(header.sequence_number, header.timestamp, header.marker, now);
        if let Some(requests) = &mut stream.requests {
            requests.arrived(header.sequence_number, begins_access_unit(&packet.payload), now);
            self.peer_repairs.set(!requests.is_ignored(now));
        }
        if stream.due().is_some_and(|due| due <= now) {
            self.send_reports(now);
        }
    }

    /// Sends the RTCP that is due.
    fn send_reports(&mut self, now: Instant) {
        for (&media_ssrc, stream) in &mut self.streams {
            let packets = stream.take(self.ssrc, media_ssrc, now);
            if packets.is_empty() {
                continue;
            }
            self.write_queue.push_back(TaggedPacket {
                now,
                transport: TransportContext::default(),
                message: AttributedPacket::new(Packet::Rtcp(packets)),
            });
        }
    }

    fn on_rtcp(&mut self, packets: &[Box<dyn rtc::rtcp::Packet>], now: Instant) {
        for packet in packets {
            if let Some(report) = packet.as_any().downcast_ref::<SenderReport>()
                && let Some(stream) = self.streams.get_mut(&report.ssrc)
            {
                stream.reception.sender_report(report, now);
                if let Some(requests) = &stream.requests {
                    self.peer_repairs.set(!requests.is_ignored(now));
                }
            }
        }
    }
}

impl ReceivedStream {
    fn due(&self) -> Option<Instant> {
        let request = self.requests.as_ref().and_then(Requests::due);
        [request, self.reception.due()].into_iter().flatten().min()
    }

    /// The RTCP that is due: a NACK follows a report in the same message (RFC 4585 §3.1).
    fn take(
        &mut self,
        ssrc: u32,
        media_ssrc: u32,
        now: Instant,
    ) -> Vec<Box<dyn rtc::rtcp::Packet>> {
        let missing = self.requests.as_mut().map(|requests| requests.take(now)).unwrap_or_default();
        if missing.is_empty() && self.reception.due().is_none_or(|due| now < due) {
            return Vec::new();
        }
        let report = ReceiverReport {
            ssrc,
            reports: vec![self.reception.report(now)],
            ..Default::default()
        };
        let mut packets: Vec<Box<dyn rtc::rtcp::Packet>> = vec![Box::new(report)];
        if !missing.is_empty() {
            let nacks = pack(&missing);
            packets.push(Box::new(TransportLayerNack { sender_ssrc: ssrc, media_ssrc, nacks }));
        }
        packets
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for RepairReceiver {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), Error> {
        match &message.message.packet {
            Packet::Rtp(packet) => self.on_rtp(packet, message.now),
            Packet::Rtcp(packets) => self.on_rtcp(packets, message.now),
            _ => {}
        }
        self.read_queue.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.read_queue.pop_front()
    }

    fn handle_write(&mut self, message: TaggedPacket) -> Result<(), Error> {
        self.write_queue.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.write_queue.pop_front()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.send_reports(now);
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.streams.values().filter_map(ReceivedStream::due).min()
    }
}

impl Interceptor for RepairReceiver {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _info: &StreamInfo) {}

    fn bind_remote_stream(&mut self, info: &StreamInfo) {
        let with_nack = self.requests_missing && has_nack(info);
        let requests = with_nack.then(|| Requests::new(RoundTrip::new(self.seed.clone())));
        self.peer_repairs.set(with_nack);
        let reception = ReceptionCounter::new(info.ssrc, info.clock_rate);
        if self.streams.len() >= MAX_STREAMS && !self.streams.contains_key(&info.ssrc) {
            let silent = self.streams.iter().min_by_key(|(_, stream)| stream.last_arrival);
            if let Some(silent) = silent.map(|(&ssrc, _)| ssrc) {
                self.streams.remove(&silent);
            }
        }
        self.streams.insert(info.ssrc, ReceivedStream { last_arrival: None, reception, requests });
    }

    fn unbind_remote_stream(&mut self, info: &StreamInfo) {
        self.streams.remove(&info.ssrc);
    }
}
