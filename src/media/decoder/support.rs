//! What `OpenH264` decodes, judged by the parameter sets: what it does not, it calls broken, or takes
//! without ever giving a picture.

use super::DecodeError;
use crate::media::h264::{
    Demand, Format, NalType, nal_type, nal_units, slice_group_map_type, sps_demand, sps_format,
};

/// Most pixels of a picture that is decoded: 4096x2304, level 5.2 of H.264.
pub const MAX_PIXELS: u64 = 4096 * 2304;

/// Macroblocks of that.
pub(super) const MAX_MACROBLOCKS: u64 = MAX_PIXELS / 256;

/// Most macroblocks of all reference pictures: `MaxDpbMbs` of level 5.2 (ITU-T H.264 table A-1). `OpenH264`
/// allocates as many pictures as an SPS names, whatever its level allows.
const MAX_REFERENCES: u64 = 184_320;

/// Whether the pictures of an access unit (Annex B) can be decoded, as far as its parameter sets say.
///
/// # Errors
/// They cannot: why.
pub fn check(access_unit: &[u8]) -> Result<(), DecodeError> {
    nal_units(access_unit).try_for_each(check_nal)
}

/// Refuses a parameter set of pictures that take too much memory or are of a kind that `OpenH264` does
/// not decode, before the decoder reads it.
pub(super) fn check_nal(nal: &[u8]) -> Result<(), DecodeError> {
    match nal_type(nal) {
        NalType::Sps => check_sps(nal),
        NalType::Pps => check_pps(nal),
        _ => Ok(()),
    }
}

fn check_sps(sps: &[u8]) -> Result<(), DecodeError> {
    let invalid = DecodeError::ParameterSet { bytes: sps.len() };
    let (Some(format), Some(demand)) = (sps_format(sps), sps_demand(sps)) else {
        return Err(invalid);
    };
    if let Some((what, details)) = unsupported(format) {
        return Err(DecodeError::Unsupported { what, details });
    }
    let Demand { macroblocks, references } = demand;
    if macroblocks > MAX_MACROBLOCKS {
        return Err(DecodeError::TooLarge { macroblocks });
    }
    if macroblocks * u64::from(references) > MAX_REFERENCES {
        return Err(DecodeError::TooManyReferences { references, macroblocks });
    }
    Ok(())
}

/// What of a format `OpenH264` does not decode, and the details (openh264-sys2 0.9.9,
/// `codec/decoder/core/src/au_parser.cpp` lines 930 to 1125).
fn unsupported(format: Format) -> Option<(String, String)> {
    let profile = || format!("{} profile", format.profile_name());
    if !matches!(format.profile, 66 | 77 | 83 | 86 | 88 | 100) {
        return Some((format.profile_name(), format.to_string()));
    }
    if format.interlaced {
        return Some(("interlaced video".to_owned(), profile()));
    }
    if format.chroma > 1 || format.bits > 8 {
        return Some((format.to_string(), profile()));
    }
    let known = matches!(format.level, 9..=13 | 20..=22 | 30..=32 | 40..=42 | 50..=52);
    (!known).then(|| (format!("level {}", format.level_name()), profile()))
}

/// Slice groups are decoded with map types 0 and 1 (the same file, line 1381).
fn check_pps(pps: &[u8]) -> Result<(), DecodeError> {
    match slice_group_map_type(pps) {
        Some(kind @ 2..) => Err(DecodeError::Unsupported {
            what: "flexible macroblock ordering".to_owned(),
            details: format!("slice groups of type {kind}"),
        }),
        _ => Ok(()),
    }
}
