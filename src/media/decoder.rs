//! The decoder: access unit in, frame out (`OpenH264`).
//!
//! A decoder that has seen a damaged picture may refuse the clean ones that follow, so it is made anew
//! after every result that is not a frame; the parameter sets are remembered for it.

use std::time::SystemTime;

use openh264::{decoder::Decoder as OpenH264Decoder, formats::YUVSource};

use super::{
    colour::Colour,
    frame::{Frame, FrameError},
    h264::{Demand, NalType, append_nal, nal_type, nal_units, sps_colour, sps_demand},
};

/// Most pixels of a picture that is decoded: 4096x2304, level 5.2 of H.264.
pub const MAX_PIXELS: u64 = 4096 * 2304;

/// Macroblocks of that.
const MAX_MACROBLOCKS: u64 = MAX_PIXELS / 256;

/// Most macroblocks of all reference pictures: `MaxDpbMbs` of level 5.2 (ITU-T H.264 table A-1). `OpenH264`
/// allocates as many pictures as an SPS names, whatever its level allows.
const MAX_REFERENCES: u64 = 184_320;

/// PPSs that come without an SPS are remembered up to this many bytes.
const MAX_PARAMETER_SETS: usize = 4096;

/// Why an access unit gave no frame.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// `OpenH264` could not be started.
    #[error("cannot start the H.264 decoder: {0}")]
    Start(#[source] openh264::Error),
    /// Nothing to decode.
    #[error("access unit of {bytes} bytes holds no slice")]
    NoSlice {
        /// Size of the access unit.
        bytes: usize,
    },
    /// A picture that refers to others came while a keyframe is needed.
    #[error("access unit of {bytes} bytes is no keyframe, and one is needed to start from")]
    NeedKeyframe {
        /// Size of the access unit.
        bytes: usize,
    },
    /// The picture is larger than [`MAX_PIXELS`].
    #[error(
        "picture of {macroblocks} macroblocks is larger than is decoded here ({MAX_MACROBLOCKS}, 4096x2304 pixels)"
    )]
    TooLarge {
        /// Macroblocks by the SPS.
        macroblocks: u64,
    },
    /// More memory for reference pictures than any level has.
    #[error(
        "{references} reference pictures of {macroblocks} macroblocks are more than any level up to 5.2 allows"
    )]
    TooManyReferences {
        /// Reference pictures by the SPS.
        references: u32,
        /// Macroblocks of each.
        macroblocks: u64,
    },
    /// An SPS that cannot be read.
    #[error("the sequence parameter set of {bytes} bytes is not valid")]
    ParameterSet {
        /// Size of the SPS.
        bytes: usize,
    },
    /// `OpenH264` called the access unit broken.
    #[error("cannot decode access unit of {bytes} bytes: {cause}")]
    Broken {
        /// Size of the access unit.
        bytes: usize,
        /// What `OpenH264` said.
        #[source]
        cause: openh264::Error,
    },
    /// `OpenH264` took the access unit, but gave no picture.
    #[error("access unit of {bytes} bytes gave no picture")]
    NoPicture {
        /// Size of the access unit.
        bytes: usize,
    },
    /// The decoded picture is no valid frame.
    #[error("decoded picture is unusable: {0}")]
    Frame(#[from] FrameError),
}

/// Decodes access units, keyframes alone or a continuous stream without reordering.
pub struct Decoder {
    inner: OpenH264Decoder,
    /// SPS and PPS seen last, as Annex B: for an IDR that comes without.
    parameter_sets: Vec<u8>,
    /// As the SPS seen last has it.
    colour: Colour,
    /// Nothing was decoded since the decoder was made.
    fresh: bool,
}

impl Decoder {
    /// A decoder that waits for a keyframe.
    ///
    /// # Errors
    /// `OpenH264` cannot be started.
    pub fn new() -> Result<Self, DecodeError> {
        let inner = OpenH264Decoder::new().map_err(DecodeError::Start)?;
        Ok(Self { inner, parameter_sets: Vec::new(), colour: Colour::UNSPECIFIED, fresh: true })
    }

