//! The matrix: pairs of networks, the path that theory predicts for each, and the path that two real peers
//! behind them use.
//!
//! - [`scenario`]: pairs of networks as TOML files · [`plan`]: what to measure for a pair
//! - [`mod@run`]: all pairs over a [`LabBackend`], several concurrently
//! - [`simulated`]: NATs and links in this process, and the `servers` shared by all pairs
//! - [`in_kernel`]: NATs and links of the Linux kernel, in network namespaces
//! - [`schema`]: the result, `orion-peer/lab/1` · [`table`], [`words`], [`html()`]: human-readable output

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
pub use in_kernel::KernelBackend;
pub use plan::{CellPlan, Effort, Transports};
pub use run::{LabBackend, Measurement, run};
pub use scenario::Scenario;
pub use schema::{Cell, LabResult};
pub use simulated::SimulatedBackend;
