//! Common formats that are not supported. They are recognized so that the error can name the format and
//! the command that converts it.

use std::path::Path;

/// Maximum number of bytes examined to recognize content.
pub(super) const LOOK: usize = 64 << 10;

/// A format that is not supported.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    /// Name, including its article.
    pub name: &'static str,
    conversion: Conversion,
}

/// How to convert it to a supported format.
#[derive(Debug, PartialEq, Eq)]
enum Conversion {
    /// A picture that `ffmpeg` converts.
    Picture,
    /// A picture that macOS's `sips` or `heif-convert` converts.
    Heif,
    /// Video that is often H.264.
    Container,
    /// Video that is never H.264.
    Video,
    /// Another remedy; `INPUT` stands for the name.
    Other(&'static str),
}

const fn picture(name: &'static str) -> Foreign {
    Foreign { name, conversion: Conversion::Picture }
}

const fn container(name: &'static str) -> Foreign {
    Foreign { name, conversion: Conversion::Container }
}

const fn video(name: &'static str) -> Foreign {
    Foreign { name, conversion: Conversion::Video }
}

const fn other(name: &'static str, command: &'static str) -> Foreign {
    Foreign { name, conversion: Conversion::Other(command) }
}

/// The supported formats, as a remedy.
pub(super) const INSTEAD: &str = "use a JPEG, PNG or WebP picture, MJPEG, y4m or H.264 (Annex B)";

static BMP: Foreign = picture("a BMP picture");
static PNM: Foreign = picture("a PNM picture (PBM, PGM, PPM or PAM)");
static JPEG_XL: Foreign = picture("a JPEG XL picture");
static JPEG_2000: Foreign = picture("a JPEG 2000 picture");
static HEIC: Foreign = Foreign { name: "a HEIC picture (HEIF)", conversion: Conversion::Heif };
static AVIF: Foreign = Foreign { name: "an AVIF picture", conversion: Conversion::Heif };
static MP4: Foreign = container("an MP4 or QuickTime video");
static AVI: Foreign = container("an AVI video");
static PLAYLIST: Foreign = container("a playlist (HLS)");
static TRANSPORT: Foreign = container("an MPEG transport stream (MPEG-TS)");
static PROGRAM: Foreign = video("an MPEG program stream (MPEG-PS)");
static MPEG2: Foreign = video("MPEG-1 or MPEG-2 video");
static MPEG4: Foreign = video("MPEG-4 Visual video");
static HEVC: Foreign = video("H.265 (HEVC) video");
static VVC: Foreign = video("H.266 (VVC) video");
static AVCC: Foreign = other(
    "H.264 with length prefixes (AVCC), as in MP4 and VideoToolbox, instead of start codes",
    "write Annex B: 00 00 00 01 in place of each length, SPS and PPS in front of each IDR picture",
);
static ICON: Foreign = picture("an icon (ICO)");
static SVG: Foreign = other("an SVG drawing", "`rsvg-convert INPUT -o out.png`");
static PAGE: Foreign = other(
    "a web page (HTML)",
    "check where it was downloaded from: it may be a login or error page",
);
static POINTER: Foreign = other("a Git LFS pointer, not the file itself", "`git lfs pull`");
static TEXT: Foreign = other("text", INSTEAD);
static AUDIO: Foreign = other("audio", INSTEAD);

/// Formats with their signatures, the first bytes.
static SIGNATURES: &[(&[u8], Foreign)] = &[
    (b"\x1a\x45\xdf\xa3", container("a Matroska or WebM video")),
    (b"FLV\x01", container("a Flash video (FLV)")),
    (b"DKIF", video("an IVF video (VP8, VP9 or AV1)")),
    (b"\x12\x00\x0a", video("AV1 video")),
    (b"OggS", video("an Ogg file")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", container("a Windows Media file (ASF, WMV)")),
    (b"\x06\x0e\x2b\x34", container("an MXF video")),
    (b"\x8aMNG", picture("an MNG animation")),
    (b"GIF8", picture("a GIF picture")),
    (b"II*\0", picture("a TIFF picture, or a camera's raw picture")),
    (b"MM\0*", picture("a TIFF picture, or a camera's raw picture")),
    (b"II+\0", picture("a TIFF picture (BigTIFF)")),
    (b"MM\0+", picture("a TIFF picture (BigTIFF)")),
    (b"II\xbc", picture("a JPEG XR picture")),
    (b"\xff\x0a", picture("a JPEG XL picture")),
    (b"\xff\x4f\xff\x51", picture("a JPEG 2000 picture")),
    (b"8BPS", picture("a Photoshop picture (PSD)")),
    (b"qoif", picture("a QOI picture")),
    (b"\x76\x2f\x31\x01", picture("an OpenEXR picture")),
    (b"#?RADIANCE", picture("a Radiance HDR picture")),
    (b"DDS ", picture("a DDS picture")),
    (b"%PDF-", other("a PDF", "`pdftoppm -r 150 -png INPUT page`")),
    (b"%!PS", other("a PostScript file", "`gs -sDEVICE=png16m -r150 -o page%d.png INPUT`")),
    (b"PK\x03\x04", other("a ZIP archive or an office document", "unpack it first")),
    (b"\x1f\x8b", other("gzip data", "unpack it first: `gzip -dc INPUT`")),
    (b"\x28\xb5\x2f\xfd", other("zstd data", "unpack it first: `zstd -dc INPUT`")),
    (b"\xfd7zXZ\0", other("xz data", "unpack it first: `xz -dc INPUT`")),
    (b"BZh", other("bzip2 data", "unpack it first: `bzip2 -dc INPUT`")),
    (b"ID3", other("audio", INSTEAD)),
    (
        b"\0\x05\x16\x07",
        other("an AppleDouble file, not the file itself", "use the file without `._`"),
    ),
    (b"\x7fELF", other("a program", INSTEAD)),
];

/// Detects a format by its signature.
pub(super) fn by_signature(begin: &[u8]) -> Option<&'static Foreign> {
    let listed = SIGNATURES.iter().find(|(signature, _)| begin.starts_with(signature));
    if let Some((_, foreign)) = listed {
        return Some(foreign);
    }
    match begin {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', ..] => Some(&AVI),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => Some(&AUDIO),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => Some(by_brand(brand)),
        [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some(&JPEG_XL),
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] => Some(&JPEG_2000),
        [size, _, _, _, kind @ ..] if is_quicktime_atom(*size, kind) => Some(&MP4),
        // Reserved bytes, and the offset of the pixels in a file smaller than 16 MB.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, _, _, _, 0, ..] => Some(&BMP),
        [0, 0, 1 | 2, 0, 1..=64, 0, ..] => Some(&ICON),
        [b'P', b'1'..=b'7', b'\n' | b'\r' | b' ' | b'\t', ..] => Some(&PNM),
        _ => None,
    }
}

/// Detects a file of the ISO base media file format by its major brand.
fn by_brand(brand: &[u8]) -> &'static Foreign {
    match brand {
        [b'a', b'v', b'i', b'f' | b's', ..] => &AVIF,
        [b'h', b'e', b'i' | b'v', _, ..] | [b'm', b'i' | b's', b'f', b'1', ..] => &HEIC,
        [b'j', b'x', b'l', ..] => &JPEG_XL,
        [b'j', b'p', b'2' | b'x', ..] => &JPEG_2000,
        [b'M', b'4', b'A', ..] => &AUDIO,
        _ => &MP4,
    }
}