    /// Decodes one access unit (Annex B). The frame's `captured_at` is the time of the call.
    ///
    /// # Errors
    /// No frame came out; the next keyframe may work again.
    pub fn decode(&mut self, access_unit: &[u8]) -> Result<Frame, DecodeError> {
        let bytes = access_unit.len();
        let seen = Contents::of(access_unit)?;
        if seen.sps {
            self.parameter_sets.clone_from(&seen.parameter_sets);
            self.colour = seen.colour;
        } else if self.parameter_sets.len() < MAX_PARAMETER_SETS {
            self.parameter_sets.extend_from_slice(&seen.parameter_sets);
        }
        if !seen.slice {
            return Err(DecodeError::NoSlice { bytes });
        }
        if self.fresh && !seen.idr {
            return Err(DecodeError::NeedKeyframe { bytes });
        }
        let known = seen.others.then(|| known(access_unit));
        let access_unit = known.as_deref().unwrap_or(access_unit);
        let result = if self.fresh && !seen.sps {
            let whole = [&self.parameter_sets, access_unit].concat();
            decode_one(&mut self.inner, &whole, bytes)
        } else {
            decode_one(&mut self.inner, access_unit, bytes)
        };
        self.fresh = false;
        if result.is_err() {
            self.inner = OpenH264Decoder::new().map_err(DecodeError::Start)?;
            self.fresh = true;
        }
        Ok(Frame { colour: self.colour, ..result? })
    }
}

fn decode_one(
    decoder: &mut OpenH264Decoder,
    annex_b: &[u8],
    bytes: usize,
) -> Result<Frame, DecodeError> {
    let picture = decoder
        .decode(annex_b)
        .map_err(|cause| DecodeError::Broken { bytes, cause })?
        .ok_or(DecodeError::NoPicture { bytes })?;
    let (width, height) = picture.dimensions();
    let (sy, su, sv) = picture.strides();
    let planes = [(picture.y(), sy), (picture.u(), su), (picture.v(), sv)];
    Ok(Frame::from_planes((width as u32, height as u32), planes, SystemTime::now())?)
}

// Facts of their own, not one state.
#[allow(clippy::struct_excessive_bools)]
struct Contents {
    slice: bool,
    idr: bool,
    sps: bool,
    /// NAL units of types that are not known here.
    others: bool,
    colour: Colour,
    parameter_sets: Vec<u8>,
}

impl Contents {
    fn of(access_unit: &[u8]) -> Result<Self, DecodeError> {
        let mut seen = Self {
            slice: false,
            idr: false,
            sps: false,
            others: false,
            colour: Colour::UNSPECIFIED,
            parameter_sets: Vec::new(),
        };
        for nal in nal_units(access_unit) {
            match nal_type(nal) {
                NalType::Idr => (seen.slice, seen.idr) = (true, true),
                NalType::NonIdr => seen.slice = true,
                NalType::Sps => {
                    check(nal)?;
                    seen.sps = true;
                    seen.colour = sps_colour(nal);
                    append_nal(&mut seen.parameter_sets, nal);
                }
                NalType::Pps => append_nal(&mut seen.parameter_sets, nal),
                NalType::Other(_) => seen.others = true,
                NalType::Sei | NalType::Aud => {}
            }
        }
        Ok(seen)
    }
}

/// Refuses an SPS whose pictures take too much memory, before the decoder reads it.
fn check(sps: &[u8]) -> Result<(), DecodeError> {
    let bytes = sps.len();
    let Demand { macroblocks, references } =
        sps_demand(sps).ok_or(DecodeError::ParameterSet { bytes })?;
    if macroblocks > MAX_MACROBLOCKS {
        return Err(DecodeError::TooLarge { macroblocks });
    }
    if macroblocks * u64::from(references) > MAX_REFERENCES {
        return Err(DecodeError::TooManyReferences { references, macroblocks });
    }
    Ok(())
}

/// The NAL units that were looked at. `OpenH264` also reads subset SPSs and slices of scalable streams
/// (types 14, 15 and 20), which nobody sends here.
fn known(access_unit: &[u8]) -> Vec<u8> {
    let mut known = Vec::with_capacity(access_unit.len());
    nal_units(access_unit)
        .filter(|nal| !matches!(nal_type(nal), NalType::Other(_)))
        .for_each(|nal| append_nal(&mut known, nal));
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_picture_is_told_apart() {
        let mut decoder = Decoder::new().unwrap();
        assert!(matches!(decoder.decode(&[]), Err(DecodeError::NoSlice { bytes: 0 })));
        assert!(matches!(
            decoder.decode(&[0, 0, 1, 0x41, 0x80]),
            Err(DecodeError::NeedKeyframe { bytes: 5 })
        ));
        assert!(decoder.decode(&[0, 0, 1, 0x65, 0x80, 1, 2]).is_err());
    }
}
