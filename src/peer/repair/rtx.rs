//! Retransmissions on a separate stream (RFC 4588), if both peers have agreed on it.
//!
//! This interceptor is close to the network. Inbound, it restores the original packets, so that the rest of this
//! peer sees one stream with each packet once; outbound, it wraps packets that repair marks as retransmissions.
//! Without RTX in the descriptions, packets pass unchanged, and retransmissions repeat the original packet.
//!
//! libwebrtc probes the path over RTX, with packets that have already arrived and with padding-only packets. Both
//! are dropped here, after the transport-wide feedback has counted them. `rtc` 0.21.1 also restores packets
//! (`peer_connection/handler/endpoint.rs:433`), but only after all interceptors, so that NACK does not see them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::{BufMut, BytesMut};
use rtc::{
    interceptor::{Attribute, AttributedPacket, Interceptor, Packet, StreamInfo, TaggedPacket},
    rtp,
    sansio::Protocol,
    shared::error::Error,
};

use super::{arrived::Arrived, receiver::MAX_STREAMS};
use crate::{lock::locked, peer::media_gate::MediaGate};

/// The negotiated RTX payload types, each with the type of the packets it restores (`apt`, RFC 4588 §8.6). Clones
/// share them.
#[derive(Debug, Clone, Default)]
pub(in crate::peer) struct RtxTypes(Arc<Mutex<Vec<(u8, u8)>>>);

impl RtxTypes {
    /// Replaces the types with those of the last description.
    pub(in crate::peer) fn set(&self, types: Vec<(u8, u8)>) {
        *locked(&self.0) = types;
    }

    fn original(&self, payload_type: u8) -> Option<u8> {
        let types = locked(&self.0);
        types.iter().find(|(rtx, _)| *rtx == payload_type).map(|(_, original)| *original)
    }
}

/// Marks a retransmission that is not wrapped: the last packet, repeated without a request. A receiver report shows
/// its arrival only if it was sent on the stream itself.
pub(super) struct AsSent;

impl AsSent {
    pub(super) fn mark(message: AttributedPacket) -> AttributedPacket {
        message.with(Attribute::Custom(Arc::new(Self)))
    }
}

/// An RTX stream that we send.
#[derive(Debug)]
struct OutgoingRtx {
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
}

/// A stream that we receive.
#[derive(Debug)]
struct RepairedStream {
    payload_type: u8,
    /// Its RTX stream, if the description names it (`a=ssrc-group:FID`, RFC 5576 §4.2).
    rtx: Option<u32>,
    last_arrival: Option<Instant>,
    arrived: Arrived,
}

/// The interceptor; see the module documentation.
pub(in crate::peer) struct Rtx {
    types: RtxTypes,
    gate: Arc<MediaGate>,
    /// Keyed by the SSRC of the stream that is repaired.
    outgoing: HashMap<u32, OutgoingRtx>,
    incoming: HashMap<u32, RepairedStream>,
    read_queue: VecDeque<TaggedPacket>,
    write_queue: VecDeque<TaggedPacket>,
}

impl Rtx {
    /// `gate` is notified of packets that could be decrypted.
    pub(in crate::peer) fn new(types: RtxTypes, gate: Arc<MediaGate>) -> Self {
        Self {
            types,
            gate,
            outgoing: HashMap::new(),
            incoming: HashMap::new(),
            read_queue: VecDeque::new(),
            write_queue: VecDeque::new(),
        }
    }

    /// Replaces a retransmission with the original packet; false for packets that are not passed on.
    fn takes(&mut self, packet: &mut rtp::Packet, now: Instant) -> bool {
        let Some(original) = self.types.original(packet.header.payload_type) else {
            let Some(stream) = self.incoming.get_mut(&packet.header.ssrc) else { return true };
            stream.last_arrival = Some(now);
            return stream.arrived.is_new(packet.header.sequence_number);
        };
        let Some(ssrc) = self.repaired(packet.header.ssrc, original) else { return false };
        let Some(stream) = self.incoming.get_mut(&ssrc) else { return false };
        restore(packet, ssrc, original).is_some_and(|sequence| stream.arrived.is_missing(sequence))
    }

