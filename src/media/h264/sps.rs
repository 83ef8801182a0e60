//! The few fields read from a sequence parameter set (§7.3.2.1): picture size, profile and level, colors.
//! Parsing returns `None` at the first field that is not valid.

use super::{
    NalType,
    bits::{BitWriter, Bits, unescape},
    format::Format,
    nal_type,
};
use crate::media::colour::Colour;

/// Maximum side accepted; level 6.2 allows at most 16,888.
const MAX_SIDE: u64 = 16_888;

/// `profile_idc`, constraint flags and `level_idc` as in SDP's `profile-level-id` (RFC 6184 §8.1).
#[must_use]
pub fn profile_level_id(sps: &[u8]) -> Option<u32> {
    match *sps {
        [_, profile, constraints, level, ..] if nal_type(sps) == NalType::Sps => {
            Some(u32::from_be_bytes([0, profile, constraints, level]))
        }
        _ => None,
    }
}

/// Width and height of the pictures that an SPS describes, after cropping.
#[must_use]
pub fn sps_dimensions(sps: &[u8]) -> Option<(u32, u32)> {
    Sps::read(sps).map(|sps| (sps.crop.width, sps.crop.height))
}

/// The colors of the pictures that an SPS describes (§E.1.1).
#[must_use]
pub fn sps_colour(sps: &[u8]) -> Colour {
    Sps::read(sps).map_or(Colour::UNSPECIFIED, |sps| sps.colour)
}

/// Memory needed to decode the pictures that an SPS describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Number of macroblocks of a picture as coded, before cropping.
    pub macroblocks: u64,
    /// `max_num_ref_frames`.
    pub references: u32,
}

/// Memory needed to decode the pictures that an SPS describes; `None` when the SPS is not valid.
#[must_use]
pub fn sps_demand(sps: &[u8]) -> Option<Demand> {
    Sps::read(sps).map(|sps| sps.demand)
}

/// Profile and sample format of the pictures that an SPS describes; `None` when the SPS is not valid.
#[must_use]
pub fn sps_format(sps: &[u8]) -> Option<Format> {
    Sps::read(sps).map(|sps| sps.format)
}

/// The part of a coded picture that is shown, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crop {
    /// Pixels removed at the left.
    pub left: u32,
    /// Pixels removed at the top.
    pub top: u32,
    /// Width of the shown part.
    pub width: u32,
    /// Height of the shown part.
    pub height: u32,
}

/// The same SPS for uncropped pictures, and the part of them to show; `None` for an SPS that does not
/// crop.
#[must_use]
pub fn without_cropping(sps: &[u8]) -> Option<(Vec<u8>, Crop)> {
    let fields = Sps::read(sps)?;
    let (begin, end) = fields.cropping?;
    let (header, payload) = sps.split_first()?;
    let rbsp = unescape(payload, usize::MAX);
    // The last set bit is the stop bit of §7.3.2.11.
    let last = rbsp.iter().rposition(|byte| *byte != 0)?;
    let stop = last * 8 + 8 - rbsp[last].trailing_zeros() as usize;
    let mut writer = BitWriter::after(&[*header], sps.len() + 4);
    writer.copy(&rbsp, 0, begin);
    writer.write(0, 1);
    writer.copy(&rbsp, end.min(stop), stop);
    Some((writer.finish(), fields.crop))
}

pub(super) struct Sps {
    crop: Crop,
    /// Range of the bits from `frame_cropping_flag` to the last offset in the RBSP, if the flag is set.
    cropping: Option<(usize, usize)>,
    demand: Demand,
    format: Format,
    pub(super) frame_num_bits: u32,
    pub(super) frame_mbs_only: bool,
    pub(super) separate_colour_planes: bool,
    colour: Colour,
}

