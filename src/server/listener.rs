//! Settings of everything between the network and the routes: TLS, timeouts, size and connection limits,
//! proxies.

use std::{net::SocketAddr, time::Duration};

use super::{proxies::Proxies, tls::Tls};

/// Settings of the HTTP listener. The defaults are those of the wire contract, where it defines them.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Certificate and key; without them the listener speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Timeout of the TLS handshake (contract: 5 s).
    pub tls_within: Duration,
    /// Timeout of a request's body, after its header.
    pub body_within: Duration,
    /// Lifetime of a connection, for all of its requests: afterward it is shut down gracefully and soon
    /// closed, even if the client does not read its responses. Sockets are not affected.
    pub connection_within: Duration,
    /// Maximum size of a request's body, bytes.
    pub max_body: usize,
    /// Maximum number of concurrent HTTP connections from one address, not counting sockets; `None` means
    /// no limit. Trusted proxies are not limited.
    pub connections_per_address: Option<u32>,
    /// Whether requests whose host is not this machine are rejected when there is no TLS: for a server with
    /// a well-known login.
    pub this_machine_only: bool,
    /// Proxies that are trusted to name a client's address.
    pub proxies: Proxies,
    /// Address of a separate plain HTTP listener for `/metrics`, `/healthz` and `/readyz`; the main listener
    /// then does not serve `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Self {
            tls: None,
            tls_within: Duration::from_secs(5),
            body_within: Duration::from_secs(5),
            connection_within: Duration::from_mins(2),
            max_body: 16 * 1024,
            connections_per_address: Some(256),
            this_machine_only: false,
            proxies: Proxies::default(),
            metrics_listen: None,
        }
    }
}
