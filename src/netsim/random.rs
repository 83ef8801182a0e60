//! A small seeded random number generator that never changes, so that a recorded seed gives the same run in
//! any later version: `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators",
//! 2014). Not for secrets.

/// The generator's state.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator for this seed and purpose; generators with the same seed and different purposes are
    /// independent.
    #[must_use]
    pub fn new(seed: u64, purpose: &str) -> Self {
        // FNV-1a.
        let of_purpose = purpose.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut random = Self(seed);
        random.0 = random.number() ^ of_purpose;
        random
    }

    /// The next 64 bits.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A uniform number in the range 0 ≤ n < 1.
    pub fn share(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A uniform port from `first` to `last`, both included.
    pub fn port(&mut self, first: u16, last: u16) -> u16 {
        let count = u64::from(last.saturating_sub(first)) + 1;
        // 2^64 over at most 2^16: the bias is below one in 2^48.
        first + (self.number() % count) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_splitmix64() {
        // First outputs for the state 1234567 of the reference implementation.
        let mut random = Random(1_234_567);
        let first = [random.number(), random.number(), random.number()];
        assert_eq!(
            first,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn a_seed_and_a_purpose_determine_the_sequence() {
        let row = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            [random.number(), random.number()]
        };
        assert_eq!(row(1, "up"), row(1, "up"));
        assert_ne!(row(1, "up"), row(1, "down"));
        assert_ne!(row(1, "up"), row(2, "up"));
        let mut random = Random::new(5, "ports");
        for _ in 0..10_000 {
            let share = random.share();
            assert!((0.0..1.0).contains(&share));
            assert!((1024..=1030).contains(&random.port(1024, 1030)));
        }
        assert_eq!(random.port(7, 7), 7);
    }
}
