//! The state of gathering that the peer shares with its sockets: a [`ServerLog`] with a clock.

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

use super::{GatherResult, PATIENCE, ServerFailure, ServerLog};
use crate::{
    peer::{early_checks::EarlyChecks, streams::StreamServers},
    proto::token::IceServer,
    stun::{message::MAGIC_COOKIE, stream::DialError},
};

/// Pauses before an unanswered Binding request is retransmitted: 60 and 160 ms after it was first sent.
const RETRANSMIT_AFTER: [Duration; 2] = [Duration::from_millis(60), Duration::from_millis(100)];

/// A [`ServerLog`] with a clock. Once nothing more is awaited, a packet costs one relaxed load.
pub(in crate::peer) struct GatheringMonitor {
    started: Instant,
    active: AtomicBool,
    log: Mutex<ServerLog>,
    /// The latest time at which monitoring ends, once it is known.
    end: Mutex<Option<Duration>>,
    changed: Notify,
    losses: mpsc::UnboundedSender<ServerFailure>,
    /// Checks that the sockets hold back.
    pub(in crate::peer) early_checks: EarlyChecks,
}

impl fmt::Debug for GatheringMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatheringMonitor").field("active", &self.active).finish_non_exhaustive()
    }
}

impl GatheringMonitor {
    /// Starts monitoring if there is a server to monitor. The receiver yields allocations that are lost later.
    /// `holds` is whether to hold back checks from addresses that have not been signaled.
    pub(in crate::peer) fn new(
        servers: &[IceServer],
        streams: &StreamServers,
        holds: bool,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<ServerFailure>) {
        let log = ServerLog::new(servers, streams);
        let (losses, lost) = mpsc::unbounded_channel();
        let monitor = Arc::new(Self {
            started: Instant::now(),
            active: AtomicBool::new(!log.is_empty()),
            log: Mutex::new(log),
            end: Mutex::default(),
            changed: Notify::new(),
            losses,
            early_checks: EarlyChecks::new(holds),
        });
        (monitor, lost)
    }

    fn log(&self) -> MutexGuard<'_, ServerLog> {
        self.log.lock().expect("no holder of this lock panics")
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether an answer from any server is still awaited.
    pub(in crate::peer) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Servers that cannot be used at all, each reported once.
    pub(in crate::peer) fn unusable(&self) -> Vec<ServerFailure> {
        self.log().failures(Duration::ZERO)
    }

    /// The outcome for each server so far.
    pub(in crate::peer) fn results(&self) -> Vec<GatherResult> {
        self.log().results()
    }

    /// A connection will be started later.
    pub(in crate::peer) fn connection_deferred(&self, local: SocketAddr, server: SocketAddr) {
        self.log().connection_deferred(local, server);
    }

    /// A deferred connection starts now.
    pub(in crate::peer) fn connection_started(&self, local: SocketAddr, server: SocketAddr) {
        self.log().connection_started(self.now(), local, server);
        self.changed.notify_one();
    }

    /// Whether a TURN server over UDP has answered.
    pub(in crate::peer) fn udp_relay_answers(&self, streams: &StreamServers) -> bool {
        self.log().relay_answers(|server| !streams.stands_in(server))
    }

    /// The name of a server is being resolved.
    pub(in crate::peer) fn lookup_started(&self, endpoint: &str) {
        self.log().lookup_started(self.now(), endpoint);
        self.changed.notify_one();
    }

    /// The lookup has finished.
    pub(in crate::peer) fn lookup_ended(
        &self,
        endpoint: &str,
        found: &io::Result<Vec<SocketAddr>>,
    ) {
        let found = match found {
            Ok(addresses) => Ok(addresses.clone()),
            Err(error) => Err(error.to_string()),
        };
        self.log().lookup_ended(endpoint, found);
        self.changed.notify_one();
    }

    /// A connection to a server could not be established, or it has ended.
    pub(in crate::peer) fn connection_failed(
        &self,
        local: SocketAddr,
        server: SocketAddr,
        error: DialError,
    ) {
        if let Some(lost) = self.log().connection_failed(self.now(), local, server, error) {
            // The receiver is gone once the peer is closed.
            let _ = self.losses.send(lost);
        }
        self.changed.notify_one();
    }

    /// Records a sent datagram; returns whether it is the first request of a transaction.
    fn sent(
        &self,
        local: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        error: Option<&io::Error>,
    ) -> bool {
        let error = error.map(ToString::to_string);
        let is_first = self.log().sent(self.now(), local, to, datagram, error);
        if is_first {
            self.changed.notify_one();
        }
        is_first
    }

    fn received(&self, datagram: &[u8]) {
        if self.log().received(self.now(), datagram) {
            self.changed.notify_one();
        }
    }

    /// The connection is established: outstanding answers are awaited only briefly.
    pub(in crate::peer) fn finish(&self) {
        self.early_checks.finish();
        if self.is_active() {
            let end = self.now() + PATIENCE;
            *self.end.lock().expect("no holder of this lock panics") = Some(end);
            self.changed.notify_one();
        }
    }

    /// Reports each failed server as soon as its failure is known, until nothing more is awaited.
    pub(in crate::peer) async fn follow(&self, mut report: impl FnMut(ServerFailure)) {
        while self.is_active() {
            let now = self.now();
            let failures = self.log().failures(now);
            failures.into_iter().for_each(&mut report);
            let end = *self.end.lock().expect("no holder of this lock panics");
            let next = match self.log().settled(now) {
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
                () = self.changed.notified() => {}
            }
        }
        self.active.store(false, Ordering::Relaxed);
    }
}

/// Whether this is a Binding request; the datagram has passed [`is_relevant`].
fn is_binding(datagram: &[u8]) -> bool {
    datagram.starts_with(&[0, 1])
}

