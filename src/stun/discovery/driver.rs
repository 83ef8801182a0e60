//! Sockets and a clock for [`Discovery`] and [`Lifetime`].

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::sleep_until};

use super::{
    Discovery, Findings, SOCKETS, Transmit,
    lifetime::{Lifetime, Lives},
};

/// Maximum number of datagrams waiting to be read.
const QUEUE: usize = 256;

/// Maximum size of a relevant datagram, bytes.
const MAX_DATAGRAM: usize = 2048;

/// Discovers the behavior of the NAT between `local`, an address of this machine, and these servers.
/// Anything not known after `within` remains unknown.
///
/// # Errors
/// No socket can be opened on `local`.
pub async fn discover(
    local: IpAddr,
    servers: &[SocketAddr],
    within: Duration,
) -> io::Result<Findings> {
    let started = Instant::now();
    let end = started + within;
    let mut sockets = Sockets::open(local, SOCKETS).await?;
    let mut discovery = Discovery::new(servers, rand::random(), started);
    for (index, socket) in sockets.all.iter().enumerate() {
        discovery.bound(index, socket.local_addr()?);
    }
    while let Some(due) = discovery.poll_timeout().filter(|_| Instant::now() < end) {
        while let Some(transmit) = discovery.poll_transmit(Instant::now()) {
            sockets.send(&transmit).await;
        }
        match sockets.receive(due.min(end)).await {
            Some((socket, from, datagram)) => {
                discovery.handle_datagram(Instant::now(), socket, from, &datagram);
            }
            None => discovery.handle_timeout(Instant::now()),
        }
    }
    Ok(discovery.findings())
}

/// Measures how long the NAT keeps a binding to this server without traffic, up to `max`. This takes
/// `max` plus about 3 s, or less if the binding expires earlier or the server does not support the
/// test.
///
/// # Errors
/// No socket can be opened on `local`.
pub async fn binding_lifetime(
    local: IpAddr,
    server: SocketAddr,
    max: Duration,
) -> io::Result<Lives> {
    let mut lifetime = Lifetime::new(server, max, rand::random(), Instant::now());
    let mut sockets = Sockets::open(local, lifetime.sockets()).await?;
    loop {
        while let Some(transmit) = lifetime.poll_transmit(Instant::now()) {
            sockets.send(&transmit).await;
        }
        let Some(due) = lifetime.poll_timeout() else { return Ok(lifetime.result()) };
        if let Some((socket, _, datagram)) = sockets.receive(due).await {
            lifetime.handle_datagram(Instant::now(), socket, &datagram);
        } else {
            lifetime.handle_timeout(Instant::now());
        }
    }
}

/// The receiving socket, the sender and the datagram.
type Received = (usize, SocketAddr, Vec<u8>);

/// Numbered UDP sockets, read into one queue.
struct Sockets {
    all: Vec<Arc<UdpSocket>>,
    queue: mpsc::Receiver<Received>,
    /// Ends the readers when dropped.
    _readers: JoinSet<()>,
}

impl Sockets {
    async fn open(local: IpAddr, count: usize) -> io::Result<Self> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let mut readers = JoinSet::new();
        let mut all = Vec::new();
        for index in 0..count {
            let socket = Arc::new(UdpSocket::bind((local, 0)).await?);
            readers.spawn(read(index, Arc::clone(&socket), sender.clone()));
            all.push(socket);
        }
        Ok(Self { all, queue, _readers: readers })
    }

    async fn send(&self, transmit: &Transmit) {
        // A failure is handled like a loss: the request is repeated.
        if let Err(error) = self.all[transmit.socket].send_to(&transmit.datagram, transmit.to).await
        {
            tracing::debug!(to = %transmit.to, %error, "cannot send a STUN request");
        }
    }

    /// The next datagram; `None` if none arrives until then.
    async fn receive(&mut self, until: Instant) -> Option<Received> {
        tokio::select! {
            received = self.queue.recv() => received,
            () = sleep_until(until.into()) => None,
        }
    }
}

async fn read(index: usize, socket: Arc<UdpSocket>, queue: mpsc::Sender<Received>) {
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let received = (index, from, buffer[..length].to_vec());
                if queue.send(received).await.is_err() {
                    return;
                }
            }
            // On some systems this reports that an earlier datagram reached a closed port.
            Err(error) => {
                tracing::debug!(%error, "cannot read from a STUN socket");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
