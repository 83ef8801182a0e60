//! Confidence interval of a share of successes: the score interval of Wilson (1927), which stays within 0 and 1
//! and keeps its level for few trials and for shares near 0 and 1, unlike the textbook one.

/// Standard normal quantile for a two-sided interval of 95 %.
pub const Z95: f64 = 1.959_963_984_540_054;

/// Wilson's score interval for `successes` of `trials` at the normal quantile `z`; 0 to 1 when there were no trials.
#[must_use]
pub fn wilson(successes: u64, trials: u64, z: f64) -> [f64; 2] {
    wilson_share(successes as f64, trials as f64, z)
}

/// Like [`wilson`], for fractional counts such as effective sample sizes.
#[must_use]
pub fn wilson_share(successes: f64, trials: f64, z: f64) -> [f64; 2] {
    if trials <= 0.0 {
        return [0.0, 1.0];
    }
    let n = trials;
    let share = (successes / n).clamp(0.0, 1.0);
    let z2 = z * z;
    let middle = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    // Exact at the ends, where rounding would leave 1e-17.
    let low = if successes <= 0.0 { 0.0 } else { (middle - half).max(0.0) };
    let high = if successes >= trials { 1.0 } else { (middle + half).min(1.0) };
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_match_the_tables() {
        // Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
        for (successes, trials, low, high) in [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
        ] {
            let [l, h] = wilson(successes, trials, Z95);
            assert!((l - low).abs() < 1e-4 && (h - high).abs() < 1e-4, "{successes}: {l} {h}");
        }
        assert_eq!(wilson(20, 20, Z95)[1].to_bits(), 1.0f64.to_bits());
        assert_eq!(wilson(0, 0, Z95).map(f64::to_bits), [0.0f64, 1.0].map(f64::to_bits));
    }
}
