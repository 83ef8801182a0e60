//! Embedded STUN and TURN server.
