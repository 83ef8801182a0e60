//! Clients over TCP and TLS (RFC 8656 §3.1): STUN messages and padded `ChannelData` one after the other
//! on a stream (§12.5). The relayed side stays UDP.

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

use super::{
    config::Limits,
    protocol::{FiveTuple, Transport},
    server::{Client, Shared, pause},
};
use crate::{
    metering::{
        metered,
        slots::{Slot, Slots},
    },
    stun::stream::{FrameReader, FrameWriter, Stream},
};

/// How long a client may take to read an answer before its connection is given up.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames waiting for a client that reads slowly; what comes on top is dropped. Several keyframes of
/// 100 KB, about 90 frames each, have room.
const WRITE_QUEUE: usize = 1024;

/// Bytes written at one time, about: a TLS record holds 16 KiB.
const WRITE_BYTES: usize = 64 * 1024;

/// Parts of the time a connection may stay without an allocation, between looks for one.
const LOOKS: u32 = 4;

/// Places of connections, those of TCP and TLS together.
pub(super) struct Places {
    all: Arc<Semaphore>,
    of_address: Option<Slots<IpAddr>>,
}

/// The place of one connection, until it is dropped.
struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_address: Option<Slot<IpAddr>>,
}

impl Places {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.tcp_connections)),
            of_address: limits.tcp_connections_per_address.map(Slots::new),
        }
    }

    fn take(&self, client: IpAddr) -> Option<Place> {
        let of_address = match &self.of_address {
            Some(slots) => Some(slots.take(metered(client))?),
            None => None,
        };
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_address: of_address })
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
        let Some(place) = shared.places.take(client.ip()) else {
            shared.counters.tcp_refused.fetch_add(1, Relaxed);
            tracing::debug!(%client, "TURN connection over the limit");
            continue;
        };
        let tuple = FiveTuple { transport: Transport::Tcp, client, server };
        let open = Open::new(Arc::clone(&shared), tuple);
        let (of_task, tls) = (Arc::clone(&shared), tls.clone());
        shared.spawn(async move {
            tokio::select! {
                () = connection(&of_task, stream, tuple, tls) => {}
                () = without_allocation(&of_task, tuple) => {
                    tracing::debug!(%client, "TURN connection without an allocation for too long");
                }
            }
            drop(open);
            drop(place);
        });
    }
}

/// Ends once the connection has been without an allocation for too long, whatever came by it: part of a
/// TLS handshake or of a header, or one Binding request after the other.
async fn without_allocation(shared: &Shared, tuple: FiveTuple) {
    let within = shared.config.limits.unauthenticated_within;
    let mut looks = tokio::time::interval(within / LOOKS);
    let mut had = Instant::now();
    loop {
        looks.tick().await;
        if shared.protocol().has(tuple) {
            had = Instant::now();
        } else if had.elapsed() >= within {
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
    // Without it small packets wait for acknowledgements; a failure only costs speed.
    let _ = stream.set_nodelay(true);
    let stream = match tls {
        None => Stream::from(stream),
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Stream::from(TlsStream::from(stream)),
            Err(error) => {
                tracing::debug!(client = %tuple.client, %error, "TLS handshake for TURN");
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

/// Counts the connection, and ends its allocation with it however it ends.
struct Open {
    shared: Arc<Shared>,
    tuple: FiveTuple,
}

impl Open {
    fn new(shared: Arc<Shared>, tuple: FiveTuple) -> Self {
        shared.counters.tcp_connections.fetch_add(1, Relaxed);
        Self { shared, tuple }
    }
}

impl Drop for Open {
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
        // What waits already goes with it: one call, and one TLS record, for many frames.
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
    fn an_ipv6_host_is_one_address_with_its_network() {
        let most = Some(2);
        let limits = Limits { tcp_connections_per_address: most, ..Limits::default() };
        let places = Places::new(&limits);
        let take = |text: &str| places.take(text.parse().unwrap());
        let _two = [take("2001:db8:1:2::1").unwrap(), take("2001:db8:1:2:ffff::2").unwrap()];
        assert!(take("2001:db8:1:2::3").is_none());
        assert!(take("2001:db8:1:3::1").is_some());
        let _more = [take("192.0.2.1").unwrap(), take("::ffff:192.0.2.1").unwrap()];
        assert!(take("192.0.2.1").is_none() && take("192.0.2.2").is_some());
    }

    #[test]
    fn tcp_and_tls_share_the_places_of_all() {
        let places = Places::new(&Limits { tcp_connections: 1, ..Limits::default() });
        let only = places.take("192.0.2.1".parse().unwrap());
        assert!(only.is_some() && places.take("192.0.2.2".parse().unwrap()).is_none());
        drop(only);
        assert!(places.take("192.0.2.2".parse().unwrap()).is_some());
    }
}
