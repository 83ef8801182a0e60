//! NATs, firewalls and links simulated in this process, on top of real sockets: on any machine, without
//! privileges.
//!
//! A [`Gateway`] is the home router and the carrier of a peer. The peer's socket is inside; each mapping of
//! the outermost NAT is a real UDP socket outside, so STUN and TURN servers and remote peers see the same as
//! with a real NAT. The decision logic does no I/O, takes the time as an argument, and is deterministic for a
//! given seed.
//!
//! - [`translator`]: one NAT or firewall (RFC 4787) · [`stack`]: several in a row
//! - [`link`]: loss, delay, jitter, rate · [`random`]: the seeded generator of both
//! - [`gateway`]: the real sockets around them · [`gateway::socket`]: the socket of a peer or a test
//! - [`gateway::stream`]: the link for TCP connections
//!
//! Known limitations: only UDP over IPv4 is translated, ICMP is not simulated, and NATs on the same
//! non-loopback address of this machine share that address.

pub(crate) mod address;
pub mod error;
pub mod gateway;
mod inside;
pub mod link;
pub mod random;
pub mod stack;
mod timer;
pub mod translator;

pub use error::NetsimError;
pub use gateway::{
    Gateway, GatewayConfig, GatewayStats, Traffic,
    socket::GatewaySocket,
    stream::{Direction, StreamLink},
};
