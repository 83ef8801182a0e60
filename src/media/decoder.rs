//! The decoder: access unit in, frame out (`OpenH264`).
//!
//! A decoder that has seen a damaged picture may refuse the clean ones that follow, so it is made anew
//! after every result that is not a frame; the parameter sets are remembered for it.

use std::time::SystemTime;

use openh264::{decoder::Decoder as OpenH264Decoder, formats::YUVSource};

use super::{
    colour::Colour,
    frame::{Frame, FrameError},
    h264::{NalType, append_nal, nal_type, nal_units, sps_colour, sps_dimensions},
};

/// Most pixels of a picture that is decoded: 4096x2304, level 5.2 of H.264.
pub const MAX_PIXELS: u64 = 4096 * 2304;

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
        "picture of {width}x{height} pixels is larger than is decoded here ({MAX_PIXELS} pixels)"
    )]
    TooLarge {
        /// Width by the SPS.
        width: u32,
        /// Height by the SPS.
        height: u32,
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
        Ok(Self { inner, parameter_sets: Vec::new(), colour: Colour::default(), fresh: true })
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

#[derive(Default)]
struct Contents {
    slice: bool,
    idr: bool,
    sps: bool,
    colour: Colour,
    parameter_sets: Vec<u8>,
}

impl Contents {
    fn of(access_unit: &[u8]) -> Result<Self, DecodeError> {
        let mut seen = Self::default();
        for nal in nal_units(access_unit) {
            match nal_type(nal) {
                NalType::Idr => (seen.slice, seen.idr) = (true, true),
                NalType::NonIdr => seen.slice = true,
                NalType::Sps => {
                    if let Some((width, height)) = sps_dimensions(nal)
                        && u64::from(width) * u64::from(height) > MAX_PIXELS
                    {
                        return Err(DecodeError::TooLarge { width, height });
                    }
                    seen.sps = true;
                    seen.colour = sps_colour(nal);
                    append_nal(&mut seen.parameter_sets, nal);
                }
                NalType::Pps => append_nal(&mut seen.parameter_sets, nal),
                _ => {}
            }
        }
        Ok(seen)
    }
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
