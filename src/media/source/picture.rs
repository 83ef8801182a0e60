//! One JPEG, PNG or WebP picture, repeated.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader, Cursor, Seek},
    path::Path,
    time::SystemTime,
};

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::{
    Captured, Source, SourceError,
    content::{self, Content},
    jpeg::{JpegReader, prepare},
    open_file,
    srgb::into_srgb,
};
use crate::media::frame::Frame;

/// Maximum side of a picture that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Maximum memory for decoding one picture: 16 times a 12-megapixel photo.
pub(super) const MAX_ALLOC: u64 = 640 << 20;

/// The same picture every time, with a new timestamp.
#[derive(Debug)]
pub struct PictureSource {
    name: String,
    frame: Frame,
}

impl PictureSource {
    /// Creates a source from an already decoded picture.
    pub(super) fn from_frame(name: &str, frame: Frame) -> Self {
        Self { name: name.to_owned(), frame }
    }
}

impl Source for PictureSource {
    fn describe(&self) -> String {
        format!("picture {} at {}x{}", self.name, self.frame.width, self.frame.height)
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        let frame = Frame { captured_at: SystemTime::now(), ..self.frame.clone() };
        Ok(Some(Captured::Frame(frame)))
    }
}

/// A decoded picture and its notices.
pub(super) struct Decoded {
    pub(super) frame: Frame,
    /// Problems that do not prevent its use, and changes that were made to it.
    notices: Vec<&'static str>,
}

/// Logs the notices about pictures as warnings, each kind once.
#[derive(Debug, Default)]
pub(super) struct Notices(HashSet<&'static str>);

impl Notices {
    /// Logs the notices that are new and returns the frame.
    pub(super) fn shown(&mut self, decoded: Decoded, name: &str) -> Frame {
        for notice in decoded.notices {
            if self.0.insert(notice) {
                tracing::warn!("picture {name}: {notice}");
            }
        }
        decoded.frame
    }
}

/// Reads a JPEG, PNG or WebP file and rotates it upright according to its Exif orientation. Notices about
/// it are logged as warnings.
///
/// # Errors
/// It cannot be opened or decoded, or is too large.
pub fn read_picture(path: &Path) -> Result<Frame, SourceError> {
    let decoded = read_decoded(path)?;
    Ok(Notices::default().shown(decoded, &path.display().to_string()))
}

/// Like [`read_picture`], without logging the notices.
pub(super) fn read_decoded(path: &Path) -> Result<Decoded, SourceError> {
    let file = open_file(path)?;
    let regular = file.metadata().is_ok_and(|meta| meta.is_file());
    if !regular {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let (mut data, name) = (BufReader::new(file), path.display().to_string());
    let begin = data.fill_buf().map_err(|cause| SourceError::Read { name: name.clone(), cause })?;
    match Content::of(begin, true) {
        _ if begin.is_empty() => Err(SourceError::Empty { name }),
        Some(Content::Jpeg) => {
            let picture = JpegReader::new(data, name.clone(), MAX_ALLOC as usize).next()?;
            let picture = picture.ok_or_else(|| wrong(&name, &"it is not a valid JPEG"))?;
            decode_jpeg(&picture, &name)
        }
        Some(Content::Picture) => decode_any(data, &name),
        Some(Content::Foreign(format)) => {
            Err(SourceError::Foreign { name, format, path: Some(path.to_owned()) })
        }
        Some(Content::Y4m | Content::H264) => {
            Err(wrong(&name, &"it is a video stream, not a picture"))
        }
        _ => Err(SourceError::UnknownFormat { name, begin: content::shown(begin) }),
    }
}

/// Whether a file contains a picture that can be read or converted, according to its first bytes.
pub(super) fn is_picture(path: &Path) -> bool {
    let begin = open_file(path).and_then(|file| {
        let mut data = BufReader::new(file);
        let begin = data.fill_buf().map(|begin| Content::of(begin, true));
        begin.map_err(|cause| SourceError::Open { path: path.to_owned(), cause })
    });
    match begin {
        Ok(Some(Content::Jpeg | Content::Picture)) => true,
        Ok(Some(Content::Foreign(format))) => format.is_picture(),
        _ => false,
    }
}

/// Decodes one complete JPEG.
pub(super) fn decode_jpeg(data: &[u8], name: &str) -> Result<Decoded, SourceError> {
    let prepared = prepare(data).map_err(|cause| wrong(name, &cause))?;
    let mut decoded = decode_any(Cursor::new(&prepared.data[..]), name)?;
    decoded.notices.extend(prepared.notice);
    Ok(decoded)
}

/// Decodes a PNG or WebP picture, or a JPEG that was prepared for the decoder.
pub(super) fn decode_any(data: impl BufRead + Seek, name: &str) -> Result<Decoded, SourceError> {
    let captured_at = SystemTime::now();
    let (picture, profile) = decode_upright(data).map_err(|e| wrong(name, &e))?;
    let (rgb, notices) = into_srgb(picture, profile.as_deref());
    let frame = Frame::from_rgb8(rgb.width(), rgb.height(), &rgb, captured_at);
    Ok(Decoded { frame: frame.map_err(|e| wrong(name, &e))?, notices })
}

fn wrong(name: &str, cause: &dyn std::fmt::Display) -> SourceError {
    SourceError::Picture { name: name.to_owned(), cause: cause.to_string() }
}

/// Decodes the picture upright; also returns its ICC profile.
fn decode_upright(
    data: impl BufRead + Seek,
) -> image::ImageResult<(DynamicImage, Option<Vec<u8>>)> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader = ImageReader::new(data).with_guessed_format()?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    // A profile that cannot be read is ignored.
    let profile = decoder.icc_profile().unwrap_or_default();
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok((picture, profile))
}
