//! Reads the Huffman codes of a scan without decoding the picture, to check that it is complete and to
//! find the codes of its blocks.
//!
//! Sequential scans are read as in ITU-T T.81 §F.2.2, progressive ones as in §G.1.2.

use std::rc::Rc;

use super::{
    header::{FrameHeader, ScanHeader},
    huffman::{Bits, Huffman},
};

/// Huffman tables by their indices.
#[derive(Default, Clone)]
pub(super) struct Tables {
    pub(super) dc: [Option<Rc<Huffman>>; 4],
    pub(super) ac: [Option<Rc<Huffman>>; 4],
    /// Number of MCUs between restart markers; 0 for no restart markers (§B.2.4.4).
    pub(super) restart_interval: usize,
}

/// Size of a scan and of its missing part, in MCUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) whole: usize,
    pub(super) missing: usize,
}

/// The content of the scans of a frame that were read so far.
pub(super) struct Coefficients {
    /// One plane per component.
    pub(super) planes: Vec<Plane>,
    /// Whether the blocks of sequential scans are kept.
    keep: bool,
}

/// The blocks of a component, including those that pad the last MCUs.
pub(super) struct Plane {
    /// Number of blocks in a row.
    pub(super) across: usize,
    /// Sequential scans: the blocks, if they are kept.
    pub(super) blocks: Vec<Block>,
    /// The AC codes of all blocks, concatenated.
    pub(super) codes: CodeString,
    /// Progressive scans: for each block, the coefficients that are not zero, in zigzag order.
    nonzero: Vec<u64>,
    /// For each coefficient: the number of its bits that are still missing; `None` before its first
    /// scan.
    pub(super) lacking: [Option<u8>; 64],
}

/// A block of a sequential scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// The DC coefficient, quantized.
    pub(super) dc: i32,
    /// Offset of its AC codes in the plane's codes, in bits.
    pub(super) begin: usize,
    /// Length of its AC codes in bits.
    pub(super) length: u32,
}

/// A string of bits.
#[derive(Default)]
pub(super) struct CodeString {
    bytes: Vec<u8>,
    length: usize,
}

impl CodeString {
    fn push(&mut self, bits: u32, count: u32) {
        for shift in (0..count).rev() {
            if self.length.is_multiple_of(8) {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= (((bits >> shift) & 1) as u8) << (7 - self.length % 8);
            }
            self.length += 1;
        }
    }

    /// The bit at `at`, which is within the string.
    pub(super) fn bit(&self, at: usize) -> u32 {
        u32::from(self.bytes[at / 8] >> (7 - at % 8) & 1)
    }
}

impl Coefficients {
    /// Creates empty planes for the frame; with `keep`, the blocks of sequential scans are kept.
    pub(super) fn new(frame: &FrameHeader, keep: bool) -> Self {
        let plane = |component| {
            let (across, down) = frame.padded_blocks(component);
            let count = |wanted| if wanted { across * down } else { 0 };
            Plane {
                across,
                blocks: vec![Block::default(); count(keep && !frame.is_progressive())],
                codes: CodeString::default(),
                nonzero: vec![0; count(frame.is_progressive())],
                lacking: [None; 64],
            }
        };
        Self { planes: frame.components.iter().map(plane).collect(), keep }
    }

    /// Reads a scan up to its end or to the first error. Returns `None` when a table is missing.
    pub(super) fn read(
        &mut self,
        frame: &FrameHeader,
        scan: &ScanHeader,
        tables: &Tables,
        data: &[u8],
    ) -> Option<Extent> {
        let mut reader = Reader {
            bits: Bits::new(data),
            scan,
            progressive: frame.is_progressive(),
            keep: self.keep,
            dc: [0; 4],
            end_of_band: 0,
        };
        let coders = Coder::of(scan, tables, reader.progressive)?;
        let (across, down) = match &scan.components[..] {
            [alone] => frame.blocks(&frame.components[alone.index]),
            _ => frame.mcus(),
        };
        let whole = across * down;
        let mut read = 0;
        while read < whole && self.mcu(&mut reader, &coders, frame, (read % across, read / across))
        {
            read += 1;
            let due = tables.restart_interval > 0 && read.is_multiple_of(tables.restart_interval);
            if due && read < whole && !reader.restart() {
                break;
            }
        }
        for component in &scan.components {
            let last = if reader.progressive { scan.band.1 } else { 63 };
            let lacks = if reader.progressive { scan.approximation.1 } else { 0 };
            self.planes[component.index].lacking[scan.band.0..=last].fill(Some(lacks));
        }
        Some(Extent { whole, missing: whole - read })
    }

    /// Reads one MCU; returns `false` when it is missing.
    fn mcu(
        &mut self,
        reader: &mut Reader<'_>,
        coders: &[Coder],
        frame: &FrameHeader,
        (column, row): (usize, usize),
    ) -> bool {
        let alone = coders.len() == 1;
        coders.iter().all(|coder| {
            let component = &frame.components[coder.index];
            let (h, v) = if alone { (1, 1) } else { (component.horizontal, component.vertical) };
            let plane = &mut self.planes[coder.index];
            (0..h * v).all(|n| {
                let at = (row * v + n / h) * plane.across + column * h + n % h;
                reader.block(coder, plane, at).is_some()
            })
        })
    }
}

