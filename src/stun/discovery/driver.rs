//! Sockets and time for [`Discovery`] and [`Lifetime`].

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

/// Datagrams that wait to be read.
const QUEUE: usize = 256;

/// Largest datagram of interest, bytes.
const MAX_DATAGRAM: usize = 2048;

/// Finds out how the NAT between `local`, an address of this machine, and these servers behaves. What
/// is not known after `within` stays unknown.
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

/// Finds out how long the NAT keeps a binding to that server without traffic. It takes `longest` and
/// about 3 s more; less when the binding is gone earlier, or the server cannot help.
///
/// # Errors
/// No socket can be opened on `local`.
pub async fn binding_lifetime(
    local: IpAddr,
    server: SocketAddr,
    longest: Duration,
) -> io::Result<Lives> {
    let mut lifetime = Lifetime::new(server, longest, rand::random(), Instant::now());
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

/// A datagram, from where it came, and to which socket.
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
        // What cannot be sent is like what is lost: it is repeated.
        if let Err(error) = self.all[transmit.socket].send_to(&transmit.datagram, transmit.to).await
        {
            tracing::debug!(to = %transmit.to, %error, "STUN request not sent");
        }
    }

    /// The next datagram; `None` at that time.
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
            // Some systems report here that an earlier datagram reached a closed port.
            Err(error) => {
                tracing::debug!(%error, "STUN socket");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
