//! Integration tests, one module a subject.

mod layering;
mod signaling_client;
mod turn;