/// A component of a scan with its tables; a table that the scan does not use is `None`.
struct Coder {
    index: usize,
    dc: Option<Rc<Huffman>>,
    ac: Option<Rc<Huffman>>,
}

impl Coder {
    fn of(scan: &ScanHeader, tables: &Tables, progressive: bool) -> Option<Vec<Self>> {
        let (begins, first) = (scan.band.0 == 0, scan.approximation.0 == 0);
        let uses_dc = !progressive || (begins && first);
        let uses_ac = !progressive || !begins;
        let coder = |component: &super::header::ScanComponent| {
            let dc = tables.dc[component.dc].clone().filter(|_| uses_dc);
            let ac = tables.ac[component.ac].clone().filter(|_| uses_ac);
            let complete = dc.is_some() == uses_dc && ac.is_some() == uses_ac;
            complete.then_some(Self { index: component.index, dc, ac })
        };
        scan.components.iter().map(coder).collect()
    }
}

struct Reader<'a> {
    bits: Bits<'a>,
    scan: &'a ScanHeader,
    progressive: bool,
    keep: bool,
    /// The last DC coefficient of each component.
    dc: [i32; 4],
    /// Number of following blocks whose band has no more coefficients (`EOBRUN`).
    end_of_band: u32,
}

impl Reader<'_> {
    fn restart(&mut self) -> bool {
        self.dc = [0; 4];
        self.end_of_band = 0;
        self.bits.restart()
    }

    /// Reads the block at index `at` of a plane; returns `None` when the data ends or is not valid.
    fn block(&mut self, coder: &Coder, plane: &mut Plane, at: usize) -> Option<()> {
        let first = self.scan.approximation.0 == 0;
        match (&coder.dc, &coder.ac) {
            (Some(dc), Some(ac)) => self.sequential(coder.index, dc, ac, plane, at),
            (Some(dc), None) => self.dc(coder.index, dc).map(drop),
            (None, Some(ac)) if first => self.ac_first(ac, plane.nonzero.get_mut(at)?),
            (None, Some(ac)) => self.ac_refine(ac, plane.nonzero.get_mut(at)?),
            // A DC refinement is one bit.
            (None, None) => self.bits.take(1).map(drop),
        }
    }

    fn dc(&mut self, index: usize, table: &Huffman) -> Option<i32> {
        let size = u32::from(self.bits.code(table)?.symbol);
        let bits = self.bits.take(Some(size).filter(|size| *size <= 16)?)? as i32;
        // EXTEND in §F.2.2.1.
        let negative = size > 0 && bits < 1 << (size - 1);
        let difference = if negative { bits - (1 << size) + 1 } else { bits };
        self.dc[index] = self.dc[index].wrapping_add(difference);
        Some(self.dc[index])
    }

    fn sequential(
        &mut self,
        index: usize,
        dc: &Huffman,
        ac: &Huffman,
        plane: &mut Plane,
        at: usize,
    ) -> Option<()> {
        let dc = self.dc(index, dc)?;
        let begin = plane.codes.length;
        let mut next = 1;
        while next < 64 {
            let code = self.bits.code(ac)?;
            let (run, size) = (usize::from(code.symbol >> 4), u32::from(code.symbol & 15));
            let value = self.bits.take(size)?;
            if self.keep {
                plane.codes.push(code.bits, code.length);
                plane.codes.push(value, size);
            }
            if size == 0 && run < 15 {
                break;
            }
            next += run + 1;
        }
        if self.keep {
            let length = (plane.codes.length - begin) as u32;
            *plane.blocks.get_mut(at)? = Block { dc, begin, length };
        }
        Some(())
    }

    fn ac_first(&mut self, table: &Huffman, nonzero: &mut u64) -> Option<()> {
        if self.end_of_band > 0 {
            self.end_of_band -= 1;
            return Some(());
        }
        let (mut next, last) = self.scan.band;
        while next <= last {
            let code = self.bits.code(table)?;
            let (run, size) = (u32::from(code.symbol >> 4), u32::from(code.symbol & 15));
            if size == 0 && run < 15 {
                self.end_of_band = (1 << run) + self.bits.take(run)? - 1;
                break;
            }
            self.bits.take(size)?;
            next += run as usize;
            if size > 0 && next < 64 {
                *nonzero |= 1 << next;
            }
            next += 1;
        }
        Some(())
    }

    fn ac_refine(&mut self, table: &Huffman, nonzero: &mut u64) -> Option<()> {
        let (mut next, last) = self.scan.band;
        let before = *nonzero;
        while next <= last && self.end_of_band == 0 {
            let code = self.bits.code(table)?;
            let (mut run, size) = (u32::from(code.symbol >> 4), u32::from(code.symbol & 15));
            if size == 0 && run < 15 {
                self.end_of_band = (1 << run) + self.bits.take(run)?;
                break;
            }
            self.bits.take(size.min(1))?;
            // Coefficients that are already nonzero take one bit each and do not count.
            while next <= last {
                if before >> next & 1 == 1 {
                    self.bits.take(1)?;
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                next += 1;
            }
            if size > 0 && next <= last {
                *nonzero |= 1 << next;
            }
            next += 1;
        }
        if self.end_of_band > 0 {
            self.end_of_band -= 1;
            let left = (next..=last).filter(|n| before >> n & 1 == 1).count();
            (0..left).try_for_each(|_| self.bits.take(1).map(drop))?;
        }
        Some(())
    }
}
