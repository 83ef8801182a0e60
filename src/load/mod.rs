//! Load test of a signaling server: opens many rooms, lets them idle, relays messages at a rate, and reports
//! latencies and the resource usage of the server.
//!
//! Each room is one task with both sockets of a pair, so that a run of 10,000 sockets is 5,000 tasks in one process.
//! Latencies are corrected for coordinated omission: a message (and a handshake, if a rate is given) is measured
//! from the moment it was due, not from when it was sent, so that a server that stalls for a second affects all
//! messages of that second. The resolution of a timer (1 ms) is not such a delay: a message sent at most [`TIMER`]
//! late is measured from when it was sent.
//!
//! | file | content |
//! |---|---|
//! | [`plan`] | configuration of a run, and its pairs |
//! | `room` | one pair: both sockets, and the messages sent and received |
//! | [`mod@run`] | the phases of a run |
//! | `tally` | counters |
//! | [`embedded`] | an embedded server in another process |
//! | [`usage`] | memory and CPU time of a process |
//! | [`result`] | the result, as JSON and as a table, and its gates |

pub mod embedded;
pub mod plan;
pub mod result;
mod room;
pub mod run;
mod shared;
mod tally;
pub mod usage;

use std::time::Duration;

/// Tolerated lateness of a timer.
pub const TIMER: Duration = Duration::from_millis(2);

/// JSON schema of [`result::LoadResult`].
pub const JSON_SCHEMA: &str = include_str!("schema.json");