    /// The stream that an RTX stream repairs. If no description names it, this is the most recently active stream
    /// of its payload type (RFC 4588 §5.3 uses the requested packets; normally there is one stream).
    fn repaired(&self, rtx: u32, payload_type: u8) -> Option<u32> {
        let named = self.incoming.iter().find(|(_, stream)| stream.rtx == Some(rtx));
        let last_active = || {
            let streams = self.incoming.iter().filter(|(_, it)| it.payload_type == payload_type);
            streams.max_by_key(|(_, stream)| stream.last_arrival)
        };
        named.or_else(last_active).map(|(&ssrc, _)| ssrc)
    }
}

/// Restores the original packet from a retransmission (RFC 4588 §4) and returns its sequence number; none for
/// padding.
fn restore(packet: &mut rtp::Packet, ssrc: u32, payload_type: u8) -> Option<u16> {
    let sequence = u16::from_be_bytes(*packet.payload.first_chunk()?);
    packet.payload = packet.payload.slice(2..);
    packet.header.ssrc = ssrc;
    packet.header.payload_type = payload_type;
    packet.header.sequence_number = sequence;
    // The parser has already removed the padding.
    packet.header.padding = false;
    Some(sequence)
}

impl OutgoingRtx {
    /// Turns a packet into a retransmission (RFC 4588 §4).
    fn wrap(&mut self, packet: &mut rtp::Packet) {
        let mut payload = BytesMut::with_capacity(2 + packet.payload.len());
        payload.put_u16(packet.header.sequence_number);
        payload.put_slice(&packet.payload);
        packet.payload = payload.freeze();
        packet.header.ssrc = self.ssrc;
        packet.header.payload_type = self.payload_type;
        packet.header.sequence_number = self.sequence;
        packet.header.padding = false;
        self.sequence = self.sequence.wrapping_add(1);
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Rtx {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, mut message: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtp(packet) = &mut message.message.packet {
            self.gate.read();
            if !self.takes(packet, message.now) {
                return Ok(());
            }
        }
        self.read_queue.push_back(message);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.read_queue.pop_front()
    }

    fn handle_write(&mut self, mut message: TaggedPacket) -> Result<(), Error> {
        let again = message.message.has(&Attribute::Retransmission)
            && message.message.custom::<AsSent>().is_none();
        if let Packet::Rtp(packet) = &mut message.message.packet
            && again
            && let Some(stream) = self.outgoing.get_mut(&packet.header.ssrc)
        {
            stream.wrap(packet);
        }
        self.write_queue.push_back(message);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.write_queue.pop_front()
    }
}

impl Interceptor for Rtx {
    fn bind_local_stream(&mut self, info: &StreamInfo) {
        let negotiated = info.ssrc_rtx.zip(info.payload_type_rtx);
        let Some((ssrc, payload_type)) = negotiated else {
            self.outgoing.remove(&info.ssrc);
            return;
        };
        // With the top bit clear, the first wrap is far away (RFC 3711 §3.3.1).
        let sequence = rand::random::<u16>() & 0x7fff;
        self.outgoing.insert(info.ssrc, OutgoingRtx { ssrc, payload_type, sequence });
    }

    fn unbind_local_stream(&mut self, info: &StreamInfo) {
        self.outgoing.remove(&info.ssrc);
    }

    fn bind_remote_stream(&mut self, info: &StreamInfo) {
        // The crate also binds RTX streams, like any other stream.
        if self.types.original(info.payload_type).is_some() {
            return;
        }
        if self.incoming.len() >= MAX_STREAMS && !self.incoming.contains_key(&info.ssrc) {
            let silent = self.incoming.iter().min_by_key(|(_, stream)| stream.last_arrival);
            if let Some(silent) = silent.map(|(&ssrc, _)| ssrc) {
                self.incoming.remove(&silent);
            }
        }
        let stream = RepairedStream {
            payload_type: info.payload_type,
            rtx: info.ssrc_rtx,
            last_arrival: None,
            arrived: Arrived::default(),
        };
        self.incoming.insert(info.ssrc, stream);
    }

    fn unbind_remote_stream(&mut self, info: &StreamInfo) {
        self.incoming.remove(&info.ssrc);
    }
}

#[cfg(test)]
#[path = "rtx_tests.rs"]
mod tests;
