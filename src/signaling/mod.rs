//! The signaling service: client, room, relay, and the bus between several nodes.

pub mod bus;
pub mod client;
pub mod counters;
mod end;
pub mod fragments;
mod gate;
pub mod handshake;
pub mod limits;
pub mod meter;
pub mod origin;
mod outbox;
pub mod room;
mod rooms;
pub mod server;
mod socket;
pub mod tap;
pub mod token_client;
mod unreachable;
pub mod websocket;

pub use crate::metering::slots;
