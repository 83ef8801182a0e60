//! Integration tests, one module per subject.

mod auth;
mod bad_configuration;
mod bad_input;
mod bench;
mod bus;
mod certificates;
mod check;
mod cli;
mod completions;
mod delivery;
mod descriptions;
mod doctor;
mod doctor_in_lab;
#[cfg(unix)]
mod endings;
mod front;
mod fuzz;
mod gathering;
#[cfg(unix)]
mod guide;
mod hostile;
mod hostile_peer;
mod jose_vectors;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod kernel_leftovers;
#[cfg(target_os = "linux")]
mod kernel_on_path;
mod lab;
#[cfg(target_os = "linux")]
mod lan;
mod layering;
mod load;
mod logging;
mod login;
mod main_job;
mod matrix;
mod media;
mod moving;
mod openapi;
mod pacing;
mod pair_stores;
mod peer;
mod pictures;
mod proxied;
mod raw_http;
mod repair;
mod report;
mod rig;
mod run;
mod signaling_client;
mod signaling_server;
mod sinks;
mod slow_store;
mod source_text;
mod statistics;
#[cfg(unix)]
mod stop;
#[cfg(target_os = "linux")]
mod stranger;
mod streams;
mod timeline;
mod tls;
mod token_api;
mod turn;
mod turn_abuse;
mod turn_transports;
mod view;
mod wording;
