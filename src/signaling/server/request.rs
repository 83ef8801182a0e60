//! Metadata that the HTTP server adds to the extensions of each request, for the handshake.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The address of a client, added to each request's extensions by the HTTP server: the address of the
/// connection, or the one reported by a trusted proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddr(pub SocketAddr);

impl ClientAddr {
    /// The address without its port, with IPv4-mapped addresses as IPv4.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.0.ip().to_canonical()
    }
}

/// The id of a request, added to its extensions by the HTTP server: links a socket to its handshake
/// in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

/// The local address and TLS state of a request, added to its extensions by the HTTP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The address of this machine that the client connected to; `None` behind a trusted proxy.
    pub local: Option<IpAddr>,
    /// Whether the client uses TLS; `None` behind a trusted proxy, because only the proxy knows.
    pub secure: Option<bool>,
}
