//! Access units and NAL units in Annex B byte streams (ITU-T H.264 §7.3.1, §7.4.1, Annex B).

mod bits;
mod format;
mod pps;
mod slice;
mod split;
mod sps;

use std::time::SystemTime;

use bytes::Bytes;

pub use format::Format;
pub use pps::slice_group_map_type;
pub use slice::{idr_pic_id, is_intra, with_idr_pic_id};
pub use split::AccessUnitSplitter;
pub use sps::{
    Crop, Demand, profile_level_id, sps_colour, sps_demand, sps_dimensions, sps_format,
    without_cropping,
};

/// The start code that this crate writes.
pub const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// One encoded picture with its size and capture time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessUnit {
    /// The NAL units in Annex B format with 4-byte start codes.
    pub data: Bytes,
    /// Width of the picture in pixels, after cropping.
    pub width: u32,
    /// Height of the picture in pixels, after cropping.
    pub height: u32,
    /// When the picture was captured.
    pub captured_at: SystemTime,
}

/// `nal_unit_type` (table 7-1); only types that this crate uses are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NalType {
    /// Slice of a picture that is not IDR (1), or a data partition (2 to 4).
    NonIdr,
    /// Slice of an IDR picture (5).
    Idr,
    /// Supplemental enhancement information (6).
    Sei,
    /// Sequence parameter set (7).
    Sps,
    /// Picture parameter set (8).
    Pps,
    /// Access unit delimiter (9).
    Aud,
    /// Any other type, by its number.
    Other(u8),
}

impl NalType {
    /// Whether the NAL unit carries a part of a picture (VCL, types 1 to 5).
    #[must_use]
    pub fn is_slice(self) -> bool {
        matches!(self, Self::NonIdr | Self::Idr)
    }
}

/// Type of a NAL unit given without its start code; an empty one is `Other(0)`.
#[must_use]
pub fn nal_type(nal: &[u8]) -> NalType {
    match nal.first().map_or(0, |header| header & 0x1f) {
        1..=4 => NalType::NonIdr,
        5 => NalType::Idr,
        6 => NalType::Sei,
        7 => NalType::Sps,
        8 => NalType::Pps,
        9 => NalType::Aud,
        other => NalType::Other(other),
    }
}

/// The NAL units of an Annex B byte stream, without start codes and trailing zero bytes. Bytes before
/// the first start code and empty NAL units are skipped.
pub fn nal_units(annex_b: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut next = find_start_code(annex_b, 0);
    std::iter::from_fn(move || {
        loop {
            let begin = next? + 3;
            next = find_start_code(annex_b, begin);
            let nal = trim_zeros(&annex_b[begin..next.unwrap_or(annex_b.len())]);
            if !nal.is_empty() {
                return Some(nal);
            }
        }
    })
}

/// Whether an access unit contains a slice of an IDR picture.
#[must_use]
pub fn is_keyframe(annex_b: &[u8]) -> bool {
    let mut next = find_start_code(annex_b, 0);
    while let Some(at) = next {
        // The type is enough; there is no need to find the end of the slice, 100 KB further on.
        if nal_type(&annex_b[at + 3..]) == NalType::Idr {
            return true;
        }
        next = find_start_code(annex_b, at + 3);
    }
    false
}

/// The same NAL units with a 4-byte start code in front of each.
#[must_use]
pub fn normalize(annex_b: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(annex_b.len() + 16);
    for nal in nal_units(annex_b) {
        append_nal(&mut out, nal);
    }
    out.into()
}

/// Appends a NAL unit with its start code.
pub fn append_nal(annex_b: &mut Vec<u8>, nal: &[u8]) {
    annex_b.extend_from_slice(&START_CODE);
    annex_b.extend_from_slice(nal);
}

/// Width and height of the picture of an access unit, from its first SPS.
#[must_use]
pub fn dimensions(annex_b: &[u8]) -> Option<(u32, u32)> {
    nal_units(annex_b).find(|nal| nal_type(nal) == NalType::Sps).and_then(sps_dimensions)
}

/// Index of the next `00 00 01` at or after `from`.
fn find_start_code(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(&[a, b, c]) = data.get(at..at + 3).and_then(|three| three.first_chunk()) {
        match (a, b, c) {
            (0, 0, 1) => return Some(at),
            // No start code can begin at a byte if the second byte after it is larger than 1.
            (_, _, 2..) => at += 3,
            _ => at += 1,
        }
    }
    None
}

fn trim_zeros(nal: &[u8]) -> &[u8] {
    let end = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &nal[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_start_codes_are_found_and_trailing_zeros_removed() {
        let stream = [9, 0, 0, 0, 1, 0x67, 1, 0, 0, 0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 3, 0, 0];
        let nals: Vec<&[u8]> = nal_units(&stream).collect();
        assert_eq!(nals, [&[0x67, 1][..], &[0x68, 2], &[0x65, 3]]);
        assert!(is_keyframe(&stream));
        assert_eq!(
            normalize(&stream)[..],
            [0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 0, 1, 0x65, 3]
        );
        assert_eq!(nal_units(&[1, 2, 3]).count(), 0);
        assert_eq!(nal_units(&[0, 0, 1]).count(), 0);
    }

    proptest! {
        #[test]
        fn no_input_panics(data in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x65), any::<u8>()], 0..400)) {
            let again = normalize(&data);
            let before: Vec<&[u8]> = nal_units(&data).collect();
            let after: Vec<&[u8]> = nal_units(&again).collect();
            prop_assert_eq!(before, after);
            let idr = nal_units(&data).any(|nal| nal_type(nal) == NalType::Idr);
            prop_assert_eq!(is_keyframe(&data), idr);
            let _ = (dimensions(&data), idr_pic_id(&data), sps_dimensions(&data));
            let _ = (profile_level_id(&data), sps_format(&data), without_cropping(&data));
            let _ = (slice_group_map_type(&data), is_intra(&data));
        }

        #[test]
        fn nal_units_survive_a_round_trip(nals in proptest::collection::vec(proptest::collection::vec(2u8.., 1..40), 0..8)) {
            let mut stream = Vec::new();
            for (i, nal) in nals.iter().enumerate() {
                stream.extend_from_slice(if i % 2 == 0 { &START_CODE } else { &START_CODE[1..] });
                stream.extend_from_slice(nal);
            }
            let found: Vec<Vec<u8>> = nal_units(&stream).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(found, nals);
        }
    }
}
