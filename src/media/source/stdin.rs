//! A stream whose format is told by its first bytes: y4m, H.264 (Annex B), JPEG, MJPEG or PNG.

use std::io::{Cursor, Read};

use super::{
    H264Source, MjpegSource, PictureSource, Source, SourceError, SourceOptions, Y4mSource,
    picture::decode_picture,
};

/// Largest picture read from a stream, in bytes.
const MAX_PICTURE: u64 = 64 << 20;

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
            whole.take(MAX_PICTURE).read_to_end(&mut data).map_err(read_error)?;
            let frame = options.apply(decode_picture(&data, name)?)?;
            Ok(Box::new(PictureSource::from_frame(name, frame)))
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
    let mut pictures = MjpegSource::new(reader, name.to_owned(), options);
    let empty = || SourceError::Empty { name: name.to_owned() };
    let first = pictures.next_picture()?.ok_or_else(empty)?;
    let frame = options.apply(decode_picture(&first, name)?)?;
    let Some(second) = pictures.next_picture()? else {
        return Ok(Box::new(PictureSource::from_frame(name, frame)));
    };
    let replay = Cursor::new([first, second].concat()).chain(pictures.into_rest());
    Ok(Box::new(MjpegSource::new(replay, name.to_owned(), options)))
}
