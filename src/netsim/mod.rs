//! NATs, firewalls and links in this process, under real sockets: any machine, no privileges.
//!
//! A [`Gateway`] is what a home router and a carrier are to a peer. The peer's socket is inside; each
//! mapping of the outermost NAT is a real UDP socket outside, so STUN and TURN servers and other peers
//! see what they would see of a real NAT. The parts that decide do no input or output and are told the
//! time; with the same seed they decide the same.
//!
//! - [`translator`]: one NAT or firewall (RFC 4787) · [`stack`]: several, one behind the other
//! - [`link`]: loss, delay, jitter, rate · [`random`]: the seeded generator of both
//! - [`gateway`]: sockets around them · [`socket`]: the socket of a peer or a test · [`stream`]: the
//!   link for TCP connections
//!
//! Known limits: only UDP over IPv4 is translated, ICMP is not simulated, and NATs on one
//! non-loopback address of this machine share that address.

pub(crate) mod address;
pub mod error;
pub mod gateway;
mod inside;
pub mod link;
pub mod random;
pub mod socket;
pub mod stack;
pub mod stream;
mod timer;
pub mod translator;

pub use error::LabError;
pub use gateway::{Gateway, GatewayConfig, GatewayStats, Traffic};
pub use socket::GatewaySocket;
pub use stream::{Direction, StreamLink};
