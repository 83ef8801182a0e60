//! The signaling service: client, room, relay.
