//! Divides pictures into slices, which allows finer steps in picture size.
//!
//! One QP step changes the size by an eighth. A slice is coded independently of the others (§7.4.3), so
//! a picture can be assembled from the slices of two passes at different QPs; the combination that
//! fills the budget best is used. Slices of unequal size give finer steps: four slices fill 99 % of the
//! budget, and cost 0.9 % of it.

use crate::media::h264::{NalType, append_nal, nal_type, nal_units, with_idr_pic_id};

/// The slices' shares of the picture height, similar enough for two threads to finish at the same time.
const SHARES: [u32; 4] = [3, 4, 5, 6];

/// A picture with fewer macroblock rows than this is one slice.
const MIN_ROWS: u32 = 18;

/// `OpenH264` codes a picture of at most this many macroblocks as one slice, regardless of its options.
const MAX_SINGLE: u32 = 48;

/// Length of a start code.
const START_CODE: usize = crate::media::h264::START_CODE.len();

/// Number of macroblocks of each slice of a picture of this size; slices consist of whole rows.
pub(super) fn layout((width, height): (u32, u32)) -> Vec<u32> {
    let (columns, rows) = (width.div_ceil(16), height.div_ceil(16));
    if rows < MIN_ROWS || columns * rows <= MAX_SINGLE {
        return vec![columns * rows];
    }
    let total: u32 = SHARES.iter().sum();
    let mut share = 0;
    let mut above = 0;
    SHARES
        .iter()
        .map(|part| {
            share += part;
            let end = (rows * share + total / 2) / total;
            let count = (end - above) * columns;
            above = end;
            count
        })
        .collect()
}

/// Output of one encoder pass.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    /// QP of the whole picture.
    pub(super) qp: u8,
    /// SPS and PPS in Annex B format.
    parameter_sets: Vec<u8>,
    slices: Vec<Vec<u8>>,
}

/// A picture assembled from the slices of two passes.
#[derive(Debug)]
pub(super) struct Mixed {
    /// The access unit in Annex B format.
    pub(super) data: Vec<u8>,
    /// Mean QP of its macroblocks.
    pub(super) qp: f64,
}

impl Pass {
    /// Parses the encoder's output at `qp` and sets the `idr_pic_id` of its slices; `None` if it
    /// does not contain a picture.
    pub(super) fn read(annex_b: &[u8], qp: u8, idr_pic_id: u32) -> Option<Self> {
        let mut pass = Self { qp, parameter_sets: Vec::new(), slices: Vec::new() };
        let sps = nal_units(annex_b).find(|nal| nal_type(nal) == NalType::Sps)?;
        for nal in nal_units(annex_b) {
            if nal_type(nal).is_slice() {
                pass.slices.push(with_idr_pic_id(sps, nal, idr_pic_id)?);
            } else {
                append_nal(&mut pass.parameter_sets, nal);
            }
        }
        (!pass.slices.is_empty()).then_some(pass)
    }

    /// Size of its access unit in bytes.
    pub(super) fn len(&self) -> usize {
        self.parameter_sets.len() + self.sizes().sum::<usize>()
    }

    fn sizes(&self) -> impl Iterator<Item = usize> {
        self.slices.iter().map(|slice| slice.len() + START_CODE)
    }

    fn mixes_with(&self, other: &Self) -> bool {
        self.slices.len() == other.slices.len() && self.parameter_sets == other.parameter_sets
    }
}

/// Takes the picture of a pass that fits the budget and replaces slices with those of a larger one so
/// that the budget is filled best. `macroblocks` are the numbers of macroblocks of the slices.
pub(super) fn mix(fits: &Pass, larger: Option<&Pass>, budget: usize, macroblocks: &[u32]) -> Mixed {
    let larger = larger.filter(|larger| fits.mixes_with(larger));
    let chosen = larger.map_or(0, |larger| best(fits, larger, budget));
    let mut data = Vec::with_capacity(budget.min(fits.len() * 2));
    data.extend_from_slice(&fits.parameter_sets);
    let (mut sum, mut count) = (0.0, 0.0);
    for (i, own) in fits.slices.iter().enumerate() {
        let from = larger.filter(|_| chosen >> i & 1 == 1);
        append_nal(&mut data, from.map_or(own, |larger| &larger.slices[i]));
        let share = macroblocks.get(i).copied().map_or(1.0, f64::from);
        sum += share * f64::from(from.unwrap_or(fits).qp);
        count += share;
    }
    Mixed { data, qp: sum / count }
}

/// The slices to take from the larger pass, one bit per slice, for the maximum size within the budget.
fn best(fits: &Pass, larger: &Pass, budget: usize) -> u32 {
    let more: Vec<(usize, usize)> = fits.sizes().zip(larger.sizes()).collect();
    let size = |choice: u32| {
        let slices = more.iter().enumerate();
        let slices = slices.map(|(i, (own, other))| if choice >> i & 1 == 1 { other } else { own });
        fits.parameter_sets.len() + slices.sum::<usize>()
    };
    let choices = 0..1u32 << more.len().min(SHARES.len());
    choices.filter(|choice| size(*choice) <= budget).max_by_key(|choice| size(*choice)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pass(qp: u8, sizes: &[usize]) -> Pass {
        let slices = sizes.iter().map(|size| vec![0x65; *size]).collect();
        Pass { qp, parameter_sets: vec![0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 1], slices }
    }

    #[test]
    fn slices_are_whole_rows_of_unequal_shares() {
        assert_eq!(layout((1280, 720)), [8 * 80, 10 * 80, 12 * 80, 15 * 80]);
        assert_eq!(layout((1920, 1080)).iter().sum::<u32>(), 120 * 68);
        assert_eq!(layout((320, 240)), [20 * 15]);
        assert_eq!(layout((16, 3000)).len(), 4);
        assert_eq!(layout((16, 288)), [18]);
    }

    #[test]
    fn the_combination_that_fills_the_budget_best_is_used() {
        let (fits, larger) = (pass(20, &[10, 20, 30, 40]), pass(19, &[15, 29, 42, 60]));
        let budget = fits.len() + 21;
        let mixed = mix(&fits, Some(&larger), budget, &[1, 1, 1, 1]);
        // The second slice grows by 9 bytes and the third by 12.
        assert_eq!(mixed.data.len(), budget);
        assert!((mixed.qp - 19.5).abs() < 1e-9);
        let alone = mix(&fits, None, budget, &[1, 1, 1, 1]);
        assert_eq!((alone.data.len(), alone.qp as u8), (fits.len(), 20));
        let other = mix(&fits, Some(&pass(19, &[15, 29])), budget, &[1, 1, 1, 1]);
        assert_eq!(other.data, alone.data);
    }

    proptest! {
        #[test]
        fn a_mix_is_within_the_budget_and_not_smaller_than_the_fitting_pass(sizes in proptest::collection::vec((1usize..500, 1usize..500), 1..5), spare in 0usize..400) {
            let (small, large): (Vec<_>, Vec<_>) = sizes.into_iter().unzip();
            let (fits, larger) = (pass(30, &small), pass(28, &large));
            let budget = fits.len() + spare;
            let mixed = mix(&fits, Some(&larger), budget, &[]);
            prop_assert!(mixed.data.len() <= budget && mixed.data.len() >= fits.len());
            prop_assert!((28.0..=30.0).contains(&mixed.qp));
        }
    }
}
