//! The UDP socket of a peer connection, which passes only datagrams that belong to it.
//!
//! Filters inspect each datagram and pass or drop it; dropped datagrams are removed from the buffers before the
//! crate sees them, so that a flood does not wake its driver. [`Filters`] belong to one peer connection.
//!
//! Media that arrives together with the end of the DTLS handshake is held back for a moment: `rtc` 0.21.1 has keys
//! for it only after handling the corresponding event (`peer_connection/handler/dtls.rs:286`), and drops what it read
//! in the same turn (`handler/srtp.rs:89`, "`remote_srtp_context` is not set yet"). DTLS that arrives before ICE has
//! nominated a path at this end waits for the path: without one, the crate's answer would be lost, and the peer
//! retries only after a second (RFC 6347 §4.2.4.1).

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Instant,
};

use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::{
    dtls_filter::{DtlsReplayFilter, carries_media},
    gathering::GatheringMonitor,
    guard::{Guard, Verdict},
    media_gate::MediaGate,
    pacing::Pacing,
    relay_wait::RelayWait,
    vitals::LivenessMonitor,
};
use crate::lock::locked;

/// Port of multicast DNS (RFC 6762 §5).
const MDNS_PORT: u16 = 5353;

/// Maximum number of consecutive reads that yield nothing, after which other tasks get their turn.
const MAX_READS: usize = 32;

/// Maximum size of the media held back on one socket, bytes: a keyframe of typical size. Only the peer can send it,
/// on a path that ICE has authenticated.
const MAX_HELD: usize = 512 << 10;

/// How a datagram is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Dropped,
    /// An answer that is not for the crate.
    Consumed,
    /// Passes once there are keys for it, or a path for the answer.
    Held,
}

/// The filters of one peer connection, shared by its sockets.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) guard: Guard,
    pub(super) dtls: DtlsReplayFilter,
    pub(super) media: Arc<MediaGate>,
    pub(super) relay_wait: RelayWait,
    gathering: Arc<GatheringMonitor>,
    liveness: Arc<LivenessMonitor>,
    pacing: Arc<Pacing>,
}

impl Filters {
    pub(super) fn new(
        gathering: Arc<GatheringMonitor>,
        liveness: Arc<LivenessMonitor>,
        relay_wait: RelayWait,
        pacing: Arc<Pacing>,
    ) -> Self {
        let dtls = DtlsReplayFilter::new(Arc::clone(&liveness));
        Self {
            guard: Guard::default(),
            dtls,
            media: Arc::default(),
            relay_wait,
            gathering,
            liveness,
            pacing,
        }
    }

    fn sent(&self, to: SocketAddr, datagram: &[u8]) {
        self.guard.sent(to, datagram);
        self.dtls.sent(datagram);
        if self.relay_wait.is_active() {
            self.relay_wait.sent(to, datagram, Instant::now());
        }
    }

    /// The echo to send, if any, after a datagram that was sent.
    fn echo(&self, to: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let password = |username: &str| self.guard.peer_password(username);
        self.pacing.echoes().sent(to, datagram, Instant::now(), password)
    }

    fn fate(&self, from: SocketAddr, datagram: &[u8]) -> Fate {
        let passes = match self.guard.verdict(from, datagram) {
            Verdict::Drop => false,
            Verdict::Server => true,
            Verdict::Check => {
                self.liveness.check_received();
                let now = Instant::now();
                if let Some(echo) = self.pacing.echoes().answered(datagram, now) {
                    self.pacing.echoed(now, echo);
                    return Fate::Consumed;
                }
                self.gathering.early_checks.passes(from, datagram, now)
                    && self.relay_wait.passes(from, datagram, now)
            }
            Verdict::Data if !self.dtls.passes(datagram) => false,
            Verdict::Data if self.is_early(datagram) => return Fate::Held,
            // Without keys the crate drops media and keeps no state for it, so a flood before then uses up no
            // allowance.
            Verdict::Data => !self.dtls.has_keys() || self.media.passes(datagram, Instant::now()),
        };
        if passes {
            return Fate::Passes;
        }
        self.liveness.datagram_dropped();
        Fate::Dropped
    }

    /// Whether the crate could not use this datagram from the peer yet.
    fn is_early(&self, datagram: &[u8]) -> bool {
        if carries_media(datagram) {
            !self.liveness.is_established()
        } else {
            !self.liveness.has_path()
        }
    }
}

/// A socket behind the filters.
#[derive(Debug)]
pub(super) struct FilteredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    filters: Arc<Filters>,
    /// Whether this is the crate's multicast DNS socket, which accepts only DNS answers.
    mdns: bool,
    held: Mutex<HeldDatagrams>,
}

/// Datagrams that arrived too early, oldest first.
#[derive(Debug, Default)]
struct HeldDatagrams {
    datagrams: VecDeque<(RecvMeta, Vec<u8>)>,
    bytes: usize,
}

