//! One JPEG or PNG picture, given again and again.

use std::{
    io::{BufRead, BufReader, Cursor, Read, Seek},
    path::Path,
    time::SystemTime,
};

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::{Captured, Source, SourceError, SourceOptions, spec::open_file};
use crate::media::frame::Frame;

/// Largest side of a picture that is decoded, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Most memory one picture may take while it is decoded: 16 times a 12-megapixel photo.
const MAX_ALLOC: u64 = 640 << 20;

/// The same picture every time, stamped anew.
#[derive(Debug)]
pub struct PictureSource {
    name: String,
    frame: Frame,
}

impl PictureSource {
    /// Reads the picture of a file.
    ///
    /// # Errors
    /// It cannot be opened or decoded.
    pub fn open(path: &Path, options: SourceOptions) -> Result<Self, SourceError> {
        let frame = options.apply(read_picture(path)?)?;
        Ok(Self { name: path.display().to_string(), frame })
    }

    /// A picture that is decoded already.
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

/// Reads a JPEG or PNG file, upright as its Exif orientation says.
///
/// # Errors
/// It cannot be opened or decoded, or is absurdly large.
pub fn read_picture(path: &Path) -> Result<Frame, SourceError> {
    let file = open_file(path)?;
    let regular = file.metadata().is_ok_and(|meta| meta.is_file());
    if !regular {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    decode(BufReader::new(file), &path.display().to_string())
}

/// Decodes a JPEG or PNG picture held in memory.
pub(super) fn decode_picture(data: &[u8], name: &str) -> Result<Frame, SourceError> {
    decode(Cursor::new(data), name)
}

fn decode(data: impl BufRead + Seek, name: &str) -> Result<Frame, SourceError> {
    let captured_at = SystemTime::now();
    let wrong = |cause: &dyn std::fmt::Display| SourceError::Picture {
        name: name.to_owned(),
        cause: cause.to_string(),
    };
    let mut data = data;
    if is_cut_off(&mut data).map_err(|e| wrong(&e))? {
        return Err(wrong(&"the JPEG is cut off: it has no end-of-image marker"));
    }
    let picture = decode_upright(data).map_err(|e| wrong(&e))?;
    let (width, height) = (picture.width(), picture.height());
    let rgb = picture.into_rgb8();
    Frame::from_rgb8(width, height, &rgb, captured_at).map_err(|e| wrong(&e))
}

/// Whether it is a JPEG (ITU-T T.81) that stops before its end: the decoder would paint the rest grey.
/// Inside the coded picture, FF D9 can only be the end.
fn is_cut_off(data: &mut (impl BufRead + Seek)) -> std::io::Result<bool> {
    let mut start = [0; 2];
    data.rewind()?;
    let read = data.read(&mut start)?;
    let mut bytes = Vec::new();
    if start[..read] == [0xff, 0xd8] {
        data.take(MAX_ALLOC).read_to_end(&mut bytes)?;
    }
    data.rewind()?;
    let scan = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]);
    let end = bytes.windows(2).rposition(|pair| pair == [0xff, 0xd9]);
    Ok(scan.is_some_and(|scan| end.is_none_or(|end| end < scan)))
}

fn decode_upright(data: impl BufRead + Seek) -> image::ImageResult<DynamicImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    let mut reader = ImageReader::new(data).with_guessed_format()?;
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}
