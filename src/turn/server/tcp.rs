//! Clients over TCP and TLS (RFC 8656 §3.1): STUN messages and padded `ChannelData`, framed on a stream
//! (§12.5). Relaying is still over UDP.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{Client, Shared, pause};
use crate::turn::{
    config::TurnLimits,
    tuple::{ClientTransport, FiveTuple},
};
use crate::{
    metering::{
        metered,
        slots::{Slot, Slots},
    },
    stun::stream::{FrameReader, FrameWriter, Stream},
};

/// Time within which a client must read a response before its connection is closed.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of frames queued for a slow client; further ones are dropped. Enough for several
/// keyframes of 100 KB, about 90 frames each.
const WRITE_QUEUE: usize = 1024;

/// Approximate number of bytes per write: a TLS record holds 16 KiB.
const WRITE_BYTES: usize = 64 * 1024;

/// Number of checks of a connection without an allocation within its time limit.
const CHECKS: u32 = 4;

/// Connection limits, shared by TCP and TLS.
pub(super) struct ConnectionPermits {
    all: Arc<Semaphore>,
    per_address: Option<Slots<IpAddr>>,
}

/// The permit of one connection, until it is dropped.
struct ConnectionPermit {
    _total: OwnedSemaphorePermit,
    _per_address: Option<Slot<IpAddr>>,
}

impl ConnectionPermits {
    pub(super) fn new(limits: &TurnLimits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.tcp_connections)),
            per_address: limits.tcp_connections_per_address.map(Slots::new),
        }
    }

    fn take(&self, client: IpAddr) -> Option<ConnectionPermit> {
        let per_address = match &self.per_address {
            Some(slots) => Some(slots.take(metered(client))?),
            None => None,
        };
        let total = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(ConnectionPermit { _total: total, _per_address: per_address })
    }
}

/// Accepts connections until the server stops.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    server: SocketAddr,
    tls: Option<TlsAcceptor>,
) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let Some(permit) = shared.permits.take(client.ip()) else {
            shared.counters.tcp_refused.fetch_add(1, Relaxed);
            tracing::debug!(%client, "TURN connection rejected: too many connections");
            continue;
        };
        let tuple = FiveTuple { transport: ClientTransport::Tcp, client, server };
        let open = OpenConnection::new(Arc::clone(&shared), tuple);
        let (of_task, tls) = (Arc::clone(&shared), tls.clone());
        shared.spawn(async move {
            tokio::select! {
                () = connection(&of_task, stream, tuple, tls) => {}
                () = without_allocation(&of_task, tuple) => {
                    tracing::debug!(%client, "TURN connection without an allocation timed out");
                }
            }
            drop(open);
            drop(permit);
        });
    }
}

/// Returns once the connection has had no allocation for too long, regardless of what was received: part
/// of a TLS handshake or of a header, or a series of Binding requests.
async fn without_allocation(shared: &Shared, tuple: FiveTuple) {
    let within = shared.config.limits.unauthenticated_within;
    let mut checks = tokio::time::interval(within / CHECKS);
    let mut last_allocated = Instant::now();
    loop {
        checks.tick().await;
        if shared.protocol().has(tuple) {
            last_allocated = Instant::now();
        } else if last_allocated.elapsed() >= within {
            return;
        }
    }
}

async fn connection(
    shared: &Arc<Shared>,
    stream: TcpStream,
    tuple: FiveTuple,
    tls: Option<TlsAcceptor>,
) {
    // Otherwise small packets wait for acknowledgments; a failure only costs latency.
    let _ = stream.set_nodelay(true);
    let stream = match tls {
        None => Stream::from(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Stream::from(TlsStream::from(stream)),
            Err(error) => {
                tracing::debug!(client = %tuple.client, %error, "TLS handshake for TURN failed");
                return;
            }
        },
    };
    let (reader, writer) = stream.into_split();
    let (frames, queue) = mpsc::channel(WRITE_QUEUE);
    tokio::select! {
        () = read(shared, reader, tuple, Client::Tcp(frames)) => {}
        () = write(writer, queue) => {}
    }
}

/// Counts the connection, and removes its allocation when it ends for any reason.
struct OpenConnection {
    shared: Arc<Shared>,
    tuple: FiveTuple,
}

impl OpenConnection {
    fn new(shared: Arc<Shared>, tuple: FiveTuple) -> Self {
        shared.counters.tcp_connections.fetch_add(1, Relaxed);
        Self { shared, tuple }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let open: &AtomicU64 = &self.shared.counters.tcp_connections;
        open.fetch_sub(1, Relaxed);
        self.shared.protocol().remove(self.tuple);
    }
}

async fn read(shared: &Arc<Shared>, mut frames: FrameReader, tuple: FiveTuple, client: Client) {
    while let Ok(Some(frame)) = frames.next().await {
        shared.client_datagram(tuple, &frame, &client).await;
    }
}

async fn write(mut writer: FrameWriter, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        writer.push(&frame);
        // Queued frames are written together: one call and one TLS record for many frames.
        while writer.waiting() < WRITE_BYTES
            && let Ok(frame) = queue.try_recv()
        {
            writer.push(&frame);
        }
        match timeout(WRITE_TIMEOUT, writer.flush()).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_clients_are_limited_per_network() {
        let max = Some(2);
        let limits = TurnLimits { tcp_connections_per_address: max, ..TurnLimits::default() };
        let permits = ConnectionPermits::new(&limits);
        let take = |text: &str| permits.take(text.parse().unwrap());
        let _two = [take("2001:db8:1:2::1").unwrap(), take("2001:db8:1:2:ffff::2").unwrap()];
        assert!(take("2001:db8:1:2::3").is_none());
        assert!(take("2001:db8:1:3::1").is_some());
        let _more = [take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap()];
        assert!(take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
    }

    #[test]
    fn tcp_and_tls_share_the_total_limit() {
        let permits =
            ConnectionPermits::new(&TurnLimits { tcp_connections: 1, ..TurnLimits::default() });
        let only = permits.take("192.0.2.1".parse().unwrap());
        assert!(only.is_some() && permits.take("192.0.2.2".parse().unwrap()).is_none());
        drop(only);
        assert!(permits.take("192.0.2.2".parse().unwrap()).is_some());
    }
}