/// Whether an older `QuickTime` file begins with this atom.
fn is_quicktime_atom(size: u8, kind: &[u8]) -> bool {
    let is_any = |atoms: &[&[u8]]| atoms.iter().any(|atom| kind.starts_with(atom));
    is_any(&[b"moov", b"mdat"]) || (size == 0 && is_any(&[b"wide", b"free", b"skip", b"pnot"]))
}

/// Detects a format other than H.264 by the bytes after the first start code.
pub(super) fn by_start_code(nal: &[u8]) -> Option<&'static Foreign> {
    match *nal {
        [0xba, ..] => Some(&PROGRAM),
        [0xb3, ..] => Some(&MPEG2),
        [0xb0 | 0xb5 | 0xb6, ..] | [0, 0, 0, 1, ..] | [0, 0, 1, ..] => Some(&MPEG4),
        // A two-byte header: H.265 §7.3.1.2 with layer 0 and temporal id 1, of a parameter set, delimiter,
        // SEI or intra picture. In H.264 these would be reserved types, or types with a wrong nal_ref_idc.
        [header, 1, ..] if header & 0x81 == 0 && matches!(header >> 1, 16..=21 | 32..=35 | 39) => {
            Some(&HEVC)
        }
        // H.266 §7.3.1.2: a parameter set or delimiter.
        [0, kind, ..] if kind & 7 == 1 && matches!(kind >> 3, 12..=20) => Some(&VVC),
        _ => None,
    }
}

/// Detects a format without a signature by its structure.
pub(super) fn by_structure(begin: &[u8]) -> Option<&'static Foreign> {
    let transport = || is_transport_stream(begin).then_some(&TRANSPORT);
    by_words(begin).or_else(transport).or_else(|| length_prefixed(begin))
}

/// Detects H.264 in the form of ISO/IEC 14496-15: a configuration record, or NAL units with four-byte
/// length prefixes.
pub(super) fn length_prefixed(begin: &[u8]) -> Option<&'static Foreign> {
    if let [1, _, _, _, 0xfc..=0xff, 0xe1..=0xff, _, _, sps, ..] = begin
        && sps & 0x1f == 7
    {
        return Some(&AVCC);
    }
    let (mut at, mut units) = (0, 0);
    while begin.len() >= at + 5 {
        (at, units) = (at + 4 + prefixed_length(&begin[at..])?, units + 1);
    }
    (units >= 2).then_some(&AVCC)
}

