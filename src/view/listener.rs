//! Limits on the connections to the page: in total, per address, and in time. Idle connections must not use up the
//! file descriptors that `recv` needs for keyframes.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};
use tower::ServiceExt;

use crate::{
    http::{self, Within},
    metering::slots::{Slot, Slots},
    signaling::server::limits::metered,
};

/// Maximum concurrent connections: a fifth of the usual open file limit.
const MAX_CONNECTIONS: u16 = 192;

/// Maximum concurrent connections per address (IPv6: per /64); a browser opens 6 per page.
const MAX_PER_ADDRESS: u32 = 64;

/// Timeouts: for request headers as in `serve`; for connections, after which pages reconnect by themselves and receive
/// the events they missed.
const TIMEOUTS: Within =
    Within { header: Duration::from_secs(5), connection: Duration::from_mins(15) };

/// A listener with limits; dropping it closes its connections.
pub(super) struct LimitedListener {
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
}

/// Accounting of connections against the limits.
struct Admission {
    connections: Arc<Semaphore>,
    addresses: Slots<IpAddr>,
    rejected: u64,
}

impl LimitedListener {
    /// Serves `router` on `listener`.
    pub(super) fn open(listener: TcpListener, router: Router) -> Self {
        let stop = watch::Sender::new(false);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS.into()));
        let mut admission = Admission {
            connections: Arc::clone(&connections),
            addresses: Slots::new(MAX_PER_ADDRESS),
            rejected: 0,
        };
        let stopping = stop.subscribe();
        tokio::spawn(http::accept(listener, stop.subscribe(), move |stream, address| {
            if let Some(permits) = admission.admit(address) {
                let (router, stop) = (router.clone(), stopping.clone());
                tokio::spawn(async move {
                    connection(stream, address, router, stop).await;
                    drop(permits);
                });
            }
        }));
        Self { stop, connections }
    }

    /// Accepts no more connections, and waits until all are closed.
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        // Acquiring fails only if the semaphore is closed, which never happens.
        let _all = self.connections.acquire_many(MAX_CONNECTIONS.into()).await.is_ok();
    }
}

impl Admission {
    fn admit(&mut self, address: SocketAddr) -> Option<(OwnedSemaphorePermit, Slot<IpAddr>)> {
        let slot = self.addresses.take(metered(address.ip()));
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok();
        let permits = permit.zip(slot);
        if permits.is_none() {
            self.rejected += 1;
            // A flood of connections must not flood the log.
            if self.rejected.is_power_of_two() {
                let client = address.ip().to_canonical();
                tracing::warn!(%client, so_far = self.rejected, "viewer: too many connections; dropped one");
            }
        }
        permits
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    // Events are small and must not be delayed.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    http::requests(stream, address, TIMEOUTS, stop, move |request| {
        let request: Request = request.map(Body::new);
        router.clone().oneshot(request)
    })
    .await;
}
