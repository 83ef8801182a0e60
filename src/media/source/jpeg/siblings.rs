//! Detects pictures that belong to the previous one in the same file: the second view of a stereo photo,
//! the gain map of an HDR photo, previews.
//!
//! The first picture lists them in its Multi-Picture Format index (CIPA DC-007 §5.2); a gain map is
//! identified by its XMP.

use super::header::segments;

/// Identifier of the APP2 segment of the Multi-Picture Format.
const MPF: &[u8] = b"MPF\0";
/// Tag of the picture index (MP Entry).
const MP_ENTRY: u16 = 0xb002;
/// Identifier of an APP1 segment with XMP.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Namespaces of gain maps: Ultra HDR and ISO 21496-1, Apple.
const GAIN_MAPS: [&[u8]; 2] =
    [b"http://ns.adobe.com/hdr-gain-map/1.0/", b"http://ns.apple.com/HDRGainMap/1.0/"];
/// Namespace of the container directory in a picture that has a gain map.
const CONTAINER: &[u8] = b"http://ns.google.com/photos/1.0/container/";

/// A picture listed by the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    /// Offset in bytes from the start of the picture that lists it.
    offset: usize,
    length: usize,
}

impl Listed {
    /// Whether this is the picture with that offset and length. Editors move pictures or change their
    /// size, but not both.
    pub(super) fn is(&self, offset: u64, length: usize) -> bool {
        self.offset as u64 == offset || self.length == length
    }
}

/// Relations of a picture to the other pictures in its file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Relations {
    /// The other pictures that it lists.
    pub(super) listed: Vec<Listed>,
    /// Whether it belongs to a previous picture.
    pub(super) secondary: bool,
}

/// Reads the segments before the scan.
pub(super) fn relations(picture: &[u8]) -> Relations {
    let mut relations = Relations::default();
    let header = segments(picture).take_while(|segment| segment.marker != super::marker::SOS);
    for segment in header {
        match (segment.marker, segment.payload) {
            (0xe2, [b'M', b'P', b'F', 0, tiff @ ..]) => {
                let listed = index(tiff, segment.at + MPF.len());
                // Only the first picture of a file has the index.
                relations.secondary |= listed.is_none();
                relations.listed = listed.unwrap_or_default();
            }
            (0xe1, payload) if payload.starts_with(XMP) => {
                let names = |name: &[u8]| payload.windows(name.len()).any(|part| part == name);
                relations.secondary |= GAIN_MAPS.into_iter().any(names) && !names(CONTAINER);
            }
            _ => {}
        }
    }
    relations
}

/// The pictures in an index, except for the first; `None` without an index. Offsets count from the start
/// of `tiff`, which is at `base` in the picture.
fn index(tiff: &[u8], base: usize) -> Option<Vec<Listed>> {
    let little = tiff.starts_with(b"II");
    let u16_at = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let u32_at = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize)
    };
    let directory = u32_at(4)?;
    let fields = directory.checked_add(2)?;
    let field = (0..usize::from(u16_at(directory)?))
        .map(|n| fields + 12 * n)
        .find(|field| u16_at(*field) == Some(MP_ENTRY))?;
    let (bytes, begin) = (u32_at(field + 4)?, u32_at(field + 8)?);
    let entry = |n: usize| {
        let at = begin.checked_add(16 * n)?;
        Some(Listed { length: u32_at(at + 4)?, offset: u32_at(at + 8)?.checked_add(base)? })
    };
    // The first entry is this picture. Entries beyond the end of the segment are ignored.
    Some((1..bytes / 16).map_while(entry).collect())
}
