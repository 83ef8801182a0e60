//! Observes the RTP and RTCP that pass through a peer connection.
//!
//! It is an interceptor of the `rtc` crate. It passes inbound RTP to our own assembler with its arrival time (the
//! crate's track events drop the first packets of a relayed stream, related to webrtc-rs/webrtc#901), forwards
//! keyframe requests (the crate does not expose RTCP), and counts what the crate's getStats leaves at zero.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use rtc::{
    interceptor::{Attribute, Interceptor, Packet, StreamInfo, TaggedPacket},
    rtcp::{
        payload_feedbacks::{
            full_intra_request::FullIntraRequest, picture_loss_indication::PictureLossIndication,
        },
        receiver_report::ReceiverReport,
        sender_report::SenderReport,
        transport_feedbacks::{
            transport_layer_cc::TransportLayerCc, transport_layer_nack::TransportLayerNack,
        },
    },
    sansio::Protocol,
    shared::{error::Error, marshal::MarshalSize},
};
use tokio::sync::mpsc;

use super::{assembler::RtpPacket, reports::Reports, vitals::LivenessMonitor};

/// Maximum number of packets that may wait for the assembler; excess packets are dropped and counted.
const QUEUE_PACKETS: usize = 8 * 1024;

/// Their maximum total size, bytes.
const QUEUE_BYTES: usize = 16 << 20;

/// Maximum header size, bytes, up to which a payload shares memory with its datagram; behind a longer header the
/// payload is copied, so that the header is not retained.
const MAX_KEPT_HEADER: usize = 128;

/// Maximum number of senders of full intra requests remembered, with their last sequence number.
const MAX_FIR_SENDERS: usize = 64;

/// Maximum number of requested sequence numbers remembered.
const MAX_NACKED: usize = 4096;

/// Observed traffic, for statistics. The counters only grow.
#[derive(Debug, Default)]
pub struct RtpCounters {
    /// RTP payload and header bytes received.
    pub rtp_bytes_received: AtomicU64,
    /// RTP packets received.
    pub rtp_packets_received: AtomicU64,
    /// RTP header and payload bytes sent, retransmissions included.
    pub rtp_bytes_sent: AtomicU64,
    /// RTP packets sent, retransmissions included.
    pub rtp_packets_sent: AtomicU64,
    /// RTP packets retransmitted: on request, or the last packet if nothing is known about its arrival.
    pub retransmissions_sent: AtomicU64,
    /// NACK messages received.
    pub nacks_received: AtomicU64,
    /// Packets whose retransmission the peer requested.
    pub packets_nacked: AtomicU64,
    /// NACK messages sent.
    pub nacks_sent: AtomicU64,
    /// PLI messages received.
    pub plis_received: AtomicU64,
    /// FIR messages received.
    pub firs_received: AtomicU64,
    /// PLI messages sent.
    pub plis_sent: AtomicU64,
    /// Packets dropped because the assembler did not keep up.
    pub overflow: AtomicU64,
    /// Contents of RTCP reports, ours and the peer's.
    pub(super) reports: Reports,
}

/// A keyframe request received by RTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframeRequest {
    /// Picture loss indication (RFC 4585 §6.3.1).
    Pli,
    /// Full intra request (RFC 5104 §4.3.1).
    Fir,
}

/// The receiving ends of an [`RtpObserver`].
pub(crate) struct ObserverOutputs {
    /// Inbound RTP.
    pub(crate) packets: mpsc::Receiver<InboundRtp>,
    /// Inbound keyframe requests.
    pub(crate) requests: mpsc::Receiver<KeyframeRequest>,
    /// The counters, shared with the observer.
    pub(crate) counters: Arc<RtpCounters>,
}

/// An inbound RTP packet and its stream.
pub(crate) struct InboundRtp {
    /// RTP SSRC.
    pub(crate) ssrc: u32,
    /// RTP payload type.
    pub(crate) payload_type: u8,
    /// The packet.
    pub(crate) packet: RtpPacket,
    /// Its share of the queued bytes.
    pub(crate) _queued: Queued,
}

