//! Transport-wide feedback in its RTCP format (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1).

use rtc::rtcp::transport_feedbacks::transport_layer_cc::{
    PacketStatusChunk, RecvDelta, StatusChunkTypeTcc, StatusVectorChunk, SymbolSizeTypeTcc,
    SymbolTypeTcc, TransportLayerCc,
};

use crate::peer::sequence::extend;

/// Unit of the reference time, seconds.
const REFERENCE: f64 = 0.064;

/// [`REFERENCE`] in microseconds.
const REFERENCE_US: i64 = 64_000;

/// Unit of the arrival deltas, microseconds.
const DELTA_US: i64 = 250;

/// Two-bit symbols in one chunk.
const SYMBOLS: usize = 7;

/// Reads one sender's feedback messages.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// Extends the reference time: its 24 bits wrap after 12 days.
    reference: Option<u64>,
}

impl Reader {
    /// The fate of each packet in the report: its number, and when it arrived, in seconds on the receiver's
    /// clock.
    pub(super) fn read(&mut self, message: &TransportLayerCc) -> Vec<(u16, Option<f64>)> {
        let reference = extend(&mut self.reference, u64::from(message.reference_time), 24);
        let mut arrived = reference as f64 * REFERENCE;
        let mut deltas = message.recv_deltas.iter();
        let mut number = message.base_sequence_number;
        let mut reports = Vec::with_capacity(message.recv_deltas.len());
        for symbol in message.packet_chunks.iter().flat_map(symbols) {
            if reports.len() == usize::from(message.packet_status_count) {
                break;
            }
            let arrival = match symbol {
                SymbolTypeTcc::PacketReceivedSmallDelta
                | SymbolTypeTcc::PacketReceivedLargeDelta => {
                    let Some(delta) = deltas.next() else { break };
                    arrived += delta.delta as f64 / 1e6;
                    Some(arrived)
                }
                SymbolTypeTcc::PacketNotReceived | SymbolTypeTcc::PacketReceivedWithoutDelta => {
                    None
                }
            };
            reports.push((number, arrival));
            number = number.wrapping_add(1);
        }
        reports
    }
}

fn symbols(chunk: &PacketStatusChunk) -> Box<dyn Iterator<Item = SymbolTypeTcc> + '_> {
    match chunk {
        PacketStatusChunk::RunLengthChunk(run) => {
            Box::new(std::iter::repeat_n(run.packet_status_symbol, usize::from(run.run_length)))
        }
        PacketStatusChunk::StatusVectorChunk(vector) => {
            Box::new(vector.symbol_list.iter().copied())
        }
    }
}

