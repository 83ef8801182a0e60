//! The signaling service: client, room, relay.

pub mod client;
pub mod token_client;
