//! A stream of JPEG pictures, one after the other (MJPEG), as `ffmpeg -f mjpeg` writes it.

use std::io::{Cursor, Read};

use super::{Captured, Source, SourceError, SourceOptions, picture::decode_picture};

/// Most bytes held for one picture.
const MAX_HELD: usize = 64 << 20;

/// Pictures of a stream, one a call; ends with the stream. A single picture is handled elsewhere.
pub struct MjpegSource<R> {
    reader: R,
    name: String,
    pending: Vec<u8>,
    ended: bool,
    pictures: u64,
    options: SourceOptions,
}

impl<R: Read> MjpegSource<R> {
    /// Reads pictures from `reader`.
    pub fn new(reader: R, name: String, options: SourceOptions) -> Self {
        Self { reader, name, pending: Vec::new(), ended: false, pictures: 0, options }
    }

    /// The bytes of the next picture; `None` at the end of the stream.
    pub(super) fn next_picture(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        loop {
            match picture_end(&self.pending) {
                Some(end) => {
                    self.pictures += 1;
                    let rest = self.pending.split_off(end);
                    return Ok(Some(std::mem::replace(&mut self.pending, rest)));
                }
                None if self.ended && self.pending.iter().all(|byte| *byte == 0) => {
                    return Ok(None);
                }
                None if self.ended => {
                    // What is left is a picture cut off; the decoder says what is wrong with it.
                    self.pictures += 1;
                    return Ok(Some(std::mem::take(&mut self.pending)));
                }
                None => self.read_more()?,
            }
        }
    }

    /// Gives the stream back, with what was read ahead in front.
    pub(super) fn into_rest(self) -> impl Read {
        Cursor::new(self.pending).chain(self.reader)
    }

    fn read_more(&mut self) -> Result<(), SourceError> {
        let before = self.pending.len();
        let chunk = (before / 2).clamp(1 << 16, 1 << 20) as u64;
        let name = || self.name.clone();
        let read = self.reader.by_ref().take(chunk).read_to_end(&mut self.pending);
        self.ended = read.map_err(|cause| SourceError::Read { name: name(), cause })? == 0;
        if self.pending.len() > MAX_HELD {
            return Err(SourceError::TooLong { name: name(), bytes: self.pending.len() });
        }
        Ok(())
    }
}

impl<R: Read + Send> Source for MjpegSource<R> {
    fn describe(&self) -> String {
        format!("JPEG pictures of {}", self.name)
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        let Some(data) = self.next_picture()? else { return Ok(None) };
        let frame = decode_picture(&data, &format!("{} of {}", self.pictures, self.name))?;
        Ok(Some(Captured::Frame(self.options.apply(frame)?)))
    }
}

/// Where the first picture ends (after its EOI marker), by walking the marker segments: thumbnails in
/// them have EOI markers of their own.
fn picture_end(data: &[u8]) -> Option<usize> {
    let mut at = data.windows(2).position(|pair| pair == [0xff, 0xd8])? + 2;
    loop {
        // The next marker; between SOS and EOI there is entropy-coded data in front of it.
        at += data.get(at..)?.windows(2).position(|pair| {
            pair[0] == 0xff && !matches!(pair[1], 0x00 | 0x01 | 0xd0..=0xd8 | 0xff)
        })?;
        if data[at + 1] == 0xd9 {
            return Some(at + 2);
        }
        let length = data.get(at + 2..at + 4)?;
        at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_marker_in_a_segment_is_no_end() {
        let picture = [
            0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9, 0xff, 0xda, 0, 2, 1, 0xff, 0, 2,
            0xff, 0xd9,
        ];
        assert_eq!(picture_end(&picture), Some(picture.len()));
        let two = [&picture[..], &picture[..]].concat();
        let mut source = MjpegSource::new(&two[..], "test".into(), SourceOptions::default());
        assert_eq!(source.next_picture().unwrap().unwrap(), picture);
        assert_eq!(source.next_picture().unwrap().unwrap(), picture);
        assert!(source.next_picture().unwrap().is_none());
        for end in 0..picture.len() {
            assert_eq!(picture_end(&picture[..end]), None);
        }
    }
}
