//! The search for two QPs, near each other, whose pictures lie on both sides of a budget of bytes.
//!
//! The size of a picture falls as QP rises, about by an eighth a step, so ln(size) is nearly a straight
//! line. The search draws it through the two nearest sizes measured (or one and the usual slope) and
//! goes where it meets the budget, until a QP that is too large and one that fits are near enough for
//! their pictures to be mixed (see `slices`), or one fills the budget as it is.

use crate::media::frame::Frame;

/// Largest QP of H.264 with 8-bit samples.
pub(super) const MAX_QP: u8 = 51;

/// Most pictures encoded in one search.
pub(super) const MAX_PASSES: u32 = 7;

/// How much ln(size) usually falls from one QP to the next.
const USUAL_SLOPE: f64 = 0.125;

/// A picture this close to the budget is used as it is: another pass could gain 0.05 dB.
const FULL_ENOUGH: f64 = 0.98;

/// Pictures whose QPs are no further apart are mixed. Two steps give the same quality as one, three
/// 0.02 dB less.
const NEAR: u8 = 2;

/// The QP at which a picture has about this many bytes: right within 2.5 in two thirds of photos. Size
/// goes with the differences between neighbouring pixels.
pub(super) fn estimate(frame: &Frame, bytes: usize) -> f64 {
    let pixels = f64::from(frame.width) * f64::from(frame.height);
    let bits_per_pixel = bytes as f64 * 8.0 / pixels;
    let (mut sum, mut count) = (0u64, 0u64);
    // Every fourth row is as good an estimate as all of them.
    for row in frame.y.chunks_exact(frame.width as usize).step_by(4) {
        let steps = row.windows(2).map(|pair| u32::from(pair[0].abs_diff(pair[1])));
        sum += u64::from(steps.sum::<u32>());
        count += row.len() as u64 - 1;
    }
    let step = (sum as f64 / count as f64).max(0.05);
    (13.0 - 8.0 * bits_per_pixel.ln() + 7.2 * step.ln()).clamp(0.0, f64::from(MAX_QP))
}

/// A search in progress: `next` says what to try, `record` takes the outcome.
#[derive(Debug)]
pub(super) struct Search {
    budget: f64,
    passes: u32,
    /// The largest QP known to be too large; its size, if the encoder got that far.
    over: Option<(u8, Option<f64>)>,
    /// The smallest QP known to fit.
    fits: Option<(u8, f64)>,
    start: u8,
}

impl Search {
    /// A search that begins at QP `start`, best near the outcome.
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
            // The opposite side of the crossing is still missing.
            (None, Some(_)) => crossing.floor(),
            // With few passes left and nothing that fits, too small is better than none.
            (_, None) if left <= 3 => crossing.ceil() + 2.0,
            _ => crossing.ceil(),
        };
        Some((guess as u8).clamp(low, high))
    }

    /// Takes the size of the picture at `qp`; `None` when it was too large for the encoder itself.
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

    /// Where ln(size) meets the budget, in QP.
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
    fn a_steady_scene_takes_two_passes_at_most() {
        for at_zero in [1.8e6, 1.9e6, 2e6, 2.1e6, 2.2e6] {
            let size = curve(at_zero, 0.125);
            let first = run(100_000, 28, &size);
            let again = run(100_000, fitting(&first).unwrap(), &size);
            assert!(again.passes() <= 2, "{again:?}");
            // A little more or less in the picture.
            for change in [0.95, 1.05] {
                let moved = run(100_000, fitting(&first).unwrap(), curve(at_zero * change, 0.125));
                assert!(moved.passes() <= 2, "{moved:?}");
            }
        }
    }

    #[test]
    fn ends_of_the_scale() {
        assert_eq!(fitting(&run(100_000, 28, |_| Some(500))), Some(0));
        let hopeless = run(100_000, 28, |_| Some(200_000));
        assert_eq!((fitting(&hopeless), hopeless.next()), (None, None));
        let noise = run(100_000, 28, |qp| (qp > 40).then(|| 50_000 - usize::from(qp)));
        assert_eq!(fitting(&noise), Some(41));
    }

    proptest! {
        #[test]
        fn ends_on_both_sides_of_the_budget(at_zero in 2e4..2e7f64, slope in 0.09..0.16f64, budget in 5_000usize..300_000, start in 0u8..=51) {
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
        fn never_takes_one_that_does_not_fit(steps in proptest::collection::vec(0.0..0.6f64, 52), budget in 1_000usize..200_000, broken in 0u8..52, start in 0u8..=51) {
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
