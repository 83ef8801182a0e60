//! Axes: map values to positions and choose round numbers as ticks.

use crate::report::human;

/// A linear or logarithmic axis between two values.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    lo: f64,
    hi: f64,
    log: bool,
    ticks: Vec<f64>,
}

/// Maximum ratio between the ends of a linear axis.
const LINEAR_RATIO: f64 = 20.0;

/// Maximum empty share at the start of a time axis.
const LEAD: f64 = 0.25;

/// Maximum number of ticks on an axis.
const MAX_TICKS: f64 = 6.0;

impl Scale {
    /// A linear axis whose ends are round numbers.
    pub(crate) fn linear(lo: f64, hi: f64) -> Self {
        let (lo, hi) = apart(lo, hi);
        let step = round_step((hi - lo) / MAX_TICKS);
        let first = (lo / step).floor() * step;
        let count = ((hi - first) / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|i| first + f64::from(i) * step).collect();
        Self { lo: first, hi: first + count * step, log: false, ticks }
    }

    /// A linear axis of whole numbers from 0.
    pub(crate) fn counts(hi: f64) -> Self {
        let mut scale = Self::linear(0.0, hi.max(1.0));
        scale.ticks.retain(|tick| (tick - tick.round()).abs() < 1e-9);
        scale
    }

    /// A linear axis that ends where the values end, with ticks at round multiples of `unit`.
    pub(crate) fn span(lo: f64, hi: f64, unit: f64) -> Self {
        let (lo, hi) = apart(lo, hi);
        let step = round_step((hi - lo) / unit / MAX_TICKS) * unit;
        let first = (lo / step - 1e-9).ceil() * step;
        let count = ((hi - first) / step + 1e-9).floor().max(0.0);
        let ticks = (0..=count as u32).map(|i| first + f64::from(i) * step).collect();
        Self { lo, hi, log: false, ticks }
    }

    /// Seconds since the start of the run, with ticks at round seconds, minutes or hours. Starts at 0 unless nothing
    /// happened for a long time.
    pub(crate) fn seconds(first: f64, last: f64) -> Self {
        let unit = match last {
            last if last < 180.0 => 1.0,
            last if last < 3.0 * 3600.0 => 60.0,
            _ => 3600.0,
        };
        Self::span(if first > last * LEAD { first } else { 0.0 }, last, unit)
    }

    /// A logarithmic axis; both ends above 0.
    pub(crate) fn log(lo: f64, hi: f64) -> Self {
        let (lo, hi) = (log_step(lo, false), log_step(hi.max(lo * 1.01), true));
        let decades = (hi / lo).log10();
        let mantissas: &[f64] = if decades <= 2.4 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = (decades / MAX_TICKS).ceil().max(1.0) as i32;
        let (from, to) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let ticks = (from..=to)
            .filter(|exponent| exponent.rem_euclid(stride) == 0)
            .flat_map(|exponent| mantissas.iter().map(move |m| m * 10f64.powi(exponent)))
            .filter(|tick| (lo * 0.999..=hi * 1.001).contains(tick))
            .collect();
        Self { lo, hi, log: true, ticks }
    }

    /// A logarithmic axis if the values lie far apart, otherwise a linear one from 0.
    pub(crate) fn fitting(lo: f64, hi: f64) -> Self {
        if lo > 0.0 && hi / lo > LINEAR_RATIO { Self::log(lo, hi) } else { Self::linear(0.0, hi) }
    }

    /// Position of a value: 0 at the low end, 1 at the high end; values beyond the ends are clamped.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let place = if self.log {
            (value.max(f64::MIN_POSITIVE) / self.lo).ln() / (self.hi / self.lo).ln()
        } else {
            (value - self.lo) / (self.hi - self.lo)
        };
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// The value at a position from 0 to 1.
    pub(crate) fn value(&self, place: f64) -> f64 {
        if self.log {
            self.lo * (self.hi / self.lo).powf(place)
        } else {
            self.lo + place * (self.hi - self.lo)
        }
    }

    /// Whether a value lies between the ends.
    pub(crate) fn contains(&self, value: f64) -> bool {
        (self.lo..=self.hi).contains(&value)
    }

    /// Whether it is logarithmic.
    pub(crate) fn is_log(&self) -> bool {
        self.log
    }

    /// Values to label on the axis.
    pub(crate) fn ticks(&self) -> &[f64] {
        &self.ticks
    }
}

/// Maximum absolute value on an axis; a file may contain 1e300.
const MAX_VALUE: f64 = 1e15;

