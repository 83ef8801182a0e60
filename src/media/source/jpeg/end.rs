//! Where a JPEG ends (ITU-T T.81 §B.1), found while its bytes arrive.

use super::marker;

/// Walks the marker segments of one picture up to its end-of-image marker. Thumbnails lie in segments,
/// so their markers are skipped. Each byte is examined only one time, however often the walk resumes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// Everything before this was walked; may lie beyond what has arrived.
    at: usize,
    /// Within a scan, where bytes that look like the marker of a header are damage.
    in_scan: bool,
}

impl Walk {
    /// A walk that begins after the start-of-image marker.
    pub(super) fn new() -> Self {
        Self { at: 2, in_scan: false }
    }

    /// Goes on: the length of the picture, once its end has arrived. `data` begins with the picture and
    /// only ever grows. A picture without an end marker ends where the next one begins.
    pub(super) fn advance(&mut self, data: &[u8]) -> Option<usize> {
        loop {
            let ahead = data.get(self.at..)?;
            let Some(skipped) = ahead.iter().position(|byte| *byte == 0xff) else {
                self.at = data.len();
                return None;
            };
            self.at += skipped;
            match *data.get(self.at + 1)? {
                marker::FILL => self.at += 1,
                marker::EOI => return Some(self.at + 2),
                marker::SOI if self.in_scan => return Some(self.at),
                code if self.stands_alone(code) => self.at += 2,
                code => {
                    let &[high, low] = data.get(self.at + 2..)?.first_chunk()?;
                    self.in_scan |= code == marker::SOS;
                    self.at += 2 + usize::from(u16::from_be_bytes([high, low]));
                }
            }
        }
    }

    /// Whether a picture without an end is cut off within a segment.
    pub(super) fn lacks(mut self, picture: &[u8]) -> bool {
        self.advance(picture).is_none() && self.at > picture.len()
    }

    /// Whether no segment follows this marker.
    fn stands_alone(&self, code: u8) -> bool {
        marker::stands_alone(code) || self.in_scan && !marker::is_between_scans(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, an Exif segment with a thumbnail's markers in it, a scan with a stuffed byte and a restart.
    const PICTURE: [u8; 24] = [
        0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9, 0xff, 0xda, 0, 2, 1, 0xff, 0, 0xff,
        0xd0, 2, 0xff, 0xff, 0xd9, 7,
    ];

    #[test]
    fn the_end_is_the_first_end_marker_outside_of_segments() {
        let whole = Some(23);
        assert_eq!(Walk::new().advance(&PICTURE), whole);
        // Byte by byte it is the same, and never earlier.
        let mut walk = Walk::new();
        for length in 2..23 {
            assert_eq!(walk.advance(&PICTURE[..length]), None, "{length}");
        }
        assert_eq!(walk.advance(&PICTURE), whole);
    }

    #[test]
    fn the_next_picture_ends_one_without_an_end_marker() {
        let cut = [&PICTURE[..20], &PICTURE[..]].concat();
        assert_eq!(Walk::new().advance(&cut), Some(20));
        // Within a scan the code of a header is damage and has no segment to be passed over.
        let damaged = [&PICTURE[..20], &[0xff, 0xc0, 0xff, 0x12], &PICTURE[20..]].concat();
        assert_eq!(Walk::new().advance(&damaged), Some(27));
    }
}
