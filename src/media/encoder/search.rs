//! The search for the QP whose picture is the largest within a budget of bytes.
//!
//! The size of a picture falls as QP rises, about by an eighth a step, so ln(size) is nearly a straight
//! line. The search draws it through the two nearest sizes measured (or one and the usual slope) and
//! goes where it meets the budget, until the largest QP that is too large and the smallest that fits
//! are neighbours.

/// Largest QP of H.264 with 8-bit samples.
pub(super) const MAX_QP: u8 = 51;

/// Most pictures encoded in one search.
pub(super) const MAX_PASSES: u32 = 7;

/// How much ln(size) usually falls from one QP to the next.
const USUAL_SLOPE: f64 = 0.125;

/// A picture this close to the budget is taken without trying the next QP: only where a step changes
/// the size by less than 7 %, as in white noise, could that one fit, too.
const FULL_ENOUGH: f64 = 0.93;

/// What one search found out, kept for the next picture of perhaps the same scene.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// The QP that was chosen.
    pub qp: u8,
    /// Its size in bytes.
    size: f64,
    /// Size at the next smaller QP, which was over the budget, if it was measured.
    smaller_qp_size: Option<f64>,
}

impl Memory {
    /// Makes the next search start from this QP, and nothing more.
    pub(super) fn of_qp(qp: u8) -> Self {
        Self { qp, size: f64::NAN, smaller_qp_size: None }
    }
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
    memory: Option<Memory>,
    start: u8,
}

impl Search {
    pub(super) fn new(budget: usize, memory: Option<Memory>, start: u8) -> Self {
        let start = memory.map_or(start, |memory| memory.qp);
        Self { budget: budget as f64, passes: 0, over: None, fits: None, memory, start }
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
        let guess = self.crossing();
        // With few passes left and nothing that fits, rather too small than none.
        let guess = if self.fits.is_none() && left <= 3 { guess + 2.0 } else { guess };
        Some((guess.ceil() as u8).clamp(low, high))
    }

    /// Takes the size of the picture at `qp`; `None` when it was too large for the encoder itself.
    pub(super) fn record(&mut self, qp: u8, size: Option<usize>) {
        self.passes += 1;
        match size.map(|size| size as f64) {
            Some(size) if size <= self.budget => self.fits = Some((qp, size)),
            size => self.over = Some((qp, size)),
        }
    }

    /// The QP chosen, if any fits.
    pub(super) fn chosen(&self) -> Option<u8> {
        self.fits.map(|(qp, _)| qp)
    }

    /// What to remember for the next picture.
    pub(super) fn memory(&self) -> Option<Memory> {
        let (qp, size) = self.fits?;
        let measured = self.over.filter(|(over, _)| over + 1 == qp).and_then(|(_, size)| size);
        let inherited = self
            .memory
            .filter(|memory| memory.qp == qp)
            .and_then(|memory| Some(memory.smaller_qp_size? * size / memory.size));
        Some(Memory { qp, size, smaller_qp_size: measured.or(inherited) })
    }

    fn is_settled(&self) -> bool {
        if self.passes >= MAX_PASSES {
            return true;
        }
        match (self.over, self.fits) {
            (Some((MAX_QP, _)), None) | (_, Some((0, _))) => true,
            (Some((over, _)), Some((fits, _))) if over + 1 == fits => true,
            (_, Some((qp, size))) => {
                size >= FULL_ENOUGH * self.budget || self.remembered_neighbour_is_over(qp, size)
            }
            _ => false,
        }
    }

    /// In a steady scene the step to the next smaller QP is the one measured before: if it led over
    /// the budget by a margin, it still does.
    fn remembered_neighbour_is_over(&self, qp: u8, size: f64) -> bool {
        let Some(Memory { qp: known, size: before, smaller_qp_size: Some(neighbour) }) =
            self.memory
        else {
            return false;
        };
        known == qp
            && (size / before - 1.0).abs() < 0.05
            && neighbour * size / before > 1.01 * self.budget
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
    fn run(budget: usize, memory: Option<Memory>, size: impl Fn(u8) -> Option<usize>) -> Search {
        let mut search = Search::new(budget, memory, 28);
        while let Some(qp) = search.next() {
            search.record(qp, size(qp));
        }
        search
    }

    fn curve(at_zero: f64, slope: f64) -> impl Fn(u8) -> Option<usize> {
        move |qp| Some((at_zero * (-slope * f64::from(qp)).exp()) as usize)
    }

    #[test]
    fn a_steady_scene_takes_one_pass() {
        let size = curve(2e6, 0.125);
        let first = run(100_000, None, &size);
        let again = run(100_000, first.memory(), &size);
        assert_eq!(again.chosen(), first.chosen());
        let third = run(100_000, again.memory(), &size);
        assert_eq!(third.passes(), 1, "the step to the neighbour stays known");
    }

    #[test]
    fn ends_of_the_scale() {
        assert_eq!(run(100_000, None, |_| Some(500)).chosen(), Some(0));
        let hopeless = run(100_000, None, |_| Some(200_000));
        assert_eq!((hopeless.chosen(), hopeless.next()), (None, None));
        let noise = run(100_000, None, |qp| (qp > 40).then(|| 50_000 - usize::from(qp)));
        assert_eq!(noise.chosen(), Some(41));
    }

    proptest! {
        #[test]
        fn finds_the_largest_that_fits(at_zero in 2e4..2e7f64, slope in 0.09..0.16f64, budget in 5_000usize..300_000, start in proptest::option::of(0u8..=51)) {
            let size = curve(at_zero, slope);
            let best = (0..=MAX_QP).find(|qp| size(*qp).unwrap() <= budget);
            let search = run(budget, start.map(Memory::of_qp), &size);
            prop_assert!(search.passes() <= MAX_PASSES);
            prop_assert_eq!(search.chosen(), best);
        }

        #[test]
        fn never_chooses_one_that_does_not_fit(steps in proptest::collection::vec(0.0..0.6f64, 52), budget in 1_000usize..200_000, broken in 0u8..52) {
            let sizes: Vec<usize> = steps.iter().scan(16.0, |ln, step| { *ln -= step; Some(f64::exp(*ln) as usize) }).collect();
            let size = |qp: u8| (qp >= broken).then(|| sizes[usize::from(qp)]);
            let search = run(budget, None, size);
            prop_assert!(search.passes() <= MAX_PASSES);
            match search.chosen() {
                Some(qp) => prop_assert!(size(qp).is_some_and(|size| size <= budget)),
                None => prop_assert!(size(MAX_QP).is_none_or(|size| size > budget)),
            }
        }
    }
}
