//! The `webrtc` crate's `Runtime` without its driver stalls and with larger socket buffers.
//!
//! `webrtc` 0.21.1 runs its driver loop as "write, handle events, read, then sleep". Data that an event queues for
//! writing (a DTLS `ClientHello`, an SCTP INIT) therefore waits for the next wake, and packets to a TURN relay are
//! drained before the core has written them; both cost up to 200 ms (related to webrtc-rs/webrtc#901).
//! [`PeerRuntime`] gives every wake of the loop extra passes: the sleeps after a real one end immediately.
//! [`PeerRuntime::wake`] ends a sleep from outside: the crate does not wake its driver for a remote candidate, which
//! would then be checked only at the next tick.
//!
//! The sockets of the runtime pass only datagrams for the connection (see `super::socket`), and its driver has its
//! own thread (see `super::driver`).
//!
//! Sockets and name lookups are monitored (see [`super::gathering`]), and the sockets carry TURN over TCP and TLS
//! (see `super::streams`).

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
    dtls_filter::REMOTE_KEYS_TIMEOUT,
    gathering::{self, GatheringMonitor, MonitoredSocket},
    pacing::Pacing,
    relay_wait::RelayWait,
    socket::{FilteredSocket, Filters},
    streams::{StreamServers, StreamSocket},
    vitals::LivenessMonitor,
};
use crate::netsim::Gateway;

/// Kernel buffer requested for each UDP socket and direction, bytes. The usual default of 208 KiB holds one
/// keyframe of about 180 KB; the kernel would truncate a larger one.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Space that two keyframes of 100 KB take in a receive buffer, as Linux counts their 170 packets (2304 bytes each)
/// and reports the size of the buffer.
const KEYFRAME_BUFFER_BYTES: usize = 170 * 2304;

/// The receive buffer that this machine grants a UDP socket, bytes, if two keyframes do not fit into it: packets
/// are then lost before they are read.
#[must_use]
pub fn small_receive_buffer() -> Option<usize> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").ok()?;
    granted_buffer(&SockRef::from(&socket)).filter(|granted| *granted < KEYFRAME_BUFFER_BYTES)
}

/// Requests large buffers. Returns the size of the granted receive buffer.
fn granted_buffer(socket: &SockRef<'_>) -> Option<usize> {
    // The kernel grants what `net.core.{r,w}mem_max` allows; getting less than requested is not a failure.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.recv_buffer_size().ok()
}

/// Timeout of a name lookup: the crate's driver blocks until it has ended.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Extra passes of the driver after each wake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtraPasses {
    /// For data queued by an event to reach the socket.
    Direct = 1,
    /// For data queued by an event to reach the TURN relayer, and from there the socket.
    Relayed = 2,
    /// While ICE, DTLS and SCTP hand over to each other, possibly through a relay.
    SettingUp = 3,
}

/// The runtime of one peer connection.
pub(crate) struct PeerRuntime {
    pending_passes: Arc<AtomicU8>,
    passes: AtomicU8,
    woken: Arc<Notify>,
    gathering: Arc<GatheringMonitor>,
    streams: Arc<StreamServers>,
    gateway: Option<Arc<Gateway>>,
    filters: Arc<Filters>,
    liveness: Arc<LivenessMonitor>,
    /// The runtime of the driver's thread.
    driver: Arc<OnceLock<Handle>>,
    /// Number of names being resolved: the driver waits for them.
    resolving: AtomicU8,
}

impl PeerRuntime {
    /// A runtime for one peer connection, on the Tokio runtime of the caller. If there is a gateway, the UDP sockets
    /// are behind it.
    pub(super) fn new(
        gathering: Arc<GatheringMonitor>,
        streams: Arc<StreamServers>,
        gateway: Option<Arc<Gateway>>,
        liveness: Arc<LivenessMonitor>,
        relay_wait: RelayWait,
        pacing: Arc<Pacing>,
    ) -> Arc<Self> {
        let passes = AtomicU8::new(ExtraPasses::SettingUp as u8);
        let filters =
            Filters::new(Arc::clone(&gathering), Arc::clone(&liveness), relay_wait, pacing);
        let filters = Arc::new(filters);
        Arc::new(Self {
            pending_passes: Arc::default(),
            passes,
            woken: Arc::default(),
            gathering,
            streams,
            gateway,
            filters,
            liveness,
            driver: Arc::default(),
            resolving: AtomicU8::new(0),
        })
    }

