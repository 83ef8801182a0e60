//! The file formats of keyframes.

use std::{fmt, io::Cursor, str::FromStr};

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

use crate::media::frame::{Frame, FrameError};

/// JPEG quality, 1 to 100.
const JPEG_QUALITY: u8 = 90;

/// A format of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PictureFormat {
    /// The access unit as received, in Annex B format.
    H264,
    /// JPEG.
    Jpg,
    /// PNG.
    Png,
    /// One raw frame with its header (YUV4MPEG2): the decoded pixels, lossless if their matrix is
    /// BT.601.
    Y4m,
}

/// A format that is not one of `h264`, `jpg`, `png` and `y4m`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown picture format `{0}`; supported: h264, jpg, png and y4m")]
pub struct UnknownFormat(pub String);

impl PictureFormat {
    /// All formats.
    pub const ALL: [Self; 4] = [Self::H264, Self::Jpg, Self::Png, Self::Y4m];

    /// The file name extension.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::Jpg => "jpg",
            Self::Png => "png",
            Self::Y4m => "y4m",
        }
    }

    pub(super) fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }
}

impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

impl FromStr for PictureFormat {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "jpeg" => Ok(Self::Jpg),
            other => Self::of_extension(other).ok_or_else(|| UnknownFormat(other.to_owned())),
        }
    }
}

/// The contents of a picture file; not for `H264`, whose file is the access unit.
pub(super) fn encode(format: PictureFormat, frame: &Frame) -> Result<Vec<u8>, String> {
    let mut out = Cursor::new(Vec::new());
    match format {
        PictureFormat::H264 => {
            return Err("an access unit cannot be created from pixels".to_owned());
        }
        PictureFormat::Y4m => return y4m(frame).map_err(|e| e.to_string()),
        PictureFormat::Jpg => {
            write(JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY), frame)?;
        }
        PictureFormat::Png => write(PngEncoder::new(&mut out), frame)?,
    }
    Ok(out.into_inner())
}

/// Writes the pixels as RGB, with an ICC profile unless they are sRGB.
fn write(mut encoder: impl ImageEncoder, frame: &Frame) -> Result<(), String> {
    let rgb = frame.to_rgb8().map_err(|e| e.to_string())?;
    if let Some(profile) = frame.colour.icc_profile() {
        encoder.set_icc_profile(profile).map_err(|e| e.to_string())?;
    }
    encoder
        .write_image(&rgb, frame.width, frame.height, ExtendedColorType::Rgb8)
        .map_err(|e| e.to_string())
}

/// The y4m header specifies the range but not the matrix, so the matrix must be BT.601.
fn y4m(frame: &Frame) -> Result<Vec<u8>, FrameError> {
    let frame = frame.to_bt601()?;
    let header = format!(
        "YUV4MPEG2 W{} H{} F1:1 Ip A1:1 C420jpeg XCOLORRANGE={}\nFRAME\n",
        frame.width,
        frame.height,
        if frame.colour.full_range { "FULL" } else { "LIMITED" }
    );
    Ok([header.as_bytes(), &frame.y, &frame.u, &frame.v].concat())
}
