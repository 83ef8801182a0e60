//! Embedded STUN and TURN server (RFC 8489, RFC 8656) over UDP, TCP and TLS,
//! relaying UDP.
//!
//! Ours rather than a library's, because a relay is only as safe as its refusals: 403 by the peer
//! filter, 486 by the quota and 438 by bounded nonces have to be decided inside the request handling,
//! where the libraries have no hook.
//!
//! - `nonce`: nonces without a table
//! - `credentials`, `rest`: who may allocate · `filter`: where may be relayed to
//! - `allocation`, `protocol`, `authenticate`, `requests`, `relaying`, `revoked`: the protocol without
//!   sockets, time passed in
//! - `behaviour`: the other address, for clients that want to know their NAT (RFC 5780)
//! - `server`, `tcp`: the sockets around it · `stats`: what `/metrics` shows
//!
//! Left out: DTLS, relaying TCP (RFC 6062), port reservation, DONT-FRAGMENT (both
//! are refused with the code their section asks for), ICMP, mobility.

mod allocation;
mod authenticate;
mod behaviour;
mod config;
mod credentials;
mod filter;
mod listen;
mod nonce;
mod protocol;
mod relaying;
mod requests;
mod rest;
mod revoked;
mod server;
mod stats;
mod tcp;

pub use config::{Limits, TlsListener, TurnConfig, TurnError};
pub use credentials::{Credentials, long_term_key};
pub use filter::{IpNet, IpNetError, PeerFilter};
pub use server::TurnServer;
pub use stats::{DropReason, Refusal, TurnStats};
