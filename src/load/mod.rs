//! Load on a signaling server: opens many rooms, lets them idle, relays at a rate, and says how long
//! everything took and what it cost the server.
//!
//! Each room is one task with both sockets of a pair, so that a run of 10,000 sockets is 5,000 tasks in
//! one process. Latencies are corrected for coordinated omission: a message, and a handshake at a given
//! rate, counts from the moment it was due, not from the one it was sent at, so that a server that stands
//! still for a second is seen by all messages of that second. A timer of 1 ms is no such delay: what is
//! sent at most [`TIMER`] late counts from when it was sent.
//!
//! | file | what |
//! |---|---|
//! | [`plan`] | what a run does, and the pairs it does it with |
//! | `room` | one pair: both sockets, what is sent and what comes |
//! | [`mod@run`] | the phases of a run |
//! | `tally` | what is counted on the way |
//! | [`embedded`] | a server of its own, in another process |
//! | [`usage`] | memory and CPU time of a process |
//! | [`result`] | the result, as JSON and as a table, and its gates |

pub mod embedded;
pub mod plan;
pub mod result;
mod room;
pub mod run;
mod tally;
pub mod usage;

use std::time::Duration;

/// How late a timer may be without anybody being to blame.
pub const TIMER: Duration = Duration::from_millis(2);

/// JSON schema of [`result::LoadResult`].
pub const JSON_SCHEMA: &str = include_str!("schema.json");
