//! Numbers about numbers: histograms, intervals, differences.
//!
//! - [`histogram`]: a measured quantity and its [`Spread`], the object `H` of the reports
//! - [`interval`]: how sure a share is

pub mod histogram;
pub mod interval;

pub use histogram::{Histogram, Spread};
