//! The lab's matrix: pairs of networks, what theory expects of each, and what two real peers behind
//! them measure.
//!
//! - [`scenario`]: pairs of networks as TOML files · [`plan`]: what is to be measured of a pair
//! - [`mod@run`]: all pairs over a [`Layer`], several at once
//! - [`simulated`]: NATs and links in this process, and the `servers` that all pairs share
//! - [`in_kernel`]: NATs and links by Linux, in network namespaces
//! - [`schema`]: the result, `orion-peer/lab/1` · [`table`], [`words`], [`html()`]: for people

#[cfg(test)]
mod example;
pub mod html;
pub mod in_kernel;
pub mod plan;
pub mod run;
pub mod scenario;
pub mod schema;
mod servers;
pub mod simulated;
pub mod table;
pub mod words;

pub use html::html;
pub use in_kernel::InKernel;
pub use plan::{CellPlan, Effort, Transports};
pub use run::{Layer, Measurement, run};
pub use scenario::Scenario;
pub use schema::{Cell, LabResult};
pub use simulated::Simulated;
