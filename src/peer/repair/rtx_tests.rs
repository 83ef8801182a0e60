//! Tests RTX retransmissions byte by byte, in wire format.

use bytes::Bytes;
use rtc::{
    interceptor::{AttributedPacket, RTCPFeedback},
    shared::{
        TransportContext,
        marshal::{Marshal, Unmarshal},
    },
};

use super::*;

const MEDIA: u32 = 0x1111_2222;
const REPAIR: u32 = 0xdead_beef;

/// The marker bit, before the payload type.
const MARKER: u8 = 0x80;

/// RTP header and payload in wire format (RFC 3550 §5.1): marker and payload type, sequence number, SSRC.
fn wire(second: u8, sequence: u16, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, second];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(9000_u32.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn tagged(packet: rtp::Packet) -> TaggedPacket {
    TaggedPacket {
        now: Instant::now(),
        transport: TransportContext::default(),
        message: AttributedPacket::new(Packet::Rtp(packet)),
    }
}

fn bytes_of(message: &TaggedPacket) -> Vec<u8> {
    let Packet::Rtp(packet) = &message.message.packet else { panic!("no RTP") };
    packet.marshal().unwrap().to_vec()
}

/// The output for these inbound bytes.
fn reads(rtx: &mut Rtx, wire: &[u8]) -> Option<Vec<u8>> {
    let packet = rtp::Packet::unmarshal(&mut Bytes::copy_from_slice(wire)).unwrap();
    rtx.handle_read(tagged(packet)).unwrap();
    let read = rtx.poll_read().map(|message| bytes_of(&message));
    assert!(rtx.poll_read().is_none());
    read
}

/// The output for these outbound bytes, first transmission or retransmission.
fn writes(rtx: &mut Rtx, wire: &[u8], again: bool) -> Vec<u8> {
    let packet = rtp::Packet::unmarshal(&mut Bytes::copy_from_slice(wire)).unwrap();
    let mut message = tagged(packet);
    if again {
        message.message.attributes.push(Attribute::Retransmission);
    }
    rtx.handle_write(message).unwrap();
    bytes_of(&rtx.poll_write().unwrap())
}

fn info(rtx: Option<(u32, u8)>) -> StreamInfo {
    StreamInfo {
        ssrc: MEDIA,
        payload_type: 102,
        clock_rate: 90_000,
        ssrc_rtx: rtx.map(|(ssrc, _)| ssrc),
        payload_type_rtx: rtx.map(|(_, payload_type)| payload_type),
        rtcp_feedback: vec![RTCPFeedback { typ: "nack".into(), parameter: String::new() }],
        ..StreamInfo::default()
    }
}

fn negotiated() -> Rtx {
    let types = RtxTypes::default();
    types.set(vec![(103, 102)]);
    Rtx::new(types, Arc::default())
}

/// Binds the stream as the crate does, with its RTX stream bound like a separate one.
fn receiving() -> Rtx {
    let mut rtx = negotiated();
    rtx.bind_remote_stream(&info(Some((REPAIR, 103))));
    rtx.bind_remote_stream(&StreamInfo { ssrc: REPAIR, payload_type: 103, ..info(None) });
    rtx
}

/// The figure of RFC 4588 §4: the original sequence number, then the original payload.
#[test]
fn a_retransmission_becomes_the_lost_packet() {
    let mut rtx = receiving();
    let wire_media = wire(102, 0x1233, MEDIA, &[0x67, 1, 2]);
    assert_eq!(reads(&mut rtx, &wire_media).as_deref(), Some(&wire_media[..]));
    let retransmitted = wire(MARKER + 103, 42, REPAIR, &[0x12, 0x34, 0x65, 3, 4]);
    let original = wire(MARKER + 102, 0x1234, MEDIA, &[0x65, 3, 4]);
    assert_eq!(reads(&mut rtx, &retransmitted), Some(original.clone()));
    let again = wire(MARKER + 103, 43, REPAIR, &[0x12, 0x34, 0x65, 3, 4]);
    assert_eq!(reads(&mut rtx, &again), None, "a probe with a packet that has already arrived");
    assert_eq!(reads(&mut rtx, &original), None, "it was merely late");
}

#[test]
fn padding_is_dropped_and_a_retransmission_may_be_padded() {
    let mut rtx = receiving();
    reads(&mut rtx, &wire(102, 7, MEDIA, &[0x67]));
    let padded = |payload: &[u8], padding: u8| {
        let mut bytes = wire(103, 44, REPAIR, payload);
        bytes[0] |= 0x20;
        bytes.extend(vec![0; usize::from(padding) - 1]);
        bytes.push(padding);
        bytes
    };
    assert_eq!(reads(&mut rtx, &padded(&[], 224)), None);
    assert_eq!(reads(&mut rtx, &padded(&[9], 3)), None, "too short for a sequence number");
    let original = wire(102, 8, MEDIA, &[0x65, 1]);
    assert_eq!(reads(&mut rtx, &padded(&[0, 8, 0x65, 1], 4)), Some(original));
    assert_eq!(reads(&mut rtx, &wire(103, 45, REPAIR, &[0, 9])), Some(wire(102, 9, MEDIA, &[])));
}

/// Padding packets have been decrypted even if many follow each other: the gate must not count them as
/// undecryptable.
#[test]
fn padding_shows_that_packets_can_be_decrypted() {
    let gate = Arc::new(MediaGate::default());
    let types = RtxTypes::default();
    types.set(vec![(103, 102)]);
    let mut rtx = Rtx::new(types, Arc::clone(&gate));
    rtx.bind_remote_stream(&info(Some((REPAIR, 103))));
    let padding = wire(103, 1, REPAIR, &[]);
    for _ in 0..100 {
        assert!(gate.passes(&padding, Instant::now()));
        assert_eq!(reads(&mut rtx, &padding), None);
    }
    assert_eq!(gate.unread(), 0);
}

#[test]
fn an_unnamed_stream_is_identified_by_its_payload_type() {
    let mut rtx = negotiated();
    rtx.bind_remote_stream(&info(None));
    let retransmitted = wire(103, 1, 0x0bad_cafe, &[0, 6, 0x65]);
    assert_eq!(reads(&mut rtx, &retransmitted), Some(wire(102, 6, MEDIA, &[0x65])));
    // Of two streams, it repairs the most recently active one.
    rtx.bind_remote_stream(&StreamInfo { ssrc: 5, ..info(None) });
    assert!(reads(&mut rtx, &wire(102, 900, 5, &[0x67])).is_some());
    let retransmitted = wire(103, 2, 0x0bad_cafe, &[3, 0x85, 0x65]);
    assert_eq!(reads(&mut rtx, &retransmitted), Some(wire(102, 901, 5, &[0x65])));
}

#[test]
fn without_an_agreement_packets_pass_unchanged() {
    let mut rtx = Rtx::new(RtxTypes::default(), Arc::default());
    rtx.bind_remote_stream(&info(None));
    let other = wire(103, 1, REPAIR, &[0, 6, 0x65]);
    assert_eq!(reads(&mut rtx, &other), Some(other.clone()));
    // The crate names our RTX stream even if the peer has no payload type for it.
    rtx.bind_local_stream(&StreamInfo { ssrc_rtx: Some(REPAIR), ..info(None) });
    let media = wire(102, 7, MEDIA, &[0x65]);
    assert_eq!(writes(&mut rtx, &media, true), media);
    // A retransmission of an unknown stream is dropped.
    assert_eq!(reads(&mut negotiated(), &other), None);
}

#[test]
fn retransmissions_are_wrapped_and_can_be_restored() {
    let (mut sender, mut receiver) = (negotiated(), receiving());
    sender.bind_local_stream(&info(Some((REPAIR, 103))));
    let first = wire(102, 0xfffe, MEDIA, &[0x67, 9]);
    assert_eq!(writes(&mut sender, &first, false), first);
    reads(&mut receiver, &first);
    let mut last = None;
    for (number, sequence) in [0xffff, 0, 1].into_iter().enumerate() {
        let media = wire(MARKER + 102, sequence, MEDIA, &[0x65, number as u8]);
        let wrapped = writes(&mut sender, &media, true);
        assert_eq!(wrapped[1], MARKER + 103, "the marker stays");
        assert_eq!((&wrapped[4..8], &wrapped[8..12]), (&media[4..8], &REPAIR.to_be_bytes()[..]));
        assert_eq!((&wrapped[12..14], &wrapped[14..]), (&media[2..4], &media[12..]));
        let number = u16::from_be_bytes([wrapped[2], wrapped[3]]);
        assert!(last.is_none_or(|last: u16| number == last + 1) && number < 0x8002);
        last = Some(number);
        assert_eq!(reads(&mut receiver, &wrapped), Some(media));
    }
}

/// A receiver report shows the arrival of the last packet only if it came unwrapped.
#[test]
fn the_last_packet_is_repeated_as_it_was_sent() {
    let mut rtx = negotiated();
    rtx.bind_local_stream(&info(Some((REPAIR, 103))));
    let last = wire(MARKER + 102, 7, MEDIA, &[0x65]);
    let packet = rtp::Packet::unmarshal(&mut Bytes::copy_from_slice(&last)).unwrap();
    let mut message = tagged(packet);
    message.message = AsSent::mark(message.message.with(Attribute::Retransmission));
    rtx.handle_write(message).unwrap();
    assert_eq!(bytes_of(&rtx.poll_write().unwrap()), last);
}

#[test]
fn streams_are_bounded() {
    let mut rtx = receiving();
    for ssrc in 0..1000 {
        rtx.bind_remote_stream(&StreamInfo { ssrc, ..info(None) });
        reads(&mut rtx, &wire(102, 1, ssrc, &[0x67]));
    }
    assert_eq!(rtx.incoming.len(), MAX_STREAMS);
}
