//! Prepares a JPEG (ITU-T T.81) for decoding: finds its end, checks that it is complete, and rewrites
//! what the decoder does not support.

mod end;
mod header;
mod huffman;
mod interleave;
mod reader;
mod scan;
mod siblings;

use std::{borrow::Cow, rc::Rc};

pub(super) use reader::JpegReader;

use self::{
    end::Walk,
    header::{FrameHeader, ScanHeader, Segment, segments},
    huffman::{Huffman, STANDARD},
    interleave::{ComponentTables, interleave},
    scan::{Coefficients, Extent, Tables},
};

/// Markers (table B.1), the byte after FF.
mod marker {
    pub(super) const SOF0: u8 = 0xc0;
    pub(super) const SOF2: u8 = 0xc2;
    pub(super) const DHT: u8 = 0xc4;
    pub(super) const SOI: u8 = 0xd8;
    pub(super) const EOI: u8 = 0xd9;
    pub(super) const SOS: u8 = 0xda;
    pub(super) const DQT: u8 = 0xdb;
    pub(super) const DRI: u8 = 0xdd;
    /// Any number of these bytes may precede a marker.
    pub(super) const FILL: u8 = 0xff;

    /// Whether no segment follows: a stuffed byte, TEM, RST0 to RST7, SOI.
    pub(super) fn stands_alone(code: u8) -> bool {
        matches!(code, 0x00 | 0x01 | 0xd0..=SOI)
    }

    /// Whether the segment may occur between scans: DHT, DAC, SOS, DQT, DNL, DRI, APP0 to APP15, COM.
    pub(super) fn is_between_scans(code: u8) -> bool {
        matches!(code, DHT | 0xcc | SOS..=DRI | 0xe0..=0xef | 0xfe)
    }
}

/// Maximum number of scans; the decoder's limit is the same.
const MAX_SCANS: usize = 100;

/// Number of consecutive zeros that count as padding instead of codes.
const PADDING: usize = 16;

/// Percentage of a scan that may be missing at its end: less than a row of blocks of a photo.
const MAX_MISSING: usize = 1;

/// Maximum number of pixels of a picture that is checked. The decoder rejects larger ones.
const MAX_PIXELS: usize = 16_384 * 16_384;

/// A picture prepared for the decoder.
pub(super) struct Prepared<'a> {
    /// The picture, with an end marker.
    pub(super) data: Cow<'a, [u8]>,
    /// A problem that does not prevent its use, if any.
    pub(super) notice: Option<&'static str>,
}

/// Width and height according to the frame header.
pub(super) fn dimensions(picture: &[u8]) -> Option<(usize, usize)> {
    let frame = segments(picture).find(is_frame_header)?;
    FrameHeader::parse(&frame).map(|frame| (frame.width, frame.height))
}

/// Prepares a picture for the decoder, which would fill missing parts with gray.
///
/// # Errors
/// A part of the picture is missing; the error is a human-readable description of that part.
pub(super) fn prepare(picture: &[u8]) -> Result<Prepared<'_>, String> {
    let marked = Walk::new().advance(picture).is_some();
    let picture = if marked { picture } else { without_padding(picture) };
    if !marked && Walk::new().lacks(picture) {
        return Err("the JPEG is cut off: it ends within a header".to_owned());
    }
    let mut reading = Reading::default();
    let read = segments(picture).try_for_each(|segment| reading.segment(&segment));
    let mut notice = (!marked).then_some("it has no end marker, but is otherwise complete");
    if read.is_some() {
        reading.check(marked)?;
        if reading.missing() > 0 {
            notice = Some("it is cut off just before its end");
        }
    }
    let mut data = reading.rewritten().map_or(Cow::Borrowed(picture), Cow::Owned);
    if reading.needs_standard_tables {
        data = Cow::Owned([&data[..2], STANDARD, &data[2..]].concat());
    }
    if !data.ends_with(&[0xff, marker::EOI]) {
        data.to_mut().extend([0xff, marker::EOI]);
    }
    Ok(Prepared { data, notice })
}

/// Removes zeros at the end of a picture without an end marker. They replace the rest of the file and
/// would be read as codes.
fn without_padding(picture: &[u8]) -> &[u8] {
    let end = picture.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    if picture.len() - end < PADDING { picture } else { &picture[..end] }
}

fn is_frame_header(segment: &Segment<'_>) -> bool {
    matches!(segment.marker, marker::SOF0..=0xcf) && !matches!(segment.marker, 0xc4 | 0xc8 | 0xcc)
}

