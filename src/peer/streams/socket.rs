//! The crate's UDP socket, with packets for stand-in addresses carried over TCP and TLS.

use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::mpsc;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::{
    StreamServers,
    connection::{Arrival, Endpoints, StreamConnection},
};
use crate::peer::gathering::GatheringMonitor;

/// Maximum number of received messages waiting for the crate.
const ARRIVALS: usize = 1024;

/// A UDP socket and the stream connections of its local address.
#[derive(Debug)]
pub(in crate::peer) struct StreamSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    servers: Arc<StreamServers>,
    monitor: Arc<GatheringMonitor>,
    connections: Mutex<HashMap<SocketAddr, StreamConnection>>,
    arrivals: mpsc::Sender<Arrival>,
    arrived: Mutex<mpsc::Receiver<Arrival>>,
    /// Whether UDP is polled first; alternates, to be fair when both have data.
    udp_first: AtomicBool,
}

impl StreamSocket {
    /// Adds stream connections to a UDP socket.
    ///
    /// # Errors
    /// The socket has no local address.
    pub(in crate::peer) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        servers: Arc<StreamServers>,
        monitor: Arc<GatheringMonitor>,
    ) -> io::Result<Self> {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        Ok(Self {
            local: inner.local_addr()?,
            inner,
            servers,
            monitor,
            connections: Mutex::default(),
            arrivals,
            arrived: Mutex::new(arrived),
            udp_first: AtomicBool::new(false),
        })
    }

    fn send(
        &self,
        stand_in: SocketAddr,
        server: (SocketAddr, usize),
        packet: &[u8],
    ) -> io::Result<()> {
        let mut connections = self.connections.lock().expect("no holder of this lock panics");
        let connection = connections.entry(stand_in).or_insert_with(|| {
            let ends = Endpoints { local: self.local, stand_in, server };
            let (servers, monitor) = (Arc::clone(&self.servers), Arc::clone(&self.monitor));
            StreamConnection::start(ends, servers, monitor, self.arrivals.clone())
        });
        connection.send(packet)
    }

    fn poll_arrived(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        let mut arrived = self.arrived.lock().expect("no holder of this lock panics");
        let room = bufs.len().min(meta.len());
        let mut filled = 0;
        while filled < room {
            let Poll::Ready(Some((from, message))) = arrived.poll_recv(cx) else { break };
            let Some(buffer) = bufs[filled].get_mut(..message.len()) else {
                tracing::debug!("a message of {} bytes from {from} is too long", message.len());
                continue;
            };
            buffer.copy_from_slice(&message);
            let mut received = RecvMeta::default();
            received.addr = from;
            received.len = message.len();
            received.stride = message.len().max(1);
            meta[filled] = received;
            filled += 1;
        }
        if filled == 0 { Poll::Pending } else { Poll::Ready(filled) }
    }
}

impl AsyncUdpSocket for StreamSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let Some(server) = self.servers.behind(transmit.destination) else {
            return self.inner.poll_send(cx, transmit);
        };
        // Several packets of one length may be sent together (GSO).
        let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(length) {
            if let Err(error) = self.send(transmit.destination, server, packet) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(transmit.contents.len()))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let udp_first = self.udp_first.fetch_xor(true, Ordering::Relaxed);
        if !udp_first && let Poll::Ready(count) = self.poll_arrived(cx, bufs, meta) {
            return Poll::Ready(Ok(count));
        }
        if let Poll::Ready(received) = self.inner.poll_recv(cx, bufs, meta) {
            return Poll::Ready(received);
        }
        // If `poll_arrived` was already polled in this call, it has the waker; polling again costs
        // little.
        self.poll_arrived(cx, bufs, meta).map(Ok)
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}
