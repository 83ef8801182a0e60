//! The result of a bench run: one schema, one small file a format.
//!
//! - [`schema`]: what is measured, as it is written and read
//! - [`collect`]: records of connections made into a result
//! - [`load`]: a result read back from a file
//! - [`compare`]: a result against a baseline
//! - [`gates`]: what a result has to fulfil

pub mod collect;
pub mod compare;
pub mod gates;
pub mod load;
mod metrics;
#[cfg(test)]
mod samples;
pub mod schema;

pub use schema::BenchResult;

/// A result and where it came from.
#[derive(Debug, Clone)]
pub struct Named {
    /// File or label.
    pub name: String,
    /// The result.
    pub result: BenchResult,
}
