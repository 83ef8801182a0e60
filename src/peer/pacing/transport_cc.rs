//! The interceptor: numbers outgoing packets, reports when packets arrived, and reads the peer's reports. The
//! crate's own interceptors for this report every 100 ms forever, even while the track is silent, and do not
//! pass on the reports they receive.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use rtc::{
    interceptor::{AttributedPacket, Interceptor, Packet, StreamInfo, TaggedPacket},
    rtcp::transport_feedbacks::{
        transport_layer_cc::TransportLayerCc, transport_layer_nack::TransportLayerNack,
    },
    rtp,
    sansio::Protocol,
    shared::{TransportContext, error::Error, marshal::MarshalSize},
};

use super::{Pacing, TRANSPORT_CC_URI, arrivals::Arrivals, feedback::Reader};
use crate::peer::remb::{self, PathLimit};

/// The interceptor; see the module documentation.
pub(in crate::peer) struct TransportCc {
    pacing: Arc<Pacing>,
    /// Our streams, each with the id of the header extension if it was negotiated.
    local: HashMap<u32, Option<u8>>,
    /// The id in the peer's streams, which all belong to one m-line, including streams that no description
    /// names.
    remote: Option<u8>,
    /// The id of the send-time extension in the peer's streams.
    send_time: Option<u8>,
    limit: PathLimit,
    reader: Reader,
    arrivals: Arrivals,
    /// SSRC of the most recent packet received.
    media_ssrc: u32,
    /// SSRC of our RTCP.
    ssrc: u32,
    read_queue: VecDeque<TaggedPacket>,
    write_queue: VecDeque<TaggedPacket>,
}

impl TransportCc {
    pub(in crate::peer) fn new(pacing: Arc<Pacing>) -> Self {
        Self {
            pacing,
            local: HashMap::new(),
            remote: None,
            send_time: None,
            limit: PathLimit::default(),
            reader: Reader::default(),
            arrivals: Arrivals::new(Instant::now()),
            media_ssrc: 0,
            ssrc: rand::random(),
            read_queue: VecDeque::new(),
            write_queue: VecDeque::new(),
        }
    }

    fn on_rtp(&mut self, packet: &rtp::Packet, now: Instant) {
        let header = &packet.header;
        if let Some(sent) = self.send_time.and_then(|id| remb::send_time(header, id)) {
            let bytes = header.marshal_size() + packet.payload.len();
            if let Some(limit) = self.limit.arrived(sent, bytes, now) {
                tracing::debug!("path estimate for the sender: {:.0} kbit/s", limit / 1e3);
                self.push(Box::new(remb::message(self.ssrc, header.ssrc, limit)), now);
            }
        }
        let Some(extension) = self.remote.and_then(|id| header.get_extension(id)) else { return };
        let Some(number) = extension.first_chunk::<2>() else { return };
        self.media_ssrc = header.ssrc;
        self.arrivals.arrived(u16::from_be_bytes(*number), header.marker, now);
        self.send_feedback(now);
    }

    fn on_rtcp(&mut self, packets: &[Box<dyn rtc::rtcp::Packet>], now: Instant) {
        for packet in packets {
            if let Some(nack) = packet.as_any().downcast_ref::<TransportLayerNack>()
                && self.local.contains_key(&nack.media_ssrc)
            {
                self.pacing.missing(nack);
            }
            let Some(message) = packet.as_any().downcast_ref::<TransportLayerCc>() else {
                continue;
            };
            let reports = self.reader.read(message);
            self.pacing.change(|controller| controller.feedback(now, reports));
        }
    }

    /// Sends feedback if it is due.
    fn send_feedback(&mut self, now: Instant) {
        let Some(message) = self.arrivals.take(now) else { return };
        let message =
            TransportLayerCc { sender_ssrc: self.ssrc, media_ssrc: self.media_ssrc, ..message };
        self.push(Box::new(message), now);
    }

    fn push(&mut self, message: Box<dyn rtc::rtcp::Packet>, now: Instant) {
        self.write_queue.push_back(TaggedPacket {
            now,
            transport: TransportContext::default(),
            message: AttributedPacket::new(Packet::Rtcp(vec![message])),
        });
    }

    fn number(&self, packet: &mut rtp::Packet, now: Instant) {
        let Some(id) = self.local.get(&packet.header.ssrc) else { return };
        let number = self.pacing.sent(now, packet);
        let Some(id) = id else { return };
        let extension = Bytes::copy_from_slice(&number.to_be_bytes());
        if let Err(error) = packet.header.set_extension(*id, extension) {
            tracing::debug!("transport-wide number: {error}");
        }
    }
}

/// The id of the header extension, if both peers agreed on it and on the feedback.
fn extension_id(info: &StreamInfo) -> Option<u8> {
    let feedback = info.rtcp_feedback.iter().any(|one| one.typ == "transport-cc");
    let extension = info.rtp_header_extensions.iter().find(|one| one.uri == TRANSPORT_CC_URI)?;
    u8::try_from(extension.id).ok().filter(|id| feedback && *id > 0)
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for TransportCc {
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

    fn handle_write(&mut self, mut message: TaggedPacket) -> Result<(), Error> {
        let now = message.now;
        if let Packet::Rtp(packet) = &mut message.message.packet {
            self.number(packet, now);
        }
        self.write_queue.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.write_queue.pop_front()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        self.send_feedback(now);
        Ok(())
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.arrivals.due()
    }
}

impl Interceptor for TransportCc {
    fn bind_local_stream(&mut self, info: &StreamInfo) {
        let id = extension_id(info);
        self.pacing.lock().set_feedback(id.is_some());
        for ssrc in [Some(info.ssrc), info.ssrc_rtx].into_iter().flatten() {
            self.local.insert(ssrc, id);
        }
    }

    fn unbind_local_stream(&mut self, info: &StreamInfo) {
        for ssrc in [Some(info.ssrc), info.ssrc_rtx].into_iter().flatten() {
            self.local.remove(&ssrc);
        }
    }

    fn bind_remote_stream(&mut self, info: &StreamInfo) {
        self.remote = extension_id(info).or(self.remote);
        self.send_time = remb::send_time_id(info).or(self.send_time);
    }

    fn unbind_remote_stream(&mut self, _info: &StreamInfo) {}
}
