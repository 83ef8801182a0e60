//! The decoder: turns access units into frames (`OpenH264`).
//!
//! A decoder that has read a damaged picture may reject the intact ones that follow, so it is
//! recreated after every result that is not a frame. The parameter sets are kept for the new decoder.

mod support;

use std::{borrow::Cow, time::SystemTime};

use openh264::{decoder::Decoder as OpenH264Decoder, formats::YUVSource};

use self::support::{MAX_MACROBLOCKS, check_nal};
pub use self::support::{MAX_PIXELS, check};
use super::{
    colour::Colour,
    frame::{Frame, FrameError},
    h264::{
        Crop, NalType, append_nal, nal_type, nal_units, sps_colour, sps_format, without_cropping,
    },
};

/// Maximum size in bytes of the stored parameter sets while PPSs arrive without an SPS.
const MAX_PARAMETER_SETS: usize = 4096;

/// Why an access unit was not decoded to a frame.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// `OpenH264` could not be started.
    #[error("cannot start the H.264 decoder: {0}")]
    Start(#[source] openh264::Error),
    /// There is nothing to decode.
    #[error("the access unit of {bytes} bytes contains no slice")]
    NoSlice {
        /// Size of the access unit.
        bytes: usize,
    },
    /// A picture that refers to other pictures arrived, but decoding must start with a keyframe.
    #[error("the access unit of {bytes} bytes is not a keyframe, but decoding must start with one")]
    NeedKeyframe {
        /// Size of the access unit.
        bytes: usize,
    },
    /// The picture is larger than [`MAX_PIXELS`].
    #[error(
        "the picture has {macroblocks} macroblocks; the maximum is {MAX_MACROBLOCKS} (4096x2304 pixels)"
    )]
    TooLarge {
        /// Number of macroblocks according to the SPS.
        macroblocks: u64,
    },
    /// The stream needs more memory for reference pictures than any level allows.
    #[error(
        "{references} reference pictures of {macroblocks} macroblocks are more than any level up to 5.2 allows"
    )]
    TooManyReferences {
        /// Number of reference pictures according to the SPS.
        references: u32,
        /// Number of macroblocks of each.
        macroblocks: u64,
    },
    /// A kind of H.264 that `OpenH264` does not support.
    #[error("{what} is not supported by OpenH264 ({details})")]
    Unsupported {
        /// Profile or feature.
        what: String,
        /// Sample format, or profile.
        details: String,
    },
    /// The SPS cannot be parsed.
    #[error("the sequence parameter set of {bytes} bytes is not valid")]
    ParameterSet {
        /// Size of the SPS.
        bytes: usize,
    },
    /// `OpenH264` rejected the access unit.
    #[error("cannot decode the access unit of {bytes} bytes: {cause}")]
    Broken {
        /// Size of the access unit.
        bytes: usize,
        /// The error from `OpenH264`.
        #[source]
        cause: openh264::Error,
    },
    /// `OpenH264` accepted the access unit, but returned no picture.
    #[error("the decoder returned no picture for the access unit of {bytes} bytes")]
    NoPicture {
        /// Size of the access unit.
        bytes: usize,
    },
    /// The decoded picture is not a valid frame.
    #[error("the decoded picture is not usable: {0}")]
    Frame(#[from] FrameError),
}

impl DecodeError {
    /// Whether the error applies to the whole stream, so that another keyframe does not help.
    #[must_use]
    pub fn is_of_stream(&self) -> bool {
        matches!(
            self,
            Self::Unsupported { .. } | Self::TooLarge { .. } | Self::TooManyReferences { .. }
        )
    }
}

/// Decodes access units: either keyframes only or a continuous stream without reordering.
pub struct Decoder {
    inner: OpenH264Decoder,
    /// The latest SPS and PPS in Annex B format, for an IDR picture that arrives without them.
    parameter_sets: Vec<u8>,
    /// Colors according to the latest SPS.
    colour: Colour,
    /// The cropping according to the latest SPS that is done here instead of in the decoder.
    crop: Option<Crop>,
    /// Nothing has been decoded since the decoder was created.
    fresh: bool,
}

impl Decoder {
    /// Creates a decoder that waits for a keyframe.
    ///
    /// # Errors
    /// `OpenH264` cannot be started.
    pub fn new() -> Result<Self, DecodeError> {
        let inner = OpenH264Decoder::new().map_err(DecodeError::Start)?;
        let (parameter_sets, colour) = (Vec::new(), Colour::UNSPECIFIED);
        Ok(Self { inner, parameter_sets, colour, crop: None, fresh: true })
    }

