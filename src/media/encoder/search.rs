//! Searches for two nearby QPs, one whose picture fits a budget of bytes and one whose picture exceeds
//! it.
//!
//! The size of a picture falls by about an eighth with each QP step, so ln(size) is nearly a straight
//! line. The search draws this line through the two nearest measured sizes (or through one, with the
//! usual slope) and tries the QP at which it meets the budget. It ends when a QP whose picture is too
//! large and one whose picture fits are near enough for mixing (see `slices`), or when one picture
//! alone fills the budget.

use crate::media::frame::Frame;

/// Maximum QP of H.264 with 8-bit samples.
pub(super) const MAX_QP: u8 = 51;

/// Maximum number of pictures encoded in one search.
pub(super) const MAX_PASSES: u32 = 7;

/// How much ln(size) usually falls from one QP to the next.
const USUAL_SLOPE: f64 = 0.125;

/// A picture that fills this share of the budget is used as it is: another pass could gain only 0.05
/// dB.
const FULL_ENOUGH: f64 = 0.98;

/// Maximum distance of the QPs of two pictures that are mixed. Two steps give the same quality as one
/// step; three steps lose 0.02 dB.
const NEAR: u8 = 2;

/// Estimates the QP at which a picture takes this many bytes; correct within 2.5 for two thirds of
/// photos. The size depends on the differences between neighboring pixels.
pub(super) fn estimate(frame: &Frame, bytes: usize) -> f64 {
    let pixels = f64::from(frame.width) * f64::from(frame.height);
    let bits_per_pixel = bytes as f64 * 8.0 / pixels;
    let (mut sum, mut count) = (0u64, 0u64);
    // Every fourth row gives as good an estimate as all rows.
    for row in frame.y.chunks_exact(frame.width as usize).step_by(4) {
        let steps = row.windows(2).map(|pair| u32::from(pair[0].abs_diff(pair[1])));
        sum += u64::from(steps.sum::<u32>());
        count += row.len() as u64 - 1;
    }
    let step = (sum as f64 / count as f64).max(0.05);
    (13.0 - 8.0 * bits_per_pixel.ln() + 7.2 * step.ln()).clamp(0.0, f64::from(MAX_QP))
}

/// A search in progress: `next` returns the QP to try, `record` takes the result.
#[derive(Debug)]
pub(super) struct Search {
    budget: f64,
    passes: u32,
    /// The highest QP whose picture is known to exceed the budget, and its size unless the encoder
    /// failed.
    over: Option<(u8, Option<f64>)>,
    /// The lowest QP whose picture is known to fit, and its size.
    fits: Option<(u8, f64)>,
    start: u8,
}

impl Search {
    /// Starts a search at QP `start`, which should be near the result.
    pub(super) fn new(budget: usize, start: u8) -> Self {
        Self { budget: budget as f64, passes: 0, over: None, fits: None, start }
    }

    pub(super) fn passes(&self) -> u32 {
        self.passes
    }

    /// The QP to try next, or `None` when the search is over.
    pub(super) fn next(&self) -> Option<u8> {
        if self.passes == 0 {
            return Some(self.start);
        }
        if self.is_settled() {
            return None;
        }
        let low = self.over.map_or(0, |(qp, _)| qp + 1);
        let high = self.fits.map_or(MAX_QP, |(qp, _)| qp - 1);
        let left = MAX_PASSES - self.passes;
        if self.fits.is_none() && left == 1 {
            return Some(MAX_QP);
        }
        let crossing = self.crossing();
        let guess = match (self.over, self.fits) {
            // There is no QP on the far side of the crossing yet.
            (None, Some(_)) => crossing.floor(),
            // With few passes left and no picture that fits, a picture that is too small is better than
            // none.
            (_, None) if left <= 3 => crossing.ceil() + 2.0,
            _ => crossing.ceil(),
        };
        Some((guess as u8).clamp(low, high))
    }

    /// Records the size of the picture at `qp`; `None` when it was too large for the encoder itself.
    pub(super) fn record(&mut self, qp: u8, size: Option<usize>) {
        self.passes += 1;
        match size.map(|size| size as f64) {
            Some(size) if size <= self.budget => self.fits = Some((qp, size)),
            size => self.over = Some((qp, size)),
        }
    }

    fn is_settled(&self) -> bool {
        if self.passes >= MAX_PASSES {
            return true;
        }
        match (self.over, self.fits) {
            (Some((MAX_QP, _)), None) | (_, Some((0, _))) => true,
            (_, Some((_, size))) if size >= FULL_ENOUGH * self.budget => true,
            (Some((over, size)), Some((fits, _))) => {
                fits - over <= if size.is_some() { NEAR } else { 1 }
            }
            _ => false,
        }
    }

