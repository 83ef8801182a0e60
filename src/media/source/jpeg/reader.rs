//! Reads the pictures from a stream or a file of consecutive JPEGs.
//!
//! Between two pictures there may be zeros, line ends and repeated end markers. Any other data was appended
//! to a photo, such as its video: a picture in that data counts only if it has the size of the previous
//! one, like the next frame of a damaged stream. Pictures that belong to the one before them are skipped.

use std::io::Read;

use bytes::{Buf, Bytes, BytesMut};

use super::{
    dimensions,
    end::Walk,
    marker,
    siblings::{Listed, relations},
};
use crate::media::source::SourceError;

/// Bytes per read.
const CHUNK: usize = 1 << 16;

/// Reads pictures from a stream.
pub(in crate::media::source) struct JpegReader<R> {
    reader: R,
    name: String,
    /// Maximum number of bytes held for one picture, and skipped between two pictures.
    limit: usize,
    pending: BytesMut,
    /// Offset of `pending` in the stream, in bytes.
    position: u64,
    ended: bool,
    last: Option<Last>,
}

/// The last picture that was returned.
struct Last {
    begin: u64,
    size: Option<(usize, usize)>,
    listed: Vec<Listed>,
}

impl<R: Read> JpegReader<R> {
    /// Creates a reader of pictures of at most `limit` bytes each.
    pub(in crate::media::source) fn new(reader: R, name: String, limit: usize) -> Self {
        let pending = BytesMut::new();
        Self { reader, name, limit, pending, position: 0, ended: false, last: None }
    }

