//! The result of a bench run: one schema, one small file per format.
//!
//! - [`schema`]: the data model, as written and read; `schema.json` is the same for validators
//! - [`collect`]: aggregates connection records into a result
//! - [`load`]: reads a result from a file
//! - [`compare`]: compares a result with a baseline
//! - [`gates`]: conditions a result must meet
//! - [`table`], [`side_by_side`]: terminal output, on a `page`
//! - [`markdown`]: for a pull request
//! - [`mod@html`]: one self-contained page with plots
//! - [`junit`]: for CI servers
//! - [`csv`]: for spreadsheets and data frames
//! - [`github`]: for the log and the outputs of a GitHub Actions step
//!
//! `wording` and [`super::layout`] contain what the formats share.

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
mod page;
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

/// A result and its name.
#[derive(Debug, Clone)]
pub struct Named {
    /// File name or label.
    pub name: String,
    /// The result.
    pub result: BenchResult,
}

/// JSON Schema (draft 2020-12) of [`schema::SCHEMA`].
pub const JSON_SCHEMA: &str = include_str!("schema.json");
