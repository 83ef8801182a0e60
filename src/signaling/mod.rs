//! The signaling service: client, room, relay, and the bus between several nodes.

pub mod bus;
pub mod client;
pub mod room;
pub mod server;
