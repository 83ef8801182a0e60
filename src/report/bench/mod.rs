//! The result of a bench run: one schema, one small file a format.
//!
//! - [`schema`]: what is measured, as it is written and read
//! - [`collect`]: records of connections made into a result
//! - [`mod@html`]: one self-contained page with plots

pub mod collect;
pub mod html;
pub mod schema;

pub use schema::BenchResult;

/// A result and what to call it where several are shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// A short name, usually the file it was read from.
    pub name: String,
    /// What was measured.
    pub result: BenchResult,
}
