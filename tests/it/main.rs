//! Integration tests, one module a subject.

mod cli;
mod layering;
mod media;
mod signaling_client;
mod turn;
