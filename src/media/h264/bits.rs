//! Reads and writes the bits of a NAL unit's payload: emulation prevention (§7.4.1) and Exp-Golomb
//! codes (§9.1).

/// The payload without emulation prevention bytes (§7.4.1), limited to `limit` bytes.
pub(super) fn unescape(payload: &[u8], limit: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len().min(limit));
    let mut zeros = 0;
    for &byte in payload {
        if out.len() == limit {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// Reads the bits of an RBSP, most significant first, including Exp-Golomb codes (§9.1).
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Number of bits read.
    pub(super) at: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(super) fn bit(&mut self) -> Option<u32> {
        let byte = *self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(u32::from(bit))
    }

    pub(super) fn read(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0, |value: u32, _| Some(value << 1 | self.bit()?))
    }

    pub(super) fn skip(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.bit().map(drop))
    }

    pub(super) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let rest = self.read(zeros)?;
        ((1u64 << zeros) - 1 + u64::from(rest)).try_into().ok()
    }

    pub(super) fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 })
    }
}

/// Writes the bits of an RBSP, most significant first, with emulation prevention.
pub(super) struct BitWriter {
    payload: Vec<u8>,
    /// Number of zero bytes at the end of `payload`.
    zeros: u32,
    held: u64,
    held_bits: u32,
}

impl BitWriter {
    /// Starts a NAL unit with these header bytes.
    pub(super) fn after(header: &[u8], capacity: usize) -> Self {
        let mut payload = Vec::with_capacity(capacity);
        payload.extend_from_slice(header);
        Self { payload, zeros: 0, held: 0, held_bits: 0 }
    }

    /// Writes the `count` least significant bits of a value, at most 32.
    pub(super) fn write(&mut self, value: u32, count: u32) {
        let mask = (1u64 << count) - 1;
        self.held = self.held << count | u64::from(value) & mask;
        self.held_bits += count;
        while self.held_bits >= 8 {
            self.held_bits -= 8;
            self.byte((self.held >> self.held_bits) as u8);
        }
    }

    /// Writes an unsigned Exp-Golomb code.
    pub(super) fn ue(&mut self, value: u32) {
        let code = u64::from(value) + 1;
        let length = code.ilog2();
        self.write(0, length);
        self.write((code >> 1) as u32, length);
        self.write(code as u32 & 1, 1);
    }

    /// Copies the bits from `from` to `to` of an RBSP, which must have at least `to` bits.
    pub(super) fn copy(&mut self, rbsp: &[u8], from: usize, to: usize) {
        let mut at = from;
        while at < to {
            // At most to the end of a byte.
            let (skipped, count) = (at % 8, (8 - at % 8).min(to - at));
            let byte = u32::from(rbsp[at / 8]);
            self.write(byte >> (8 - skipped - count), count as u32);
            at += count;
        }
    }

    /// Returns the NAL unit, with its last byte padded with zero bits.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.held_bits > 0 {
            self.write(0, 8 - self.held_bits);
        }
        self.payload
    }

    fn byte(&mut self, byte: u8) {
        if self.zeros >= 2 && byte <= 3 {
            self.payload.push(3);
            self.zeros = 0;
        }
        self.zeros = if byte == 0 { self.zeros + 1 } else { 0 };
        self.payload.push(byte);
    }
}