/// The bytes of one packet that waits for the assembler, counted until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Queued {
    /// `None` if the queue is full.
    fn new(bytes: usize, total: &Arc<AtomicUsize>) -> Option<Self> {
        if total.load(Ordering::Relaxed) + bytes > QUEUE_BYTES {
            return None;
        }
        total.fetch_add(bytes, Ordering::Relaxed);
        Some(Self { bytes, total: Arc::clone(total) })
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The interceptor; see the module documentation.
pub(crate) struct RtpObserver {
    packets: mpsc::Sender<InboundRtp>,
    requests: mpsc::Sender<KeyframeRequest>,
    counters: Arc<RtpCounters>,
    liveness: Arc<LivenessMonitor>,
    queued: Arc<AtomicUsize>,
    nacked: HashSet<(u32, u16)>,
    /// Sequence number of the last full intra request, by its sender and the requested stream.
    firs: HashMap<(u32, u32), u8>,
    read_queue: VecDeque<TaggedPacket>,
    write_queue: VecDeque<TaggedPacket>,
}

impl RtpObserver {
    pub(super) fn new(liveness: Arc<LivenessMonitor>) -> (Self, ObserverOutputs) {
        let (packets, packets_out) = mpsc::channel(QUEUE_PACKETS);
        let (requests, requests_out) = mpsc::channel(16);
        let counters = Arc::new(RtpCounters::default());
        let observer = Self {
            packets,
            requests,
            counters: Arc::clone(&counters),
            liveness,
            queued: Arc::default(),
            nacked: HashSet::new(),
            firs: HashMap::new(),
            read_queue: VecDeque::new(),
            write_queue: VecDeque::new(),
        };
        (observer, ObserverOutputs { packets: packets_out, requests: requests_out, counters })
    }

    fn on_rtp(&mut self, packet: &rtc::rtp::Packet, arrived: Instant) {
        let header = &packet.header;
        self.liveness.rtp_received();
        add(&self.counters.rtp_packets_received, 1);
        add(&self.counters.rtp_bytes_received, 12 + packet.payload.len() as u64);
        let retransmitted = self.nacked.remove(&(header.ssrc, header.sequence_number));
        let Some(queued) = Queued::new(packet.payload.len(), &self.queued) else {
            return add(&self.counters.overflow, 1);
        };
        let inbound = InboundRtp {
            ssrc: header.ssrc,
            payload_type: header.payload_type,
            packet: RtpPacket {
                sequence: header.sequence_number,
                timestamp: header.timestamp,
                marker: header.marker,
                payload: payload(packet),
                arrived,
                retransmitted,
            },
            _queued: queued,
        };
        if self.packets.try_send(inbound).is_err() {
            add(&self.counters.overflow, 1);
        }
    }

    fn on_rtcp(&mut self, packets: &[Box<dyn rtc::rtcp::Packet>]) {
        self.liveness.rtcp_received();
        for packet in packets {
            let packet = packet.as_any();
            self.read_acknowledgments(packet);
            if packet.is::<PictureLossIndication>() {
                add(&self.counters.plis_received, 1);
                // If the queue is full, a keyframe is already requested.
                let _ = self.requests.try_send(KeyframeRequest::Pli);
            } else if let Some(fir) = packet.downcast_ref::<FullIntraRequest>() {
                add(&self.counters.firs_received, 1);
                if self.is_new(fir) {
                    let _ = self.requests.try_send(KeyframeRequest::Fir);
                }
            } else if let Some(nack) = packet.downcast_ref::<TransportLayerNack>() {
                add(&self.counters.nacks_received, 1);
                let requested: usize = nack.nacks.iter().map(|pair| pair.packet_list().len()).sum();
                add(&self.counters.packets_nacked, requested as u64);
            } else if let Some(report) = packet.downcast_ref::<SenderReport>() {
                self.counters.reports.sender(report);
            }
        }
    }

    /// Whether a full intra request is new: a repeated one has the same sequence number as the last one (RFC 5104
    /// §4.3.1.2).
    fn is_new(&mut self, request: &FullIntraRequest) -> bool {
        if self.firs.len() > MAX_FIR_SENDERS {
            self.firs.clear();
        }
        let mut new = false;
        for entry in request.fir.iter().take(MAX_FIR_SENDERS) {
            let key = (request.sender_ssrc, entry.ssrc);
            new |= self.firs.insert(key, entry.sequence_number) != Some(entry.sequence_number);
        }
        new
    }

    /// Reads the peer's reports about packets that have arrived.
    fn read_acknowledgments(&self, packet: &dyn std::any::Any) {
        let receiver = packet.downcast_ref::<ReceiverReport>().map(|report| &report.reports);
        let sender = packet.downcast_ref::<SenderReport>().map(|report| &report.reports);
        let reports = receiver.or(sender).map(Vec::as_slice).unwrap_or_default();
        self.counters.reports.theirs(reports);
        for report in reports {
            self.liveness.packets_reported(report.last_sequence_number);
        }
        if packet.is::<TransportLayerCc>() {
            self.liveness.packets_acknowledged();
        }
    }

    fn on_rtcp_out(&mut self, packets: &[Box<dyn rtc::rtcp::Packet>]) {
        for packet in packets {
            let packet = packet.as_any();
            if packet.is::<PictureLossIndication>() {
                add(&self.counters.plis_sent, 1);
            } else if let Some(report) = packet.downcast_ref::<ReceiverReport>() {
                self.counters.reports.ours(&report.reports);
            } else if let Some(nack) = packet.downcast_ref::<TransportLayerNack>() {
                add(&self.counters.nacks_sent, 1);
                if self.nacked.len() > MAX_NACKED {
                    self.nacked.clear();
                }
                for pair in &nack.nacks {
                    self.nacked
                        .extend(pair.packet_list().into_iter().map(|seq| (nack.media_ssrc, seq)));
                }
            }
        }
    }
}

/// The payload, in memory of its own if the header before it is long: the sender may fill a whole datagram with CSRCs
/// and extensions.
fn payload(packet: &rtc::rtp::Packet) -> Bytes {
    if packet.header.marshal_size() > MAX_KEPT_HEADER {
        return Bytes::copy_from_slice(&packet.payload);
    }
    packet.payload.clone()
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for RtpObserver {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, message: TaggedPacket) -> Result<(), Error> {
        match &message.message.packet {
            Packet::Rtp(packet) => self.on_rtp(packet, message.now),
            Packet::Rtcp(packets) => self.on_rtcp(packets),
            _ => {}
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
                add(&self.counters.rtp_packets_sent, 1);
                add(&self.counters.rtp_bytes_sent, 12 + packet.payload.len() as u64);
                let again = message.message.has(&Attribute::Retransmission);
                add(&self.counters.retransmissions_sent, u64::from(again));
            }
            Packet::Rtcp(packets) => self.on_rtcp_out(packets),
            _ => {}
        }
        self.write_queue.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.write_queue.pop_front()
    }
}

