//! Timelines: keyframes flow between two peers while events disturb the peers and the network, and the
//! outages are measured. Everything is real: `send`, `recv` and `serve` run as processes of this program in
//! a [`crate::netns::Lab`].
//!
//! - [`event`]: one line, `at 20s: nat a -> sym` · [`mod@file`]: a TOML scenario with such lines, validated
//!   by `check`
//! - `testbed`: the lab, the processes, and the effect of an event on them · [`mod@run`]: from start to end
//! - [`outages`]: one row per event, from the times keyframes were sent and received
//! - [`schema`]: the result · [`table`]: human-readable output

mod check;
pub mod event;
pub mod file;
pub mod outages;
pub mod run;
pub mod schema;
pub mod table;
mod testbed;

pub use event::TimelineEvent;
pub use file::{Timeline, TimelineError};
pub use run::{PlaybackOptions, run};
pub use schema::{Outage, TimelineResult};