/// Whether this can be a Binding or Allocate request or answer. Media (first byte 128 and up), DTLS (20 to 63),
/// channel data (64 to 79) and relayed data in indications are excluded.
fn is_relevant(datagram: &[u8]) -> bool {
    let [kind_high, kind_low, _, _, cookie @ ..] = datagram else { return false };
    let kind = u16::from_be_bytes([*kind_high, *kind_low]);
    matches!(kind & !0x0110, 0x0001 | 0x0003)
        && kind & 0x0110 != 0x0010
        && cookie.starts_with(&MAGIC_COOKIE.to_be_bytes())
}

/// Retransmits a Binding request until it is answered. The `webrtc` crate first retransmits after 300 ms
/// (`rtc-stun` 0.21.1, `client.rs:19`): by then a relayed pair may have been nominated because the server-reflexive
/// candidate is missing.
async fn retransmit(
    monitor: Arc<GatheringMonitor>,
    socket: Weak<dyn AsyncUdpSocket>,
    destination: SocketAddr,
    request: Vec<u8>,
) {
    for pause in RETRANSMIT_AFTER {
        sleep(pause).await;
        let Some(socket) = socket.upgrade().filter(|_| monitor.log().is_unanswered(&request))
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
        // The crate's own retransmission reports failures.
        let _ = std::future::poll_fn(|cx| socket.poll_send(cx, &again)).await;
    }
}

/// A UDP socket whose traffic is monitored.
#[derive(Debug)]
pub(in crate::peer) struct MonitoredSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    local: SocketAddr,
    monitor: Arc<GatheringMonitor>,
}

impl MonitoredSocket {
    /// # Errors
    /// The socket has no local address.
    pub(in crate::peer) fn new(
        inner: Arc<dyn AsyncUdpSocket>,
        monitor: Arc<GatheringMonitor>,
    ) -> io::Result<Self> {
        Ok(Self { local: inner.local_addr()?, inner, monitor })
    }
}

impl AsyncUdpSocket for MonitoredSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let polled = self.inner.poll_send(cx, transmit);
        if self.monitor.is_active()
            && is_relevant(transmit.contents)
            && let Poll::Ready(sent) = &polled
        {
            // Several datagrams of one length may be sent together (GSO).
            let length = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
            for datagram in transmit.contents.chunks(length) {
                let error = sent.as_ref().err();
                let to = transmit.destination;
                if self.monitor.sent(self.local, to, datagram, error) && is_binding(datagram) {
                    let socket = Arc::downgrade(&self.inner);
                    let request = datagram.to_vec();
                    tokio::spawn(retransmit(Arc::clone(&self.monitor), socket, to, request));
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
        if self.monitor.is_active()
            && let Poll::Ready(Ok(count)) = polled
        {
            for (buffer, meta) in bufs.iter().zip(meta.iter()).take(count) {
                let received = &buffer[..meta.len.min(buffer.len())];
                // Several datagrams of one length may arrive as one (GRO).
                let datagrams = received.chunks(meta.stride.max(1));
                datagrams.filter(|d| is_relevant(d)).for_each(|d| self.monitor.received(d));
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

    /// Counts sent datagrams.
    #[derive(Debug, Default)]
    struct CountingSocket(std::sync::atomic::AtomicU32);

    impl AsyncUdpSocket for CountingSocket {
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
    async fn a_binding_request_is_retransmitted_until_it_is_answered() {
        const ENDPOINT: &str = "192.0.2.9:3478";
        let server = IceServer {
            urls: vec![format!("stun:{ENDPOINT}"), format!("turn:{ENDPOINT}")],
            username: Some("phone".into()),
            credential: Some("secret".into()),
        };
        let streams = StreamServers::new(&[], crate::tls::Trust::web(), None);
        let (monitor, _losses) = GatheringMonitor::new(&[server], &streams, false);
        monitor.lookup_started(ENDPOINT);
        monitor.lookup_ended(ENDPOINT, &Ok(vec![ENDPOINT.parse().unwrap()]));
        let inner = Arc::new(CountingSocket::default());
        let socket = MonitoredSocket::new(Arc::clone(&inner) as _, Arc::clone(&monitor)).unwrap();
        let send = |contents: &[u8]| {
            let destination = ENDPOINT.parse().unwrap();
            let transmit =
                Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(socket.poll_send(&mut cx, &transmit).is_ready());
        };
        let request = |method, id| Builder::new(Class::Request, method, [id; 12]).finish();

        let all_retransmissions = async {
            sleep(RETRANSMIT_AFTER.iter().sum::<Duration>() * 2).await;
        };
        send(&request(method::BINDING, 1));
        monitor.received(&Builder::new(Class::Success, method::BINDING, [1; 12]).finish());
        send(&request(method::ALLOCATE, 2));
        all_retransmissions.await;
        assert_eq!(
            inner.0.swap(0, Ordering::Relaxed),
            2,
            "the Binding request was answered, and the Allocate request may use TCP"
        );
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
    fn only_binding_and_allocate_are_inspected() {
        let relevant = |class, method| is_relevant(&Builder::new(class, method, [0; 12]).finish());
        for class in [Class::Request, Class::Success, Class::Error] {
            assert!(relevant(class, method::BINDING) && relevant(class, method::ALLOCATE));
            assert!(!relevant(class, method::REFRESH) && !relevant(class, method::CHANNEL_BIND));
        }
        for method in [method::BINDING, method::ALLOCATE, method::SEND, method::DATA] {
            assert!(!relevant(Class::Indication, method));
        }
        for other in [&[][..], &[0, 1, 0, 0], &[0x80; 40], &[22; 40], &[0, 1, 0, 0, 0, 0, 0, 0]] {
            assert!(!is_relevant(other));
        }
    }
}