impl FilteredSocket {
    /// # Errors
    /// The socket has no local address.
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, filters: Arc<Filters>) -> io::Result<Self> {
        let mdns = inner.local_addr()?.port() == MDNS_PORT;
        Ok(Self { inner, filters, mdns, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, HeldDatagrams> {
        locked(&self.held)
    }

    fn passes(&self, meta: &RecvMeta, datagram: &[u8]) -> bool {
        if self.mdns {
            // Multicast responses have port 5353 and id 0 (RFC 6762 §6 and §18.1).
            return meta.addr.port() == MDNS_PORT && datagram.starts_with(&[0, 0]);
        }
        match self.filters.fate(meta.addr, datagram) {
            Fate::Passes => true,
            Fate::Dropped | Fate::Consumed => false,
            Fate::Held => {
                self.hold(meta, datagram);
                false
            }
        }
    }

    fn hold(&self, meta: &RecvMeta, datagram: &[u8]) {
        let mut held = self.held();
        if held.bytes + datagram.len() > MAX_HELD {
            return self.filters.liveness.datagram_dropped();
        }
        let mut meta = *meta;
        (meta.len, meta.stride) = (datagram.len(), datagram.len());
        held.bytes += datagram.len();
        held.datagrams.push_back((meta, datagram.to_vec()));
    }

    /// Fills the buffers with held datagrams that are no longer early; returns their number.
    fn release(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut held = self.held();
        let mut count = 0;
        for (buffer, meta) in bufs.iter_mut().zip(meta) {
            if held.datagrams.front().is_none_or(|(_, front)| self.filters.is_early(front)) {
                break;
            }
            let Some((held_meta, datagram)) = held.datagrams.pop_front() else { break };
            held.bytes -= datagram.len();
            let length = datagram.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram[..length]);
            *meta = held_meta;
            count += 1;
        }
        count
    }

    /// Makes sure that this task is woken when a held datagram is no longer early.
    fn wake_for_held(&self, cx: &Context<'_>) {
        let held = self.held();
        let Some((_, front)) = held.datagrams.front() else { return };
        self.filters.liveness.wake_later(cx.waker());
        if !self.filters.is_early(front) {
            cx.waker().wake_by_ref();
        }
    }

    /// Removes the datagrams that do not pass from a message; returns the number of remaining bytes. Several
    /// datagrams of one length may arrive as one message (GRO); only the last of them may be shorter.
    fn filter(&self, buffer: &mut [u8], meta: &RecvMeta) -> usize {
        let stride = meta.stride.max(1);
        let (mut read, mut kept) = (0, 0);
        while read < buffer.len() {
            let end = (read + stride).min(buffer.len());
            if self.passes(meta, &buffer[read..end]) {
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
        datagrams.clone().for_each(|datagram| self.filters.sent(transmit.destination, datagram));
        let sent = self.inner.poll_send(cx, transmit);
        if matches!(sent, Poll::Ready(Ok(_))) {
            for echo in datagrams.filter_map(|it| self.filters.echo(transmit.destination, it)) {
                let transmit = Transmit { contents: &echo, segment_size: None, ..*transmit };
                // If the socket is full, the echo is skipped.
                let _ = self.inner.poll_send(cx, &transmit);
            }
        }
        sent
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let released = self.release(bufs, meta);
        if released > 0 {
            return Poll::Ready(Ok(released));
        }
        for _ in 0..MAX_READS {
            let count = match self.inner.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(count)) => count,
                other => {
                    self.wake_for_held(cx);
                    return other;
                }
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
    use crate::{
        peer::streams::StreamServers,
        stun::message::{Builder, Class, attr, method},
    };

    const OURS: &str = "a=ice-ufrag:u\r\na=ice-pwd:p\r\n";

    /// Returns the given datagrams, each once.
    #[derive(Debug)]
    struct ScriptedSocket(SocketAddr, Mutex<Vec<(SocketAddr, usize, Vec<u8>)>>);

    impl AsyncUdpSocket for ScriptedSocket {
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
        let streams = StreamServers::new(&[], crate::tls::Trust::web(), None);
        let (gathering, _) = GatheringMonitor::new(&[], &streams, false);
        let filters = Arc::new(Filters::new(
            gathering,
            Arc::new(LivenessMonitor::new()),
            RelayWait::new(std::time::Duration::ZERO),
            Pacing::new(crate::units::RateSetting::Auto),
        ));
        let inner = Arc::new(ScriptedSocket(local.parse().unwrap(), Mutex::new(given)));
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

    /// A check by the peer with the credentials of [`OURS`].
    fn check() -> Vec<u8> {
        Builder::new(Class::Request, method::BINDING, [1; 12])
            .attribute(attr::USERNAME, b"u:v")
            .integrity(b"p")
            .finish()
    }

    #[test]
    fn dropped_datagrams_are_removed_from_a_batch() {
        let from: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let check = check();
        let size = check.len();
        let other = vec![0x50; size];
        let media = vec![0x80; size];
        let batch = [&other[..], &check, &other, &media, &media[..10]].concat();
        let socket = socket("127.0.0.1:1", vec![(from, size, batch), (from, size, other.clone())]);
        socket.filters.liveness.dtls_established();
        socket.filters.guard.local_description(OURS);
        assert_eq!(received(&socket), Some([&check[..], &media, &media[..10]].concat()));
        assert_eq!(received(&socket), None);
        assert_eq!(socket.filters.liveness.vitals().dropped, 3);
    }

    /// The first keyframe of a peer that finished DTLS before this end.
    #[test]
    fn media_that_arrives_with_the_end_of_dtls_waits_for_its_keys() {
        let from: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let check = check();
        let media =
            |number: u8| (from, 1200, vec![0x80 + (number & 1); 1100 + usize::from(number)]);
        let mut given: Vec<_> = (0..88).rev().map(media).collect();
        given.push((from, check.len(), check.clone()));
        let socket = socket("127.0.0.1:1", given);
        socket.filters.guard.local_description(OURS);
        assert_eq!(received(&socket), Some(check));
        for _ in 0..=88 / MAX_READS {
            assert_eq!(received(&socket), None, "there are no keys yet");
        }
        socket.filters.liveness.dtls_established();
        for number in 0..88 {
            assert_eq!(received(&socket), Some(media(number).2), "{number}");
        }
        assert_eq!(received(&socket), None);
        assert_eq!(socket.filters.liveness.vitals().dropped, 0);
        assert_eq!(socket.held().bytes, 0);
    }

    /// A peer whose ICE finishes first starts DTLS first.
    #[test]
    fn dtls_that_arrives_before_ice_has_a_path_waits_for_it() {
        let from: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let check = check();
        // A record of a handshake (RFC 6347 §4.1) with a ClientHello of no content (§4.2.2).
        let mut hello = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1];
        hello.resize(13 + 12, 0);
        let given = vec![(from, hello.len(), hello.clone()), (from, check.len(), check.clone())];
        let socket = socket("127.0.0.1:1", given);
        socket.filters.guard.local_description(OURS);
        assert_eq!(received(&socket), Some(check));
        assert_eq!(received(&socket), None, "an answer would have no path");
        socket.filters.liveness.ice_connected();
        assert_eq!(received(&socket), Some(hello));
        assert_eq!(received(&socket), None);
        assert_eq!(socket.filters.liveness.vitals().dropped, 0);
    }

    #[test]
    fn held_datagrams_are_bounded_and_their_reader_is_woken() {
        use std::{
            sync::atomic::{AtomicU32, Ordering},
            task::{Wake, Waker},
        };
        struct Woken(AtomicU32);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let socket = socket("127.0.0.1:1", Vec::new());
        let mut meta = RecvMeta::default();
        (meta.addr, meta.len) = ("192.0.2.1:5000".parse().unwrap(), 1200);
        for _ in 0..10_000 {
            socket.hold(&meta, &[0x80; 1200]);
        }
        let held = socket.held().datagrams.len();
        assert_eq!(held, MAX_HELD / 1200);
        assert_eq!(socket.filters.liveness.vitals().dropped, 10_000 - held as u64);
        let woken = Arc::new(Woken(AtomicU32::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut buffer = [0; 4096];
        let mut poll = || {
            let mut metas = [RecvMeta::default()];
            let mut bufs = [IoSliceMut::new(&mut buffer)];
            socket.poll_recv(&mut Context::from_waker(&waker), &mut bufs, &mut metas).is_ready()
        };
        assert!(!poll() && !poll());
        socket.filters.liveness.dtls_established();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(poll());
    }

    #[test]
    fn other_tasks_get_their_turn_during_a_flood() {
        let from: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let socket = socket("127.0.0.1:1", vec![(from, 40, vec![0x80; 40]); MAX_READS * 2]);
        assert_eq!(received(&socket), None);
        assert_eq!(socket.filters.liveness.vitals().dropped, MAX_READS as u64);
    }

    #[test]
    fn the_mdns_socket_accepts_only_dns() {
        let (dns, other) = ("192.0.2.1:5353".parse().unwrap(), "192.0.2.1:5000".parse().unwrap());
        let answer = [0, 0, 0x84, 0, 0, 0].to_vec();
        let forged = [20, 254, 253, 0, 1, 0].to_vec();
        let given = vec![(dns, 6, answer.clone()), (other, 6, answer.clone()), (dns, 6, forged)];
        assert_eq!(received(&socket("0.0.0.0:5353", given)), Some(answer));
    }
}
