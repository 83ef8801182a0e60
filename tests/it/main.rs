//! Integration tests, one module a subject.

mod auth;
mod cli;
mod layering;
mod media;
mod raw_http;
mod signaling_client;
mod signaling_server;
mod token_api;
mod turn;
