//! The `webrtc` crate's `Runtime` with its driver stalls cured and larger socket buffers.
//!
//! `webrtc` 0.21.1 runs its driver loop as "write, handle events, read, then sleep". What an event
//! queues for writing (a DTLS `ClientHello`, an SCTP INIT) therefore waits for the next wake, and
//! packets to a TURN relay are drained before the core has written them; both cost up to 200 ms
//! (kin of webrtc-rs/webrtc#901). [`PeerRuntime`] gives every wake of the loop extra passes: the
//! sleeps after a real one end at once. [`PeerRuntime::wake`] ends a sleep from outside: the crate
//! does not wake its driver for a remote candidate, which would be checked only at the next tick.
//!
//! Its sockets let through only what is for the connection (see `super::socket`), and its driver has a thread of
//! its own (see `super::driver`).
//!
//! Its sockets and look-ups are watched (see [`super::gathering`]), and its sockets carry TURN over TCP
//! and TLS (see `super::streams`).

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use socket2::SockRef;
use tokio::{runtime::Handle, sync::Notify};
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime,
    TokioRuntime,
};

use super::{
    driver,
    gathering::{self, WatchedSocket, Watcher},
    handshake::HEARD_WITHIN,
    pacing::Pacing,
    relay_wait::RelayWait,
    socket::{FilteredSocket, Filters},
    streams::{StreamServers, StreamSocket},
    vitals::Monitor,
};
use crate::netsim::Gateway;

/// Kernel buffer asked for each UDP socket and direction, bytes. The usual default of 208 KiB
/// holds one keyframe of about 180 KB; a larger one would be cut by the kernel.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// What two keyframes of 100 KB take in a receive buffer, as Linux counts their 170 packets (2304 bytes
/// each) and tells the size of the buffer.
const KEYFRAME_BUFFER_BYTES: usize = 170 * 2304;

/// The receive buffer that this machine grants a UDP socket, bytes, when two keyframes do not fit into
/// it: packets are lost before they are read.
#[must_use]
pub fn small_receive_buffer() -> Option<usize> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").ok()?;
    granted_buffer(&SockRef::from(&socket)).filter(|granted| *granted < KEYFRAME_BUFFER_BYTES)
}

/// Asks for large buffers. Gives the receive buffer that was granted.
fn granted_buffer(socket: &SockRef<'_>) -> Option<usize> {
    // The kernel grants what `net.core.{r,w}mem_max` allows; less than asked is no failure.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.recv_buffer_size().ok()
}

/// The crate's driver stands still while a name is looked up, so that has an end.
const RESOLVE_WITHIN: Duration = Duration::from_secs(4);

/// Extra passes of the driver after each wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtraPasses {
    /// What an event queued goes to the socket.
    Direct = 1,
    /// What an event queued goes to the TURN relayer, and from there to the socket.
    Relayed = 2,
    /// While ICE, DTLS and SCTP hand over to each other and a relay may be between.
    SettingUp = 3,
}

/// One of these serves one peer connection.
pub(crate) struct PeerRuntime {
    owed: Arc<AtomicU8>,
    passes: AtomicU8,
    woken: Arc<Notify>,
    watcher: Arc<Watcher>,
    streams: Arc<StreamServers>,
    gateway: Option<Arc<Gateway>>,
    filters: Arc<Filters>,
    monitor: Arc<Monitor>,
    /// The runtime of the driver's thread.
    driver: Arc<OnceLock<Handle>>,
    /// Names being looked up: the driver waits for them.
    resolving: AtomicU8,
}

impl PeerRuntime {
    /// A runtime for one peer connection, on the Tokio runtime of the caller; its UDP sockets are
    /// behind the gateway.
    pub(super) fn new(
        watcher: Arc<Watcher>,
        streams: Arc<StreamServers>,
        gateway: Option<Arc<Gateway>>,
        monitor: Arc<Monitor>,
        relay_wait: RelayWait,
        pacing: Arc<Pacing>,
    ) -> Arc<Self> {
        let passes = AtomicU8::new(ExtraPasses::SettingUp as u8);
        let (watching, monitoring) = (Arc::clone(&watcher), Arc::clone(&monitor));
        let filters = Arc::new(Filters::new(watching, monitoring, relay_wait, pacing));
        Arc::new(Self {
            owed: Arc::default(),
            passes,
            woken: Arc::default(),
            watcher,
            streams,
            gateway,
            filters,
            monitor,
            driver: Arc::default(),
            resolving: AtomicU8::new(0),
        })
    }