    /// The QP at which ln(size) meets the budget.
    fn crossing(&self) -> f64 {
        let target = self.budget.ln();
        let along =
            |(qp, size): (u8, f64), slope: f64| f64::from(qp) + (size.ln() - target) / slope;
        match (self.over, self.fits) {
            (Some((low, Some(large))), Some((high, small))) => {
                let slope = (large.ln() - small.ln()) / f64::from(high - low);
                along((low, large), slope.max(0.01))
            }
            (Some((low, None)), Some((high, small))) => {
                along((high, small), USUAL_SLOPE).max(f64::from(low) + 1.0)
            }
            (Some((low, Some(large))), None) => along((low, large), USUAL_SLOPE),
            (Some((low, None)), None) => f64::from(low.midpoint(MAX_QP)) + 1.0,
            (None, Some(known)) => along(known, USUAL_SLOPE),
            (None, None) => f64::from(self.start),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs a search on a curve of sizes; returns the search.
    fn run(budget: usize, start: u8, size: impl Fn(u8) -> Option<usize>) -> Search {
        let mut search = Search::new(budget, start);
        while let Some(qp) = search.next() {
            search.record(qp, size(qp));
        }
        search
    }

    fn curve(at_zero: f64, slope: f64) -> impl Fn(u8) -> Option<usize> {
        move |qp| Some((at_zero * (-slope * f64::from(qp)).exp()) as usize)
    }

    fn fitting(search: &Search) -> Option<u8> {
        search.fits.map(|(qp, _)| qp)
    }

    #[test]
    fn a_steady_scene_takes_at_most_two_passes() {
        for at_zero in [1.8e6, 1.9e6, 2e6, 2.1e6, 2.2e6] {
            let size = curve(at_zero, 0.125);
            let first = run(100_000, 28, &size);
            let again = run(100_000, fitting(&first).unwrap(), &size);
            assert!(again.passes() <= 2, "{again:?}");
            // The scene changes slightly.
            for change in [0.95, 1.05] {
                let moved = run(100_000, fitting(&first).unwrap(), curve(at_zero * change, 0.125));
                assert!(moved.passes() <= 2, "{moved:?}");
            }
        }
    }

    #[test]
    fn the_search_stops_at_the_minimum_and_maximum_qp() {
        assert_eq!(fitting(&run(100_000, 28, |_| Some(500))), Some(0));
        let hopeless = run(100_000, 28, |_| Some(200_000));
        assert_eq!((fitting(&hopeless), hopeless.next()), (None, None));
        let noise = run(100_000, 28, |qp| (qp > 40).then(|| 50_000 - usize::from(qp)));
        assert_eq!(fitting(&noise), Some(41));
    }

    proptest! {
        #[test]
        fn a_search_ends_just_below_and_above_the_budget(at_zero in 2e4..2e7f64, slope in 0.09..0.16f64, budget in 5_000usize..300_000, start in 0u8..=51) {
            let size = curve(at_zero, slope);
            let best = (0..=MAX_QP).find(|qp| size(*qp).unwrap() <= budget);
            let search = run(budget, start, &size);
            prop_assert!(search.passes() <= MAX_PASSES);
            match (search.over, search.fits, best) {
                (Some((MAX_QP, _)), None, None) | (None, Some((0, _)), Some(0)) => {}
                (_, Some((qp, size)), Some(best)) if size >= FULL_ENOUGH * budget as f64 => prop_assert!(qp >= best),
                (Some((over, Some(_))), Some((qp, _)), Some(best)) => {
                    prop_assert!(over < best && best <= qp && qp - over <= NEAR, "{search:?}");
                }
                _ => prop_assert!(false, "{search:?}, best {best:?}"),
            }
        }

        #[test]
        fn a_picture_that_does_not_fit_is_never_used(steps in proptest::collection::vec(0.0..0.6f64, 52), budget in 1_000usize..200_000, broken in 0u8..52, start in 0u8..=51) {
            let sizes: Vec<usize> = steps.iter().scan(16.0, |ln, step| { *ln -= step; Some(f64::exp(*ln) as usize) }).collect();
            let size = |qp: u8| (qp >= broken).then(|| sizes[usize::from(qp)]);
            let search = run(budget, start, size);
            prop_assert!(search.passes() <= MAX_PASSES);
            match fitting(&search) {
                Some(qp) => prop_assert!(size(qp).is_some_and(|size| size <= budget)),
                None => prop_assert!(size(MAX_QP).is_none_or(|size| size > budget)),
            }
        }
    }
}
