//! A running server: its addresses, and its shutdown.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use super::{Parts, TOKEN_PATH};
use crate::{
    auth::jwt::Verifier, pairs::PairStore, proto::signaling, signaling::server::Signaling,
};

/// A running server; dropping it stops it immediately.
pub struct RunningServer {
    pub(super) addr: SocketAddr,
    pub(super) metrics_addr: Option<SocketAddr>,
    pub(super) parts: Arc<Parts>,
    pub(super) stop: watch::Sender<bool>,
    pub(super) tasks: Vec<JoinHandle<()>>,
    pub(super) connections: Arc<Semaphore>,
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl RunningServer {
    /// The address that the server listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// An address that clients on this machine can connect to: loopback when the server listens on all.
    #[must_use]
    pub fn reachable_addr(&self) -> SocketAddr {
        let mut addr = self.addr;
        if addr.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) {
            addr.set_ip(Ipv4Addr::LOCALHOST.into());
        } else if addr.ip().is_unspecified() {
            addr.set_ip(std::net::Ipv6Addr::LOCALHOST.into());
        }
        addr
    }

    /// The address of the separate listener for `/metrics`, if there is one.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_addr
    }

    /// Host and port for URLs at an address of this machine; with TLS, a name in the certificate.
    fn authority(&self, ip: IpAddr) -> String {
        let addr = SocketAddr::new(ip, self.addr.port());
        let Some(tls) = self.parts.config.listener.tls.as_ref() else { return addr.to_string() };
        let named = tls.names().into_iter().find(|name| {
            !name.contains('*') && !name.contains(':') && name.parse::<IpAddr>().is_err()
        });
        match named {
            Some(name) if !tls.is_for(&addr.ip().to_string()) => {
                format!("{name}:{}", addr.port())
            }
            _ => addr.to_string(),
        }
    }

    fn scheme(&self, plain: &str) -> String {
        let secure = if self.parts.config.listener.tls.is_some() { "s" } else { "" };
        format!("{plain}{secure}")
    }

    /// URL of the WebSocket, for a client on this machine.
    #[must_use]
    pub fn signal_url(&self) -> String {
        self.signal_url_at(self.reachable_addr().ip())
    }

    /// URL of the WebSocket at an address by which clients reach this machine.
    #[must_use]
    pub fn signal_url_at(&self, ip: IpAddr) -> String {
        format!("{}://{}{}", self.scheme("ws"), self.authority(ip), signaling::PATH)
    }

    /// URL of the token API, for a client on this machine.
    #[must_use]
    pub fn token_url(&self) -> String {
        self.token_url_at(self.reachable_addr().ip())
    }

    /// URL of the token API at an address by which clients reach this machine.
    #[must_use]
    pub fn token_url_at(&self, ip: IpAddr) -> String {
        format!("{}://{}{TOKEN_PATH}", self.scheme("http"), self.authority(ip))
    }

    /// URL of the page for browsers at an address by which clients reach this machine.
    #[must_use]
    pub fn page_url_at(&self, ip: IpAddr) -> String {
        format!("{}://{}/", self.scheme("http"), self.authority(ip))
    }

    /// The signaling server.
    #[must_use]
    pub fn signaling(&self) -> &Signaling {
        &self.parts.signaling
    }

    /// The pair store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn PairStore> {
        &self.parts.config.store
    }

    /// Mints and verifies signaling tokens.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.parts.config.verifier
    }

    /// Stops gracefully: rejects new sockets, closes live ones with 1012 spread over the drain jitter, and
    /// answers pending requests.
    pub async fn shutdown(self) {
        self.parts.signaling.drain().await;
        self.stop.send_replace(true);
        let all = u32::try_from(self.parts.config.max_connections).unwrap_or(u32::MAX);
        let done = self.connections.acquire_many(all);
        if tokio::time::timeout(Duration::from_secs(2), done).await.is_err() {
            tracing::warn!("HTTP connections were still open when the server stopped");
        }
    }
}

impl Drop for RunningServer {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        self.parts.signaling.close_all();
    }
}
