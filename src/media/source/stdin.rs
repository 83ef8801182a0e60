//! A stream whose format is told by its first bytes: y4m, H.264 (Annex B), JPEG, MJPEG or PNG.

use std::io::{Cursor, Read};

use super::{
    H264Source, MjpegSource, PictureSource, Source, SourceError, SourceOptions, Y4mSource,
    jpeg::JpegReader,
    picture::{Notices, decode_jpeg, decode_picture},
};

/// Largest picture read from a stream, in bytes.
const MAX_PICTURE: usize = 64 << 20;

/// Opens a stream. One JPEG or PNG picture is given again and again; several JPEGs one after the other,
/// each once.
///
/// # Errors
/// Reading fails, the stream is empty, or its format is unknown.
pub fn open_stream(
    mut reader: Box<dyn Read + Send>,
    name: &str,
    options: SourceOptions,
) -> Result<Box<dyn Source>, SourceError> {
    let read_error = |cause| SourceError::Read { name: name.to_owned(), cause };
    let mut begin = Vec::new();
    reader.by_ref().take(16).read_to_end(&mut begin).map_err(read_error)?;
    let whole = Cursor::new(begin.clone()).chain(reader);
    match &begin[..] {
        [] => Err(SourceError::Empty { name: name.to_owned() }),
        [b'Y', b'U', b'V', b'4', ..] => Ok(Box::new(Y4mSource::new(whole, name.into(), options)?)),
        [0, 0, 1, ..] | [0, 0, 0, 1, ..] => Ok(Box::new(H264Source::new(whole, name.into())?)),
        [0xff, 0xd8, 0xff, ..] => open_jpegs(whole, name, options),
        [0x89, b'P', b'N', b'G', ..] => {
            let mut data = Vec::new();
            whole.take(MAX_PICTURE as u64).read_to_end(&mut data).map_err(read_error)?;
            let frame = Notices::default().shown(decode_picture(&data, name)?, name);
            Ok(Box::new(PictureSource::from_frame(name, options.apply(frame)?)))
        }
        _ => {
            let begin =
                begin.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            Err(SourceError::UnknownFormat { name: name.to_owned(), begin })
        }
    }
}

/// One JPEG repeats, several are a stream.
fn open_jpegs(
    reader: impl Read + Send + 'static,
    name: &str,
    options: SourceOptions,
) -> Result<Box<dyn Source>, SourceError> {
    let mut reader = JpegReader::new(reader, name.to_owned(), MAX_PICTURE);
    let empty = || SourceError::Empty { name: name.to_owned() };
    let first = reader.next()?.ok_or_else(empty)?;
    match reader.next() {
        Ok(Some(second)) => {
            Ok(Box::new(MjpegSource::new(reader, [first, second], name.to_owned(), options)))
        }
        // What comes behind a photo need not be pictures, however long it is.
        Ok(None) | Err(SourceError::TooLong { .. }) => {
            let frame = Notices::default().shown(decode_jpeg(&first, name)?, name);
            Ok(Box::new(PictureSource::from_frame(name, options.apply(frame)?)))
        }
        Err(error) => Err(error),
    }
}
