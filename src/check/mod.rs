//! The wire contract as a conformance suite: rules held against any signaling and token server.
//!
//! | file | what |
//! |---|---|
//! | [`plan`] | what to check, and as whom |
//! | [`rule`] | what a rule is |
//! | [`rules`] | all of them, one file a subject |
//! | [`wire`] | HTTP/1.1 and TLS, with nothing added to what a rule sends |
//! | [`socket`] | one WebSocket, messages and notices told apart |
//! | [`site`] | the server under test: tokens, joins, refusals |
//! | [`forge`] | tokens that must be refused |
//! | [`run`] | which rule runs when |
//! | [`result`] | what came of it; `schema.json` says it to validators |
//! | [`text`], [`junit`] | for people and for CI servers |
//!
//! A rule sees the server as the apps do: from outside, with tokens of a pair made for tests. A server
//! that hangs, resets or answers garbage breaks a rule; it never ends the run.

pub mod forge;
pub mod junit;
pub mod plan;
pub mod result;
pub mod rule;
pub mod rules;
pub mod run;
pub mod site;
pub mod socket;
pub mod text;
pub mod wire;

/// JSON Schema of [`result::Report`].
pub const JSON_SCHEMA: &str = include_str!("schema.json");