/// The four-byte length prefix of a NAL unit, if it is plausible.
pub(super) fn prefixed_length(data: &[u8]) -> Option<usize> {
    let [a, b, c, d, header] = *data.first_chunk()?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    // nal_ref_idc as specified for these types in H.264 §7.4.1.
    let plausible = match header & 0x9f {
        5 | 7 | 8 => header & 0x60 != 0,
        6 | 9 => header & 0x60 == 0,
        1 => true,
        _ => false,
    };
    (plausible && (2..=LOOK << 8).contains(&length)).then_some(length)
}

/// Detects packets of 188 bytes that begin with 0x47: without other data (ISO/IEC 13818-1), after a
/// four-byte timestamp (Blu-ray), or before 16 bytes of redundancy (DVB). A recording may begin within a
/// packet.
fn is_transport_stream(begin: &[u8]) -> bool {
    const SYNC: u8 = 0x47;
    const ENOUGH: usize = 5;
    if begin.len() < ENOUGH * 204 {
        // A short stream.
        return begin.len() > 188 && begin.iter().step_by(188).all(|byte| *byte == SYNC);
    }
    [188, 192, 204].into_iter().any(|size| {
        let packets = begin.len() / size - 1;
        let aligned = |at: usize| (0..packets.min(64)).all(|n| begin[at + n * size] == SYNC);
        packets >= ENOUGH - 1 && (0..size).any(aligned)
    })
}

/// Detects text, and formats that consist of text.
fn by_words(begin: &[u8]) -> Option<&'static Foreign> {
    if begin.starts_with(&[0xff, 0xfe]) || begin.starts_with(&[0xfe, 0xff]) {
        return Some(&TEXT);
    }
    let text = match std::str::from_utf8(begin) {
        Ok(text) => text,
        // The data ends within a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&begin[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\x0c' | '\x1b');
    if text.is_empty() || text.contains(odd) {
        return None;
    }
    let start = text.trim_start_matches('\u{feff}').trim_start();
    let start: String = start.chars().take(2048).collect::<String>().to_ascii_lowercase();
    let begins = |word: &str| start.starts_with(word);
    Some(match () {
        () if begins("version https://git-lfs") => &POINTER,
        () if begins("<!doctype html") || begins("<html") => &PAGE,
        () if begins("<svg") || (begins("<?xml") && start.contains("<svg")) => &SVG,
        () if begins("#extm3u") => &PLAYLIST,
        () => &TEXT,
    })
}

impl Foreign {
    /// Whether it is a picture format.
    #[must_use]
    pub fn is_picture(&self) -> bool {
        matches!(self.conversion, Conversion::Picture | Conversion::Heif)
    }

    /// What the user can do about it, with the command for the file at `path`, if any.
    #[must_use]
    pub fn remedy(&self, path: Option<&Path>) -> String {
        let input = path.and_then(Path::to_str).map_or("INPUT".to_owned(), quoted);
        let stream = format!(
            "`ffmpeg -v error -i {input} -vf fps=2 -pix_fmt yuv420p -f yuv4mpegpipe - | \
             orion-peer send --source -`"
        );
        match self.conversion {
            Conversion::Picture => format!("convert it: `ffmpeg -i {input} -frames:v 1 out.png`"),
            Conversion::Heif => format!(
                "convert it: `sips -s format jpeg {input} --out out.jpg` on macOS, \
                 `heif-convert {input} out.jpg` elsewhere"
            ),
            Conversion::Container => format!(
                "convert it: `ffmpeg -i {input} -map 0:v:0 -c copy -f h264 out.h264` if its video is \
                 H.264; otherwise {stream}"
            ),
            Conversion::Video => format!("convert it: {stream}"),
            Conversion::Other(command) => command.replace("INPUT", &input),
        }
    }
}

/// Quotes a name for a shell if necessary.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@,:%=".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_contain_the_quoted_file_name() {
        let command = |foreign: &Foreign, path: &str| foreign.remedy(Some(Path::new(path)));
        assert!(
            command(&HEIC, "IMG_1.HEIC").contains("sips -s format jpeg IMG_1.HEIC --out out.jpg")
        );
        assert!(
            command(&TRANSPORT, "my clip.ts").contains("ffmpeg -i 'my clip.ts' -map 0:v:0 -c copy")
        );
        assert!(command(&SVG, "it's.svg").contains(r"rsvg-convert 'it'\''s.svg' -o"));
        assert!(MP4.remedy(None).contains("ffmpeg -i INPUT "));
    }
}
