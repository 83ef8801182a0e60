//! A signaling client and a peer in one call.
