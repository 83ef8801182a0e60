//! The servers to test, and the local address from which each is reached.

use std::net::{IpAddr, SocketAddr};

use super::{DoctorConfig, report::Server};
use crate::stun::{client::Login, uri::ServerUri};

/// A server to test: a URL and one of its addresses, or the reason why it has none.
#[derive(Debug, Clone)]
pub(super) struct ServerTarget {
    pub(super) uri: Option<ServerUri>,
    pub(super) login: Option<Login>,
    pub(super) address: Option<SocketAddr>,
    /// The local address to use.
    pub(super) local: Option<IpAddr>,
    /// All addresses of this family; the NAT is tested with all of them.
    pub(super) all: Vec<SocketAddr>,
    pub(super) row: Server,
}

impl ServerTarget {
    pub(super) fn without_address(row: Server) -> Self {
        Self { uri: None, login: None, address: None, local: None, all: Vec::new(), row }
    }
}

/// The local address from which packets to `server` are sent; `None` without a route, or when the
/// selected interface has no address of this family.
pub(super) fn local_towards(config: &DoctorConfig, server: SocketAddr) -> Option<IpAddr> {
    if let Some(name) = &config.interface {
        let all = if_addrs::get_if_addrs().unwrap_or_default();
        return all
            .into_iter()
            .filter(|found| found.name == *name && !found.is_link_local())
            .map(|found| found.ip())
            .find(|ip| ip.is_ipv4() == server.is_ipv4());
    }
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}
