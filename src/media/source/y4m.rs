//! y4m (YUV4MPEG2): raw frames after a line of text, as written by `mjpegtools` and `ffmpeg`.

use std::{
    io::{BufRead, BufReader, Read},
    time::SystemTime,
};

use super::{Captured, Source, SourceError, SourceOptions};
use crate::media::{colour::Colour, frame::Frame};

/// Maximum length of a header line.
const MAX_HEADER: u64 = 1024;
/// Maximum side of a frame, in pixels.
const MAX_SIDE: u32 = 16_384;
/// Maximum number of pixels of a frame: 8K UHD. Up to three copies of a frame are held while it is
/// read.
const MAX_PIXELS: u32 = 7_680 * 4_320;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chroma {
    Mono,
    C420,
    C422,
    C444,
}

/// The fields of the header line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    width: u32,
    height: u32,
    chroma: Chroma,
    /// `XCOLORRANGE=FULL`, an `ffmpeg` extension.
    full_range: bool,
}

/// The frames of a y4m stream, one per call; ends with the stream.
pub struct Y4mSource<R> {
    reader: BufReader<R>,
    name: String,
    width: u32,
    height: u32,
    chroma: Chroma,
    full_range: bool,
    options: SourceOptions,
    frames: u64,
    /// One frame as in the file.
    raw: Vec<u8>,
}

impl<R: Read> Y4mSource<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// The header is not a valid y4m header, or its format is not supported.
    pub fn new(reader: R, name: String, options: SourceOptions) -> Result<Self, SourceError> {
        let mut reader = BufReader::with_capacity(1 << 16, reader);
        let line = read_line(&mut reader, &name)?;
        let header = parse_header(&line)
            .map_err(|cause| SourceError::Y4mHeader { name: name.clone(), cause })?;
        let Header { width, height, chroma, full_range } = header;
        let (w, h) = (width as usize, height as usize);
        let size = w * h
            + 2 * match chroma {
                Chroma::Mono => 0,
                Chroma::C420 => w.div_ceil(2) * h.div_ceil(2),
                Chroma::C422 => w.div_ceil(2) * h,
                Chroma::C444 => w * h,
            };
        let raw = vec![0; size];
        Ok(Self { reader, name, width, height, chroma, full_range, options, frames: 0, raw })
    }

    fn read_frame(&mut self) -> Result<bool, SourceError> {
        let line = read_line(&mut self.reader, &self.name)?;
        if line.is_empty() {
            return Ok(false);
        }
        self.frames += 1;
        let (name, frame, expected) = (self.name.clone(), self.frames, self.raw.len());
        let truncated = |got| SourceError::Y4mTruncated { name, frame, got, expected };
        if !line.ends_with(b"\n") && b"FRAME".starts_with(line.get(..5).unwrap_or(&line)) {
            return Err(truncated(0));
        }
        if !(line.starts_with(b"FRAME\n") || line.starts_with(b"FRAME ")) {
            let cause = format!("frame {} does not begin with FRAME", self.frames);
            return Err(SourceError::Y4mHeader { name: self.name.clone(), cause });
        }
        let mut got = 0;
        while got < self.raw.len() {
            match self.reader.read(&mut self.raw[got..]) {
                Ok(0) => return Err(truncated(got)),
                Ok(n) => got += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(SourceError::Read { name: self.name.clone(), cause }),
            }
        }
        Ok(true)
    }

    fn to_frame(&self) -> Result<Frame, SourceError> {
        let (w, h) = (self.width as usize, self.height as usize);
        let (luma, rest) = self.raw.split_at(w * h);
        let (u, v) = rest.split_at(rest.len() / 2);
        let cw = w.div_ceil(2);
        let (u, v) = match self.chroma {
            Chroma::Mono => (vec![128; cw * h.div_ceil(2)], vec![128; cw * h.div_ceil(2)]),
            Chroma::C420 => (u.to_vec(), v.to_vec()),
            Chroma::C422 => (halve_rows(u, cw), halve_rows(v, cw)),
            Chroma::C444 => {
                (halve_rows(&halve_columns(u, w), cw), halve_rows(&halve_columns(v, w), cw))
            }
        };
        let planes = [(luma, w), (&u[..], cw), (&v[..], cw)];
        let frame = Frame::from_planes((self.width, self.height), planes, SystemTime::now())
            .map_err(|cause| SourceError::Size { width: self.width, height: self.height, cause })?;
        let colour = Colour { full_range: self.full_range, ..frame.colour };
        Ok(Frame { colour, ..frame })
    }
}

impl<R: Read + Send> Source for Y4mSource<R> {
    fn describe(&self) -> String {
        format!("y4m {} at {}x{}", self.name, self.width, self.height)
    }

    fn next(&mut self) -> Result<Option<Captured>, SourceError> {
        if !self.read_frame()? {
            return Ok(None);
        }
        Ok(Some(Captured::Frame(self.options.apply(self.to_frame()?)?)))
    }
}

fn read_line(reader: &mut impl BufRead, name: &str) -> Result<Vec<u8>, SourceError> {
    let mut line = Vec::new();
    reader
        .take(MAX_HEADER)
        .read_until(b'\n', &mut line)
        .map_err(|cause| SourceError::Read { name: name.to_owned(), cause })?;
    Ok(line)
}