impl Sps {
    pub(super) fn read(nal: &[u8]) -> Option<Self> {
        if nal_type(nal) != NalType::Sps {
            return None;
        }
        let rbsp = unescape(nal.get(1..)?, 1024);
        let mut bits = Bits::new(&rbsp);
        let [profile, constraints, level] = *rbsp.first_chunk()?;
        bits.skip(24)?;
        bits.ue()?; // seq_parameter_set_id
        let samples = match profile {
            44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 144 | 244 => {
                Samples::read(&mut bits)?
            }
            _ => Samples { chroma: 1, separate_planes: false, bits: 8 },
        };
        let frame_num_bits = bits.ue()?.checked_add(4).filter(|n| *n <= 16)?;
        picture_order_fields(&mut bits)?;
        let references = bits.ue()?;
        bits.skip(1)?; // gaps_in_frame_num_value_allowed_flag
        let width = (u64::from(bits.ue()?) + 1) * 16;
        let map_units = u64::from(bits.ue()?) + 1;
        let frame_mbs_only = bits.bit()? == 1;
        let height = map_units * 16 * if frame_mbs_only { 1 } else { 2 };
        if !frame_mbs_only {
            bits.skip(1)?; // mb_adaptive_frame_field_flag
        }
        bits.skip(1)?; // direct_8x8_inference_flag
        let demand = Demand { macroblocks: width / 16 * (height / 16), references };
        let begin = bits.at;
        let cropped = bits.bit()? == 1;
        let mut offsets = [0u64; 4];
        if cropped {
            for offset in &mut offsets {
                *offset = u64::from(bits.ue()?);
            }
        }
        let end = bits.at;
        let (unit_x, lines) = samples.crop_unit();
        let unit_y = lines * if frame_mbs_only { 1 } else { 2 };
        let [left, right, top, bottom] = offsets;
        let width = width.checked_sub((left + right) * unit_x)?;
        let height = height.checked_sub((top + bottom) * unit_y)?;
        let colour = vui_colour(&mut bits).unwrap_or(Colour::UNSPECIFIED);
        let fits = |side: u64| (1..=MAX_SIDE).contains(&side).then_some(side as u32);
        Some(Self {
            crop: Crop {
                left: u32::try_from(left * unit_x).ok()?,
                top: u32::try_from(top * unit_y).ok()?,
                width: fits(width)?,
                height: fits(height)?,
            },
            cropping: cropped.then_some((begin, end)),
            demand,
            format: Format {
                profile,
                level,
                constrained: constraints & 0x40 != 0,
                intra: constraints & 0x10 != 0,
                chroma: samples.chroma,
                bits: samples.bits,
                interlaced: !frame_mbs_only,
            },
            frame_num_bits,
            frame_mbs_only,
            separate_colour_planes: samples.separate_planes,
            colour,
        })
    }
}

/// The sample format, which only the High profiles specify.
struct Samples {
    /// `chroma_format_idc`.
    chroma: u32,
    /// `separate_colour_plane_flag`.
    separate_planes: bool,
    bits: u32,
}

impl Samples {
    /// Reads the fields from `chroma_format_idc` to the scaling lists.
    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let chroma = bits.ue().filter(|format| *format <= 3)?;
        let separate_planes = chroma == 3 && bits.bit()? == 1;
        let depth = |bits: &mut Bits<'_>| bits.ue().filter(|depth| *depth <= 6).map(|d| d + 8);
        let (luma_bits, chroma_bits) = (depth(bits)?, depth(bits)?);
        bits.skip(1)?; // qpprime_y_zero_transform_bypass_flag
        if bits.bit()? == 1 {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if bits.bit()? == 1 {
                    skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                }
            }
        }
        Some(Self { chroma, separate_planes, bits: luma_bits.max(chroma_bits) })
    }

    /// Pixels and lines of a cropping unit of frames (equations 7-19 to 7-22): the size of a chroma
    /// sample, or one pixel if there is no chroma or its planes are coded separately.
    fn crop_unit(&self) -> (u64, u64) {
        match self.chroma {
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        }
    }
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

fn picture_order_fields(bits: &mut Bits<'_>) -> Option<()> {
    match bits.ue()? {
        0 => {
            bits.ue()?; // log2_max_pic_order_cnt_lsb_minus4
        }
        1 => {
            bits.skip(1)?; // delta_pic_order_always_zero_flag
            bits.se()?; // offset_for_non_ref_pic
            bits.se()?; // offset_for_top_to_bottom_field
            let cycle = bits.ue().filter(|count| *count <= 255)?;
            for _ in 0..cycle {
                bits.se()?;
            }
        }
        2 => {}
        _ => return None,
    }
    Some(())
}

