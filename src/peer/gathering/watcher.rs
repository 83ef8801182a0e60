//! What the sockets of a peer connection and the peer share of a [`Watch`].

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::{GatherResult, PATIENCE, ServerFailure, Watch};
use crate::{
    peer::{streams::StreamServers, unannounced::Unannounced},
    proto::token::IceServer,
    stun::{message::MAGIC_COOKIE, stream::DialError},
};

/// When an unanswered Binding request is sent again: 60 and 160 ms after the first time.
const REPEATED_AFTER: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(100)];

/// A [`Watch`] with a clock. Once nothing more is awaited, a packet costs one relaxed load.
pub(in crate::peer) struct Watcher {
    begun: Instant,
    active: AtomicBool,
    watch: Mutex<Watch>,
    /// When the watch ends at the latest, once that is known.
    end: Mutex<Option<Duration>>,
    news: Notify,
    losses: mpsc::UnboundedSender<ServerFailure>,
    /// What the sockets do not let through yet.
    pub(in crate::peer) unannounced: Unannounced,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("active", &self.active).finish_non_exhaustive()
    }
}

impl Watcher {
    /// Begins to watch, when there is a server to watch. Allocations that are lost later come out of
    /// the receiver. `holds` says whether checks from addresses not told of are held back.
    pub(in crate::peer) fn new(
        servers: &[IceServer],
        streams: &StreamServers,
        holds: bool,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<ServerFailure>) {
        let watch = Watch::new(servers, streams);
        let (losses, lost) = mpsc::unbounded_channel();
        let watcher = Arc::new(Self {
            begun: Instant::now(),
            active: AtomicBool::new(!watch.is_empty()),
            watch: Mutex::new(watch),
            end: Mutex::default(),
            news: Notify::new(),
            losses,
            unannounced: Unannounced::new(holds),
        });
        (watcher, lost)
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().expect("no holder of this lock panics")
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Whether something is awaited of a server.
    pub(in crate::peer) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Servers that cannot be used at all, each told once.
    pub(in crate::peer) fn unusable(&self) -> Vec<ServerFailure> {
        self.watch().failures(Duration::ZERO)
    }

    /// What became of each server so far.
    pub(in crate::peer) fn results(&self) -> Vec<GatherResult> {
        self.watch().results()
    }

    /// A connection is to be begun, but not yet.
    pub(in crate::peer) fn put_off(&self, local: SocketAddr, server: SocketAddr) {
        self.watch().put_off(local, server);
    }

    /// It is begun now.
    pub(in crate::peer) fn begun(&self, local: SocketAddr, server: SocketAddr) {
        self.watch().begun(self.now(), local, server);
        self.news.notify_one();
    }

    /// Whether a TURN server over UDP has answered.
    pub(in crate::peer) fn udp_relay_answers(&self, streams: &StreamServers) -> bool {
        self.watch().relay_answers(|server| !streams.stands_in(server))
    }

    /// The name of a server is being looked up.
    pub(in crate::peer) fn lookup_begun(&self, endpoint: &str) {
        self.watch().lookup_begun(self.now(), endpoint);
        self.news.notify_one();
    }

    /// The look-up has an end.
    pub(in crate::peer) fn lookup_ended(
        &self,
        endpoint: &str,
        found: &io::Result<Vec<SocketAddr>>,
    ) {
        let found = match found {
            Ok(addresses) => Ok(addresses.clone()),
            Err(error) => Err(error.to_string()),
        };
        self.watch().lookup_ended(endpoint, found);
        self.news.notify_one();
    }

    /// A server cannot be connected to, or not any more.
    pub(in crate::peer) fn unconnected(
        &self,
        local: SocketAddr,
        server: SocketAddr,
        error: DialError,
    ) {
        if let Some(lost) = self.watch().unconnected(self.now(), local, server, error) {
            // Nobody listens once the peer is closed.
            let _ = self.losses.send(lost);
        }
        self.news.notify_one();
    }

    /// Whether it is the first request of a transaction.
    fn sent(
        &self,
        local: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        error: Option<&io::Error>,
    ) -> bool {
        let error = error.map(ToString::to_string);
        let is_first = self.watch().sent(self.now(), local, to, datagram, error);
        if is_first {
            self.news.notify_one();
        }
        is_first
    }

    fn received(&self, datagram: &[u8]) {
        if self.watch().received(self.now(), datagram) {
            self.news.notify_one();
        }
    }

    /// The connection is up: what is not known soon is not waited for.
    pub(in crate::peer) fn finish(&self) {
        self.unannounced.finish();
        if self.is_active() {
            let end = self.now() + PATIENCE;
            *self.end.lock().expect("no holder of this lock panics") = Some(end);
            self.news.notify_one();
        }
    }

    /// Tells each server that fails, as soon as it is known, until nothing more is awaited.
    pub(in crate::peer) async fn follow(&self, mut tell: impl FnMut(ServerFailure)) {
        while self.is_active() {
            let now = self.now();
            let failures = self.watch().failures(now);
            failures.into_iter().for_each(&mut tell);
            let end = *self.end.lock().expect("no holder of this lock panics");
            let next = match self.watch().settled(now) {
                Ok(()) => break,
                Err(_) if end.is_some_and(|end| end <= now) => break,
                Err(next) => [next, end].into_iter().flatten().min(),
            };
            let pause = async {
                match next {
                    Some(next) => sleep(next.saturating_sub(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.news.notified() => {}
            }
        }
        self.active.store(false, Ordering::Relaxed);
    }
}

/// Whether this is a Binding request, given that it asks.
fn is_binding(datagram: &[u8]) -> bool {
    datagram.starts_with(&[0, 1])
}

/// Whether this can be a Binding or Allocate request or answer. Media (first byte 128 and up), DTLS
/// (20 to 63), channel data (64 to 79) and relayed data in indications do not pass.
fn is_asking(datagram: &[u8]) -> bool {
    let [kind_high, kind_low, _, _, cookie @ ..] = datagram else { return false };
    let kind = u16::from_be_bytes([*kind_high, *kind_low]);
    matches!(kind & !0x0110, 0x0001 | 0x0003)
        && kind & 0x0110 != 0x0010
        && cookie.starts_with(&MAGIC_COOKIE.to_be_bytes())
}

/// Sends a Binding request again until it is answered. The `webrtc` crate does so after 300 ms at first (`rtc-stun`
/// 0.21.1, `client.rs:19`): by then a relayed pair can be nominated, for want of the server-reflexive candidate.
async fn repeat(
    watcher: Arc<Watcher>,
    socket: Weak<dyn AsyncUdpSocket>,
    destination: SocketAddr,
    request: Vec<u8>,
) {
    for pause in REPEATED_AFTER {
        sleep(pause).await;
        let Some(socket) = socket.upgrade().filter(|_| watcher.watch().is_unanswered(&request))
        else {
            return;
        };
        let again = Transmit {
            destination,
            ecn: None,
            contents: &request,
            segment_size: None,
            src_ip: None,
        };
        // The crate's own repetition reports what goes wrong.
        let _ = std::future::poll_fn(|cx| socket.poll_send(cx, &again)).await;
    }
}

/// A UDP socket that is looked at.
#[derive(Debug)]
pub(in crate::peer) struct WatchedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    watcher: Arc<Watcher>,
}

impl WatchedSocket {
    /// # Errors
    /// The socket has no local address.
    pub(in crate::peer) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        watcher: Arc<Watcher>,
    ) -> io::Result<Self> {
        Ok(Self { local: inner.local_addr()?, inner, watcher })
    }
}

impl AsyncUdpSocket for WatchedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_send(cx, transmit);
        if self.watcher.is_active()
            && is_asking(transmit.contents)
            && let Poll::Ready(sent) = &polled
        {
            // Several datagrams of one length may go at once (GSO).
            let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
            for datagram in transmit.contents.chunks(length) {
                let error = sent.as_ref().err();
                let to = transmit.destination;
                if self.watcher.sent(self.local, to, datagram, error) && is_binding(datagram) {
                    let socket = Arc::downgrade(&self.inner);
                    let request = datagram.to_vec();
                    tokio::spawn(repeat(Arc::clone(&self.watcher), socket, to, request));
                }
            }
        }
        polled
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_recv(cx, bufs, meta);
        if self.watcher.is_active()
            && let Poll::Ready(Ok(count)) = polled
        {
            for (buffer, meta) in bufs.iter().zip(meta.iter()).take(count) {
                let received = &buffer[..meta.len.min(buffer.len())];
                // Several datagrams of one length may come as one (GRO).
                let datagrams = received.chunks(meta.stride.max(1));
                datagrams.filter(|d| is_asking(d)).for_each(|d| self.watcher.received(d));
            }
        }
        polled
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
    use super::*;
    use crate::stun::message::{Builder, Class, method};

    /// Counts what is sent.
    #[derive(Debug, Default)]
    struct Counting(std::sync::atomic::AtomicU32);

    impl AsyncUdpSocket for Counting {
        fn local_addr(&self) -> io::Result<SocketAddr> {
            Ok(SocketAddr::from(([127, 0, 0, 1], 9)))
        }

        fn poll_send(&self, _: &mut Context<'_>, sent: &Transmit<'_>) -> Poll<io::Result<usize>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Ok(sent.contents.len()))
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: &mut [IoSliceMut<'_>],
            _: &mut [RecvMeta],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_binding_request_is_repeated_until_it_is_answered() {
        const ENDPOINT: &str = "192.0.2.9:3478";
        let server = IceServer {
            urls: vec![format!("stun:{ENDPOINT}"), format!("turn:{ENDPOINT}")],
            username: Some("phone".into()),
            credential: Some("secret".into()),
        };
        let streams = StreamServers::new(&[], crate::stun::stream::Trust::web(), None);
        let (watcher, _losses) = Watcher::new(&[server], &streams, false);
        watcher.lookup_begun(ENDPOINT);
        watcher.lookup_ended(ENDPOINT, &Ok(vec![ENDPOINT.parse().unwrap()]));
        let inner = Arc::new(Counting::default());
        let socket = WatchedSocket::new(Arc::clone(&inner) as _, Arc::clone(&watcher)).unwrap();
        let send = |contents: &[u8]| {
            let destination = ENDPOINT.parse().unwrap();
            let transmit =
                Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(socket.poll_send(&mut cx, &transmit).is_ready());
        };
        let request = |method, id| Builder::new(Class::Request, method, [id; 12]).finish();

        let all = async {
            sleep(REPEATED_AFTER.iter().sum::<Duration>() * 2).await;
        };
        send(&request(method::BINDING, 1));
        watcher.received(&Builder::new(Class::Success, method::BINDING, [1; 12]).finish());
        send(&request(method::ALLOCATE, 2));
        all.await;
        assert_eq!(inner.0.swap(0, Ordering::Relaxed), 2, "answered; may go over TCP");
        send(&request(method::BINDING, 3));
        while inner.0.load(Ordering::Relaxed) < 3 {
            sleep(Duration::from_millis(5)).await;
        }
        send(&request(method::BINDING, 4));
        drop(socket);
        let (weak, ()) = (Arc::downgrade(&inner), drop(inner));
        while weak.upgrade().is_some() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn only_binding_and_allocate_are_looked_at() {
        let looked_at = |class, method| is_asking(&Builder::new(class, method, [0; 12]).finish());
        for class in [Class::Request, Class::Success, Class::Error] {
            assert!(looked_at(class, method::BINDING) && looked_at(class, method::ALLOCATE));
            assert!(!looked_at(class, method::REFRESH) && !looked_at(class, method::CHANNEL_BIND));
        }
        for method in [method::BINDING, method::ALLOCATE, method::SEND, method::DATA] {
            assert!(!looked_at(Class::Indication, method));
        }
        for other in [&[][..], &[0, 1, 0, 0], &[0x80; 40], &[22; 40], &[0, 1, 0, 0, 0, 0, 0, 0]] {
            assert!(!is_asking(other));
        }
    }
}
