//! The WebRTC peer: connection, video sender and receiver, control channel; knows no signaling.