    /// The filters of the sockets.
    pub(super) fn filters(&self) -> &Filters {
        &self.filters
    }

    /// Runs a task on the driver's thread, concurrently with the driver.
    pub(super) fn spawn_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self.driver.get() {
            Some(driver) => drop(driver.spawn(task)),
            None => drop(tokio::spawn(task)),
        }
    }

    /// Whether the driver is waiting for a name lookup.
    pub(super) fn is_resolving(&self) -> bool {
        self.resolving.load(Ordering::Relaxed) > 0
    }

    /// Sets the number of extra passes that each wake gets from now on.
    pub(crate) fn set_passes(&self, passes: ExtraPasses) {
        self.passes.store(passes as u8, Ordering::Release);
    }

    /// Waits until the remote peer has shown that it can decrypt.
    pub(super) async fn wait_for_remote_keys(&self) {
        self.filters.dtls.wait_for_remote_keys(REMOTE_KEYS_TIMEOUT).await;
    }

    /// Ends the driver's current sleep, or the next one.
    pub(crate) fn wake(&self) {
        self.woken.notify_one();
    }
}

impl fmt::Debug for PeerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerRuntime")
    }
}

/// An extra pass after a wake: yields once, then completes. If it is dropped before that, because another branch of
/// the driver's select won, the pass stays pending.
struct ExtraPass {
    pending_passes: Arc<AtomicU8>,
    yielded: bool,
}

impl Future for ExtraPass {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.yielded {
            // Only the driver's task changes the count, so nothing intervenes between load and store.
            let pending = self.pending_passes.load(Ordering::Acquire);
            self.pending_passes.store(pending.saturating_sub(1), Ordering::Release);
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

    /// The crate runs nothing but the driver on a reactor.
    fn spawn_reactor(
        &self,
        _reactor_pool_size: usize,
        driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    ) -> Box<dyn JoinHandle> {
        let handle = Arc::clone(&self.driver);
        driver::start(driver, Arc::clone(&self.liveness), move |runtime| {
            let _ = handle.set(runtime);
        })
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let granted = granted_buffer(&SockRef::from(&socket));
        tracing::debug!(bytes = granted, "receive buffer of a socket");
        if granted.is_some_and(|granted| granted < KEYFRAME_BUFFER_BYTES) {
            tracing::info!(
                "a socket's receive buffer is small: run `orion-peer doctor` for the remedy"
            );
        }
        let mut socket = match &self.gateway {
            Some(gateway) => gateway.wrap(socket)?,
            None => TokioRuntime.wrap_udp_socket(socket)?,
        };
        if !self.streams.is_empty() {
            let (streams, gathering) = (Arc::clone(&self.streams), Arc::clone(&self.gathering));
            socket = Arc::new(StreamSocket::new(socket, streams, gathering)?);
        }
        socket = Arc::new(FilteredSocket::new(socket, Arc::clone(&self.filters))?);
        if !self.gathering.is_active() {
            return Ok(socket);
        }
        Ok(Arc::new(MonitoredSocket::new(socket, Arc::clone(&self.gathering))?))
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
            self.gathering.lookup_started(&endpoint);
            let behind = self.streams.endpoint(&endpoint);
            let lookup = TokioRuntime.resolve_host(behind.as_deref().unwrap_or(&endpoint));
            self.resolving.fetch_add(1, Ordering::Relaxed);
            let mut found =
                tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await.unwrap_or_else(|_| {
                    let message = format!("no answer within {} s", RESOLVE_TIMEOUT.as_secs());
                    Err(io::Error::new(io::ErrorKind::TimedOut, message))
                });
            self.resolving.fetch_sub(1, Ordering::Relaxed);
            if behind.is_some() {
                found = found.map(|real| self.streams.resolved(&endpoint, &real));
            }
            self.gathering.lookup_ended(&endpoint, &found);
            found
        })
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        // Off the driver's thread, this is the crate's `close`, which gives the driver 100 ms to release TURN
        // allocations.
        if !driver::drives() {
            return TokioRuntime.sleep(duration);
        }
        self.liveness.driver_turned();
        if self.pending_passes.load(Ordering::Acquire) > 0 {
            return Box::pin(ExtraPass {
                pending_passes: Arc::clone(&self.pending_passes),
                yielded: false,
            });
        }
        self.pending_passes.store(self.passes.load(Ordering::Acquire), Ordering::Release);
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
