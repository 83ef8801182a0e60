//! The wire contract as a conformance suite, run against any signaling and token server.
//!
//! | file | what |
//! |---|---|
//! | [`plan`] | what to check, and as which devices |
//! | [`rule`] | definition of a rule |
//! | [`finding`] | outcome of a case |
//! | [`rules`] | all rules, one file per subject |
//! | [`wire`] | HTTP/1.1 and TLS, with nothing added to what a rule sends |
//! | [`socket`] | one WebSocket; relayed messages and the server's own are kept apart |
//! | [`server`] | the server under test: tokens, joins, rejections |
//! | [`forge`] | tokens that must be rejected |
//! | [`run`] | order and concurrency of the rules |
//! | [`result`] | the report; `schema.json` is its JSON Schema |
//! | [`text`], [`junit`] | human-readable output, and output for CI servers |
//!
//! A rule sees the server as the apps do: from outside, with tokens of a pair made for tests. A server
//! that hangs, resets connections or answers garbage violates a rule; it never ends the run.

pub mod finding;
pub mod forge;
pub mod junit;
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
