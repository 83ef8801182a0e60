//! Certificates: which ones are trusted, how a presented one is verified, and what it contains.

pub mod certificate;
mod trust;

pub use trust::{Trust, TrustError, certificates};