fn parse_header(line: &[u8]) -> Result<Header, String> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split_ascii_whitespace();
    if words.next() != Some("YUV4MPEG2") || !line.ends_with(b"\n") {
        return Err("it does not begin with a YUV4MPEG2 line".to_owned());
    }
    let (mut width, mut height, mut chroma, mut full_range) = (None, None, Chroma::C420, false);
    for word in words {
        let (key, value) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        let side = || value.parse().ok().filter(|side| (2..=MAX_SIDE).contains(side));
        match key {
            "W" => width = side(),
            "H" => height = side(),
            "C" => {
                chroma = match value {
                    "420" | "420jpeg" | "420mpeg2" | "420paldv" => Chroma::C420,
                    "422" => Chroma::C422,
                    "444" => Chroma::C444,
                    "mono" => Chroma::Mono,
                    other => return Err(format!("color format C{other} is not supported")),
                }
            }
            "X" => full_range |= value == "COLORRANGE=FULL",
            _ => {}
        }
    }
    match (width, height) {
        (Some(width), Some(height)) if width * height > MAX_PIXELS => {
            Err(format!("{width}x{height} exceeds the maximum of {MAX_PIXELS} pixels (7680x4320)"))
        }
        (Some(width), Some(height)) => Ok(Header { width, height, chroma, full_range }),
        _ => Err(format!("width and height are both required, from 2 to {MAX_SIDE}")),
    }
}

fn average(a: u8, b: u8) -> u8 {
    u16::midpoint(u16::from(a), u16::from(b) + 1) as u8
}

/// Averages neighboring rows; an odd last row is kept as it is.
fn halve_rows(plane: &[u8], width: usize) -> Vec<u8> {
    plane
        .chunks(width * 2)
        .flat_map(|rows| {
            let (top, bottom) = rows.split_at(width);
            let bottom = if bottom.is_empty() { top } else { bottom };
            top.iter().zip(bottom).map(|(a, b)| average(*a, *b))
        })
        .collect()
}

/// Averages neighboring columns; an odd last column is kept as it is.
fn halve_columns(plane: &[u8], width: usize) -> Vec<u8> {
    plane
        .chunks(width)
        .flat_map(|row| {
            row.chunks(2).map(|pair| average(pair[0], *pair.last().unwrap_or(&pair[0])))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(stream: &[u8]) -> (Vec<Frame>, Option<SourceError>) {
        let mut found = Vec::new();
        let mut source = match Y4mSource::new(stream, "test".into(), SourceOptions::default()) {
            Ok(source) => source,
            Err(error) => return (found, Some(error)),
        };
        loop {
            match source.next() {
                Ok(Some(Captured::Frame(frame))) => found.push(frame),
                Ok(_) => return (found, None),
                Err(error) => return (found, Some(error)),
            }
        }
    }

    #[test]
    fn every_chroma_format_is_converted_to_420() {
        for (header, chroma) in [("C420jpeg", 2), ("C422", 4), ("C444", 8), ("", 2), ("Cmono", 0)] {
            let mut stream = format!("YUV4MPEG2 W4 H2 F25:1 Ip {header}\n").into_bytes();
            for _ in 0..2 {
                stream.extend(b"FRAME Ip\n");
                stream.extend([10; 8]);
                stream.extend(vec![20; chroma]);
                stream.extend(vec![30; chroma]);
            }
            let (found, error) = frames(&stream);
            assert!(error.is_none() && found.len() == 2, "{header}: {error:?}");
            let (u, v) = if chroma == 0 { (128, 128) } else { (20, 30) };
            assert_eq!((&found[1].u, &found[1].v), (&vec![u; 2], &vec![v; 2]), "{header}");
        }
    }

    #[test]
    fn the_range_is_read() {
        for (header, full) in
            [("", false), ("XCOLORRANGE=LIMITED", false), ("XCOLORRANGE=FULL", true)]
        {
            let mut stream =
                format!("YUV4MPEG2 W2 H2 F1:1 {header} C420jpeg\nFRAME\n").into_bytes();
            stream.extend([255, 0, 255, 0, 128, 128]);
            let (found, _) = frames(&stream);
            assert_eq!(found[0].colour, Colour { full_range: full, ..Colour::default() });
            assert_eq!(found[0].y, [255, 0, 255, 0], "the samples are unchanged");
        }
    }

    #[test]
    fn an_incomplete_frame_is_reported_after_the_complete_ones() {
        let mut stream = b"YUV4MPEG2 W4 H2\nFRAME\n".to_vec();
        stream.extend([0; 12]);
        stream.extend(b"FRAME\n");
        stream.extend([0; 5]);
        let (found, error) = frames(&stream);
        assert_eq!(found.len(), 1);
        let Some(SourceError::Y4mTruncated { frame: 2, got: 5, expected: 12, .. }) = error else {
            panic!("{error:?}")
        };
        stream.truncate(stream.len() - 7);
        let (found, error) = frames(&stream);
        assert_eq!(found.len(), 1);
        assert!(matches!(error, Some(SourceError::Y4mTruncated { frame: 2, .. })), "{error:?}");
    }

    #[test]
    fn headers_that_are_not_valid_are_rejected() {
        for header in [
            "YUV4MPEG2 W4\n",
            "YUV4MPEG2 W0 H2\n",
            "YUV4MPEG2 W4 H2 C420p10\n",
            "P6 4 2\n",
            "YUV4MPEG2 W4 H2",
            "YUV4MPEG2 W4 H999999999\n",
        ] {
            let (_, error) = frames(header.as_bytes());
            assert!(matches!(error, Some(SourceError::Y4mHeader { .. })), "{header}: {error:?}");
        }
    }
}