/// Moves the ends apart far enough that the steps between them are distinct.
fn apart(lo: f64, hi: f64) -> (f64, f64) {
    let within = |value: f64| if value.is_nan() { 0.0 } else { value.clamp(-MAX_VALUE, MAX_VALUE) };
    let lo = within(lo);
    (lo, within(hi).max(lo + (lo.abs() * 1e-3).max(1e-6)))
}

/// The smallest of 1, 2 and 5 times a power of ten that is at least `step`.
fn round_step(step: f64) -> f64 {
    log_step(step, true)
}

/// The next of 1, 2 and 5 times a power of ten, upward or downward.
fn log_step(value: f64, up: bool) -> f64 {
    let value = value.clamp(1e-12, MAX_VALUE);
    let power = 10f64.powf(value.log10().floor());
    let mantissa = value / power;
    let steps = [1.0, 2.0, 5.0, 10.0];
    let found = if up {
        steps.into_iter().find(|step| *step >= mantissa * 0.999_999)
    } else {
        steps.into_iter().rev().find(|step| *step <= mantissa * 1.000_001)
    };
    found.unwrap_or(1.0) * power
}

/// A round number without unnecessary digits: `0.25`, `5`, `120`.
pub(crate) fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.5 => 0,
        size if size >= 9.95 => 1,
        size if size >= 0.095 => 2,
        _ => 4,
    };
    human::trim(&format!("{value:.digits$}"))
}

/// Milliseconds as an axis label: `0.5 ms`, `2 s`.
pub(crate) fn tick_ms(ms: f64) -> String {
    if ms.abs() < 999.5 { format!("{} ms", short(ms)) } else { format!("{} s", short(ms / 1000.0)) }
}

/// Bytes as an axis label: `50 KB`.
pub(crate) fn tick_bytes(bytes: f64) -> String {
    match bytes {
        b if b < 999.5 => format!("{} B", short(b)),
        b if b < 999_500.0 => format!("{} KB", short(b / 1e3)),
        b => format!("{} MB", short(b / 1e6)),
    }
}

/// Seconds since the start as a label of an axis that ends at `hi`: `5 s`, `3 min`, `2 h`.
pub(crate) fn tick_seconds(seconds: f64, hi: f64) -> String {
    match hi {
        hi if hi < 180.0 => format!("{} s", short(seconds)),
        hi if hi < 3.0 * 3600.0 => format!("{} min", short(seconds / 60.0)),
        _ => format!("{} h", short(seconds / 3600.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(Scale::linear(0.0, 97.0).ticks(), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(Scale::counts(3.0).ticks(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(Scale::seconds(0.2, 22.0).ticks(), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(Scale::seconds(1.0, 600.0).ticks()[..2], [0.0, 120.0]);
        assert_eq!(Scale::seconds(19.5, 41.0).ticks(), [20.0, 25.0, 30.0, 35.0, 40.0]);
        let log = Scale::log(0.107, 6.1);
        assert!(log.contains(0.107) && log.contains(6.1) && log.is_log());
        assert_eq!(
            log.ticks().iter().map(|t| tick_ms(*t)).collect::<Vec<_>>(),
            ["0.1 ms", "0.2 ms", "0.5 ms", "1 ms", "2 ms", "5 ms", "10 ms"]
        );
    }

    #[test]
    fn positions_are_clamped_for_any_value() {
        for scale in [
            Scale::linear(f64::NAN, f64::INFINITY),
            Scale::linear(5.0, 5.0),
            Scale::linear(0.9e300, 1e300),
            Scale::linear(-1e300, 1.0),
            Scale::linear(1.0, 0.0),
            Scale::seconds(f64::NAN, f64::NAN),
            Scale::seconds(1e300, 1e300),
            Scale::counts(u64::MAX as f64),
            Scale::log(0.1, 0.1),
            Scale::log(1e-300, 1e300),
            Scale::fitting(0.0, 0.0),
            Scale::span(0.0, 0.0, 60.0),
        ] {
            for value in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 1.0, 1e300] {
                assert!((0.0..=1.0).contains(&scale.at(value)), "{scale:?} {value}");
            }
            assert!(scale.ticks().len() < 30, "{scale:?}");
            assert!(scale.ticks().iter().all(|tick| tick.is_finite()), "{scale:?}");
        }
    }

    #[test]
    fn values_far_apart_get_a_logarithmic_axis() {
        assert!(Scale::fitting(0.1, 6.0).is_log());
        assert!(!Scale::fitting(1.0, 6.0).is_log());
        let scale = Scale::log(1.0, 100.0);
        assert!((scale.at(10.0) - 0.5).abs() < 1e-9 && (scale.value(0.5) - 10.0).abs() < 1e-9);
    }
}
