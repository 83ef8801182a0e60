//! The RTP streams of the other side, each with an assembler of its own.
//!
//! There is one as a rule. A sender that restarts takes a new SSRC (RFC 3550 §8), and packets of a
//! stranger must not harm the stream that is there. Sans-IO, as the assembler is.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    assembler::{Assembled, Assembler},
    tap::InboundRtp,
};

/// Streams kept at a time; one more ends the one that was silent longest.
const MAX_STREAMS: usize = 4;

/// Bytes that all incomplete access units take together, at most: one of the largest that a sender may make.
const MAX_HELD: usize = 24 << 20;

struct Stream {
    assembler: Assembler,
    last_arrival: Instant,
}

/// The streams, by SSRC.
pub(super) struct Incoming {
    patience: Duration,
    bare: bool,
    repaired: bool,
    streams: HashMap<u32, Stream>,
}

impl Incoming {
    /// `patience` is that of [`Assembler::new`].
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, bare: false, repaired: true, streams: HashMap::new() }
    }

    /// As [`Assembler::set_bare`], for the streams that are there and those that come.
    pub(super) fn set_bare(&mut self, bare: bool) {
        self.bare = bare;
        self.streams.values_mut().for_each(|stream| stream.assembler.set_bare(bare));
    }

    /// As [`Assembler::set_repaired`], for the streams that are there and those that come.
    pub(super) fn set_repaired(&mut self, repaired: bool) {
        self.repaired = repaired;
        self.streams.values_mut().for_each(|stream| stream.assembler.set_repaired(repaired));
    }

    /// Takes one packet. What a stream that ends for it had begun comes out as broken.
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
            Stream { assembler, last_arrival: arrived }
        });
        stream.last_arrival = arrived;
        made.extend(stream.assembler.push(inbound.packet));
        made.extend(self.shed());
        made
    }

    /// Gives up access units until no more is held than may be: of the stream that holds the most, so that one
    /// stream cannot take the place of another.
    fn shed(&mut self) -> Vec<Assembled> {
        let mut made = Vec::new();
        while self.held() > MAX_HELD {
            let largest = self.streams.values_mut().max_by_key(|stream| stream.assembler.held());
            let Some(given_up) = largest.and_then(|stream| stream.assembler.shed()) else { break };
            made.push(given_up);
        }
        made
    }

    /// Bytes that incomplete access units take.
    pub(super) fn held(&self) -> usize {
        self.streams.values().map(|stream| stream.assembler.held()).sum()
    }

    /// Gives up what has waited too long at `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Assembled> {
        self.streams.values_mut().flat_map(|stream| stream.assembler.expire(now)).collect()
    }

    /// When [`Incoming::expire`] wants to be called next.
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
        tap::Queued,
    };

    const PATIENCE: Duration = Duration::from_secs(4);

    /// A packet of a picture of three: SPS, then two more.
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
    fn a_stranger_does_not_touch_the_stream_that_is_there() {
        let now = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 1, 0, now));
        // The same sequence numbers and timestamps, other bytes.
        assert_eq!(picture(&mut incoming, 2, 1, now).len(), 1);
        incoming.push(packet(1, 1, 1, now));
        let made = incoming.push(packet(1, 1, 2, now));
        let [Assembled::Whole(unit)] = &made[..] else { panic!("{made:?}") };
        assert!(unit.data.chunks(8).all(|nal| nal[5] == 1), "bytes of the other stream");
    }

    #[test]
    fn of_too_many_streams_the_silent_one_ends_and_is_counted() {
        let begun = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 7, 0, begun));
        for ssrc in 2..10 {
            let now = begun + Duration::from_millis(u64::from(ssrc));
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
    fn what_waits_too_long_is_given_up_in_every_stream() {
        let now = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        incoming.push(packet(1, 1, 0, now));
        incoming.push(packet(2, 1, 0, now + Duration::from_secs(1)));
        assert_eq!(incoming.next_expiry(), Some(now + PATIENCE));
        assert_eq!(incoming.expire(now + PATIENCE).len(), 1);
        assert_eq!(incoming.expire(now + 2 * PATIENCE).len(), 1);
    }

    /// A million packets of pictures that never become whole, of ten sources.
    #[test]
    fn incomplete_pictures_take_a_bounded_number_of_bytes() {
        let begun = Instant::now();
        let mut incoming = Incoming::new(PATIENCE);
        let payload = Bytes::from(vec![0x65; 1188]);
        let (mut most, mut broken) = (0, 0);
        for number in 0..1_000_000_u32 {
            let arrived = begun + Duration::from_micros(number.into());
            let mut inbound = packet(1 + number / 5_000 % 10, number / 4_000, 1, arrived);
            inbound.packet.sequence = number as u16;
            inbound.packet.payload = payload.clone();
            broken += incoming.push(inbound).len();
            most = most.max(incoming.held());
        }
        assert!(most <= MAX_HELD && most > MAX_HELD / 2, "{most} bytes");
        assert!(broken > 100 && incoming.streams.len() <= MAX_STREAMS, "{broken}");
        incoming.expire(begun + Duration::from_secs(10));
        assert_eq!(incoming.held(), 0);
    }

    #[test]
    fn a_stream_that_holds_much_does_not_break_another() {
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
