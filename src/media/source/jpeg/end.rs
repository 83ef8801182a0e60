//! Finds the end of a JPEG (ITU-T T.81 §B.1) while its bytes arrive.

use super::marker;

/// Walks through the marker segments of one picture up to its end-of-image marker. Thumbnails are inside
/// segments, so their markers are skipped. Each byte is examined only once, however often the walk is
/// resumed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// Everything before this offset was examined; it may be beyond the bytes that have arrived.
    at: usize,
    /// Whether the walk is within a scan, where bytes that look like a header marker are damage.
    in_scan: bool,
}

impl Walk {
    /// Starts a walk after the start-of-image marker.
    pub(super) fn new() -> Self {
        Self { at: 2, in_scan: false }
    }

    /// Continues the walk; returns the length of the picture once its end has arrived. `data` begins with
    /// the picture and only grows between calls. A picture without an end marker ends where the next one
    /// begins.
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

    /// Whether a picture without an end marker is cut off within a segment.
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

    /// A start marker, an Exif segment that contains a thumbnail's markers, and a scan with a stuffed
    /// byte and a restart.
    const PICTURE: [u8; 24] = [
        0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd8, 0xff, 0xd9, 0xff, 0xda, 0, 2, 1, 0xff, 0, 0xff,
        0xd0, 2, 0xff, 0xff, 0xd9, 7,
    ];

    #[test]
    fn the_first_end_marker_outside_of_segments_is_the_end() {
        let whole = Some(23);
        assert_eq!(Walk::new().advance(&PICTURE), whole);
        // The same byte by byte, and never earlier.
        let mut walk = Walk::new();
        for length in 2..23 {
            assert_eq!(walk.advance(&PICTURE[..length]), None, "{length}");
        }
        assert_eq!(walk.advance(&PICTURE), whole);
    }

    #[test]
    fn a_picture_without_an_end_marker_ends_at_the_next_one() {
        let cut = [&PICTURE[..20], &PICTURE[..]].concat();
        assert_eq!(Walk::new().advance(&cut), Some(20));
        // Within a scan, a header marker is damage, and there is no segment to skip.
        let damaged = [&PICTURE[..20], &[0xff, 0xc0, 0xff, 0x12], &PICTURE[20..]].concat();
        assert_eq!(Walk::new().advance(&damaged), Some(27));
    }
}
