//! A UDP socket of the crate that carries packets for stand-in addresses over TCP and TLS.

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
    link::{Arrival, Ends, Link},
};
use crate::peer::gathering::Watcher;

/// Messages that came and wait for the crate.
const ARRIVALS: usize = 1024;

/// A socket with the connections of its local address.
#[derive(Debug)]
pub(in crate::peer) struct StreamSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    servers: Arc<StreamServers>,
    watcher: Arc<Watcher>,
    links: Mutex<HashMap<SocketAddr, Link>>,
    arrivals: mpsc::Sender<Arrival>,
    arrived: Mutex<mpsc::Receiver<Arrival>>,
    /// Whose turn it is when both have something.
    udp_first: AtomicBool,
}

impl StreamSocket {
    /// Puts the connections beside a UDP socket.
    ///
    /// # Errors
    /// The socket has no local address.
    pub(in crate::peer) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        servers: Arc<StreamServers>,
        watcher: Arc<Watcher>,
    ) -> io::Result<Self> {
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        Ok(Self {
            local: inner.local_addr()?,
            inner,
            servers,
            watcher,
            links: Mutex::default(),
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
        let mut links = self.links.lock().expect("no holder of this lock panics");
        let link = links.entry(stand_in).or_insert_with(|| {
            let ends = Ends { local: self.local, stand_in, server };
            let (servers, watcher) = (Arc::clone(&self.servers), Arc::clone(&self.watcher));
            Link::start(ends, servers, watcher, self.arrivals.clone())
        });
        link.send(packet)
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
            let mut about = RecvMeta::default();
            about.addr = from;
            about.len = message.len();
            about.stride = message.len().max(1);
            meta[filled] = about;
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
        // Several packets of one length may go at once (GSO).
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
        // Polled in this call already, it has the waker; a second look costs little.
        self.poll_arrived(cx, bufs, meta).map(Ok)
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}
