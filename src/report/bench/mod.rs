//! The result of a bench run: one schema, one small file a format.
//!
//! - [`schema`]: what is measured, as it is written and read
//! - [`collect`]: records of connections made into a result

pub mod collect;
pub mod schema;

pub use schema::BenchResult;