/// Writes a message: packets from number `base` on, with their arrivals in microseconds. None if they are too
/// far apart for one message.
pub(super) fn write(base: u16, arrivals: &[Option<i64>], count: u8) -> Option<TransportLayerCc> {
    let first = arrivals.iter().flatten().next()?;
    let reference = first.div_euclid(REFERENCE_US);
    let mut reported = reference * REFERENCE_US;
    let mut recv_deltas = Vec::new();
    let mut symbols = Vec::with_capacity(arrivals.len().next_multiple_of(SYMBOLS));
    for arrival in arrivals {
        let Some(arrived) = arrival else {
            symbols.push(SymbolTypeTcc::PacketNotReceived);
            continue;
        };
        // To the nearest step, so that errors do not add up.
        let steps = (arrived - reported + DELTA_US / 2).div_euclid(DELTA_US);
        let symbol = match steps {
            0..=255 => SymbolTypeTcc::PacketReceivedSmallDelta,
            -32_768..=32_767 => SymbolTypeTcc::PacketReceivedLargeDelta,
            _ => return None,
        };
        reported += steps * DELTA_US;
        symbols.push(symbol);
        recv_deltas.push(RecvDelta { type_tcc_packet: symbol, delta: steps * DELTA_US });
    }
    symbols.resize(symbols.capacity(), SymbolTypeTcc::PacketNotReceived);
    let chunk = |symbols: &[SymbolTypeTcc]| {
        PacketStatusChunk::StatusVectorChunk(StatusVectorChunk {
            type_tcc: StatusChunkTypeTcc::StatusVectorChunk,
            symbol_size: SymbolSizeTypeTcc::TwoBit,
            symbol_list: symbols.to_vec(),
        })
    };
    Some(TransportLayerCc {
        base_sequence_number: base,
        packet_status_count: u16::try_from(arrivals.len()).ok()?,
        reference_time: (reference & 0xff_ffff) as u32,
        fb_pkt_count: count,
        packet_chunks: symbols.chunks(SYMBOLS).map(chunk).collect(),
        recv_deltas,
        ..TransportLayerCc::default()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rtc::{
        rtcp::transport_feedbacks::transport_layer_cc::RunLengthChunk,
        shared::marshal::{Marshal, Unmarshal},
    };

    use super::*;

    /// Through the wire format and back.
    fn round_trip(message: &TransportLayerCc) -> TransportLayerCc {
        let bytes = message.marshal().unwrap().freeze();
        TransportLayerCc::unmarshal(&mut bytes.clone()).unwrap()
    }

    proptest! {
        #[test]
        fn written_messages_are_read_back(
            base in any::<u16>(),
            begin in 0..1_000_000_000_i64,
            mut arrivals in prop::collection::vec(prop::option::of(-50_000..500_000_i64), 1..200),
        ) {
            arrivals[0] = arrivals[0].or(Some(0));
            let arrivals: Vec<_> =
                arrivals.into_iter().map(|one| one.map(|us| begin + 100_000 + us)).collect();
            let message = round_trip(&write(base, &arrivals, 7).unwrap());
            let read = Reader::default().read(&message);
            prop_assert_eq!(read.len(), arrivals.len());
            let first = arrivals[0].unwrap();
            let (_, read_first) = read[0];
            for (index, (number, arrival)) in read.into_iter().enumerate() {
                prop_assert_eq!(number, base.wrapping_add(index as u16));
                prop_assert_eq!(arrival.is_some(), arrivals[index].is_some());
                if let (Some(arrival), Some(arrived)) = (arrival, arrivals[index]) {
                    let error = (arrival - read_first.unwrap()) * 1e6 - (arrived - first) as f64;
                    prop_assert!(error.abs() <= DELTA_US as f64 + 1.0, "{} us", error);
                }
            }
        }
    }

    #[test]
    fn time_continues_when_the_reference_wraps() {
        let mut reader = Reader::default();
        let mut times = Vec::new();
        for turn in [0xff_fffe, 0xff_ffff, 0x100_0000, 0x100_0001_i64] {
            let message = write(0, &[Some(turn * REFERENCE_US)], 0).unwrap();
            times.push(reader.read(&round_trip(&message))[0].1.unwrap());
        }
        assert!(times.windows(2).all(|two| (two[1] - two[0] - REFERENCE).abs() < 1e-6));
    }

    #[test]
    fn runs_are_read_and_false_counts_are_not_trusted() {
        let run = |symbol, run_length| {
            PacketStatusChunk::RunLengthChunk(RunLengthChunk {
                type_tcc: StatusChunkTypeTcc::RunLengthChunk,
                packet_status_symbol: symbol,
                run_length,
            })
        };
        let small = SymbolTypeTcc::PacketReceivedSmallDelta;
        let message = TransportLayerCc {
            base_sequence_number: 65_535,
            packet_status_count: 4,
            packet_chunks: vec![run(SymbolTypeTcc::PacketNotReceived, 2), run(small, 8191)],
            recv_deltas: vec![RecvDelta { type_tcc_packet: small, delta: 1000 }; 3],
            ..TransportLayerCc::default()
        };
        let read = Reader::default().read(&message);
        let numbers: Vec<u16> = read.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [65_535, 0, 1, 2]);
        assert!(read[1].1.is_none() && read[2].1.is_some());
        let exaggerated = TransportLayerCc { packet_status_count: 60_000, ..message };
        assert_eq!(Reader::default().read(&exaggerated).len(), 5);
    }
}