/// The parts of a picture read so far.
#[derive(Default)]
struct Reading<'a> {
    frame: Option<FrameHeader>,
    tables: Tables,
    needs_standard_tables: bool,
    quantization: [Option<(u8, &'a [u8])>; 4],
    coefficients: Option<Coefficients>,
    extents: Vec<Extent>,
    components: Vec<Option<ComponentTables<'a>>>,
    others: Vec<&'a [u8]>,
}

impl<'a> Reading<'a> {
    /// Reads one segment. Returns `None` for kinds of segments and damage that are left to the decoder to
    /// judge.
    fn segment(&mut self, segment: &Segment<'a>) -> Option<()> {
        match segment.marker {
            marker::DHT => self.huffman_tables(segment.payload),
            marker::DQT => self.quantization_tables(segment.payload),
            marker::DRI => {
                let interval = *segment.payload.first_chunk()?;
                self.tables.restart_interval = usize::from(u16::from_be_bytes(interval));
                Some(())
            }
            marker::SOS => self.scan(segment),
            0xe0..=0xef | 0xfe => {
                self.others.push(segment.whole);
                Some(())
            }
            marker::SOF0..=marker::SOF2 if self.frame.is_none() => {
                let frame = FrameHeader::parse(segment)?;
                let readable = frame.precision == 8 && frame.width * frame.height <= MAX_PIXELS;
                self.components.resize(frame.components.len(), None);
                self.frame = Some(frame).filter(|_| readable);
                self.frame.is_some().then_some(())
            }
            // Arithmetic coding, lossless and hierarchical pictures, or a second frame.
            _ => (!is_frame_header(segment)).then_some(()),
        }
    }

    fn huffman_tables(&mut self, mut payload: &[u8]) -> Option<()> {
        while let Some((destination, rest)) = payload.split_first() {
            let (table, length) = Huffman::parse(rest)?;
            payload = &rest[length..];
            let tables = match destination >> 4 {
                0 => &mut self.tables.dc,
                1 => &mut self.tables.ac,
                _ => return None,
            };
            *tables.get_mut(usize::from(destination & 15))? = Some(Rc::new(table));
        }
        Some(())
    }

    fn quantization_tables(&mut self, mut payload: &'a [u8]) -> Option<()> {
        while let Some((destination, rest)) = payload.split_first() {
            let precision = destination >> 4;
            let (values, rest) = rest.split_at_checked(64 << precision.min(1))?;
            let slot = self.quantization.get_mut(usize::from(destination & 15))?;
            *slot = Some((precision, values));
            payload = rest;
        }
        Some(())
    }

    fn scan(&mut self, segment: &Segment<'a>) -> Option<()> {
        let frame = self.frame.clone()?;
        let scan = ScanHeader::parse(segment.payload, &frame)?;
        if self.extents.len() >= MAX_SCANS {
            return None;
        }
        if !frame.is_progressive() {
            self.add_standard_tables(&scan)?;
        }
        let several = scan.components.len() < frame.components.len() && !frame.is_progressive();
        let coefficients =
            self.coefficients.get_or_insert_with(|| Coefficients::new(&frame, several));
        self.extents.push(coefficients.read(&frame, &scan, &self.tables, segment.scan)?);
        for component in &scan.components {
            let quantization = self.quantization[frame.components[component.index].quantization];
            let ac = self.tables.ac[component.ac].clone();
            self.components[component.index] =
                ac.zip(quantization).map(|(ac, quantization)| ComponentTables { quantization, ac });
        }
        Some(())
    }

    /// Cameras and AVI files omit the Huffman tables and imply the standard ones.
    fn add_standard_tables(&mut self, scan: &ScanHeader) -> Option<()> {
        let lacks = |component: &header::ScanComponent| {
            self.tables.dc[component.dc].is_none() || self.tables.ac[component.ac].is_none()
        };
        if self.extents.is_empty() && scan.components.iter().any(lacks) {
            self.needs_standard_tables = true;
            let defined = std::mem::take(&mut self.tables);
            self.huffman_tables(&STANDARD[4..])?;
            self.tables.restart_interval = defined.restart_interval;
            // Tables defined in the picture take precedence.
            let stay = |all: &mut [Option<Rc<Huffman>>; 4], defined: [Option<Rc<Huffman>>; 4]| {
                for (slot, table) in all.iter_mut().zip(defined) {
                    *slot = table.or(slot.take());
                }
            };
            stay(&mut self.tables.dc, defined.dc);
            stay(&mut self.tables.ac, defined.ac);
        }
        Some(())
    }

    /// Number of missing MCUs.
    fn missing(&self) -> usize {
        self.extents.iter().map(|extent| extent.missing).sum()
    }

    /// Checks that enough of the picture is there.
    fn check(&self, marked: bool) -> Result<(), String> {
        let Some(coefficients) = &self.coefficients else {
            return Err("the JPEG is cut off: it has no picture data".to_owned());
        };
        for (extent, number) in self.extents.iter().zip(1..) {
            let percent = (100 * extent.missing).div_ceil(extent.whole);
            if percent > MAX_MISSING {
                let scans = self.extents.len();
                let of = if scans == 1 { "it".into() } else { format!("scan {number} of {scans}") };
                return Err(format!("the JPEG is cut off: {percent} % of {of} is missing"));
            }
        }
        let progressive = self.frame.as_ref().is_some_and(FrameHeader::is_progressive);
        for plane in &coefficients.planes {
            if plane.lacking[0].is_none() {
                return Err("the JPEG is cut off: some of its components are missing".to_owned());
            }
            // Encoders may omit scans on purpose, but then there is an end marker.
            if !marked && progressive && plane.lacking.iter().any(|lacks| *lacks != Some(0)) {
                return Err("the JPEG is cut off: its last scans are missing".to_owned());
            }
        }
        Ok(())
    }

    /// The picture in one scan, if it has several scans that the decoder does not handle correctly.
    fn rewritten(&self) -> Option<Vec<u8>> {
        let (frame, coefficients) = (self.frame.as_ref()?, self.coefficients.as_ref()?);
        if frame.is_progressive() || self.extents.len() < 2 {
            return None;
        }
        let tables = self.components.iter().cloned().collect::<Option<Vec<_>>>()?;
        interleave(frame, coefficients, &tables, &self.others)
    }
}

#[cfg(test)]
mod tests;
