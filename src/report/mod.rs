//! Output of a run: the live line, the summary, statistics files.
//!
//! Each output has one schema, and each format one small file. Everything here takes plain values and the time as
//! arguments; no measurements are made here.

pub mod bench;
pub mod delivery;
pub mod dump;
pub(crate) mod html;
pub mod human;
pub mod junit;
pub mod layout;
pub mod live;
pub mod schema;
pub mod schemas;
pub mod stats;
pub mod summary;
pub mod whole_file;
