//! What the server is told, and what can go wrong when it starts.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use super::{credentials::Credentials, filter::PeerFilter};
use crate::{metering::Rate, types::os_error::listen_remedy};

/// Settings of [`super::TurnServer`].
#[derive(Clone)]
pub struct TurnConfig {
    /// UDP address to listen on; port 0 takes a free one.
    pub udp: Option<SocketAddr>,
    /// TCP address to listen on; port 0 takes the port of `udp`.
    pub tcp: Option<SocketAddr>,
    /// Another address and port, UDP: with it clients can find out how their NAT behaves (RFC 5780).
    /// Port 0 takes a free one.
    pub alternate: Option<SocketAddr>,
    /// Where to listen for TLS over TCP.
    pub tls: Option<TlsListener>,
    /// The IP told to clients in XOR-RELAYED-ADDRESS. Relays are IPv4 or IPv6, as this is.
    pub relay_address: IpAddr,
    /// The IP relay sockets are bound on, where it differs from `relay_address` (behind 1:1 NAT).
    pub relay_bind: Option<IpAddr>,
    /// Ports for relay sockets (RFC 8656 §7.2 recommends 49152-65535).
    pub relay_ports: RangeInclusive<u16>,
    /// Realm of the credentials.
    pub realm: String,
    /// Who may allocate.
    pub credentials: Arc<dyn Credentials>,
    /// Where may be relayed to.
    pub peers: PeerFilter,
    /// How much of everything.
    pub limits: Limits,
}

impl TurnConfig {
    /// A server for this machine only: listens and relays on 127.0.0.1, on the given port, with
    /// [`Limits::for_one_machine`].
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
            limits: Limits::for_one_machine(),
        }
    }
}

/// A listener for TLS over TCP (RFC 8656 §3.1).
#[derive(Clone)]
pub struct TlsListener {
    /// Where; port 0 takes a free one.
    pub address: SocketAddr,
    /// Certificate and key.
    pub server: Arc<rustls::ServerConfig>,
}

/// Upper bounds.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Allocations at one time; beyond it 508 (Insufficient Capacity).
    pub allocations: usize,
    /// Allocations of one user at one time; beyond it 486 (Allocation Quota Reached). A client makes one
    /// for each of its addresses and each transport.
    pub allocations_per_user: usize,
    /// Permissions, and channels, of one allocation; beyond it 508.
    pub peers_per_allocation: usize,
    /// TCP and TLS connections at one time; beyond it they are closed at once.
    pub tcp_connections: usize,
    /// Those of one address (IPv6: of one /64); `None` is no limit.
    pub tcp_connections_per_address: Option<u32>,
    /// How long a TCP connection may stay without an allocation, TLS handshake included, whatever it
    /// sends.
    pub unauthenticated_within: Duration,
    /// Error answers over UDP to one address (IPv6: to one /64) that has shown no login: anybody can send
    /// a request in its name. `None` is no limit.
    pub unauthenticated_errors: Option<Rate>,
    /// Addresses and ports one user may send to for the first time; `None` is no limit. A relay is not to
    /// be a port scanner.
    pub new_peers: Option<Rate>,
    /// Bytes a second through one allocation, each way; what is beyond it is dropped. Counted as on the
    /// wire between client and server: IP and UDP headers and TURN's framing included.
    pub bytes_per_second: Option<u64>,
    /// The same for all allocations together.
    pub total_bytes_per_second: Option<u64>,
    /// How long a nonce holds; then 438 (Stale Nonce).
    pub nonce_lifetime: Duration,
}

impl Limits {
    /// The limits of a server whose clients are all of one machine and one user.
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            allocations: 1000,
            allocations_per_user: 30,
            peers_per_allocation: 64,
            tcp_connections: 1024,
            // A sixteenth of all, as for HTTP: room for the phones behind one NAT.
            tcp_connections_per_address: Some(64),
            unauthenticated_within: Duration::from_secs(10),
            // An allocation takes one. A second of it is 4 KB: not worth reflecting.
            unauthenticated_errors: Some(Rate::new(200, Duration::from_millis(20))),
            // A call makes some 40: four allocations to ten candidates.
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
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The alternate address does not go with the first one.
    #[error("cannot use {alternate} as alternate address of the STUN server: {reason}")]
    Alternate {
        /// As configured.
        alternate: SocketAddr,
        /// Why not.
        reason: &'static str,
    },
    /// Nothing to listen on.
    #[error("the TURN server has no address to listen on")]
    NoListener,
    /// Relay sockets cannot be bound there.
    #[error("cannot relay on {address}: {source}")]
    Relay {
        /// The address.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// The port range holds no port.
    #[error("the relay port range {}-{} is empty", .0.start(), .0.end())]
    NoRelayPorts(RangeInclusive<u16>),
}

impl TurnError {
    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Listen { source, .. } => {
                return listen_remedy(source, "choose another address and port for TURN");
            }
            Self::Relay { source, .. } => {
                return listen_remedy(source, "choose a relay address that this machine has");
            }
            Self::Alternate { .. } => {
                "give the server two addresses of this machine and two ports, or no alternate one"
            }
            Self::NoListener => "give a UDP, TCP or TLS address for TURN",
            Self::NoRelayPorts(_) => "give a relay port range whose end is not below its start",
        }
        .to_owned()
    }
}
