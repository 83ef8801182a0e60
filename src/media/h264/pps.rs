//! The one field of a picture parameter set (§7.3.2.2) that is needed here.

use super::{
    NalType,
    bits::{Bits, unescape},
    nal_type,
};

/// `slice_group_map_type` of a PPS given without its start code; `None` if there are no slice groups or
/// the PPS cannot be parsed.
#[must_use]
pub fn slice_group_map_type(pps: &[u8]) -> Option<u32> {
    if nal_type(pps) != NalType::Pps {
        return None;
    }
    let rbsp = unescape(pps.get(1..)?, 32);
    let mut bits = Bits::new(&rbsp);
    bits.ue()?; // pic_parameter_set_id
    bits.ue()?; // seq_parameter_set_id
    bits.skip(2)?; // entropy_coding_mode_flag, bottom_field_pic_order_in_frame_present_flag
    let slice_groups = bits.ue()?.checked_add(1)?;
    if slice_groups == 1 { None } else { bits.ue() }
}

#[cfg(test)]
mod tests {
    use super::{super::bits::BitWriter, *};

    #[test]
    fn the_type_of_slice_groups_is_read() {
        let pps = |groups: u32, kind: u32| {
            let mut pps = BitWriter::after(&[0x68], 8);
            pps.ue(0);
            pps.ue(0);
            pps.write(0, 2);
            pps.ue(groups - 1);
            if groups > 1 {
                pps.ue(kind);
            }
            pps.write(0xff, 8);
            pps.finish()
        };
        assert_eq!(slice_group_map_type(&pps(1, 0)), None);
        assert_eq!(slice_group_map_type(&pps(2, 0)), Some(0));
        assert_eq!(slice_group_map_type(&pps(3, 6)), Some(6));
        assert_eq!(slice_group_map_type(&[0x67, 0xff]), None);
        assert_eq!(slice_group_map_type(&[0x68]), None);
    }
}
