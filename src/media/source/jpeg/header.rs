//! Segments and headers of a JPEG (ITU-T T.81 §B.2).

use super::marker;

/// A marker, its segment and, for a scan, the coded data after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment<'a> {
    pub(super) marker: u8,
    /// The bytes after the length.
    pub(super) payload: &'a [u8],
    /// The marker, the length and the payload.
    pub(super) whole: &'a [u8],
    /// The coded data after a scan header, up to the next marker that is not a restart.
    pub(super) scan: &'a [u8],
    /// Offset of the payload in the picture.
    pub(super) at: usize,
}

/// The segments of a picture, up to its end or to the first one that is not valid.
pub(super) fn segments(picture: &[u8]) -> impl Iterator<Item = Segment<'_>> {
    let mut at = 2;
    std::iter::from_fn(move || {
        at += picture.get(at..)?.windows(2).position(|pair| {
            pair[0] == 0xff && !marker::stands_alone(pair[1]) && pair[1] != marker::FILL
        })?;
        let marker = picture[at + 1];
        if marker == marker::EOI {
            return None;
        }
        let &[high, low] = picture.get(at + 2..)?.first_chunk()?;
        let begin = at + 4;
        let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
        let (payload, whole) = (picture.get(begin..end)?, &picture[at..end]);
        at = end;
        let mut scan = &[][..];
        if marker == marker::SOS {
            scan = &picture[end..];
            let length = scan.windows(2).position(|pair| {
                pair[0] == 0xff && (pair[1] == marker::EOI || marker::is_between_scans(pair[1]))
            });
            scan = &scan[..length.unwrap_or(scan.len())];
            at = end + scan.len();
        }
        Some(Segment { marker, payload, whole, scan, at: begin })
    })
}

/// A component of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Component {
    pub(super) id: u8,
    /// Sampling factors, 1 to 4.
    pub(super) horizontal: usize,
    pub(super) vertical: usize,
    /// Index of its quantization table, 0 to 3.
    pub(super) quantization: usize,
}

/// A frame header (§B.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) marker: u8,
    pub(super) precision: u8,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) components: Vec<Component>,
}

impl FrameHeader {
    pub(super) fn parse(segment: &Segment<'_>) -> Option<Self> {
        let (&[precision, h1, h0, w1, w0, count], rest) = segment.payload.split_first_chunk()?;
        let components: Vec<Component> = rest
            .chunks_exact(3)
            .take(count.into())
            .map(|three| Component {
                id: three[0],
                horizontal: usize::from(three[1] >> 4),
                vertical: usize::from(three[1] & 15),
                quantization: usize::from(three[2]),
            })
            .collect();
        let valid = |c: &Component| {
            (1..=4).contains(&c.horizontal) && (1..=4).contains(&c.vertical) && c.quantization < 4
        };
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        if components.len() != usize::from(count)
            || !(1..=4).contains(&count)
            || !components.iter().all(valid)
            || width == 0
            || height == 0
        {
            return None;
        }
        Some(Self { marker: segment.marker, precision, width, height, components })
    }

    pub(super) fn is_progressive(&self) -> bool {
        self.marker == marker::SOF2
    }

    fn largest(&self) -> (usize, usize) {
        let largest = |factor: fn(&Component) -> usize| self.components.iter().map(factor).max();
        (largest(|c| c.horizontal).unwrap_or(1), largest(|c| c.vertical).unwrap_or(1))
    }

    /// Number of MCUs across and down in a scan of several components (§A.2.3).
    pub(super) fn mcus(&self) -> (usize, usize) {
        let (horizontal, vertical) = self.largest();
        (self.width.div_ceil(8 * horizontal), self.height.div_ceil(8 * vertical))
    }

    /// Number of blocks of a component across and down in a scan of this component only (§A.2.2).
    pub(super) fn blocks(&self, component: &Component) -> (usize, usize) {
        let (horizontal, vertical) = self.largest();
        let side =
            |pixels: usize, factor: usize, largest| (pixels * factor).div_ceil(largest).div_ceil(8);
        (
            side(self.width, component.horizontal, horizontal),
            side(self.height, component.vertical, vertical),
        )
    }

    /// The same, including the blocks that pad the last MCUs.
    pub(super) fn padded_blocks(&self, component: &Component) -> (usize, usize) {
        let (across, down) = self.mcus();
        (across * component.horizontal, down * component.vertical)
    }
}

/// A component of a scan: its index in the frame, and the indices of its Huffman tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ScanComponent {
    pub(super) index: usize,
    pub(super) dc: usize,
    pub(super) ac: usize,
}

/// A scan header (§B.2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ScanHeader {
    pub(super) components: Vec<ScanComponent>,
    /// First and last coefficient, in zigzag order.
    pub(super) band: (usize, usize),
    /// Number of low-order bits omitted in the previous scan of the same band (0 for the first scan),
    /// and in this one.
    pub(super) approximation: (u8, u8),
}

impl ScanHeader {
    pub(super) fn parse(payload: &[u8], frame: &FrameHeader) -> Option<Self> {
        let (count, rest) = payload.split_first()?;
        let (pairs, rest) = rest.split_at_checked(2 * usize::from(*count))?;
        let &[first, last, approximation] = rest.first_chunk()?;
        let components = pairs
            .chunks_exact(2)
            .map(|pair| {
                let index = frame.components.iter().position(|c| c.id == pair[0])?;
                let (dc, ac) = (usize::from(pair[1] >> 4), usize::from(pair[1] & 15));
                (dc < 4 && ac < 4).then_some(ScanComponent { index, dc, ac })
            })
            .collect::<Option<Vec<_>>>()?;
        let band = (usize::from(first), usize::from(last));
        let fits = !components.is_empty() && band.0 <= band.1 && band.1 < 64;
        // In a progressive picture, AC coefficients are in scans of a single component (§G.1.1.1.1).
        let alone = !frame.is_progressive() || band.0 == 0 || components.len() == 1;
        let approximation = (approximation >> 4, approximation & 15);
        (fits && alone).then_some(Self { components, band, approximation })
    }
}
