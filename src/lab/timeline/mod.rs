//! Time lines: two peers with keyframes flowing between them, what is done to them and to the network
//! while they do, and for how long the keyframes stopped. Everything is real: `send`, `recv` and `serve`
//! as processes of this program in a [`crate::netns::Lab`].
//!
//! - [`event`]: one line, `at 20s: nat a -> sym` · [`mod@file`]: a scenario with such lines, a TOML file,
//!   and in `check` what has to hold of it
//! - `stage`: the lab, the processes, and what an event does to them · [`mod@run`]: from start to end
//! - [`outages`]: when keyframes were sent and came, made into a row an event
//! - [`schema`]: the result · [`table`]: for people

mod check;
pub mod event;
pub mod file;
pub mod outages;
pub mod run;
pub mod schema;
mod stage;
pub mod table;

pub use event::Event;
pub use file::{Timeline, TimelineError};
pub use run::{Options, run};
pub use schema::{Outage, TimelineResult};
