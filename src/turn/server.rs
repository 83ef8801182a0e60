//! The sockets around [`super::protocol`]: listeners, relay sockets and the clock.

mod tcp;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    behaviour,
    config::{TurnConfig, TurnError},
    listen::{Listeners, bind_in_range, bind_listeners, check_relay},
    protocol::{Protocol, TurnAction, canonical},
    stats::{Counters, DropReason, TurnStats},
    tuple::{ClientTransport, FiveTuple, Now},
};
use crate::{lock::locked, pairs::InUse, types::PairId};

/// Maximum size of a UDP datagram in bytes.
const MAX_DATAGRAM: usize = 65_536;

/// A running STUN and TURN server; [`TurnServer::close`] or dropping it stops it.
pub struct TurnServer {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    done: mpsc::Receiver<()>,
    udp: Option<SocketAddr>,
    tcp: Option<SocketAddr>,
    tls: Option<SocketAddr>,
}

impl TurnServer {
    /// Binds the listeners and serves until closed.
    ///
    /// # Errors
    /// [`TurnError`] if an address cannot be bound or none is configured.
    pub async fn start(mut config: TurnConfig) -> Result<Self, TurnError> {
        let Listeners { udp, tcp, tls } = bind_listeners(&config).await?;
        check_relay(&config)?;
        let udp = udp.map(|(socket, address)| (Arc::new(socket), address));
        config.udp = udp.as_ref().map(|(_, address)| *address);
        let mut sockets = behaviour::bind(&mut config).await?;
        sockets.extend(udp.iter().map(|(socket, address)| (*address, Arc::clone(socket))));
        let counters = Arc::new(Counters::default());
        let protocol = Protocol::new(config.clone(), Arc::clone(&counters), Instant::now());
        let limits = config.limits.clone();
        let (stop, stopped) = watch::channel(false);
        let (running, done) = mpsc::channel(1);
        let shared = Arc::new(Shared {
            config,
            counters,
            sockets: sockets.iter().map(|(at, socket)| (*at, Arc::downgrade(socket))).collect(),
            permits: tcp::ConnectionPermits::new(&limits),
            protocol: Mutex::new(protocol),
            stopped,
            running: Mutex::new(Some(running)),
        });
        let server = Self {
            udp: udp.as_ref().map(|(_, address)| *address),
            tcp: tcp.as_ref().map(|(_, address)| *address),
            tls: tls.as_ref().map(|(_, address)| *address),
            stop,
            done,
            shared: Arc::clone(&shared),
        };
        for (address, socket) in sockets {
            shared.spawn(serve_udp(Arc::clone(&shared), socket, address));
        }
        if let Some((listener, address)) = tcp {
            shared.spawn(tcp::serve(Arc::clone(&shared), listener, address, None));
        }
        if let (Some((listener, address)), Some(tls)) = (tls, &shared.config.tls) {
            let acceptor = Some(TlsAcceptor::from(Arc::clone(&tls.server)));
            shared.spawn(tcp::serve(Arc::clone(&shared), listener, address, acceptor));
        }
        shared.spawn(sweep(Arc::clone(&shared)));
        Ok(server)
    }

    /// The UDP address it listens on.
    #[must_use]
    pub fn udp_address(&self) -> Option<SocketAddr> {
        self.udp
    }

    /// The alternate UDP address it listens on.
    #[must_use]
    pub fn alternate_address(&self) -> Option<SocketAddr> {
        self.shared.config.alternate
    }

    /// The TCP address it listens on.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// The address it listens on for TLS over TCP.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls
    }

    /// The current counters.
    #[must_use]
    pub fn stats(&self) -> TurnStats {
        self.shared.stats()
    }

    /// A reader of the counters that outlives this value, for a metrics endpoint.
    pub fn stats_reader(&self) -> impl Fn() -> TurnStats + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.stats()
    }

    /// The pairs of devices that use relays, so that relaying ends when a pair is revoked. `ttl` is the
    /// lifetime of the credentials issued for pairs: those of a revoked pair are rejected for that long.
    #[must_use]
    pub fn in_use(&self, ttl: Duration) -> Arc<dyn InUse> {
        Arc::new(RelayedPairs { shared: Arc::clone(&self.shared), ttl })
    }

    /// Stops listening, closes every allocation and connection, and waits until all sockets are closed.
    pub async fn close(mut self) {
        self.shared.halt();
        let _ = self.stop.send(true);
        // Every task holds a sender; `recv` returns once the last one is gone.
        while self.done.recv().await.is_some() {}
        // An allocation may have been granted while the tasks were ending.
        self.shared.protocol().clear();
    }
}

impl Drop for TurnServer {
    fn drop(&mut self) {
        self.shared.halt();
        let _ = self.stop.send(true);
    }
}

struct RelayedPairs {
    shared: Arc<Shared>,
    ttl: Duration,
}

impl InUse for RelayedPairs {
    fn pairs(&self) -> Vec<PairId> {
        self.shared.protocol().pairs().into_iter().map(PairId).collect()
    }

    fn revoke(&self, pair: &PairId) {
        let until = Now::read().unix().saturating_add(self.ttl.as_secs());
        let ended = self.shared.protocol().revoke(pair.as_str(), until);
        if ended > 0 {
            tracing::info!(%pair, allocations = ended, "relaying stopped for a revoked pair");
        }
    }
}