    /// Decodes one access unit (Annex B). The frame's `captured_at` is the time of the call.
    ///
    /// # Errors
    /// No frame was decoded; decoding may work again at the next keyframe.
    pub fn decode(&mut self, access_unit: &[u8]) -> Result<Frame, DecodeError> {
        let bytes = access_unit.len();
        let seen = Contents::of(access_unit)?;
        if seen.sps {
            self.parameter_sets.clone_from(&seen.parameter_sets);
            (self.colour, self.crop) = (seen.colour, seen.crop);
        } else if self.parameter_sets.len() < MAX_PARAMETER_SETS {
            self.parameter_sets.extend_from_slice(&seen.parameter_sets);
        }
        if !seen.slice {
            return Err(DecodeError::NoSlice { bytes });
        }
        if self.fresh && !seen.idr {
            return Err(DecodeError::NeedKeyframe { bytes });
        }
        let rewritten = seen.rewritten.then(|| rewritten(access_unit));
        let mut access_unit = Cow::Borrowed(rewritten.as_deref().unwrap_or(access_unit));
        if self.fresh && !seen.sps {
            access_unit = Cow::Owned([&self.parameter_sets, &access_unit[..]].concat());
        }
        let result = decode_one(&mut self.inner, &access_unit, bytes, self.crop);
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
    crop: Option<Crop>,
) -> Result<Frame, DecodeError> {
    let picture = decoder
        .decode(annex_b)
        .map_err(|cause| DecodeError::Broken { bytes, cause })?
        .ok_or(DecodeError::NoPicture { bytes })?;
    let (width, height) = picture.dimensions();
    let size = (width as u32, height as u32);
    let (sy, su, sv) = picture.strides();
    let (mut size, mut luma) = (size, picture.y());
    let fits = |crop: &Crop| crop.left + crop.width <= size.0 && crop.top + crop.height <= size.1;
    if let Some(crop) = crop.filter(fits) {
        size = (crop.width, crop.height);
        luma = &luma[crop.top as usize * sy + crop.left as usize..];
    }
    // Pictures cropped here are monochrome: the chroma is uniform and needs no offset.
    let planes = [(luma, sy), (picture.u(), su), (picture.v(), sv)];
    Ok(Frame::from_planes(size, planes, SystemTime::now())?)
}

/// A monochrome SPS without its cropping, which is done here instead: `OpenH264` counts the cropping
/// in units of chroma samples, which such pictures do not have, and removes twice as much
/// (openh264-sys2 0.9.9, `codec/decoder/core/src/decoder_core.cpp` lines 75, 76 and 220).
fn uncropped(sps: &[u8]) -> Option<(Vec<u8>, Crop)> {
    let monochrome = sps_format(sps).is_some_and(|format| format.chroma == 0);
    monochrome.then(|| without_cropping(sps)).flatten()
}

// Independent facts, not one state.
#[allow(clippy::struct_excessive_bools)]
struct Contents {
    slice: bool,
    idr: bool,
    sps: bool,
    /// Whether there are NAL units that must be removed or rewritten for the decoder.
    rewritten: bool,
    colour: Colour,
    crop: Option<Crop>,
    parameter_sets: Vec<u8>,
}

impl Contents {
    fn of(access_unit: &[u8]) -> Result<Self, DecodeError> {
        let mut seen = Self {
            slice: false,
            idr: false,
            sps: false,
            rewritten: false,
            colour: Colour::UNSPECIFIED,
            crop: None,
            parameter_sets: Vec::new(),
        };
        for nal in nal_units(access_unit) {
            match nal_type(nal) {
                NalType::Idr => (seen.slice, seen.idr) = (true, true),
                NalType::NonIdr => seen.slice = true,
                NalType::Sps => {
                    check_nal(nal)?;
                    seen.sps = true;
                    seen.colour = sps_colour(nal);
                    let (whole, crop) = uncropped(nal).unzip();
                    seen.rewritten |= crop.is_some();
                    seen.crop = crop;
                    append_nal(&mut seen.parameter_sets, whole.as_deref().unwrap_or(nal));
                }
                NalType::Pps => {
                    check_nal(nal)?;
                    append_nal(&mut seen.parameter_sets, nal);
                }
                NalType::Other(_) => seen.rewritten = true,
                NalType::Sei | NalType::Aud => {}
            }
        }
        Ok(seen)
    }
}

/// The checked NAL units, rewritten for the decoder. `OpenH264` also reads subset SPSs and
/// slices of scalable streams (types 14, 15 and 20), which peers do not send here.
fn rewritten(access_unit: &[u8]) -> Vec<u8> {
    let mut rewritten = Vec::with_capacity(access_unit.len());
    for nal in nal_units(access_unit) {
        match nal_type(nal) {
            NalType::Other(_) => {}
            NalType::Sps => {
                let whole = uncropped(nal).map(|(sps, _)| sps);
                append_nal(&mut rewritten, whole.as_deref().unwrap_or(nal));
            }
            _ => append_nal(&mut rewritten, nal),
        }
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_units_without_a_decodable_picture_are_distinguished() {
        let mut decoder = Decoder::new().unwrap();
        assert!(matches!(decoder.decode(&[]), Err(DecodeError::NoSlice { bytes: 0 })));
        assert!(matches!(
            decoder.decode(&[0, 0, 1, 0x41, 0x80]),
            Err(DecodeError::NeedKeyframe { bytes: 5 })
        ));
        assert!(decoder.decode(&[0, 0, 1, 0x65, 0x80, 1, 2]).is_err());
    }
}
