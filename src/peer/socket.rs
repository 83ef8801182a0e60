//! The UDP socket of a peer connection that lets through what is for it, and nothing else.
//!
//! Filters look at each datagram and pass or drop it; what is dropped is taken out of the buffers before the
//! crate sees them, so that a flood costs no turn of its driver. [`Filters`] are one peer connection's.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::{
    gathering::Watcher,
    guard::{Guard, Verdict},
    handshake::Handshake,
    media_gate::MediaGate,
    vitals::Monitor,
};

/// Port of multicast DNS (RFC 6762 §5).
const MDNS_PORT: u16 = 5353;

/// Reads in a row of which nothing is left; then others get their turn.
const MAX_READS: usize = 32;

/// What the sockets of one peer connection let through.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) guard: Guard,
    pub(super) handshake: Handshake,
    pub(super) media: Arc<MediaGate>,
    watcher: Arc<Watcher>,
    monitor: Arc<Monitor>,
}

impl Filters {
    pub(super) fn new(watcher: Arc<Watcher>, monitor: Arc<Monitor>) -> Self {
        let handshake = Handshake::new(Arc::clone(&monitor));
        Self { guard: Guard::default(), handshake, media: Arc::default(), watcher, monitor }
    }

    fn sent(&self, to: SocketAddr, datagram: &[u8]) {
        self.guard.sent(to, datagram);
        self.handshake.sent(datagram);
    }

    fn passes(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let passes = match self.guard.verdict(from, datagram) {
            Verdict::Drop => false,
            Verdict::Server => true,
            Verdict::Check => {
                self.monitor.check_received();
                self.watcher.unannounced.passes(from, datagram, Instant::now())
            }
            // Without keys the crate drops media and keeps nothing of it: a flood before them uses nothing up.
            Verdict::Data => {
                self.handshake.passes(datagram)
                    && (!self.handshake.has_keys() || self.media.passes(datagram, Instant::now()))
            }
        };
        if !passes {
            self.monitor.datagram_dropped();
        }
        passes
    }
}

/// A socket behind the filters.
#[derive(Debug)]
pub(super) struct FilteredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    filters: Arc<Filters>,
    /// The crate's socket for multicast DNS: it is for answers of DNS only.
    mdns: bool,
}

impl FilteredSocket {
    /// # Errors
    /// The socket has no local address.
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, filters: Arc<Filters>) -> io::Result<Self> {
        let mdns = inner.local_addr()?.port() == MDNS_PORT;
        Ok(Self { inner, filters, mdns })
    }

    fn passes(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        if self.mdns {
            // Multicast responses have port 5353 and id 0 (RFC 6762 §6 and §18.1).
            return from.port() == MDNS_PORT && datagram.starts_with(&[0, 0]);
        }
        self.filters.passes(from, datagram)
    }

    /// Takes out of a message what does not pass; what is left of it, bytes. Several datagrams of one length
    /// may come as one message (GRO); only the last of them may be shorter.
    fn filter(&self, buffer: &mut [u8], meta: &RecvMeta) -> usize {
        let stride = meta.stride.max(1);
        let (mut read, mut kept) = (0, 0);
        while read < buffer.len() {
            let end = (read + stride).min(buffer.len());
            if self.passes(meta.addr, &buffer[read..end]) {
                if kept != read {
                    buffer.copy_within(read..end, kept);
                }
                kept += end - read;
            }
            read = end;
        }
        kept
    }
}

impl AsyncUdpSocket for FilteredSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        let datagrams = transmit.contents.chunks(length);
        datagrams.for_each(|datagram| self.filters.sent(transmit.destination, datagram));
        self.inner.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        for _ in 0..MAX_READS {
            let count = match self.inner.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(count)) => count,
                other => return other,
            };
            let mut left = false;
            for (buffer, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                let length = meta.len.min(buffer.len());
                meta.len = self.filter(&mut buffer[..length], meta);
                left |= meta.len > 0;
            }
            if left {
                return Poll::Ready(Ok(count));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::peer::streams::StreamServers;

    /// Gives what it was given, once.
    #[derive(Debug)]
    struct Given(SocketAddr, Mutex<Vec<(SocketAddr, usize, Vec<u8>)>>);

    impl AsyncUdpSocket for Given {
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(self.0)
        }

        fn poll_send(&self, _: &mut Context<'_>, sent: &Transmit<'_>) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(sent.contents.len()))
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            bufs: &mut [IoSliceMut<'_>],
            meta: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            let Some((from, stride, data)) = self.1.lock().unwrap().pop() else {
                return Poll::Pending;
            };
            bufs[0][..data.len()].copy_from_slice(&data);
            let mut about = RecvMeta::default();
            (about.addr, about.len, about.stride) = (from, data.len(), stride);
            meta[0] = about;
            Poll::Ready(Ok(1))
        }
    }

    fn socket(local: &str, given: Vec<(SocketAddr, usize, Vec<u8>)>) -> FilteredSocket {
        let streams = StreamServers::new(&[], crate::stun::stream::Trust::web(), None);
        let (watcher, _) = Watcher::new(&[], &streams, false);
        let filters = Arc::new(Filters::new(watcher, Arc::new(Monitor::new())));
        let inner = Arc::new(Given(local.parse().unwrap(), Mutex::new(given)));
        FilteredSocket::new(inner, filters).unwrap()
    }

    fn received(socket: &FilteredSocket) -> Option<Vec<u8>> {
        let mut buffer = [0; 4096];
        let mut meta = [RecvMeta::default()];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let polled = socket.poll_recv(&mut cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta);
        match polled {
            Poll::Ready(Ok(_)) => Some(buffer[..meta[0].len].to_vec()),
            _ => None,
        }
    }

    #[test]
    fn what_does_not_pass_is_taken_out_of_a_batch() {
        use crate::stun::message::{Builder, Class, attr, method};
        let from: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let check = Builder::new(Class::Request, method::BINDING, [1; 12])
            .attribute(attr::USERNAME, b"u:v")
            .integrity(b"p")
            .finish();
        let size = check.len();
        let other = vec![0x50; size];
        let media = vec![0x80; size];
        let batch = [&other[..], &check, &other, &media, &media[..10]].concat();
        let socket = socket("127.0.0.1:1", vec![(from, size, batch), (from, size, other.clone())]);
        socket.filters.guard.local_description("a=ice-ufrag:u\r\na=ice-pwd:p\r\n");
        assert_eq!(received(&socket), Some([&check[..], &media, &media[..10]].concat()));
        assert_eq!(received(&socket), None);
        assert_eq!(socket.filters.monitor.vitals().dropped, 3);
    }

    #[test]
    fn a_flood_gives_others_their_turn() {
        let from: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let socket = socket("127.0.0.1:1", vec![(from, 40, vec![0x80; 40]); MAX_READS * 2]);
        assert_eq!(received(&socket), None);
        assert_eq!(socket.filters.monitor.vitals().dropped, MAX_READS as u64);
    }

    #[test]
    fn the_mdns_socket_is_for_dns() {
        let (dns, other) = ("192.0.2.1:5353".parse().unwrap(), "192.0.2.1:5000".parse().unwrap());
        let answer = [0, 0, 0x84, 0, 0, 0].to_vec();
        let forged = [20, 254, 253, 0, 1, 0].to_vec();
        let given = vec![(dns, 6, answer.clone()), (other, 6, answer.clone()), (dns, 6, forged)];
        assert_eq!(received(&socket("0.0.0.0:5353", given)), Some(answer));
    }
}
