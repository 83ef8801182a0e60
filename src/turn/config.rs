//! Configuration of the server, and its startup errors.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::{credentials::Credentials, filter::PeerFilter};
use crate::{metering::Rate, types::os_error::listen_remedy};

/// Configuration of [`super::TurnServer`].
#[derive(Clone)]
pub struct TurnConfig {
    /// UDP address to listen on; port 0 picks a free one.
    pub udp: Option<SocketAddr>,
    /// TCP address to listen on; port 0 uses the port of `udp`.
    pub tcp: Option<SocketAddr>,
    /// Alternate UDP address and port, with which clients can discover the behavior of their NAT (RFC
    /// 5780). Port 0 picks a free one.
    pub alternate: Option<SocketAddr>,
    /// TLS over TCP listener.
    pub tls: Option<TlsListener>,
    /// Address reported to clients in XOR-RELAYED-ADDRESS. Its family is the family of the relays.
    pub relay_address: IpAddr,
    /// Address to bind relay sockets to, if it differs from `relay_address` (behind a 1:1 NAT).
    pub relay_bind: Option<IpAddr>,
    /// Ports for relay sockets (RFC 8656 §7.2 recommends 49152-65535).
    pub relay_ports: RangeInclusive<u16>,
    /// Realm of the credentials.
    pub realm: String,
    /// Verifies usernames and passwords.
    pub credentials: Arc<dyn Credentials>,
    /// Peers that may be relayed to.
    pub peers: PeerFilter,
    /// Upper bounds on resources.
    pub limits: TurnLimits,
}

impl TurnConfig {
    /// A server for this machine only: listens and relays on 127.0.0.1, on the given port, with
    /// [`TurnLimits::for_one_machine`].
    #[must_use]
    pub fn loopback(port: u16, credentials: Arc<dyn Credentials>) -> Self {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            udp: Some(here),
            tcp: Some(here),
            alternate: None,
            tls: None,
            relay_address: here.ip(),
            relay_bind: None,
            relay_ports: 49152..=65535,
            realm: "orion".into(),
            credentials,
            peers: PeerFilter { allow_loopback: true, ..PeerFilter::default() },
            limits: TurnLimits::for_one_machine(),
        }
    }
}

/// A listener for TLS over TCP (RFC 8656 §3.1).
#[derive(Clone)]
pub struct TlsListener {
    /// Address to listen on; port 0 picks a free one.
    pub address: SocketAddr,
    /// TLS configuration with certificate and key.
    pub server: Arc<rustls::ServerConfig>,
}

/// Upper bounds on the resources of a server.
#[derive(Debug, Clone)]
pub struct TurnLimits {
    /// Maximum number of concurrent allocations; further requests get 508 (Insufficient Capacity).
    pub allocations: usize,
    /// Maximum number of concurrent allocations per user; further requests get 486 (Allocation Quota
    /// Reached). A client creates one for each of its addresses and each transport.
    pub allocations_per_user: usize,
    /// Maximum number of permissions, and of channels, per allocation; further requests get 508.
    pub peers_per_allocation: usize,
    /// Maximum number of concurrent TCP and TLS connections; further ones are closed immediately.
    pub tcp_connections: usize,
    /// Maximum number of concurrent connections per client address (IPv6: per /64); `None` means no limit.
    pub tcp_connections_per_address: Option<u32>,
    /// How long a TCP connection may exist without an allocation, including the TLS handshake, regardless
    /// of what it sends.
    pub unauthenticated_within: Duration,
    /// Rate of error responses over UDP to an unauthenticated address (IPv6: /64), because its requests may
    /// be spoofed. `None` means no limit.
    pub unauthenticated_errors: Option<Rate>,
    /// Rate at which one user may send to new addresses and ports; `None` means no limit. A relay must not
    /// be usable as a port scanner.
    pub new_peers: Option<Rate>,
    /// Bytes per second through one allocation, in each direction; excess traffic is dropped. Bytes are
    /// counted as on the wire between client and server, including IP and UDP headers and TURN framing.
    pub bytes_per_second: Option<u64>,
    /// Bytes per second through all allocations together, in each direction.
    pub total_bytes_per_second: Option<u64>,
    /// Lifetime of a nonce, after which requests with it get 438 (Stale Nonce).
    pub nonce_lifetime: Duration,
}

impl TurnLimits {
    /// The limits of a server whose clients all belong to one machine and one user.
    #[must_use]
    pub fn for_one_machine() -> Self {
        Self {
            tcp_connections_per_address: None,
            unauthenticated_errors: None,
            new_peers: None,
            ..Self::default()
        }
    }
}

impl Default for TurnLimits {
    fn default() -> Self {
        Self {
            allocations: 1000,
            allocations_per_user: 30,
            peers_per_allocation: 64,
            tcp_connections: 1024,
            // A sixteenth of all connections, as for HTTP: enough for the phones behind one NAT.
            tcp_connections_per_address: Some(64),
            unauthenticated_within: Duration::from_secs(10),
            // An allocation takes one error. A second's worth is 4 KB, which is useless for reflection.
            unauthenticated_errors: Some(Rate::new(200, Duration::from_millis(20))),
            // A call needs about 40: four allocations times ten candidates.
            new_peers: Some(Rate::new(512, Duration::from_millis(20))),
            bytes_per_second: None,
            total_bytes_per_second: None,
            nonce_lifetime: Duration::from_hours(1),
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// A listening socket could not be bound.
    #[error("cannot listen for TURN on {transport} {address}: {source}")]
    Listen {
        /// `udp`, `tcp` or `tls`.
        transport: &'static str,
        /// The address to listen on.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The alternate address does not fit the primary one.
    #[error("cannot use {alternate} as alternate address of the STUN server: {reason}")]
    Alternate {
        /// The alternate address as configured.
        alternate: SocketAddr,
        /// Why it does not fit.
        reason: &'static str,
    },
    /// No address to listen on.
    #[error("the TURN server has no address to listen on")]
    NoListener,
    /// Relay sockets cannot be bound to this address.
    #[error("cannot relay on {address}: {source}")]
    Relay {
        /// The relay address.
        address: IpAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The port range is empty.
    #[error("the relay port range {}-{} is empty", .0.start(), .0.end())]
    NoRelayPorts(RangeInclusive<u16>),
}

impl TurnError {
    /// How to fix it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Listen { source, .. } => {
                return listen_remedy(source, "choose another address or port for TURN");
            }
            Self::Relay { source, .. } => {
                return listen_remedy(source, "choose a relay address that this machine has");
            }
            Self::Alternate { .. } => {
                "use two addresses of this machine with two different ports, or no alternate address"
            }
            Self::NoListener => "set a UDP, TCP or TLS address for TURN",
            Self::NoRelayPorts(_) => "set a relay port range whose end is not below its start",
        }
        .to_owned()
    }
}