/// State shared by all tasks of the server.
struct Shared {
    pub config: TurnConfig,
    pub counters: Arc<Counters>,
    /// The one or four UDP sockets with their addresses; their tasks own them.
    sockets: Vec<(SocketAddr, Weak<UdpSocket>)>,
    pub(super) permits: tcp::ConnectionPermits,
    protocol: Mutex<Protocol<Arc<Relay>>>,
    stopped: watch::Receiver<bool>,
    running: Mutex<Option<mpsc::Sender<()>>>,
}

impl Shared {
    pub fn protocol(&self) -> MutexGuard<'_, Protocol<Arc<Relay>>> {
        // The tables stay consistent if a holder panics: each change is a single insert or remove.
        locked(&self.protocol)
    }

    fn stats(&self) -> TurnStats {
        self.counters.snapshot(self.protocol().active())
    }

    /// Runs a task until it ends or the server stops; `None` if it has stopped.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let mut stopped = self.stopped.clone();
        let running = locked(&self.running).clone()?;
        let task = tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
            drop(running);
        });
        Some(task.abort_handle())
    }

    fn halt(&self) {
        locked(&self.running).take();
        self.protocol().clear();
    }

    /// Performs the protocol's action for one datagram of a client.
    pub async fn client_datagram(self: &Arc<Self>, tuple: FiveTuple, data: &[u8], client: &Client) {
        let action = self.protocol().client_datagram(tuple, data, Now::read());
        match action {
            TurnAction::Drop => {}
            TurnAction::Reply(answer) => client.answer(answer).await,
            TurnAction::ReplyBy(answer, route) => {
                let from = self.sockets.iter().find(|(address, _)| *address == route.origin);
                if let Some(socket) = from.and_then(|(_, socket)| socket.upgrade()) {
                    // If this fails, the client is gone and needs no response.
                    drop(socket.send_to(&answer, route.to).await);
                }
            }
            TurnAction::ToPeer { relay, peer, payload } => {
                if let Err(error) = relay.socket.send_to(&data[payload], peer).await {
                    self.counters.count_drop(DropReason::NotSent);
                    tracing::debug!(%peer, %error, "cannot send a relayed packet");
                }
            }
            TurnAction::Bind(pending) => {
                let relay = self.bind_relay(tuple, pending.even_port, client);
                let answer = self.protocol().allocated(*pending, relay, Now::read());
                client.answer(answer).await;
            }
        }
    }

    fn bind_relay(
        self: &Arc<Self>,
        tuple: FiveTuple,
        even_port: bool,
        client: &Client,
    ) -> Option<(Arc<Relay>, SocketAddr)> {
        let socket = match bind_in_range(&self.config, even_port) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::warn!(%error, "cannot bind a relay socket");
                return None;
            }
        };
        let port = socket.local_addr().ok()?.port();
        let reader = relay(Arc::clone(self), Arc::clone(&socket), tuple, client.clone());
        let task = self.spawn(reader)?;
        let relayed = SocketAddr::new(self.config.relay_address, port);
        tracing::debug!(client = %tuple.client, %relayed, "allocation created");
        Some((Arc::new(Relay { socket, task }), relayed))
    }
}

/// A relay socket and the task that reads it; dropping it closes both.
struct Relay {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The return path to a client.
#[derive(Clone)]
enum Client {
    /// Through the listening socket.
    Udp(Arc<UdpSocket>, SocketAddr),
    /// Through the connection's writer.
    Tcp(mpsc::Sender<Vec<u8>>),
}

impl Client {
    async fn answer(&self, answer: Vec<u8>) {
        // If this fails, the client is gone and needs no response.
        match self {
            Self::Udp(socket, client) => drop(socket.send_to(&answer, client).await),
            Self::Tcp(writer) => drop(writer.send_timeout(answer, tcp::WRITE_TIMEOUT).await),
        }
    }

    /// Sends data to the client. Over TCP, data that does not fit into the queue is dropped, as UDP would
    /// drop it.
    async fn data(&self, framed: Vec<u8>) -> bool {
        match self {
            Self::Udp(socket, client) => socket.send_to(&framed, client).await.is_ok(),
            Self::Tcp(writer) => writer.try_send(framed).is_ok(),
        }
    }
}

async fn serve_udp(shared: Arc<Shared>, socket: Arc<UdpSocket>, server: SocketAddr) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, address)) => {
                let tuple = FiveTuple { transport: ClientTransport::Udp, client: address, server };
                let client = Client::Udp(Arc::clone(&socket), address);
                shared.client_datagram(tuple, &buffer[..length], &client).await;
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn relay(shared: Arc<Shared>, socket: Arc<UdpSocket>, tuple: FiveTuple, client: Client) {
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                let now = Instant::now();
                let framed =
                    shared.protocol().peer_datagram(tuple, canonical(peer), &buffer[..length], now);
                if let Some(framed) = framed
                    && !client.data(framed).await
                {
                    shared.counters.count_drop(DropReason::SlowClient);
                }
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Keeps a failing socket from busy-looping.
async fn pause(error: &io::Error) {
    tracing::debug!(%error, "TURN socket failed");
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn sweep(shared: Arc<Shared>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        shared.protocol().expire(Now::read());
    }
}
