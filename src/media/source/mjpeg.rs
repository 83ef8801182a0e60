//! A stream of consecutive JPEG pictures (MJPEG), as written by `ffmpeg -f mjpeg`.

use std::{collections::VecDeque, io::Read};

use bytes::Bytes;

use super::{
    Captured, Source, SourceError, SourceOptions,
    jpeg::JpegReader,
    picture::{Notices, decode_jpeg},
};

/// The pictures of a stream, one per call; ends with the stream. A single picture is handled
/// elsewhere.
pub struct MjpegSource<R> {
    reader: JpegReader<R>,
    name: String,
    /// Pictures that were already read, but not returned yet.
    ahead: VecDeque<Bytes>,
    pictures: u64,
    notices: Notices,
    options: SourceOptions,
}

impl<R: Read> MjpegSource<R> {
    /// Creates a source of the pictures in `ahead`, followed by those from `reader`.
    pub(super) fn new(
        reader: JpegReader<R>,
        ahead: impl Into<VecDeque<Bytes>>,
        name: String,
        options: SourceOptions,
    ) -> Self {
        let (ahead, notices) = (ahead.into(), Notices::default());
        Self { reader, name, ahead, pictures: 0, notices, options }
    }
}

impl<R: Read + Send> Source for MjpegSource<R> {
    fn describe(&self) -> String {
        format!("JPEG pictures of {}", self.name)
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        let picture = match self.ahead.pop_front() {
            Some(picture) => picture,
            None => match self.reader.next()? {
                Some(picture) => picture,
                None => return Ok(None),
            },
        };
        self.pictures += 1;
        let name = format!("{} of {}", self.pictures, self.name);
        let frame = self.notices.shown(decode_jpeg(&picture, &name)?, &name);
        Ok(Some(Captured::Frame(self.options.apply(frame)?)))
    }
}
