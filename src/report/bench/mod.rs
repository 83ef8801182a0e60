//! The result of a bench run: one schema, one small file a format.
//!
//! - [`schema`]: what is measured, as it is written and read; `schema.json` says it to validators
//! - [`collect`]: records of connections made into a result
//! - [`load`]: a result read back from a file
//! - [`compare`]: a result against a baseline
//! - [`gates`]: what a result has to fulfil
//! - [`table`], [`side_by_side`]: for a terminal
//! - [`markdown`]: for a pull request
//! - [`mod@html`]: one self-contained page with plots
//! - [`junit`]: for CI servers
//! - [`csv`]: for spreadsheets and data frames
//! - [`github`]: for the log and the outputs of a GitHub Actions step
//!
//! `wording` holds what the formats share, besides [`super::layout`].

pub mod collect;
pub mod compare;
pub mod csv;
#[cfg(test)]
mod example;
pub mod gates;
pub mod github;
pub mod html;
pub mod junit;
pub mod load;
pub mod markdown;
mod metrics;
#[cfg(test)]
mod samples;
pub mod schema;
#[cfg(test)]
mod schema_tests;
pub mod side_by_side;
pub mod table;
mod wording;

use super::layout;
pub use schema::BenchResult;

/// A result and where it came from.
#[derive(Debug, Clone)]
pub struct Named {
    /// File or label.
    pub name: String,
    /// The result.
    pub result: BenchResult,
}

/// JSON Schema (draft 2020-12) of [`schema::SCHEMA`].
pub const JSON_SCHEMA: &str = include_str!("schema.json");
