//! Numbers about numbers: histograms, intervals, differences.
//!
//! - [`histogram`]: a measured quantity and its [`Spread`], the object `H` of the reports
//! - [`stages`]: the way of a keyframe from the camera to the disk, in stages
//! - [`delivery`]: how the packets of a keyframe arrived; [`bottleneck`]: what that was limited by
//! - [`interval`]: how sure a share is
//! - [`difference`]: whether two runs differ, and by how much
//! - [`normal`]: the quantiles the two above stand on

pub mod bottleneck;
pub mod delivery;
pub mod difference;
pub mod histogram;
pub mod interval;
pub mod normal;
pub mod stages;

pub use histogram::{Histogram, Spread};
pub use stages::{StageHistograms, Stages};
