//! The socket of a peer or test behind a gateway: for the `webrtc` crate an [`AsyncUdpSocket`], for probes
//! and tests `send_to` and `recv_from`.

use std::{
    future::poll_fn,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use socket2::SockRef;
use tokio::{io::Interest, io::ReadBuf};
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::{Gateway, Sent};
use crate::netsim::inside::{External, Inside};

/// Maximum number of undeliverable datagrams read in one poll, so that other tasks make progress.
const MAX_DROPPED: usize = 64;

/// A UDP socket behind a [`Gateway`].
#[derive(Debug)]
pub struct GatewaySocket {
    gateway: Arc<Gateway>,
    /// The gateway whose real sockets are read: this one, or the carrier it is behind.
    outermost: Arc<Gateway>,
    inside: Arc<Inside>,
}

impl GatewaySocket {
    pub(super) fn new(gateway: Arc<Gateway>, outermost: Arc<Gateway>, inside: Arc<Inside>) -> Self {
        Self { gateway, outermost, inside }
    }

    /// The gateway in front of this socket.
    #[must_use]
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The internal address of this socket, as seen by its host.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inside.address
    }

    /// Sends a datagram. Success does not mean that it will arrive.
    ///
    /// # Errors
    /// Errors of the real socket.
    pub async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<usize> {
        poll_fn(|cx| self.poll_send_one(cx, datagram, to)).await?;
        Ok(datagram.len())
    }

    /// Receives a datagram; returns its length, truncated to `buffer`, and the sender.
    ///
    /// # Errors
    /// Errors of the real socket.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        poll_fn(|cx| {
            let mut meta = [RecvMeta::default()];
            let polled = self.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut meta);
            polled.map_ok(|_| (meta[0].len, meta[0].addr))
        })
        .await
    }

    fn poll_send_one(
        &self,
        cx: &mut Context<'_>,
        datagram: &[u8],
        to: SocketAddr,
    ) -> Poll<io::Result<()>> {
        match self.gateway.send(&self.inside, self.inside.address, to, datagram) {
            Ok(Sent::Done) => Poll::Ready(Ok(())),
            Ok(Sent::NoRoom(external)) => poll_room(&external, cx, datagram, to),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Takes a datagram queued by other tasks: delayed or hairpinned packets.
    fn take(&self, buffer: &mut [u8]) -> Option<RecvMeta> {
        let (datagram, from) = self.inside.take()?;
        let length = datagram.len().min(buffer.len());
        buffer[..length].copy_from_slice(&datagram[..length]);
        Some(meta(length, from))
    }

    /// Reads one real socket until a datagram for this socket arrives.
    fn read(
        &self,
        external: &External,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Option<RecvMeta> {
        for _ in 0..MAX_DROPPED {
            let mut read = ReadBuf::new(buffer);
            let from = match external.socket.poll_recv_from(cx, &mut read) {
                Poll::Pending => return None,
                // For example an ICMP error from a closed remote port: continue with the next datagram.
                Poll::Ready(Err(_)) => continue,
                Poll::Ready(Ok(from)) => from,
            };
            let length = read.filled().len();
            let datagram = &buffer[..length];
            let Some(inside) = self.outermost.receive(external.address, from, datagram) else {
                continue;
            };
            if Arc::ptr_eq(&inside, &self.inside) {
                return Some(meta(length, from));
            }
            inside.deliver(datagram.to_vec(), from);
        }
        cx.waker().wake_by_ref();
        None
    }

    fn fill(&self, bufs: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        let room = bufs.len().min(metas.len());
        let mut filled = 0;
        // All waiting tasks are woken by each real socket: Tokio itself keeps only the last waker.
        let waker = Waker::from(Arc::clone(&self.inside));
        let mut cx = Context::from_waker(&waker);
        while filled < room
            && let Some(meta) = self.take(&mut bufs[filled])
        {
            metas[filled] = meta;
            filled += 1;
        }
        for external in self.inside.externals().iter() {
            while filled < room
                && let Some(meta) = self.read(external, &mut cx, &mut bufs[filled])
            {
                metas[filled] = meta;
                filled += 1;
            }
        }
        filled
    }
}

fn meta(length: usize, from: SocketAddr) -> RecvMeta {
    let mut meta = RecvMeta::default();
    meta.addr = from;
    meta.len = length;
    meta.stride = length.max(1);
    meta
}

/// Waits until the real socket is writable, and sends.
fn poll_room(
    external: &External,
    cx: &mut Context<'_>,
    datagram: &[u8],
    to: SocketAddr,
) -> Poll<io::Result<()>> {
    loop {
        ready!(external.socket.poll_send_ready(cx))?;
        let send = || SockRef::from(&external.socket).send_to(datagram, &to.into());
        match external.socket.try_io(Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return Poll::Ready(sent.map(|_| ())),
        }
    }
}

impl AsyncUdpSocket for GatewaySocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inside.address)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        // Several datagrams of one length may be sent together (GSO); the link decides for each.
        let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        if transmit.contents.is_empty() {
            return self.poll_send_one(cx, &[], transmit.destination).map_ok(|()| 0);
        }
        for (index, datagram) in transmit.contents.chunks(length).enumerate() {
            match self.poll_send_one(cx, datagram, transmit.destination) {
                Poll::Ready(sent) => sent?,
                // The sent datagrams must not be sent again: the rest is dropped, as by a full queue.
                Poll::Pending if index > 0 => break,
                Poll::Pending => return Poll::Pending,
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
        // Registered first, so that datagrams that arrive from now on are not missed.
        self.inside.wait(cx.waker());
        match self.fill(bufs, meta) {
            0 => Poll::Pending,
            filled => {
                self.inside.wait_no_more(cx.waker());
                Poll::Ready(Ok(filled))
            }
        }
    }
}

impl Drop for GatewaySocket {
    fn drop(&mut self) {
        self.gateway.detach(&self.inside);
    }
}