/// The colors in the VUI, if specified.
fn vui_colour(bits: &mut Bits<'_>) -> Option<Colour> {
    let present = |bits: &mut Bits<'_>| bits.bit().map(|bit| bit == 1);
    if !present(bits)? {
        return None;
    }
    // aspect_ratio_idc, with the ratio itself after Extended_SAR
    if present(bits)? && bits.read(8)? == 255 {
        bits.skip(32)?;
    }
    if present(bits)? {
        bits.skip(1)?; // overscan_appropriate_flag
    }
    if !present(bits)? {
        return None;
    }
    bits.skip(3)?; // video_format
    let full_range = present(bits)?;
    let mut colour = Colour { full_range, ..Colour::UNSPECIFIED };
    if present(bits)? {
        for code in [&mut colour.primaries, &mut colour.transfer, &mut colour.matrix] {
            *code = bits.read(8)? as u8;
        }
    }
    Some(colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits for the tests.
    #[derive(Default)]
    struct Writer(Vec<bool>);

    impl Writer {
        fn bits(mut self, value: u64, count: u32) -> Self {
            self.0.extend((0..count).rev().map(|i| value >> i & 1 == 1));
            self
        }

        fn ue(self, value: u64) -> Self {
            let length = 64 - (value + 1).leading_zeros();
            self.bits(0, length - 1).bits(value + 1, length)
        }

        fn nal(self, header: u8) -> Vec<u8> {
            let mut bytes = vec![header];
            let mut zeros = 0;
            for chunk in self.bits(1, 1).0.chunks(8) {
                let byte =
                    chunk.iter().enumerate().fold(0u8, |b, (i, on)| b | u8::from(*on) << (7 - i));
                if zeros >= 2 && byte <= 3 {
                    bytes.push(3);
                    zeros = 0;
                }
                zeros = if byte == 0 { zeros + 1 } else { 0 };
                bytes.push(byte);
            }
            bytes
        }
    }

    fn baseline() -> Writer {
        Writer::default().bits(66, 8).bits(0xe01f, 16).ue(0).ue(0).ue(2).ue(1).bits(0, 1)
    }

    #[test]
    fn a_baseline_sps_of_720p_is_parsed() {
        let sps = baseline().ue(79).ue(44).bits(1, 1).bits(1, 1).bits(0, 2).nal(0x67);
        assert_eq!(sps_dimensions(&sps), Some((1280, 720)));
        assert_eq!(profile_level_id(&sps), Some(0x0042_e01f));
    }

    #[test]
    fn cropping_reduces_1088_lines_to_1080() {
        let sps = baseline().ue(119).ue(67).bits(0b111, 3).ue(0).ue(0).ue(0).ue(4).bits(0, 1);
        let sps = sps.nal(0x67);
        assert_eq!(sps_dimensions(&sps), Some((1920, 1080)));
        assert_eq!(sps_demand(&sps), Some(Demand { macroblocks: 120 * 68, references: 1 }));
    }

    #[test]
    fn a_high_profile_sps_with_scaling_lists_and_interlace_is_parsed() {
        let sps = Writer::default().bits(100, 8).bits(0x0c28, 16).ue(0).ue(1).ue(0).ue(0);
        // Two lists, one ended immediately (delta -8), the others absent.
        let sps = sps.bits(0b01, 2).bits(1, 1).ue(16).bits(0, 7);
        let sps = sps.ue(5).ue(0).ue(3).ue(4).bits(0, 1);
        // 960 lines as two fields of 30 map units, cropped by 4 units of 4 lines.
        let sps = sps.ue(39).ue(29).bits(0b001, 3).bits(1, 1).ue(0).ue(1).ue(0).ue(4).bits(0, 1);
        assert_eq!(sps_dimensions(&sps.nal(0x67)), Some((638, 944)));
    }

    /// High profile of 1920x1088 with this cropping.
    fn high(chroma: u64, separate: bool, frames_only: bool, crop: [u64; 4]) -> Writer {
        let sps = Writer::default().bits(100, 8).bits(0x0028, 16).ue(0).ue(chroma);
        let sps = if chroma == 3 { sps.bits(u64::from(separate), 1) } else { sps };
        let sps = sps.ue(0).ue(0).bits(0, 2).ue(0).ue(2).ue(1).bits(0, 1);
        let sps = sps.ue(119).ue(if frames_only { 67 } else { 33 });
        let sps = if frames_only { sps.bits(1, 1) } else { sps.bits(0, 2) };
        crop.into_iter().fold(sps.bits(0b11, 2), Writer::ue).bits(0, 1)
    }

    #[test]
    fn the_cropping_unit_depends_on_the_chroma_format() {
        // Equations 7-19 to 7-22: SubWidthC and SubHeightC, 1 for ChromaArrayType 0, two lines for fields.
        for (chroma, separate, frames_only, expected) in [
            (0, false, true, (1917, 1081)),
            (1, false, true, (1914, 1074)),
            (2, false, true, (1914, 1081)),
            (3, false, true, (1917, 1081)),
            (3, true, true, (1917, 1081)),
            (0, false, false, (1917, 1074)),
            (1, false, false, (1914, 1060)),
            (2, false, false, (1914, 1074)),
            (3, true, false, (1917, 1074)),
        ] {
            let sps = high(chroma, separate, frames_only, [1, 2, 3, 4]).nal(0x67);
            let what =
                format!("chroma {chroma}, separate planes {separate}, frames only {frames_only}");
            assert_eq!(sps_dimensions(&sps), Some(expected), "{what}");
        }
    }

    #[test]
    fn cropping_can_be_removed() {
        let cropped = high(0, false, true, [1, 2, 3, 4]).nal(0x67);
        let (whole, crop) = without_cropping(&cropped).unwrap();
        assert_eq!(crop, Crop { left: 1, top: 3, width: 1917, height: 1081 });
        assert_eq!(sps_dimensions(&whole), Some((1920, 1088)));
        assert_eq!(without_cropping(&whole), None);
        // The fields after the cropping are kept: a VUI with a range.
        let sps = Writer::default().bits(66, 8).bits(0xe01f, 16).ue(0).ue(0).ue(2).ue(1).bits(0, 1);
        let sps = sps.ue(79).ue(44).bits(0b111, 3).ue(0).ue(1).ue(0).ue(2);
        let sps = sps.bits(0b1001, 4).bits(5, 3).bits(0b10, 2).nal(0x67);
        let (whole, _) = without_cropping(&sps).unwrap();
        assert!(sps_colour(&whole).full_range && sps_colour(&sps).full_range);
        assert_eq!(without_cropping(&[0x67, 66]), None);
    }

    #[test]
    fn formats_are_named() {
        let read = |profile: u64, constraints: u64, chroma: u64, depth: u64| {
            let sps = Writer::default().bits(profile, 8).bits(constraints, 8).bits(40, 8).ue(0);
            let sps = sps.ue(chroma).bits(0, u32::from(chroma == 3)).ue(depth).ue(depth).bits(0, 2);
            let sps = sps.ue(0).ue(2).ue(1).bits(0, 1).ue(19).ue(14).bits(0b1100, 4).nal(0x67);
            let format = sps_format(&sps).unwrap();
            (format.profile_name(), format.to_string())
        };
        let named = |name: &str, format: &str| (name.to_owned(), format.to_owned());
        assert_eq!(read(122, 0, 2, 2), named("High 4:2:2", "4:2:2, 10 bits"));
        assert_eq!(read(122, 0x10, 2, 2), named("High 4:2:2 Intra", "4:2:2, 10 bits"));
        assert_eq!(read(110, 0, 1, 2), named("High 10", "4:2:0, 10 bits"));
        assert_eq!(read(244, 0, 3, 0), named("High 4:4:4 Predictive", "4:4:4, 8 bits"));
        assert_eq!(read(100, 0, 0, 0), named("High", "grayscale, 8 bits"));
        let interlaced = sps_format(&high(1, false, false, [0; 4]).nal(0x67)).unwrap();
        assert_eq!(interlaced.to_string(), "4:2:0, 8 bits, interlaced");
        assert_eq!(interlaced.level_name(), "4.0");
    }

    #[test]
    fn colors_are_read_from_the_vui() {
        let size = || baseline().ue(79).ue(44).bits(0b110, 3);
        assert_eq!(sps_colour(&size().bits(0, 1).nal(0x67)), Colour::UNSPECIFIED);
        // Extended_SAR 4:3, overscan, full range, sRGB primaries and transfer, BT.709 matrix.
        let vui = size().bits(0b11, 2).bits(255, 8).bits(4, 16).bits(3, 16).bits(0b11, 2);
        let vui = vui.bits(1, 1).bits(5, 3).bits(0b11, 2).bits(1, 8).bits(13, 8).bits(1, 8);
        let expected = Colour { full_range: true, primaries: 1, transfer: 13, matrix: 1 };
        assert_eq!(sps_colour(&vui.nal(0x67)), expected);
        // Range only.
        let range = size().bits(0b1001, 4).bits(5, 3).bits(0b10, 2);
        assert_eq!(
            sps_colour(&range.nal(0x67)),
            Colour { full_range: true, ..Colour::UNSPECIFIED }
        );
        assert_eq!(sps_dimensions(&size().bits(0b11, 2).nal(0x67)), Some((1280, 720)));
    }

    #[test]
    fn an_sps_that_is_not_valid_is_rejected() {
        let crop = baseline().ue(0).ue(0).bits(0b111, 3).ue(90).ue(90).ue(0).ue(0).bits(0, 1);
        assert_eq!(sps_dimensions(&crop.nal(0x67)), None);
        let huge = baseline().ue(u64::from(u32::MAX) - 1).ue(44).bits(0b110, 3).nal(0x67);
        assert_eq!(sps_dimensions(&huge), None);
        assert_eq!(sps_dimensions(&[0x67, 66]), None);
        assert_eq!(sps_dimensions(&[0x68, 66, 0, 30]), None);
    }
}
