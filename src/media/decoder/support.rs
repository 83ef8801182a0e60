//! Determines from the parameter sets whether `OpenH264` can decode a stream. `OpenH264` reports
//! unsupported streams as broken, or accepts them without ever returning a picture.

use super::DecodeError;
use crate::media::h264::{
    Demand, Format, NalType, nal_type, nal_units, slice_group_map_type, sps_demand, sps_format,
};

/// Maximum number of pixels of a picture to decode: 4096x2304, level 5.2 of H.264.
pub const MAX_PIXELS: u64 = 4096 * 2304;

/// The same in macroblocks.
pub(super) const MAX_MACROBLOCKS: u64 = MAX_PIXELS / 256;

/// Maximum number of macroblocks of all reference pictures: `MaxDpbMbs` of level 5.2 (ITU-T H.264 table
/// `OpenH264` allocates as many pictures as an SPS requests, even more than its level allows.
const MAX_REFERENCES: u64 = 184_320;

/// Checks by its parameter sets whether the pictures of an access unit (Annex B) can be decoded.
///
/// # Errors
/// They cannot be decoded, for the returned reason.
pub fn check(access_unit: &[u8]) -> Result<(), DecodeError> {
    nal_units(access_unit).try_for_each(check_nal)
}

/// Rejects a parameter set before the decoder reads it, if its pictures take too much memory or are of a
/// kind that `OpenH264` does not support.
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

/// The property of a format that `OpenH264` does not support, and the details (openh264-sys2 0.9.9,
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

/// Slice groups are supported only with map types 0 and 1 (the same file, line 1381).
fn check_pps(pps: &[u8]) -> Result<(), DecodeError> {
    match slice_group_map_type(pps) {
        Some(kind @ 2..) => Err(DecodeError::Unsupported {
            what: "flexible macroblock ordering".to_owned(),
            details: format!("slice groups of type {kind}"),
        }),
        _ => Ok(()),
    }
}
