//! Simulations of the error rates and the power of the intervals: many generated runs with known truth and fixed seeds.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Cluster, QuantileRatio, ShareDifference, Trials};
use crate::stats::normal::normal_quantile;

/// Fewer than in production, since there are many runs here.
const RESAMPLES: usize = 2_000;

fn normal(random: &mut StdRng) -> f64 {
    normal_quantile(random.random_range(1e-9..1.0))
}

/// A run whose connections differ by 20 %, and the pings of each by 30 %, times `factor`.
fn run(random: &mut StdRng, connections: usize, pings: usize, factor: f64) -> Vec<Cluster> {
    (0..connections)
        .map(|_| {
            let middle = factor * (0.2 * normal(random)).exp();
            Cluster::new((0..pings).map(|_| middle * (0.3 * normal(random)).exp()).collect())
        })
        .collect()
}

/// The share of `trials` generated pairs of runs whose ratio is significantly above `limit`.
fn alarms(
    trials: usize,
    quantile: f64,
    limit: f64,
    mut pair: impl FnMut(&mut StdRng) -> (Vec<Vec<Cluster>>, Vec<Cluster>),
) -> f64 {
    let mut random = StdRng::seed_from_u64(7);
    let alarms = (0..trials)
        .filter(|_| {
            let (old, new) = pair(&mut random);
            let ratio = QuantileRatio::resample(&old, &new, quantile, RESAMPLES).unwrap();
            ratio.interval(0.05).unwrap()[0] > limit
        })
        .count();
    alarms as f64 / trials as f64
}

#[test]
fn false_alarms_are_rare() {
    // One end of a 95 % interval: 2.5 % of the pairs, plus the random variation of 400 of them.
    for (connections, pings, quantile) in
        [(20, 50, 0.5), (20, 50, 0.95), (20, 1, 0.5), (20, 1, 0.95), (8, 50, 0.5), (8, 50, 0.95)]
    {
        let share = alarms(400, quantile, 1.0, |random| {
            (vec![run(random, connections, pings, 1.0)], run(random, connections, pings, 1.0))
        });
        assert!(share <= 0.05, "{connections} x {pings}, {quantile}: {share}");
    }
}

#[test]
fn treating_pings_as_independent_would_raise_false_alarms() {
    let apart = |run: Vec<Cluster>| -> Vec<Cluster> {
        let values = run.into_iter().flat_map(|cluster| cluster.values);
        values.map(|value| Cluster::new(vec![value])).collect()
    };
    let share = alarms(60, 0.5, 1.0, |random| {
        (vec![apart(run(random, 20, 20, 1.0))], apart(run(random, 20, 20, 1.0)))
    });
    assert!(share > 0.15, "{share}");
}

#[test]
fn the_allowed_regression_is_rarely_flagged() {
    let share =
        alarms(400, 0.5, 1.1, |random| (vec![run(random, 20, 50, 1.0)], run(random, 20, 50, 1.1)));
    assert!(share <= 0.05, "{share}");
}

#[test]
fn a_regression_of_half_is_found() {
    for quantile in [0.5, 0.95] {
        let share = alarms(200, quantile, 1.1, |random| {
            (vec![run(random, 20, 50, 1.0)], run(random, 20, 50, 1.5))
        });
        assert!(share > 0.9, "{quantile}: {share}");
    }
}

#[test]
fn several_baseline_runs_account_for_run_to_run_variation() {
    let any = |random: &mut StdRng| {
        let factor = (0.15 * normal(random)).exp();
        run(random, 20, 20, factor)
    };
    let one = alarms(400, 0.5, 1.0, |random| (vec![any(random)], any(random)));
    let five = alarms(400, 0.5, 1.0, |random| {
        let old = (0..5).map(|_| any(random)).collect();
        (old, any(random))
    });
    assert!(one > 0.1, "one run is not enough: {one}");
    assert!(five <= 0.07, "{five}");
    let found = alarms(200, 0.5, 1.0, |random| {
        let old = (0..5).map(|_| any(random)).collect();
        (old, run(random, 20, 20, 2.0))
    });
    assert!(found > 0.9, "{found}");
}

/// Connections with 50 pings; in some of them a burst is lost, in all of them single ones.
fn losses(random: &mut StdRng, single: f64, bursts: f64) -> Vec<Trials> {
    (0..20)
        .map(|_| {
            let burst = if random.random_bool(bursts) { 0.3 } else { 0.0 };
            let bad = (0..50).filter(|_| random.random_bool(single + burst)).count() as u64;
            Trials { bad, of: 50 }
        })
        .collect()
}

#[test]
fn losses_in_clusters_keep_their_level() {
    let mut random = StdRng::seed_from_u64(11);
    for (single, bursts) in [(0.02, 0.0), (0.0, 0.05), (0.01, 0.1), (0.001, 0.0)] {
        let alarms = (0..2_000)
            .filter(|_| {
                let old = losses(&mut random, single, bursts);
                let new = losses(&mut random, single, bursts);
                ShareDifference::clustered(&old, &new).unwrap().interval(0.05)[0] > 0.0
            })
            .count();
        assert!(alarms <= 100, "{single}, {bursts}: {alarms} of 2,000");
    }
    let found = (0..500)
        .filter(|_| {
            let old = losses(&mut random, 0.01, 0.0);
            let new = losses(&mut random, 0.05, 0.0);
            ShareDifference::clustered(&old, &new).unwrap().interval(0.05)[0] > 0.0
        })
        .count();
    assert!(found > 450, "{found} of 500");
}
