//! Signaling: the client, the server, the rooms that relay messages, and the bus between nodes.

pub mod bus;
pub mod client;
pub mod room;
pub mod server;
pub mod text;
