//! Integration tests, one module a subject.

mod auth;
mod layering;
mod raw_http;
mod signaling_server;
mod token_api;
