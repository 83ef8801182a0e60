//! Detects the format of a file or a stream from its first bytes. Names are not considered: pipes have
//! none, and file names may be misleading.

use super::foreign::{self, Foreign, LOOK};
use crate::media::h264::{NalType, nal_type, nal_units, sps_dimensions};

/// Number of bytes needed to recognize a signature.
const SIGNATURE: usize = 16;

/// The format of a file or stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Y4m,
    /// H.264, Annex B.
    H264,
    Jpeg,
    /// PNG or WebP.
    Picture,
    /// A known format that is not supported.
    Foreign(&'static Foreign),
    Unknown,
}

impl Content {
    /// Detects the format from the first bytes; `whole` means that no more bytes follow. Returns `None`
    /// when more bytes are needed, up to [`LOOK`].
    pub(super) fn of(begin: &[u8], whole: bool) -> Option<Self> {
        let whole = whole || begin.len() >= LOOK;
        if begin.len() < SIGNATURE && !whole {
            return None;
        }
        match begin {
            [b'Y', b'U', b'V', b'4', ..] => return Some(Self::Y4m),
            [0x89, b'P', b'N', b'G', ..] => return Some(Self::Picture),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => {
                return Some(Self::Picture);
            }
            _ => {}
        }
        if let Some(foreign) = foreign::by_signature(begin) {
            return Some(Self::Foreign(foreign));
        }
        if after(begin, b"\0\r\n ").starts_with(&[0xff, 0xd8, 0xff]) {
            return Some(Self::Jpeg);
        }
        // Any number of zero bytes may precede the first start code (H.264 §B.1.1).
        let rest = after(begin, b"\0");
        if rest.len() < 8 && !whole {
            return None;
        }
        let zeros = begin.len() - rest.len();
        if let (2.., [1, nal @ ..]) = (zeros, rest) {
            // A length from 256 to 511 looks like a start code.
            if let Some(length) = foreign::prefixed_length(begin) {
                if begin.len() < length + 9 && !whole {
                    return None;
                }
                if let Some(foreign) = foreign::length_prefixed(begin) {
                    return Some(Self::Foreign(foreign));
                }
            }
            return match foreign::by_start_code(nal) {
                Some(foreign) => Some(Self::Foreign(foreign)),
                None if nal.first().is_some_and(|header| header & 0x80 == 0) => Some(Self::H264),
                None => Some(Self::Unknown),
            };
        }
        whole.then(|| Self::without_signature(begin))
    }

    /// Detects formats that can be recognized only from many bytes.
    fn without_signature(begin: &[u8]) -> Self {
        if let Some(foreign) = foreign::by_structure(begin) {
            return Self::Foreign(foreign);
        }
        // A recording may begin in the middle of a picture.
        let is_sps = |nal: &[u8]| nal_type(nal) == NalType::Sps && sps_dimensions(nal).is_some();
        if nal_units(begin).any(is_sps) { Self::H264 } else { Self::Unknown }
    }
}

/// The data after any number of these padding bytes.
fn after<'a>(data: &'a [u8], padding: &[u8]) -> &'a [u8] {
    let end = data.iter().position(|byte| !padding.contains(byte)).unwrap_or(data.len());
    &data[end..]
}

