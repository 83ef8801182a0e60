//! Extends counters that wrap around, such as RTP sequence numbers and timestamps, so that they keep growing (RFC
//! 3550 appendix A.1).

/// Extends a counter of `bits` bits to the value nearest to the newest one seen, and updates the newest one.
pub(super) fn extend(newest: &mut Option<u64>, value: u64, bits: u32) -> u64 {
    let Some(last) = *newest else {
        // Start one wrap up, so that packets older than the first one seen do not fall below zero.
        let first = value + (1 << bits);
        *newest = Some(first);
        return first;
    };
    let extended = near(last, value, bits);
    *newest = Some(last.max(extended));
    extended
}

/// The value of a counter of `bits` bits that is nearest to `reference`.
pub(super) fn near(reference: u64, value: u64, bits: u32) -> u64 {
    let modulus = 1u64 << bits;
    let ahead = value.wrapping_sub(reference) & (modulus - 1);
    if ahead < modulus / 2 {
        reference + ahead
    } else {
        (reference + ahead).saturating_sub(modulus)
    }
}

/// Packets at most this far behind the newest one count as late: as many as SRTP's replay protection accepts.
pub(super) const LATE: u64 = 2048;

/// Extends an RTP sequence number. Only the last [`LATE`] numbers count as late packets; all others are ahead,
/// because SRTP drops older packets. So the value keeps growing after a gap of more than half the range, and after a
/// sender has restarted with a random number; the nearest value would stay behind for thousands of packets.
pub(super) fn extend_sequence(newest: &mut Option<u64>, sequence: u16) -> u64 {
    let Some(last) = *newest else { return extend(newest, sequence.into(), 16) };
    let extended = near_sequence(last, sequence);
    *newest = Some(last.max(extended));
    extended
}

/// The extended sequence number that follows from the newest one, see [`extend_sequence`].
pub(super) fn near_sequence(newest: u64, sequence: u16) -> u64 {
    let ahead = u64::from(sequence.wrapping_sub(newest as u16));
    if ahead + LATE < 1 << 16 { newest + ahead } else { (newest + ahead).saturating_sub(1 << 16) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_number_is_late_or_ahead_and_never_stuck_behind() {
        let mut newest = Some(100_000);
        let low = (100_000 % 65_536) as u16;
        assert_eq!(extend_sequence(&mut newest, low - 2048), 100_000 - 2048);
        assert_eq!(extend_sequence(&mut newest, low - 2049), 100_000 + 65_536 - 2049);
        let mut newest = None;
        let first = extend_sequence(&mut newest, 10);
        assert_eq!(extend_sequence(&mut newest, 65_535), first - 11, "before the first one");
        // A gap of 40,000 packets, and a sender that restarts 20,000 lower.
        assert_eq!(extend_sequence(&mut newest, 40_010), first + 40_000);
        let again = extend_sequence(&mut newest, 20_010);
        assert!(again > first + 40_000);
        assert_eq!(extend_sequence(&mut newest, 20_011), again + 1);
    }

    #[test]
    fn a_counter_continues_past_its_wrap_and_back_before_it() {
        let mut newest = None;
        let first = extend(&mut newest, 65_534, 16);
        assert_eq!(extend(&mut newest, 1, 16), first + 3);
        assert_eq!(extend(&mut newest, 65_533, 16), first - 1);
        assert_eq!(newest, Some(first + 3), "a late value is not the newest");
        assert_eq!(near(first, 1, 16), first + 3);
    }
}
