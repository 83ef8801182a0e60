//! The few fields of slice headers that are needed here (§7.3.3).

use super::{
    NalType,
    bits::{BitWriter, Bits, unescape},
    nal_type, nal_units,
    sps::Sps,
};

/// Number of bytes that contain all header fields read here.
const HEADER: usize = 64;

/// `idr_pic_id` of the first IDR slice of an access unit that contains its SPS. Two consecutive IDR
/// pictures must differ in it (§7.4.3).
#[must_use]
pub fn idr_pic_id(annex_b: &[u8]) -> Option<u32> {
    let sps = Sps::read(nal_units(annex_b).find(|nal| nal_type(nal) == NalType::Sps)?)?;
    let slice = nal_units(annex_b).find(|nal| nal_type(nal) == NalType::Idr)?;
    let rbsp = unescape(slice.get(1..)?, HEADER);
    let mut bits = Bits::new(&rbsp);
    skip_to_idr_pic_id(&sps, &mut bits)?;
    bits.ue()
}

/// The same IDR slice with another `idr_pic_id`; SPS and slice are given without start codes. Works only
/// with CAVLC: CABAC's slice data is byte-aligned and cannot be shifted by bits.
#[must_use]
pub fn with_idr_pic_id(sps: &[u8], slice: &[u8], id: u32) -> Option<Vec<u8>> {
    let sps = Sps::read(sps)?;
    let (header, payload) = slice.split_first()?;
    let rbsp = unescape(payload, usize::MAX);
    let mut bits = Bits::new(&rbsp);
    skip_to_idr_pic_id(&sps, &mut bits)?;
    let begin = bits.at;
    bits.ue()?;
    // The last set bit is the stop bit of §7.3.2.11.
    let last = rbsp.iter().rposition(|byte| *byte != 0)?;
    let end = last * 8 + 8 - rbsp[last].trailing_zeros() as usize;
    let mut writer = BitWriter::after(&[*header], slice.len() + 16);
    writer.copy(&rbsp, 0, begin);
    writer.ue(id);
    writer.copy(&rbsp, bits.at.min(end), end);
    Some(writer.finish())
}

/// First field of a slice header; 0 in the first slice of a picture.
pub(super) fn first_mb_in_slice(slice: &[u8]) -> Option<u32> {
    let rbsp = unescape(slice.get(1..)?, 8);
    Bits::new(&rbsp).ue()
}

/// Whether an access unit is a picture with only intra slices (`slice_type` 2 and 7, §7.4.3), whether
/// IDR or not.
#[must_use]
pub fn is_intra(annex_b: &[u8]) -> bool {
    let mut slices = nal_units(annex_b).filter(|nal| nal_type(nal).is_slice()).peekable();
    slices.peek().is_some() && slices.all(|slice| matches!(slice_type(slice), Some(2 | 7)))
}

fn slice_type(slice: &[u8]) -> Option<u32> {
    let rbsp = unescape(slice.get(1..)?, 16);
    let mut bits = Bits::new(&rbsp);
    bits.ue()?; // first_mb_in_slice
    bits.ue()
}

fn skip_to_idr_pic_id(sps: &Sps, bits: &mut Bits<'_>) -> Option<()> {
    bits.ue()?; // first_mb_in_slice
    bits.ue()?; // slice_type
    bits.ue()?; // pic_parameter_set_id
    if sps.separate_colour_planes {
        bits.skip(2)?;
    }
    bits.skip(sps.frame_num_bits)?;
    if !sps.frame_mbs_only && bits.bit()? == 1 {
        bits.skip(1)?; // bottom_field_flag
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::h264::append_nal;

    /// An SPS of 1280x720, baseline, with 4 bits of `frame_num`.
    fn sps() -> Vec<u8> {
        let mut sps = BitWriter::after(&[0x67, 66, 0xe0, 0x1f], 16);
        for code in [0, 0, 2, 1] {
            sps.ue(code);
        }
        sps.write(0, 1);
        sps.ue(79);
        sps.ue(44);
        sps.write(0b1_1001, 5);
        sps.finish()
    }

    /// An IDR slice with this `idr_pic_id` and any slice data.
    fn slice(first: u32, id: u32, data: &[u8]) -> Vec<u8> {
        let mut slice = BitWriter::after(&[0x65], data.len() + 16);
        for code in [first, 7, 0] {
            slice.ue(code);
        }
        slice.write(0, 4);
        slice.ue(id);
        slice.copy(data, 0, data.len() * 8);
        slice.write(1, 1);
        slice.finish()
    }

    #[test]
    fn a_picture_is_intra_when_all_its_slices_are() {
        let unit = |kinds: &[u32]| {
            let mut unit = Vec::new();
            for (first, kind) in kinds.iter().enumerate() {
                let mut slice = BitWriter::after(&[0x41], 8);
                slice.ue(first as u32);
                slice.ue(*kind);
                slice.write(0xff, 8);
                append_nal(&mut unit, &slice.finish());
            }
            unit
        };
        assert!(is_intra(&unit(&[7])) && is_intra(&unit(&[2, 7])));
        assert!(!is_intra(&unit(&[7, 5])) && !is_intra(&unit(&[0])) && !is_intra(&unit(&[])));
    }

    proptest! {
        #[test]
        fn only_the_id_changes(first in 0u32..3600, before in 0u32..70_000, after in 0u32..70_000, data in proptest::collection::vec(prop_oneof![4 => Just(0u8), 1 => 0u8..5, 1 => any::<u8>()], 0..200)) {
            let original = slice(first, before, &data);
            let changed = with_idr_pic_id(&sps(), &original, after).unwrap();
            prop_assert_eq!(&changed, &slice(first, after, &data));
            let mut unit = Vec::new();
            append_nal(&mut unit, &sps());
            append_nal(&mut unit, &changed);
            prop_assert_eq!(idr_pic_id(&unit), Some(after));
            // The change does not create a start code.
            prop_assert_eq!(nal_units(&unit).count(), 2);
        }

        #[test]
        fn no_input_panics(mut sps in proptest::collection::vec(any::<u8>(), 0..40), slice in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..60), id in any::<u32>()) {
            let _ = with_idr_pic_id(&sps, &slice, id >> 1);
            sps.insert(0, 0x67);
            let _ = with_idr_pic_id(&sps, &slice, id >> 1);
            let _ = with_idr_pic_id(&super::tests::sps(), &slice, id >> 1);
        }
    }
}
