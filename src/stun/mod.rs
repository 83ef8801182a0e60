//! STUN (RFC 8489) with the TURN methods and attributes of RFC 8656: used by the embedded TURN
//! server, and by the peer to monitor the messages it exchanges with its ICE servers.
//!
//! - [`message`]: reading and writing messages, without sockets or a clock
//! - [`client`]: one conversation with a server
//! - [`discovery`]: how the NAT in front of this machine behaves (RFC 5780)
//! - [`uri`]: URIs of servers (RFC 7064, RFC 7065)
//! - [`stream`]: messages over TCP and TLS

pub mod client;
pub mod discovery;
pub mod message;
pub mod stream;
pub mod uri;
