//! The remote peer's RTP streams, each with its own assembler.
//!
//! Normally there is only one. A sender that restarts uses a new SSRC (RFC 3550 §8), and packets from an unknown
//! source must not harm the existing stream. Sans-IO, like the assembler.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    assembler::{Assembled, Assembler},
    rtp_observer::InboundRtp,
};

/// Maximum number of streams; a new one replaces the one that has been silent for the longest time.
const MAX_STREAMS: usize = 4;

/// Maximum total size of all incomplete access units, bytes: enough for the largest one that a sender may produce.
const MAX_HELD: usize = 24 << 20;

struct IncomingStream {
    assembler: Assembler,
    last_arrival: Instant,
}

/// The streams of the remote peer, by SSRC.
pub(super) struct Incoming {
    patience: Duration,
    bare: bool,
    repaired: bool,
    streams: HashMap<u32, IncomingStream>,
}

impl Incoming {
    /// `patience` is that of [`Assembler::new`].
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, bare: false, repaired: true, streams: HashMap::new() }
    }

    /// Like [`Assembler::set_bare`], for existing and future streams.
    pub(super) fn set_bare(&mut self, bare: bool) {
        self.bare = bare;
        self.streams.values_mut().for_each(|stream| stream.assembler.set_bare(bare));
    }

    /// Like [`Assembler::set_repaired`], for existing and future streams.
    pub(super) fn set_repaired(&mut self, repaired: bool) {
        self.repaired = repaired;
        self.streams.values_mut().for_each(|stream| stream.assembler.set_repaired(repaired));
    }

    /// Processes one packet. If a stream is evicted for it, the incomplete access units of that stream are returned
    /// as broken.
    pub(super) fn push(&mut self, inbound: InboundRtp) -> Vec<Assembled> {
        let (ssrc, arrived) = (inbound.ssrc, inbound.packet.arrived);
        let mut made = Vec::new();
        if self.streams.len() >= MAX_STREAMS && !self.streams.contains_key(&ssrc) {
            let silent = self.streams.iter().min_by_key(|(_, stream)| stream.last_arrival);
            if let Some(mut ended) =
                silent.map(|(&ssrc, _)| ssrc).and_then(|ssrc| self.streams.remove(&ssrc))
            {
                made = ended.assembler.end();
            }
        }
        let stream = self.streams.entry(ssrc).or_insert_with(|| {
            let mut assembler = Assembler::new(self.patience);
            assembler.set_bare(self.bare);
            assembler.set_repaired(self.repaired);
            IncomingStream { assembler, last_arrival: arrived }
        });
        stream.last_arrival = arrived;
        made.extend(stream.assembler.push(inbound.packet));
        made.extend(self.shed());
        made
    }

    /// Abandons access units until the total size is within the limit, always in the stream that holds the most
    /// bytes, so that one stream cannot evict another.
    fn shed(&mut self) -> Vec<Assembled> {
        let mut made = Vec::new();
        while self.held() > MAX_HELD {
            let largest = self.streams.values_mut().max_by_key(|stream| stream.assembler.held());
            let Some(abandoned) = largest.and_then(|stream| stream.assembler.shed()) else { break };
            made.push(abandoned);
        }
        made
    }

    /// Size of all incomplete access units, bytes.
    pub(super) fn held(&self) -> usize {
        self.streams.values().map(|stream| stream.assembler.held()).sum()
    }

    /// Abandons access units that have waited too long at `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Assembled> {
        self.streams.values_mut().flat_map(|stream| stream.assembler.expire(now)).collect()
    }

    /// When to call [`Incoming::expire`] next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.streams.values().filter_map(|stream| stream.assembler.next_expiry()).min()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::peer::{
        assembler::{BrokenReason, RtpPacket},
        rtp_observer::Queued,
    };

    const PATIENCE: Duration = Duration::from_secs(4);

    /// A packet of a picture that consists of three packets, the first of which is an SPS.
    fn packet(ssrc: u32, timestamp: u32, index: u16, arrived: Instant) -> InboundRtp {
        let kind = if index == 0 { 0x67 } else { 0x65 };
        InboundRtp {
            ssrc,
            payload_type: 102,
            packet: RtpPacket {
                sequence: timestamp as u16 * 3 + index,
                timestamp,
                marker: index == 2,
                payload: Bytes::from(vec![kind, ssrc as u8, timestamp as u8, index as u8]),
                arrived,
                retransmitted: false,
            },
            _queued: Queued::default(),
        }
    }

    fn picture(incoming: &mut Incoming, ssrc: u32, timestamp: u32, now: Instant) -> Vec<Assembled> {
        (0..3).flat_map(|index| incoming.push(packet(ssrc, timestamp, index, now))).collect()
    }

    #[test]
    fn an_unknown_source_does_not_affect_the_existing_stream() {
        let now = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 1, 0, now));
        // The same sequence numbers and timestamps, different bytes.
        assert_eq!(picture(&mut incoming, 2, 1, now).len(), 1);
        incoming.push(packet(1, 1, 1, now));
        let made = incoming.push(packet(1, 1, 2, now));
        let [Assembled::Whole(unit)] = &made[..] else { panic!("{made:?}") };
        assert!(unit.data.chunks(8).all(|nal| nal[5] == 1), "bytes of the other stream");
    }

    #[test]
    fn with_too_many_streams_the_silent_one_ends_and_is_counted() {
        let start = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 7, 0, start));
        for ssrc in 2..10 {
            let now = start + Duration::from_millis(u64::from(ssrc));
            let made = picture(&mut incoming, ssrc, 1, now);
            let broken = made.iter().filter(|one| matches!(one, Assembled::Broken(_))).count();
            assert_eq!((made.len() - broken, broken), (1, usize::from(ssrc == 5)), "{ssrc}");
            if let Some(Assembled::Broken(broken)) = made.first() {
                assert_eq!((broken.timestamp, broken.reason), (7, BrokenReason::Ended));
            }
        }
        assert!(incoming.streams.len() <= MAX_STREAMS);
        assert_eq!(incoming.next_expiry(), None);
    }

    #[test]
    fn access_units_expire_in_every_stream() {
        let now = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 1, 0, now));
        incoming.push(packet(2, 1, 0, now + Duration::from_secs(1)));
        assert_eq!(incoming.next_expiry(), Some(now + PATIENCE));
        assert_eq!(incoming.expire(now + PATIENCE).len(), 1);
        assert_eq!(incoming.expire(now + 2 * PATIENCE).len(), 1);
    }

    /// A million packets of pictures that never become complete, from ten sources.
    #[test]
    fn the_size_of_incomplete_pictures_is_bounded() {
        let start = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        let payload = Bytes::from(vec![0x65; 1188]);
        let (mut max_held, mut broken) = (0, 0);
        for number in 0..1_000_000_u32 {
            let arrived = start + Duration::from_micros(number.into());
            let mut inbound = packet(1 + number / 5_000 % 10, number / 4_000, 1, arrived);
            inbound.packet.sequence = number as u16;
            inbound.packet.payload = payload.clone();
            broken += incoming.push(inbound).len();
            max_held = max_held.max(incoming.held());
        }
        assert!(max_held <= MAX_HELD && max_held > MAX_HELD / 2, "{max_held} bytes");
        assert!(broken > 100 && incoming.streams.len() <= MAX_STREAMS, "{broken}");
        incoming.expire(start + Duration::from_secs(10));
        assert_eq!(incoming.held(), 0);
    }

    #[test]
    fn a_large_stream_does_not_break_another() {
        let now = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 7, 0, now));
        for number in 0..60_000_u32 {
            let mut inbound = packet(2, number / 4_000, 1, now);
            inbound.packet.sequence = number as u16;
            inbound.packet.payload = Bytes::from_static(&[0x65; 1188]);
            incoming.push(inbound);
        }
        incoming.push(packet(1, 7, 1, now));
        let made = incoming.push(packet(1, 7, 2, now));
        assert!(matches!(made[..], [Assembled::Whole(_)]), "{made:?}");
    }
}