impl Interceptor for RtpObserver {
    fn bind_local_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _info: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _info: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}

#[cfg(test)]
mod tests {
    use rtc::{
        interceptor::AttributedPacket,
        rtcp::payload_feedbacks::full_intra_request::FirEntry,
        rtp::{self, header::Header},
        shared::TransportContext,
    };

    use super::*;

    fn read(observer: &mut RtpObserver, packet: Packet) {
        let message = AttributedPacket::new(packet);
        let transport = TransportContext::default();
        observer.handle_read(TaggedPacket { now: Instant::now(), transport, message }).unwrap();
        assert!(observer.poll_read().is_some());
    }

    fn packet(header: Header, payload: Bytes) -> Packet {
        Packet::Rtp(rtp::Packet { header, payload })
    }

    /// A million unread packets, as large as datagrams may be.
    #[test]
    fn the_queue_for_the_assembler_is_bounded() {
        let (mut observer, mut outputs) = RtpObserver::new(Arc::new(LivenessMonitor::new()));
        let payload = Bytes::from(vec![0x65; 60_000]);
        for _ in 0..1_000_000 {
            read(&mut observer, packet(Header::default(), payload.clone()));
        }
        let waiting = outputs.packets.len() * payload.len();
        assert!(waiting <= QUEUE_BYTES && waiting > QUEUE_BYTES / 2, "{waiting} bytes");
        assert_eq!(observer.queued.load(Ordering::Relaxed), waiting);
        while outputs.packets.try_recv().is_ok() {}
        assert_eq!(observer.queued.load(Ordering::Relaxed), 0, "its space is free again");
        read(&mut observer, packet(Header::default(), payload));
        assert!(outputs.packets.try_recv().is_ok());
    }

    #[test]
    fn a_long_header_is_not_retained() {
        let (mut observer, mut outputs) = RtpObserver::new(Arc::new(LivenessMonitor::new()));
        let datagram = Bytes::from(vec![7; 1400]);
        for (sources, shares) in [(1, true), (15, true), (40, false)] {
            let header = Header { csrc: vec![1; sources], ..Header::default() };
            read(&mut observer, packet(header, datagram.slice(1390..)));
            let kept = outputs.packets.try_recv().unwrap().packet.payload;
            assert_eq!(kept, datagram.slice(1390..));
            assert_eq!(datagram.as_ptr_range().contains(&kept.as_ptr()), shares, "{sources}");
        }
    }

    #[test]
    fn a_repeated_full_intra_request_is_answered_once() {
        let (mut observer, mut outputs) = RtpObserver::new(Arc::new(LivenessMonitor::new()));
        let fir = |sender_ssrc, sequence_number| {
            let fir = vec![FirEntry { ssrc: 7, sequence_number }];
            let request = FullIntraRequest { sender_ssrc, media_ssrc: 0, fir };
            Packet::Rtcp(vec![Box::new(request)])
        };
        for (sender, sequence, is_new) in [
            (1, 9, true),
            (1, 9, false),
            (1, 9, false),
            (1, 10, true),
            (2, 10, true),
            (1, 10, false),
            (1, 9, true),
        ] {
            read(&mut observer, fir(sender, sequence));
            assert_eq!(outputs.requests.try_recv().is_ok(), is_new, "{sender} {sequence}");
        }
        assert_eq!(outputs.counters.firs_received.load(Ordering::Relaxed), 7);
        for sender in 0..100_000 {
            read(&mut observer, fir(sender, 1));
        }
        assert!(observer.firs.len() <= 2 * MAX_FIR_SENDERS, "{}", observer.firs.len());
    }
}
