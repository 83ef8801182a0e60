//! Statistics: histograms, confidence intervals, differences.
//!
//! - [`histogram`]: a measured quantity and its [`Spread`], the object `H` of the reports
//! - [`stages`]: the stages of a keyframe from the camera to the disk
//! - [`delivery`]: how the packets of a keyframe arrived; [`bottleneck`]: what limited it
//! - [`interval`]: confidence interval of a share
//! - [`difference`]: whether and by how much two runs differ
//! - [`normal`]: quantiles for the two above

pub mod bottleneck;
pub mod delivery;
pub mod difference;
pub mod histogram;
pub mod interval;
pub mod normal;
pub mod stages;

pub use histogram::{Histogram, Spread};
pub use stages::{StageHistograms, Stages};
