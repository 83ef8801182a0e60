//! A file or a stream whose first bytes identify its format: y4m, H.264 (Annex B), JPEG, MJPEG, PNG or
//! WebP. It is read once, from start to end.

use std::{
    io::{Cursor, Read},
    path::Path,
};

use super::{
    H264Source, MjpegSource, PictureSource, Source, SourceError, SourceOptions, Y4mSource,
    content::{self, Content},
    jpeg::JpegReader,
    open_file,
    picture::{MAX_ALLOC, Notices, decode_any, decode_jpeg},
};

/// Maximum size of a picture read from a stream, in bytes.
const MAX_PICTURE: usize = 64 << 20;

/// Opens a file or anything else that has a path: a pipe, or `/dev/fd/63` from `<(command)`.
///
/// # Errors
/// It cannot be opened, or see [`open_stream`].
pub(super) fn open_path(
    path: &Path,
    options: SourceOptions,
) -> Result<Box<dyn Source>, SourceError> {
    let file = open_file(path)?;
    let regular = file.metadata().is_ok_and(|meta| meta.is_file());
    let (limit, path_of_file) =
        if regular { (MAX_ALLOC as usize, Some(path)) } else { (MAX_PICTURE, None) };
    let stream = Stream { name: path.display().to_string(), path: path_of_file, limit, options };
    stream.open(file)
}

/// Opens a stream. A single JPEG, PNG or WebP picture is repeated; several JPEGs are each returned
/// once.
///
/// # Errors
/// Reading fails, the stream is empty, or its format is not supported.
pub fn open_stream(
    reader: Box<dyn Read + Send>,
    name: &str,
    options: SourceOptions,
) -> Result<Box<dyn Source>, SourceError> {
    Stream { name: name.to_owned(), path: None, limit: MAX_PICTURE, options }.open(reader)
}

/// Properties of a stream that are known before it is read.
struct Stream<'a> {
    name: String,
    /// Its path, if other programs can open it again.
    path: Option<&'a Path>,
    /// Maximum size of a picture, in bytes.
    limit: usize,
    options: SourceOptions,
}

impl Stream<'_> {
    fn open(self, mut reader: impl Read + Send + 'static) -> Result<Box<dyn Source>, SourceError> {
        let (begin, content) = look(&mut reader).map_err(|cause| self.unreadable(cause))?;
        if begin.is_empty() {
            return Err(SourceError::Empty { name: self.name });
        }
        let first = content::shown(&begin);
        let whole = Cursor::new(begin).chain(reader);
        Ok(match content {
            Content::Y4m => Box::new(Y4mSource::new(whole, self.name, self.options)?),
            Content::H264 => Box::new(H264Source::new(whole, self.name)?),
            Content::Jpeg => return self.open_jpegs(whole),
            Content::Picture => Box::new(self.picture(whole)?),
            Content::Foreign(format) => {
                let path = self.path.map(Path::to_owned);
                return Err(SourceError::Foreign { name: self.name, format, path });
            }
            Content::Unknown => {
                return Err(SourceError::UnknownFormat { name: self.name, begin: first });
            }
        })
    }

    fn picture(&self, reader: impl Read) -> Result<PictureSource, SourceError> {
        let mut data = Vec::new();
        let read = reader.take(self.limit as u64 + 1).read_to_end(&mut data);
        read.map_err(|cause| self.unreadable(cause))?;
        if data.len() > self.limit {
            return Err(SourceError::TooLong { name: self.name.clone(), bytes: data.len() });
        }
        let frame =
            Notices::default().shown(decode_any(Cursor::new(&data[..]), &self.name)?, &self.name);
        Ok(PictureSource::from_frame(&self.name, self.options.apply(frame)?))
    }

    /// A single JPEG is repeated; several are a stream.
    fn open_jpegs(
        self,
        reader: impl Read + Send + 'static,
    ) -> Result<Box<dyn Source>, SourceError> {
        let Self { name, limit, options, .. } = self;
        let mut reader = JpegReader::new(reader, name.clone(), limit);
        let first = reader.next()?.ok_or_else(|| SourceError::Empty { name: name.clone() })?;
        match reader.next() {
            Ok(Some(second)) => {
                Ok(Box::new(MjpegSource::new(reader, [first, second], name, options)))
            }
            // Data after a photo, of any length, need not consist of pictures.
            Ok(None) | Err(SourceError::TooLong { .. }) => {
                let frame = Notices::default().shown(decode_jpeg(&first, &name)?, &name);
                Ok(Box::new(PictureSource::from_frame(&name, options.apply(frame)?)))
            }
            Err(error) => Err(error),
        }
    }

    fn unreadable(&self, cause: std::io::Error) -> SourceError {
        SourceError::Read { name: self.name.clone(), cause }
    }
}

/// Reads enough of a stream to detect its format.
fn look(reader: &mut impl Read) -> std::io::Result<(Vec<u8>, Content)> {
    let mut begin = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = match reader.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        begin.extend_from_slice(&chunk[..read]);
        if let Some(content) = Content::of(&begin, read == 0) {
            return Ok((begin, content));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one chunk per call. A read after the last chunk would block forever, so it panics.
    struct Live(Vec<Vec<u8>>);

    impl Read for Live {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let chunk = self.0.pop().expect("a read that would block");
            into[..chunk.len()].copy_from_slice(&chunk);
            Ok(chunk.len())
        }
    }

    #[test]
    fn a_live_stream_is_recognized_without_waiting() {
        for (begin, expected) in [
            (b"YUV4MPEG2 W2 H2\n".to_vec(), Content::Y4m),
            ([&[0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x67][..], &[66; 30]].concat(), Content::H264),
            ([&[0, 0, 1, 0x67][..], &[66; 30]].concat(), Content::H264),
            ([&[0xff, 0xd8, 0xff, 0xe0][..], &[0; 30]].concat(), Content::Jpeg),
        ] {
            // In one chunk, and byte by byte.
            let (read, content) = look(&mut Live(vec![begin.clone()])).unwrap();
            assert_eq!((&read, content), (&begin, expected));
            let bytes = begin.iter().rev().map(|byte| vec![*byte]).collect();
            assert_eq!(look(&mut Live(bytes)).unwrap().1, expected);
        }
    }
}