/// Describes the first bytes for an error message.
pub(super) fn shown(begin: &[u8]) -> String {
    if !begin.is_empty() && begin.iter().all(|byte| *byte == 0) {
        return "it contains only zeros".to_owned();
    }
    let begin = begin.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    format!("it begins with {}", begin.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPS: &[u8] = &[0, 0, 0, 1, 0x67, 66, 0xc0, 0x1f, 0xda, 1, 0x40, 0x16, 0xe4];

    #[track_caller]
    fn is(content: Content, begin: &[u8]) {
        assert_eq!(Content::of(begin, true), Some(content), "{begin:02x?}");
        // Fewer bytes never yield a different result.
        for end in 0..begin.len().min(600) {
            let found = Content::of(&begin[..end], false);
            assert!(found.is_none_or(|found| found == content), "{found:?} of {end} bytes");
        }
    }

    #[track_caller]
    fn is_foreign(name: &str, begin: &[u8]) {
        match Content::of(begin, true) {
            Some(Content::Foreign(foreign)) => {
                assert!(foreign.name.contains(name), "{name}: {}", foreign.name);
                is(Content::Foreign(foreign), begin);
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_stream_may_begin_with_zeros() {
        for zeros in [0, 1, 2, 3, 40, 5_000] {
            is(Content::H264, &[&vec![0; zeros], SPS].concat());
            is(Content::H264, &[&vec![0; zeros], &[0, 0, 1, 9, 0xf0][..], SPS].concat());
        }
        let jpeg = [0xff, 0xd8, 0xff, 0xe0, 0, 16, b'J', b'F', b'I', b'F', 0, 1, 1, 0, 0, 1, 0, 1];
        for padding in [&b""[..], b"\0\0\0", b"\r\n", b"\n"] {
            is(Content::Jpeg, &[padding, &jpeg].concat());
        }
        assert_eq!(Content::of(&vec![0; LOOK], false), Some(Content::Unknown));
        assert_eq!(Content::of(&vec![0; LOOK - 1], false), None);
        assert!(shown(&[0; 40]).contains("only zeros"));
    }

    #[test]
    fn a_stream_may_begin_in_the_middle_of_a_picture() {
        let mut stream: Vec<u8> = (0..2_000u32).map(|i| (i * 7 % 251 + 4) as u8).collect();
        stream.extend(SPS);
        is(Content::H264, &stream);
        assert_eq!(Content::of(&stream[..2_000], true), Some(Content::Unknown));
    }

    #[test]
    fn other_streams_with_start_codes_are_distinguished() {
        for code in [&[0, 0, 1][..], &[0, 0, 0, 1], &[0, 0, 0, 0, 1]] {
            let stream = |nal: &[u8]| [code, nal, &[0x55; 20]].concat();
            is_foreign("H.265", &stream(&[0x40, 1, 0x0c, 1]));
            is_foreign("H.265", &stream(&[0x46, 1, 0x50]));
            is_foreign("H.265", &stream(&[0x26, 1, 0xaf]));
            is_foreign("H.266", &stream(&[0, 0x79, 0, 0x8d]));
            is_foreign("MPEG program stream", &stream(&[0xba, 0x44]));
            is_foreign("MPEG-2", &stream(&[0xb3, 0x28]));
            is_foreign("MPEG-4", &stream(&[0xb0, 1]));
            is(Content::Unknown, &stream(&[0xee, 1]));
            for header in [0x67, 0x27, 0x09, 0x06, 0x41, 0x65, 0x21, 0x25] {
                is(Content::H264, &stream(&[header, 0xf0]));
            }
        }
    }

    #[test]
    fn containers_and_pictures_are_named() {
        let ftyp = |brand: &str| [&b"\0\0\0\x18ftyp"[..], brand.as_bytes(), &[0; 16]].concat();
        for (name, begin) in [
            ("MP4", ftyp("isom")),
            ("QuickTime", ftyp("qt  ")),
            ("HEIC", ftyp("heic")),
            ("HEIC", ftyp("mif1")),
            ("AVIF", ftyp("avif")),
            ("QuickTime", b"\0\0\0\x08wide\0\0\x10\0mdat....".to_vec()),
            ("Matroska", b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81".to_vec()),
            ("AVI", b"RIFF\0\0\0\0AVI LIST....".to_vec()),
            ("FLV", b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec()),
            ("IVF", b"DKIF\0\0\x20\0VP80\x40\0\x30\0".to_vec()),
            ("GIF", b"GIF89a\x10\0\x10\0".to_vec()),
            ("TIFF", b"II*\0\x08\0\0\0".to_vec()),
            ("TIFF", b"MM\0*\0\0\0\x08".to_vec()),
            ("BMP", b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec()),
            ("PDF", b"%PDF-1.7\n".to_vec()),
            ("ICO", b"\0\0\x01\0\x01\0\x10\x10\0\0\x01\0\x20\0".to_vec()),
            ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n........".to_vec()),
            ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n........".to_vec()),
            ("PNM", b"P6\n16 16\n255\n".to_vec()),
            ("web page", b"\n<!DOCTYPE html>\n<html><body>Log in</body></html>".to_vec()),
            ("SVG", b"<?xml version=\"1.0\"?>\n<svg xmlns=\"x\"></svg>".to_vec()),
            ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid x".to_vec()),
            ("text", b"hello".to_vec()),
            ("text", "Gr\u{fc}\u{df}e aus dem Archiv, Seite 1\r\n".as_bytes().to_vec()),
            ("text", b"\xff\xfeh\0e\0l\0l\0o\0".to_vec()),
            ("AppleDouble", b"\0\x05\x16\x07\0\x02\0\0Mac OS X        ".to_vec()),
        ] {
            is_foreign(name, &begin);
        }
        for unknown in [&[7; 1000][..], &[0xde, 0xad, 0xbe, 0xef], b"\x01\x02\x03"] {
            is(Content::Unknown, unknown);
        }
    }

    #[test]
    fn transport_streams_are_recognized_by_their_packets() {
        let stream = |before: usize, lead: usize, after: usize, packets: usize| {
            let packet =
                [&vec![1; lead], &[0x47, 0x40, 0x11][..], &[0xff; 185], &vec![2; after]].concat();
            [vec![3; before], packet.repeat(packets)].concat()
        };
        for (lead, after) in [(0, 0), (4, 0), (0, 16)] {
            for before in [0, 1, 100] {
                let name = format!("{before} bytes, {lead}+188+{after}");
                let found = Content::of(&stream(before, lead, after, 6), true);
                let Some(Content::Foreign(foreign)) = found else { panic!("{name}: {found:?}") };
                assert!(foreign.name.contains("MPEG transport stream"), "{name}");
            }
        }
        is_foreign("MPEG transport stream", &stream(0, 0, 0, 2)[..300]);
        // The letter G in two positions does not make a transport stream.
        let mut other: Vec<u8> = (0..2_000u32).map(|i| (i * 7 % 251 + 4) as u8).collect();
        (other[0], other[188], other[376]) = (0x47, 0x47, 0);
        is(Content::Unknown, &other);
    }

    #[test]
    fn length_prefixes_are_not_mistaken_for_start_codes() {
        let unit = |sps: usize| {
            let mut unit = Vec::new();
            for (header, length) in [(0x67, sps), (0x68, 4), (0x65, 900)] {
                unit.extend((length as u32).to_be_bytes());
                unit.push(header);
                unit.extend(vec![0x9a; length - 1]);
            }
            unit
        };
        for sps in [16, 255, 256, 300, 511, 512, 700] {
            is_foreign("AVCC", &unit(sps));
        }
        is_foreign("AVCC", b"\x01\x64\x00\x1f\xff\xe1\x00\x19\x67\x64\x00\x1f\xac\xd9\x40\x50\x05");
    }
}