    /// What the sockets let through.
    pub(super) fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Runs a task beside the driver, on its thread.
    pub(super) fn spawn_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.driver.get() {
            Some(driver) => drop(driver.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// Whether the driver waits for a name to be looked up.
    pub(super) fn is_resolving(&self) -> bool {
        self.resolving.load(Ordering::Relaxed) > 0
    }

    /// Says how many extra passes each wake needs from now on.
    pub(crate) fn set_passes(&self, passes: ExtraPasses) {
        self.passes.store(passes as u8, Ordering::Release);
    }

    /// Waits until the other side has shown that it can read what is encrypted.
    pub(super) async fn heard(&self) {
        self.filters.handshake.heard(HEARD_WITHIN).await;
    }

    /// Ends the driver's sleep, now or the next one.
    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }
}

impl fmt::Debug for PeerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerRuntime")
    }
}

/// The sleep that is owed after a wake: yields once, then is done. Dropped before that (another
/// branch of the driver's select won), it stays owed.
struct ExtraPass {
    owed: Arc<AtomicU8>,
    yielded: bool,
}

impl Future for ExtraPass {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            // Only the driver's own task counts, so nothing comes between load and store.
            let owed = self.owed.load(Ordering::Acquire);
            self.owed.store(owed.saturating_sub(1), Ordering::Release);
            return Poll::Ready(());
        }
        self.yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Runtime for PeerRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(future)
    }

    /// The driver is all that the crate gives to a reactor.
    fn spawn_reactor(
        &self,
        _reactor_pool_size: usize,
        driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Box<dyn JoinHandle> {
        let handle = Arc::clone(&self.driver);
        driver::start(driver, Arc::clone(&self.monitor), move |runtime| {
            let _ = handle.set(runtime);
        })
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let granted = granted_buffer(&SockRef::from(&socket));
        tracing::debug!(bytes = granted, "receive buffer of a socket");
        if granted.is_some_and(|granted| granted < KEYFRAME_BUFFER_BYTES) {
            tracing::info!(
                "a socket's receive buffer is small: `orion-peer doctor` says what to do"
            );
        }
        let mut socket = match &self.gateway {
            Some(gateway) => gateway.wrap(socket)?,
            None => TokioRuntime.wrap_udp_socket(socket)?,
        };
        if !self.streams.is_empty() {
            let (streams, watcher) = (Arc::clone(&self.streams), Arc::clone(&self.watcher));
            socket = Arc::new(StreamSocket::new(socket, streams, watcher)?);
        }
        socket = Arc::new(FilteredSocket::new(socket, Arc::clone(&self.filters))?);
        if !self.watcher.is_active() {
            return Ok(socket);
        }
        Ok(Arc::new(WatchedSocket::new(socket, Arc::clone(&self.watcher))?))
    }

    fn wrap_tcp_listener(
        &self,
        listener: std::net::TcpListener,
    ) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        remote_addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        TokioRuntime.connect_tcp(remote_addr)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        Box::pin(async move {
            let endpoint = gathering::bracketed(host);
            self.watcher.lookup_begun(&endpoint);
            let behind = self.streams.endpoint(&endpoint);
            let lookup = TokioRuntime.resolve_host(behind.as_deref().unwrap_or(&endpoint));
            self.resolving.fetch_add(1, Ordering::Relaxed);
            let mut found =
                tokio::time::timeout(RESOLVE_WITHIN, lookup).await.unwrap_or_else(|_| {
                    let words = format!("no answer within {} s", RESOLVE_WITHIN.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, words))
                });
            self.resolving.fetch_sub(1, Ordering::Relaxed);
            if behind.is_some() {
                found = found.map(|real| self.streams.resolved(&endpoint, &real));
            }
            self.watcher.lookup_ended(&endpoint, &found);
            found
        })
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        // `close` of the crate gives the driver 100 ms to let TURN allocations go.
        if !driver::drives() {
            return TokioRuntime.sleep(duration);
        }
        self.monitor.driver_turned();
        if self.owed.load(Ordering::Acquire) > 0 {
            return Box::pin(ExtraPass { owed: Arc::clone(&self.owed), yielded: false });
        }
        self.owed.store(self.passes.load(Ordering::Acquire), Ordering::Release);
        let woken = Arc::clone(&self.woken);
        Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(duration) => {}
                () = woken.notified() => {}
            }
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        TokioRuntime.yield_now()
    }

    fn name(&self) -> &'static str {
        "orion-peer"
    }
}
