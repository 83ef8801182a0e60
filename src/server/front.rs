//! What stands between the network and the routes: TLS, time-outs, sizes, connections, proxies.

use std::{net::SocketAddr, time::Duration};

use super::{proxies::Proxies, tls::Tls};

/// Settings of the HTTP listener. The defaults are those of the wire contract, where it names them.
#[derive(Debug, Clone)]
pub struct Front {
    /// Certificate and key; without them the listener speaks plain HTTP.
    pub tls: Option<Tls>,
    /// For the TLS handshake (contract: 5 s).
    pub tls_within: Duration,
    /// For the body of a request, after its header.
    pub body_within: Duration,
    /// For all requests of a connection: then it is asked to end, and soon after it is cut off, so that
    /// clients that do not read their answers go, too. Sockets stay.
    pub connection_within: Duration,
    /// Longest body of a request, bytes.
    pub max_body: usize,
    /// HTTP connections from one address at once, sockets not counted; `None` is no limit. Trusted
    /// proxies have none.
    pub connections_per_address: Option<u32>,
    /// Requests by another name than this machine's are refused, where there is no TLS: for a server whose
    /// login everybody knows.
    pub this_machine_only: bool,
    /// Proxies that are believed when they name a client's address.
    pub proxies: Proxies,
    /// Where to answer `/metrics`, `/healthz` and `/readyz` in plain HTTP; then the other listener does
    /// not answer `/metrics`.
    pub metrics_listen: Option<SocketAddr>,
}

impl Default for Front {
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