    /// The next picture, whose end may be missing; `None` at the end of the stream.
    ///
    /// # Errors
    /// The stream cannot be read, or no picture ends within the limit.
    pub(in crate::media::source) fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        while let Some(after_other_data) = self.find_begin()? {
            let begin = self.position;
            let picture = self.read_to_end()?;
            let relations = relations(&picture);
            let size = dimensions(&picture);
            if let Some(last) = &self.last {
                let offset = begin - last.begin;
                let listed = last.listed.iter().any(|listed| listed.is(offset, picture.len()));
                let other = after_other_data && (size.is_none() || size != last.size);
                if listed || relations.secondary || other {
                    tracing::debug!("{}: skipped {size:?} at byte {begin}", self.name);
                    continue;
                }
            }
            self.last = Some(Last { begin, size, listed: relations.listed });
            return Ok(Some(picture));
        }
        Ok(None)
    }

    /// Drops the data in front of the next picture; returns whether it was anything other than padding, or
    /// `None` at the end of the stream.
    fn find_begin(&mut self) -> Result<Option<bool>, SourceError> {
        let (mut other_data, mut dropped) = (false, 0);
        loop {
            let drop = match &self.pending[..] {
                [0xff, marker::SOI, 0xff, marker::SOI, ..] | [0xff, marker::EOI, ..] => 2,
                [0xff, marker::SOI, 0xff, next, ..] if *next != 0 => return Ok(Some(other_data)),
                [] | [0xff] | [0xff, marker::SOI] | [0xff, marker::SOI, 0xff] => {
                    if self.ended {
                        return Ok(None);
                    }
                    self.read_more()?;
                    0
                }
                [0xff, 0xff, ..] | [0 | b'\r' | b'\n' | b' ', ..] => 1,
                data => {
                    other_data = true;
                    data[1..].iter().position(|byte| *byte == 0xff).map_or(data.len(), |n| n + 1)
                }
            };
            self.skip(drop);
            dropped += drop;
            if dropped > self.limit {
                return Err(SourceError::TooLong { name: self.name.clone(), bytes: dropped });
            }
        }
    }

    /// Removes the first picture from `pending`, reading up to its end.
    fn read_to_end(&mut self) -> Result<Bytes, SourceError> {
        let mut walk = Walk::new();
        let length = loop {
            match walk.advance(&self.pending) {
                Some(length) => break length,
                None if self.ended => break self.pending.len(),
                None => self.read_more()?,
            }
            if self.pending.len() > self.limit {
                let bytes = self.pending.len();
                return Err(SourceError::TooLong { name: self.name.clone(), bytes });
            }
        };
        self.position += length as u64;
        Ok(self.pending.split_to(length).freeze())
    }

    fn skip(&mut self, bytes: usize) {
        self.pending.advance(bytes);
        self.position += bytes as u64;
    }

    fn read_more(&mut self) -> Result<(), SourceError> {
        let held = self.pending.len();
        self.pending.resize(held + CHUNK, 0);
        let read = loop {
            match self.reader.read(&mut self.pending[held..]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.pending.truncate(held + *read.as_ref().unwrap_or(&0));
        self.ended =
            read.map_err(|cause| SourceError::Read { name: self.name.clone(), cause })? == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture without content: start marker, frame header with this width, scan, end marker.
    fn picture(width: u8, scan: &[u8]) -> Vec<u8> {
        let mut data = vec![0xff, 0xd8, 0xff, 0xc0, 0, 11, 8, 0, 8, 0, width, 1, 1, 0x11, 0];
        data.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0]);
        data.extend_from_slice(scan);
        data.extend([0xff, 0xd9]);
        data
    }

    /// Returns one byte at a time, so that the arrived data ends once at every position.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            (into[0], self.0) = (*first, rest);
            Ok(1)
        }
    }

    fn pictures(stream: &[u8]) -> Vec<Vec<u8>> {
        let whole = all(JpegReader::new(stream, "test".into(), 1 << 20));
        assert_eq!(whole, all(JpegReader::new(Drip(stream), "test".into(), 1 << 20)));
        whole
    }

    fn all(mut reader: JpegReader<impl Read>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| reader.next().unwrap().map(|picture| picture.to_vec())).collect()
    }

    #[test]
    fn padding_between_pictures_is_skipped() {
        let (first, second) = (picture(8, &[1, 2]), picture(16, &[3]));
        for padding in ["", "\0\0", "\r\n", "\n", " ", "\0\r\n\0"].map(str::as_bytes) {
            let stream = [padding, &first, padding, &second, padding].concat();
            assert_eq!(pictures(&stream), [&first[..], &second], "{padding:?}");
        }
        for padding in [&[0xff, 0xd9][..], &[0xff, 0xd9, 0xff, 0xd9], &[0xff, 0xff], &[0xff, 0xd8]]
        {
            let stream = [&first, padding, &second].concat();
            assert_eq!(pictures(&stream), [&first[..], &second], "{padding:?}");
        }
    }

    #[test]
    fn data_after_a_photo_is_not_taken_for_the_next_frame() {
        let (photo, preview) = (picture(16, &[1]), picture(8, &[2]));
        for trailer in [&b"\xff\xda"[..], b"ftypmp42", b"\xff\xd8", b"\xff\xd8\xff", b"x\xff"] {
            assert_eq!(pictures(&[&photo, trailer].concat()), [&photo[..]], "{trailer:?}");
        }
        let motion = [&photo[..], b"....ftypmp42", &preview, b"SEFT"].concat();
        assert_eq!(pictures(&motion), [&photo[..]]);
        // A stream continues after damage.
        let stream = [&photo[..], b"--boundary", &photo, b"--boundary--"].concat();
        assert_eq!(pictures(&stream), [&photo[..], &photo]);
    }

    #[test]
    fn a_picture_without_an_end_marker_ends_where_the_next_one_begins() {
        let whole = picture(8, &[1, 2, 3]);
        let cut = &whole[..whole.len() - 2];
        assert_eq!(pictures(&[cut, &whole].concat()), [cut, &whole]);
        assert_eq!(pictures(cut), [cut]);
    }

    #[test]
    fn an_endless_picture_takes_bounded_memory_and_linear_time() {
        struct Endless(u64);
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                into.fill(0x55);
                self.0 += into.len() as u64;
                Ok(into.len())
            }
        }
        let limit = 16 << 20;
        let begin = picture(8, &[]);
        let begin = &begin[..begin.len() - 2];
        let mut reader = JpegReader::new(Read::chain(begin, Endless(0)), "test".into(), limit);
        let error = reader.next().unwrap_err();
        assert!(matches!(error, SourceError::TooLong { .. }), "{error}");
        let Endless(read) = reader.reader.into_inner().1;
        assert!(read <= (limit + 2 * CHUNK) as u64, "{read}");
        // The same after a picture.
        let stream = picture(8, &[]);
        let mut reader =
            JpegReader::new(Read::chain(&stream[..], Endless(0)), "test".into(), limit);
        assert!(reader.next().unwrap().is_some());
        assert!(matches!(reader.next(), Err(SourceError::TooLong { .. })));
        assert!(reader.pending.capacity() < 4 * CHUNK);
    }
}
