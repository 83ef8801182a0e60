//! Rewrites a sequential JPEG with several scans as the same picture in one scan.
//!
//! The decoder does not handle such pictures correctly: zune-jpeg 0.5.15, `src/mcu.rs` line 201, reads as
//! many rows of blocks of a component as the frame has rows of MCUs, which is half of them with 4:2:0. The
//! only newer versions are release candidates of 0.5.16, which `image` 0.25.10 cannot use. Nothing is
//! decoded here: the codes of each block are reordered (ITU-T T.81 §A.2.3), and the differences of the DC
//! coefficients are adjusted to the new order.

use std::rc::Rc;

use super::{
    header::FrameHeader,
    huffman::{Huffman, STANDARD},
    marker,
    scan::{Block, Coefficients, Plane},
};

/// Codes and their lengths from table K.3, for DC differences of 0 to 11 bits.
const DC_CODES: [(u32, u32); 12] = [
    (0b00, 2),
    (0b010, 3),
    (0b011, 3),
    (0b100, 3),
    (0b101, 3),
    (0b110, 3),
    (0b1110, 4),
    (0b1_1110, 5),
    (0b11_1110, 6),
    (0b111_1110, 7),
    (0b1111_1110, 8),
    (0b1_1111_1110, 9),
];

/// The tables of a component, as defined for its scan.
#[derive(Clone)]
pub(super) struct ComponentTables<'a> {
    /// Its quantization table: precision (0 or 1) and the values, as in a DQT segment.
    pub(super) quantization: (u8, &'a [u8]),
    /// Its AC table.
    pub(super) ac: Rc<Huffman>,
}

/// Writes the picture in one scan. `others` are the segments to keep (`APPn`, COM). Returns `None` if there
/// are coefficients that are not possible in a baseline picture.
pub(super) fn interleave(
    frame: &FrameHeader,
    coefficients: &Coefficients,
    tables: &[ComponentTables<'_>],
    others: &[&[u8]],
) -> Option<Vec<u8>> {
    let mut out = vec![0xff, marker::SOI];
    for segment in others {
        out.extend_from_slice(segment);
    }
    // Each component has its own tables, numbered by its index, and shares the DC table.
    for (table, index) in tables.iter().zip(0..) {
        let (precision, values) = table.quantization;
        push_segment(&mut out, marker::DQT, &[&[precision << 4 | index], values]);
        push_segment(&mut out, marker::DHT, &[&[0x10 | index], &table.ac.spec]);
    }
    push_segment(&mut out, marker::DHT, &[&STANDARD[4..4 + 29]]);
    let count = [frame.components.len() as u8];
    let sides = [frame.height as u16, frame.width as u16].map(u16::to_be_bytes);
    let mut header = vec![frame.precision];
    header.extend(sides.as_flattened());
    header.extend(count);
    let mut scan = count.to_vec();
    for (component, index) in frame.components.iter().zip(0_u8..) {
        let factors = component.horizontal << 4 | component.vertical;
        header.extend([component.id, factors as u8, index]);
        scan.extend([component.id, index]);
    }
    scan.extend([0, 63, 0]);
    push_segment(&mut out, frame.marker, &[&header]);
    push_segment(&mut out, marker::SOS, &[&scan]);
    let mut writer = Writer { out, held: 0, count: 0 };
    write_scan(&mut writer, frame, &coefficients.planes)?;
    let mut out = writer.finish();
    out.extend([0xff, marker::EOI]);
    Some(out)
}

fn push_segment(out: &mut Vec<u8>, marker: u8, parts: &[&[u8]]) {
    let length = 2 + parts.iter().map(|part| part.len()).sum::<usize>();
    out.extend([0xff, marker]);
    out.extend((length as u16).to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn write_scan(writer: &mut Writer, frame: &FrameHeader, planes: &[Plane]) -> Option<()> {
    let (across, down) = frame.mcus();
    let mut before = [0; 4];
    for (mcu_row, mcu_column) in (0..down).flat_map(|row| (0..across).map(move |c| (row, c))) {
        for ((component, plane), before) in frame.components.iter().zip(planes).zip(&mut before) {
            let real = frame.blocks(component);
            for n in 0..component.horizontal * component.vertical {
                let column = mcu_column * component.horizontal + n % component.horizontal;
                let row = mcu_row * component.vertical + n / component.horizontal;
                // Blocks beyond the picture pad the MCU; their content does not matter.
                let at = row.min(real.1 - 1) * plane.across + column.min(real.0 - 1);
                let block = plane.blocks[at];
                write_block(writer, plane, block, block.dc.checked_sub(*before)?)?;
                *before = block.dc;
            }
        }
    }
    Some(())
}

fn write_block(writer: &mut Writer, plane: &Plane, block: Block, difference: i32) -> Option<()> {
    let size = 32 - difference.unsigned_abs().leading_zeros();
    let (code, length) = *DC_CODES.get(size as usize)?;
    writer.put(code, length);
    let value = if difference < 0 { difference + (1 << size) - 1 } else { difference };
    writer.put(value as u32, size);
    for at in block.begin..block.begin + block.length as usize {
        writer.put(plane.codes.bit(at), 1);
    }
    Some(())
}

/// Writes the bits of a scan.
struct Writer {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Writer {
    /// Writes the `count` least significant bits, at most 16.
    fn put(&mut self, bits: u32, count: u32) {
        self.held = self.held << count | bits;
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.held >> self.count) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
    }

    /// Pads the last byte with ones (§F.1.2.3).
    fn finish(mut self) -> Vec<u8> {
        self.put(0x7f, 7);
        self.out
    }
}
