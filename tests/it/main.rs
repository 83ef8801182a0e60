//! Integration tests, one module a subject.

mod auth;
mod bad_input;
mod bench;
mod bus;
mod certificates;
mod cli;
mod doctor;
mod doctor_in_lab;
mod front;
mod fuzz;
mod gathering;
#[cfg(target_os = "linux")]
mod kernel;
mod lab;
mod layering;
mod login;
mod main_job;
mod matrix;
mod media;
mod pacing;
mod peer;
mod raw_http;
mod repair;
mod report;
mod run;
mod signaling_client;
mod signaling_server;
mod tls;
mod token_api;
mod turn;
mod turn_transports;
