//! How many connections the page takes, in all and from one address, and for how long. `recv` needs its
//! file descriptors for keyframes, whoever opens connections here and leaves them idle.

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

/// Connections at once: a fifth of the usual limit on open files.
const CONNECTIONS: u16 = 192;

/// Connections from one address (IPv6: one /64) at once; a browser opens 6 for each page.
const OF_ADDRESS: u32 = 64;

/// The header of a request has as long as at `serve`. Pages that watch reconnect on their own after the
/// time of a connection, and are then shown what they missed.
const WITHIN: Within =
    Within { header: Duration::from_secs(5), connection: Duration::from_mins(15) };

/// A listener with limits; dropping it ends its connections.
pub(super) struct Door {
    stop: watch::Sender<bool>,
    connections: Arc<Semaphore>,
}

/// Who may come in.
struct Admission {
    connections: Arc<Semaphore>,
    addresses: Slots<IpAddr>,
    refused: u64,
}

impl Door {
    /// Serves `router` on `listener`.
    pub(super) fn open(listener: TcpListener, router: Router) -> Self {
        let stop = watch::Sender::new(false);
        let connections = Arc::new(Semaphore::new(CONNECTIONS.into()));
        let mut admission = Admission {
            connections: Arc::clone(&connections),
            addresses: Slots::new(OF_ADDRESS),
            refused: 0,
        };
        let stopping = stop.subscribe();
        tokio::spawn(http::accept(listener, stop.subscribe(), move |stream, address| {
            if let Some(place) = admission.place(address) {
                let (router, stop) = (router.clone(), stopping.clone());
                tokio::spawn(async move {
                    connection(stream, address, router, stop).await;
                    drop(place);
                });
            }
        }));
        Self { stop, connections }
    }

    /// Takes no more connections, and waits until all have ended.
    pub(super) async fn close(self) {
        self.stop.send_replace(true);
        // An error would be that the semaphore is closed, which nobody does.
        let _all = self.connections.acquire_many(CONNECTIONS.into()).await.is_ok();
    }
}

impl Admission {
    fn place(&mut self, address: SocketAddr) -> Option<(OwnedSemaphorePermit, Slot<IpAddr>)> {
        let slot = self.addresses.take(metered(address.ip()));
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok();
        let place = permit.zip(slot);
        if place.is_none() {
            self.refused += 1;
            // A flood of connections is not a flood of log lines.
            if self.refused.is_power_of_two() {
                let client = address.ip().to_canonical();
                tracing::warn!(%client, so_far = self.refused, "viewer: too many connections: dropped");
            }
        }
        place
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    // Events are small and should not wait for the next.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    http::requests(stream, address, WITHIN, stop, move |request| {
        let request: Request = request.map(Body::new);
        router.clone().oneshot(request)
    })
    .await;
}
