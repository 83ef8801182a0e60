//! The signaling service: client, room, relay, and the bus between several nodes.

pub mod bus;
pub mod client;
pub mod counters;
pub mod handshake;
pub mod limits;
mod outbox;
pub mod room;
pub mod server;
mod socket;
pub mod token_client;
