//! STUN (RFC 8489) with the TURN methods and attributes of RFC 8656: the embedded TURN server writes
//! and reads it, and the peer reads what passes between it and its ICE servers.
//!
//! - [`message`]: reading and writing messages, no sockets and no time
//! - [`client`]: one conversation with a server
//! - [`discovery`]: how the NAT in front of this machine behaves (RFC 5780)
//! - [`uri`]: where a server is (RFC 7064, RFC 7065)
//! - [`stream`]: messages over TCP and TLS

pub mod client;
pub mod discovery;
pub mod message;
pub mod stream;
pub mod uri;
