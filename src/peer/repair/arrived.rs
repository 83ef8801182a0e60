//! Records which packets of a stream have arrived, so that each is used once, whether it came on the stream itself
//! or as a retransmission. SRTP's replay protection (RFC 3711 §3.3.2) detects repeats only within one SSRC.

use super::WINDOW;
use crate::peer::sequence::{near, near_sequence};

/// Number of sequence numbers in one word.
const WORD: u64 = 64;

/// The last [`WINDOW`] sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    newest: Option<u64>,
    /// One bit for each sequence number, at its value modulo the window.
    bits: [u64; (WINDOW as u64 / WORD) as usize],
}

impl Arrived {
    /// A packet arrived on the stream itself; false if it had arrived before.
    pub(super) fn is_new(&mut self, sequence: u16) -> bool {
        let sequence =
            self.newest.map_or(first(sequence), |newest| near_sequence(newest, sequence));
        // SRTP accepts nothing older than the window.
        self.record(sequence).unwrap_or(true)
    }

    /// A packet was restored; false if it had arrived before or is too far from the newest packets to be a repair.
    pub(super) fn is_missing(&mut self, sequence: u16) -> bool {
        let Some(newest) = self.newest else { return self.is_new(sequence) };
        let sequence = near(newest, u64::from(sequence), 16);
        sequence <= newest + u64::from(WINDOW) && self.record(sequence).unwrap_or(false)
    }

    /// Records a packet. Returns whether it is the first with its number; none if it is older than the window.
    fn record(&mut self, sequence: u64) -> Option<bool> {
        let window = u64::from(WINDOW);
        let newest = *self.newest.get_or_insert(sequence);
        if sequence > newest {
            if sequence - newest >= window {
                self.bits.fill(0);
            } else {
                (newest + 1..=sequence).for_each(|number| self.clear(number));
            }
            self.newest = Some(sequence);
        } else if newest - sequence >= window {
            return None;
        }
        let (word, bit) = place(sequence);
        let known = self.bits[word] & bit != 0;
        self.bits[word] |= bit;
        Some(!known)
    }

    fn clear(&mut self, sequence: u64) {
        let (word, bit) = place(sequence);
        self.bits[word] &= !bit;
    }
}

/// One wrap higher, so that numbers before the first packet do not fall below zero.
fn first(sequence: u16) -> u64 {
    u64::from(sequence) + (1 << 16)
}

fn place(sequence: u64) -> (usize, u64) {
    let at = sequence % u64::from(WINDOW);
    ((at / WORD) as usize, 1 << (at % WORD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_packet_is_used_once_however_it_arrives() {
        let mut arrived = Arrived::default();
        assert!(arrived.is_new(65_534) && arrived.is_new(1));
        assert!(!arrived.is_missing(65_534) && !arrived.is_new(1));
        assert!(arrived.is_missing(65_535) && !arrived.is_new(65_535), "late and already repaired");
        assert!(arrived.is_new(0) && !arrived.is_missing(0));
        // A packet from before the first arrival, and the repeated tail.
        assert!(arrived.is_missing(65_500) && arrived.is_missing(5) && !arrived.is_new(5));
    }

    #[test]
    fn a_distant_number_is_not_a_repair() {
        let mut arrived = Arrived::default();
        assert!(arrived.is_new(10_000));
        for far in [10_000 - WINDOW, 10_001 + WINDOW, 50_000] {
            assert!(!arrived.is_missing(far), "{far}");
        }
        assert!(arrived.is_new(10_001), "the window has not moved");
        assert!(arrived.is_missing(10_002 - WINDOW) && !arrived.is_missing(10_002 - WINDOW));
    }

    #[test]
    fn numbers_are_free_again_after_a_wrap_and_after_a_jump() {
        let mut arrived = Arrived::default();
        for turn in 0..200_000_u32 {
            assert!(arrived.is_new(turn as u16), "{turn}");
        }
        let newest = 199_999_u32 as u16;
        assert!(arrived.is_new(newest.wrapping_add(30_000)));
        assert!(arrived.is_missing(newest.wrapping_add(29_999)));
        assert!(!arrived.is_missing(newest));
    }
}
