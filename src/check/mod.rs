//! The wire contract as a conformance suite, run against any signaling and token server.
//!
//! | file | contents |
//! |---|---|
//! | [`plan`] | what to check, and as which devices |
//! | [`level`] | how strict a run is, and what it provides |
//! | [`rule`] | definition of a rule |
//! | [`finding`] | outcome of a case |
//! | [`rules`] | all rules, one file per subject |
//! | [`wire`] | HTTP/1.1 and TLS; sends exactly what a rule specifies |
//! | [`socket`] | one WebSocket; relayed messages and the server's own are kept separate |
//! | [`server`] | the server under test: tokens, joins, rejections |
//! | [`forge`] | tokens that must be rejected |
//! | [`run`] | order and concurrency of the rules |
//! | [`result`] | the report; `schema.json` is its JSON Schema |
//! | [`text`], [`junit`] | human-readable output, and output for CI servers |
//!
//! Rules test the server from outside, as the apps see it, with tokens for a test pair. A server
//! that hangs, resets connections or responds with garbage violates a rule but does not end the
//! run.

pub mod finding;
pub mod forge;
pub mod junit;
pub mod level;
pub mod plan;
pub mod result;
pub mod rule;
pub mod rules;
pub mod run;
pub mod server;
pub mod socket;
pub mod text;
pub mod wire;

/// JSON Schema of [`result::CheckReport`].
pub const JSON_SCHEMA: &str = include_str!("schema.json");
