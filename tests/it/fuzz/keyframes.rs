//! Keyframes as packets: with any order, duplicates and losses, the result is the same bytes or nothing;
//! changed bytes are never verified.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use orion_peer::{
    media::{
        encoder::{EncoderConfig, KeyframeEncoder},
        h264::{AccessUnit, START_CODE},
        sink::{FrameRecord, PictureFormat},
        source::PatternSource,
    },
    peer::{
        assembler::{Assembled, Assembler, RtpPacket},
        packetizer::packetize,
    },
    session::store::{Received, Store, StoreEvent},
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::mutate::fuzz;
use crate::run::sha256;

const PATIENCE: Duration = Duration::from_millis(500);

fn encoded() -> AccessUnit {
    let frame = PatternSource::new(320, 240).unwrap().render(1, std::time::SystemTime::now());
    let config = EncoderConfig { max_bytes: 12_000, ..EncoderConfig::default() };
    KeyframeEncoder::new(config).unwrap().encode(&frame).unwrap().access_unit
}

/// NAL units of these sizes: parameter sets first, then slices, without start codes inside.
fn unit(sizes: &[usize], seed: u8) -> Bytes {
    let mut data = BytesMut::new();
    for (index, size) in sizes.iter().enumerate() {
        data.put_slice(&START_CODE);
        data.put_u8([0x67, 0x68, 0x65][index.min(2)]);
        data.extend((1..*size).map(|i| (i as u8).wrapping_mul(seed) | 1));
    }
    data.freeze()
}

fn packets(unit: &Bytes, first: u16, timestamp: u32, arrived: Instant) -> Vec<RtpPacket> {
    let payloads = packetize(unit);
    let last = payloads.len() - 1;
    let packet = |(index, payload): (usize, Bytes)| RtpPacket {
        sequence: first.wrapping_add(index as u16),
        timestamp,
        marker: index == last,
        payload,
        arrived,
        retransmitted: false,
    };
    payloads.into_iter().enumerate().map(packet).collect()
}

fn whole(made: Vec<Assembled>) -> impl Iterator<Item = Bytes> {
    made.into_iter().filter_map(|one| match one {
        Assembled::Whole(unit) => Some(unit.data),
        Assembled::Broken(_) => None,
    })
}

/// Parses input as packets, each consisting of its distance to the previous packet, timestamp, flags,
/// length and payload.
fn read_packets(input: &[u8], now: Instant) -> Vec<RtpPacket> {
    let (mut rest, mut sequence, mut packets) = (input, 100u16, Vec::new());
    while let [step, timestamp, flags, length, tail @ ..] = rest {
        sequence = sequence.wrapping_add_signed(i16::from(*step as i8));
        // For long packets, the length counts units of four bytes.
        let length = (usize::from(*length) * if flags & 2 == 0 { 1 } else { 4 }).min(tail.len());
        packets.push(RtpPacket {
            sequence,
            timestamp: u32::from(*timestamp).wrapping_mul(3_000),
            marker: flags & 1 != 0,
            payload: Bytes::copy_from_slice(&tail[..length]),
            arrived: now,
            retransmitted: flags & 4 != 0,
        });
        rest = &tail[length..];
    }
    packets
}

#[test]
fn packets_from_any_sender() {
    let clean = unit(&[18, 8, 5_000], 7);
    fuzz("rtp", &[], |input| {
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        let sent = read_packets(input, now);
        let most: usize = sent.iter().map(|packet| packet.payload.len() + 4).sum();
        let mut got = 0;
        for packet in sent {
            for unit in whole(assembler.push(packet)) {
                assert!(unit.starts_with(&START_CODE));
                got += unit.len();
            }
        }
        // An aggregation unit of one byte becomes five.
        assert!(got <= most * 3, "{got} bytes of {most}");
        let later = now + Duration::from_mins(1);
        assembler.expire(later);
        assert_eq!(assembler.next_expiry(), None);
        // The next keyframe of the same stream, with higher sequence numbers and timestamp.
        let next: Vec<_> = packets(&clean, 20_000, 2_000_000, later)
            .into_iter()
            .flat_map(|packet| whole(assembler.push(packet)).collect::<Vec<_>>())
            .collect();
        assert!(next == [clean.clone()], "the clean keyframe is not complete");
    });
}

proptest! {
    #[test]
    fn complete_keyframes_are_those_that_were_sent(
        seed in any::<u64>(),
        loss in 0.0..0.3f64,
        slices in proptest::collection::vec(1usize..4_000, 1..6),
        count in 1usize..6,
    ) {
        let mut random = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        let mut assembler = Assembler::new(PATIENCE);
        let mut first: u16 = random.random();
        let mut timestamp: u32 = random.random();
        let mut got = Vec::new();
        let mut expected = Vec::new();
        for number in 0..count {
            let sizes = [&[18, 8], &slices[..]].concat();
            let unit = unit(&sizes, 3 + 2 * number as u8);
            let mut sent = packets(&unit, first, timestamp, now);
            first = first.wrapping_add(sent.len() as u16);
            timestamp = timestamp.wrapping_add(315_000);
            let before = sent.len();
            sent.retain(|_| random.random::<f64>() >= loss);
            if sent.len() == before {
                expected.push(unit.clone());
            }
            sent.extend(sent.clone());
            sent.shuffle(&mut random);
            for packet in sent {
                got.extend(whole(assembler.push(packet)));
            }
        }
        // Not `prop_assert_eq`: it would print every byte.
        prop_assert!(got == expected, "{} complete, expected {}", got.len(), expected.len());
    }
}

/// One packet of a keyframe is changed in transit. Only a keyframe with the sent bytes is stored as
/// verified.
#[tokio::test]
async fn a_changed_keyframe_is_never_verified() {
    let sent = encoded();
    let announced = sha256(&sent.data);
    let mut random = StdRng::seed_from_u64(5);
    let dir = tempfile::tempdir().unwrap();
    let mut store = Store::start(dir.path(), &[PictureFormat::H264]).await.unwrap();
    let (mut changed, mut intact) = (0, 0);
    for round in 0..60u16 {
        let now = Instant::now();
        let mut packets = packets(&sent.data, round * 64, u32::from(round) * 315_000, now);
        if round % 4 > 0 {
            let nth = random.random_range(0..packets.len());
            let mut payload = packets[nth].payload.to_vec();
            for _ in 0..round % 4 {
                let at = random.random_range(0..payload.len());
                payload[at] ^= 1 << random.random_range(0..8);
            }
            packets[nth].payload = payload.into();
        }
        let mut assembler = Assembler::new(PATIENCE);
        for data in packets.into_iter().flat_map(|packet| whole(assembler.push(packet))) {
            if !orion_peer::media::h264::is_keyframe(&data) {
                continue;
            }
            let record = FrameRecord::default();
            let same = data == sent.data;
            let (announced_sha256, completed) = (Some(announced.clone()), now);
            let received =
                Received { data, record, announced_sha256, completed, after_loss: false };
            store.put(received).await;
            let Some(StoreEvent::Written(stored)) = store.next().await else { panic!() };
            assert_eq!(stored.written.record.verified, Some(same));
            if same { intact += 1 } else { changed += 1 }
        }
    }
    assert!(intact >= 15 && changed > 0, "{intact} intact, {changed} changed");
}
