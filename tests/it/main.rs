//! Integration tests, one module a subject.

mod layering;
mod media;
mod signaling_client;
mod turn;
