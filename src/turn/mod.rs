//! Embedded STUN and TURN server (RFC 8489, RFC 8656) over UDP, TCP and TLS, which relays UDP.
//!
//! We use no library, because a relay is only as safe as its rejections: 403 by the peer filter, 486 by
//! the quota and 438 by bounded nonces must be decided inside the request handling, where the libraries
//! have no hooks.
//!
//! - `nonce`: stateless nonces
//! - `credentials`, `rest`: the users that may allocate · `filter`: the peers that may be relayed to
//! - `allocation`, `tuple`, `revoked`, `protocol` with `protocol::{authenticate, requests, relaying}`: the
//!   protocol without sockets; the time is passed in
//! - `behaviour`: the alternate address, for NAT behavior discovery (RFC 5780)
//! - `server`, `server::tcp`: the sockets · `stats`: counters for `/metrics`
//!
//! Not implemented: DTLS, relaying TCP (RFC 6062), port reservation and DONT-FRAGMENT (both are rejected
//! with the code that their section specifies), ICMP, mobility.

mod allocation;
mod behaviour;
mod config;
mod credentials;
mod filter;
mod listen;
mod nonce;
mod protocol;
mod rest;
mod revoked;
mod server;
mod stats;
mod tuple;

pub use config::{TlsListener, TurnConfig, TurnError, TurnLimits};
pub use credentials::{Credentials, long_term_key};
pub use filter::{IpNet, IpNetError, PeerFilter};
pub use server::TurnServer;
pub use stats::{DropReason, RejectReason, TurnStats};
