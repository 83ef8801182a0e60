//! Quantiles of the standard normal and of Student's t distribution.
//!
//! Normal: the rational approximation of P. J. Acklam (2003), relative error below 1.2e-9. Student's t:
//! the Cornish-Fisher expansion of Abramowitz and Stegun 26.7.5, accurate to 1 % for at least 5 degrees of
//! freedom; with fewer, it is too small in the far tails and should not be used.

const A: [f64; 6] = [
    -3.969_683_028_665_376e1,
    2.209_460_984_245_205e2,
    -2.759_285_104_469_687e2,
    1.383_577_518_672_69e2,
    -3.066_479_806_614_716e1,
    2.506_628_277_459_239,
];

const B: [f64; 6] = [
    -5.447_609_879_822_406e1,
    1.615_858_368_580_409e2,
    -1.556_989_798_598_866e2,
    6.680_131_188_771_972e1,
    -1.328_068_155_288_572e1,
    1.0,
];

const C: [f64; 6] = [
    -7.784_894_002_430_293e-3,
    -3.223_964_580_411_365e-1,
    -2.400_758_277_161_838,
    -2.549_732_539_343_734,
    4.374_664_141_464_968,
    2.938_163_982_698_783,
];

const D: [f64; 5] = [
    7.784_695_709_041_462e-3,
    3.224_671_290_700_398e-1,
    2.445_134_137_142_996,
    3.754_408_661_907_416,
    1.0,
];

/// Probability below which the approximation of the tail is used.
const TAIL: f64 = 0.02425;

/// Polynomial with the highest power first.
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// The quantile of the standard normal distribution; infinite at 0 and 1.
#[must_use]
pub fn normal_quantile(probability: f64) -> f64 {
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        polynomial(&C, q) / polynomial(&D, q)
    };
    match probability {
        p if p <= 0.0 => f64::NEG_INFINITY,
        p if p >= 1.0 => f64::INFINITY,
        p if p < TAIL => tail(p),
        p if p > 1.0 - TAIL => -tail(1.0 - p),
        p => {
            let q = p - 0.5;
            let r = q * q;
            polynomial(&A, r) * q / polynomial(&B, r)
        }
    }
}

/// The probability that a standard normal variable is below `value`: the inverse of [`normal_quantile`].
#[must_use]
pub fn normal_probability(value: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // Each iteration halves the interval; 60 are more than precise enough.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal_quantile(middle) < value {
            low = middle;
        } else {
            high = middle;
        }
    }
    f64::midpoint(low, high)
}

/// The quantile of Student's t distribution with `freedom` degrees of freedom.
#[must_use]
pub fn student_quantile(probability: f64, freedom: f64) -> f64 {
    let z = normal_quantile(probability);
    let z2 = z * z;
    let terms = [
        polynomial(&[1.0, 1.0], z2) / 4.0,
        polynomial(&[5.0, 16.0, 3.0], z2) / 96.0,
        polynomial(&[3.0, 19.0, 17.0, -15.0], z2) / 384.0,
        polynomial(&[79.0, 776.0, 1482.0, -1920.0, -945.0], z2) / 92_160.0,
    ];
    let sum = terms.iter().rev().fold(0.0, |sum, term| (sum + term) / freedom);
    z * (1.0 + sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_match_the_tables() {
        for (probability, expected) in
            [(0.5, 0.0), (0.975, 1.959_964), (0.005, -2.575_829), (0.9999, 3.719_016)]
        {
            let value = normal_quantile(probability);
            assert!((value - expected).abs() < 1e-6, "{probability}: {value}");
            assert!((normal_probability(value) - probability).abs() < 1e-12);
        }
        let ends = [normal_quantile(0.0), normal_quantile(1.0)];
        assert!(ends[0] < f64::MIN && ends[1] > f64::MAX);
        for (probability, freedom, expected) in [
            (0.975, 10.0, 2.228),
            (0.975, 5.0, 2.571),
            (0.995, 7.0, 3.499),
            (0.9995, 19.0, 3.883),
            (0.025, 30.0, -2.042),
            (0.9975, 5.0, 4.773),
        ] {
            let value = student_quantile(probability, freedom);
            assert!((value / expected - 1.0).abs() < 0.01, "{probability}, {freedom}: {value}");
        }
    }
}
