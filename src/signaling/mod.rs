//! The signaling service: client, room, relay.

pub mod client;
pub mod counters;
pub mod handshake;
pub mod limits;
mod outbox;
pub mod room;
pub mod server;
mod socket;
pub mod token_client;
pub mod websocket;
