//! Whether and by how much two runs differ: confidence intervals of a change, not a comparison of two numbers.
//!
//! **Quantities** (times) come in clusters: pings of one connection share its path and its time, so 1,000 pings over
//! 20 connections predict the next run about as well as 20 independent values, not as 1,000. [`QuantileRatio`]
//! therefore resamples connections with replacement, takes all values of each one drawn (cluster bootstrap; Davison
//! and Hinkley, *Bootstrap Methods*, 1997, §3.8), and takes the quantile of the current run over that of the
//! baseline. Its interval is the *percentile* interval:
//!
//! - it needs no symmetry, and is the same for the ratio and its logarithm;
//! - for a median it comes close to the exact interval between order statistics;
//! - the *basic* interval would mirror the long tail of times to the wrong side;
//! - `BCa` needs the jackknife for its acceleration, which is not consistent for quantiles
//!   (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, §11.6).
//!
//! Percentile intervals are too short for few clusters. Their ends are moved outward as Hesterberg does
//! (*What Teachers Should Know About the Bootstrap*, 2015, §3.2, "expanded percentile"): the tail
//! `alpha/2` becomes `Φ(-√(n/(n-1)) · t(alpha/2, n-1))`, with `n` the clusters of the smaller side.
//!
//! **Several baseline runs** are a level above connections: runs are drawn first, then connections of
//! each. The current run is one more draw of a run, so the scatter of the baseline runs affects its side as well.
//! With a single baseline run the run-to-run variation is unknown; a change of the machine's load then cannot be
//! distinguished from a change of the program.
//!
//! **Shares** ([`ShareDifference`]) are compared by their difference with Newcombe's hybrid score
//! interval (*Interval estimation for the difference between independent proportions*, 1998, method
//! 10), which keeps its level near 0 and 1, where a bootstrap sees no variance at all: zero loss in 1,000 pings would
//! be taken for certainty. Where trials come in clusters (pings, keyframes), the counts are first divided by the
//! design effect and shortened by `(z/t)²` for few clusters (Korn and Graubard, *Confidence intervals for proportions
//! with small expected number of positive counts*, 1998).
//!
//! Everything is deterministic: the same runs give the same interval.

mod quantile;
mod share;
#[cfg(test)]
mod simulations;

pub use quantile::{Cluster, QuantileRatio, pooled_quantile, values_needed};
pub use share::{ShareDifference, Trials};

/// Minimum number of connections with values, in each run, for a comparison of clustered values. With fewer, the spread
/// between connections is known too poorly for any interval to keep its level.
pub const MIN_CLUSTERS: usize = 8;
