//! Counters that wrap around, such as RTP sequence numbers and timestamps, made to grow for ever
//! (RFC 3550 appendix A.1).

/// Extends a counter of `bits` bits to the value nearest to the newest one seen, which follows.
pub(super) fn extend(newest: &mut Option<u64>, value: u64, bits: u32) -> u64 {
    let Some(last) = *newest else {
        // One turn up, so that packets from before the first one seen do not go below zero.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_goes_on_after_its_wrap_and_back_before_it() {
        let mut newest = None;
        let first = extend(&mut newest, 65_534, 16);
        assert_eq!(extend(&mut newest, 1, 16), first + 3);
        assert_eq!(extend(&mut newest, 65_533, 16), first - 1);
        assert_eq!(newest, Some(first + 3), "what is late is not the newest");
        assert_eq!(near(first, 1, 16), first + 3);
    }
}
