//! The formats keyframes are written in.

use std::{fmt, io::Cursor, str::FromStr};

use image::{ExtendedColorType, ImageEncoder, codecs::jpeg::JpegEncoder, codecs::png::PngEncoder};

use crate::media::frame::Frame;

/// JPEG quality, 1 to 100.
const JPEG_QUALITY: u8 = 90;

/// A format of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PictureFormat {
    /// The access unit as it came, Annex B.
    H264,
    /// JPEG.
    Jpg,
    /// PNG.
    Png,
    /// One raw frame with its header (YUV4MPEG2): the decoded pixels without any loss.
    Y4m,
}

/// A word that is not one of `h264`, `jpg`, `png`, `y4m`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown picture format `{0}`; known are h264, jpg, png and y4m")]
pub struct UnknownFormat(pub String);

impl PictureFormat {
    /// As in file names.
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
        [Self::H264, Self::Jpg, Self::Png, Self::Y4m]
            .into_iter()
            .find(|format| format.extension() == extension)
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

/// The file of a picture; `H264` has none of its own, being the access unit.
pub(super) fn encode(format: PictureFormat, frame: &Frame) -> Result<Vec<u8>, String> {
    let mut out = Cursor::new(Vec::new());
    let (width, height) = (frame.width, frame.height);
    match format {
        PictureFormat::H264 => return Err("an access unit is not made of pixels".to_owned()),
        PictureFormat::Y4m => return Ok(y4m(frame)),
        PictureFormat::Jpg => {
            let rgb = frame.to_rgb8().map_err(|e| e.to_string())?;
            JpegEncoder::new_with_quality(&mut out, JPEG_QUALITY).write_image(
                &rgb,
                width,
                height,
                ExtendedColorType::Rgb8,
            )
        }
        PictureFormat::Png => {
            let rgb = frame.to_rgb8().map_err(|e| e.to_string())?;
            PngEncoder::new(&mut out).write_image(&rgb, width, height, ExtendedColorType::Rgb8)
        }
    }
    .map_err(|e| e.to_string())?;
    Ok(out.into_inner())
}

fn y4m(frame: &Frame) -> Vec<u8> {
    let header = format!(
        "YUV4MPEG2 W{} H{} F1:1 Ip A1:1 C420jpeg XCOLORRANGE={}\nFRAME\n",
        frame.width,
        frame.height,
        if frame.colour.full_range { "FULL" } else { "LIMITED" }
    );
    [header.as_bytes(), &frame.y, &frame.u, &frame.v].concat()
}
