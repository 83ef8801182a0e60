//! Splits an Annex B byte stream into access units (§7.4.1.2.3) as its bytes arrive.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{NalType, append_nal, find_start_code, nal_type, slice::first_mb_in_slice, trim_zeros};

/// Splits a byte stream into access units. A new access unit begins at a delimiter, a parameter set,
/// an SEI or a slice with `first_mb_in_slice` 0, if the current one already has a slice.
#[derive(Debug, Default)]
pub struct AccessUnitSplitter {
    pending: Vec<u8>,
    /// Offset in `pending` of the current NAL unit, once its start code was found.
    nal_start: Option<usize>,
    scanned: usize,
    unit: Vec<u8>,
    unit_has_slice: bool,
    ready: VecDeque<Bytes>,
}

impl AccessUnitSplitter {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
        while let Some(at) = find_start_code(&self.pending, self.scanned) {
            self.take_nal(at);
            self.nal_start = Some(at + 3);
            self.scanned = at + 3;
        }
        // A start code may be split: search the last two bytes again.
        self.scanned = self.scanned.max(self.pending.len().saturating_sub(2));
        let done = self.nal_start.unwrap_or(self.scanned);
        self.pending.drain(..done);
        self.scanned -= done;
        self.nal_start = self.nal_start.map(|_| 0);
    }

    /// The stream has ended: the remaining bytes are the last access unit.
    pub fn finish(&mut self) {
        self.take_nal(self.pending.len());
        self.pending.clear();
        self.nal_start = None;
        self.scanned = 0;
        self.close_unit();
    }

    /// The next complete access unit, with 4-byte start codes.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Number of bytes held for incomplete access units.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pending.len() + self.unit.len()
    }

    fn take_nal(&mut self, end: usize) {
        let Some(start) = self.nal_start else { return };
        let nal = trim_zeros(&self.pending[start..end]).to_vec();
        if nal.is_empty() {
            return;
        }
        let kind = nal_type(&nal);
        let begins = match kind {
            NalType::Aud | NalType::Sps | NalType::Pps | NalType::Sei => true,
            NalType::Other(kind) => (14..=18).contains(&kind),
            NalType::Idr | NalType::NonIdr => first_mb_in_slice(&nal) == Some(0),
        };
        if begins && self.unit_has_slice {
            self.close_unit();
        }
        self.unit_has_slice |= kind.is_slice();
        append_nal(&mut self.unit, &nal);
    }

    fn close_unit(&mut self) {
        if !self.unit.is_empty() {
            self.ready.push_back(std::mem::take(&mut self.unit).into());
        }
        self.unit_has_slice = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: u8 = 0x80; // ue(0)
    const LATER: u8 = 0x40; // ue(1)

    fn stream(nals: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for nal in nals {
            append_nal(&mut out, nal);
        }
        out
    }

    fn split(stream: &[u8], chunk: usize) -> Vec<Bytes> {
        let mut splitter = AccessUnitSplitter::default();
        stream.chunks(chunk).for_each(|part| splitter.push(part));
        splitter.finish();
        std::iter::from_fn(|| splitter.pop()).collect()
    }

    #[test]
    fn slices_of_one_picture_stay_together() {
        let first: &[&[u8]] = &[&[0x67, 1], &[0x68, 1], &[0x65, FIRST], &[0x65, LATER]];
        let second: &[&[u8]] = &[&[0x41, FIRST], &[0x41, LATER]];
        let third: &[&[u8]] = &[&[0x09, 0x10], &[0x06, 5], &[0x65, FIRST]];
        let units = [stream(first), stream(second), stream(third)];
        for chunk in 1..20 {
            assert_eq!(split(&units.concat(), chunk), units, "in chunks of {chunk}");
        }
    }

    #[test]
    fn bytes_that_are_not_h264_are_discarded() {
        let mut splitter = AccessUnitSplitter::default();
        splitter.push(&[7; 10_000]);
        assert!(splitter.held() <= 2);
        splitter.finish();
        assert_eq!(splitter.pop(), None);
    }

    proptest! {
        #[test]
        fn the_chunk_size_does_not_matter(data in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0x65), Just(FIRST), any::<u8>()], 0..300), chunk in 1usize..50) {
            prop_assert_eq!(split(&data, chunk), split(&data, 1000));
        }
    }
}
