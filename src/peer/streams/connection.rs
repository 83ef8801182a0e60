//! One connection between a local address and a TURN server: it is established and then carries both directions
//! until either end closes it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::mpsc, time::timeout};

use super::StreamServers;
use crate::{
    netsim::{Direction, StreamLink},
    peer::gathering::GatheringMonitor,
    stun::stream::{DialError, FrameReader, FrameWriter},
};

/// Maximum number of messages waiting for the connection: ten keyframes of 100 KB, about 90 packets each. Excess
/// messages are dropped, as with UDP.
const QUEUE: usize = 1024;

/// Approximate size of one write, bytes.
const WRITE_BYTES: usize = 64 * 1024;

/// How long the server may go without reading from the connection.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message and the stand-in address of the server that sent it.
pub(super) type Arrival = (SocketAddr, Bytes);

/// The sending end of a connection; dropping it sends the queued messages and closes the connection.
#[derive(Debug)]
pub(super) struct StreamConnection {
    messages: mpsc::Sender<Bytes>,
    /// Memory shared by many messages and reused once they are written.
    storage: BytesMut,
}

/// The addresses of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoints {
    /// Local address of the crate's socket.
    pub(super) local: SocketAddr,
    /// The server's stand-in address, which the crate uses.
    pub(super) stand_in: SocketAddr,
    /// The server's actual address, and its index.
    pub(super) server: (SocketAddr, usize),
}

impl StreamConnection {
    /// Starts connecting.
    pub(super) fn start(
        ends: Endpoints,
        servers: Arc<StreamServers>,
        monitor: Arc<GatheringMonitor>,
        arrivals: mpsc::Sender<Arrival>,
    ) -> Self {
        let (messages, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            if let Err(error) = run(ends, &servers, &monitor, queue, &arrivals).await {
                tracing::debug!(server = %ends.server.0, local = %ends.local, %error, "TURN");
                monitor.connection_failed(ends.local, ends.stand_in, error);
            }
        });
        Self { messages, storage: BytesMut::new() }
    }

    /// Queues a message. Fails once the connection has closed.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if self.storage.capacity() < message.len() {
            self.storage.reserve(WRITE_BYTES.max(message.len()));
        }
        self.storage.extend_from_slice(message);
        match self.messages.try_send(self.storage.split().freeze()) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::debug!("packet dropped: the connection to the TURN server is stalled");
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(super::closed_error()),
        }
    }
}

/// Runs a connection; returns `Ok` when this end closes it.
async fn run(
    ends: Endpoints,
    servers: &StreamServers,
    monitor: &GatheringMonitor,
    queue: mpsc::Receiver<Bytes>,
    arrivals: &mpsc::Sender<Arrival>,
) -> Result<(), DialError> {
    monitor.connection_deferred(ends.local, ends.stand_in);
    let dialing = async {
        servers.give_udp_a_head_start(|| monitor.udp_relay_answers(servers)).await;
        monitor.connection_started(ends.local, ends.stand_in);
        servers.dial(ends.server, ends.local).await
    };
    let stream = tokio::select! {
        dialed = dialing => dialed?,
        () = arrivals.closed() => return Ok(()),
    };
    let (reader, writer) = stream.into_split();
    let ended = if let Some(gateway) = &servers.gateway {
        let queue = over_link(gateway.stream_link(Direction::Up), queue);
        let (arrived, arriving) = mpsc::channel(QUEUE);
        let arriving = over_link(gateway.stream_link(Direction::Down), arriving);
        tokio::select! {
            ended = read(reader, ends.stand_in, &arrived) => ended,
            ended = write(writer, queue) => ended,
            ended = forward(arriving, arrivals) => ended,
        }
    } else {
        tokio::select! {
            ended = read(reader, ends.stand_in, arrivals) => ended,
            ended = write(writer, queue) => ended,
        }
    };
    ended.map_err(|reason| DialError::Ended { address: ends.server.0, reason })
}

/// Anything with a length on the wire.
trait Message: Send + 'static {
    /// Length, bytes.
    fn length(&self) -> usize;
}

impl Message for Bytes {
    fn length(&self) -> usize {
        self.len()
    }
}

impl Message for Arrival {
    fn length(&self) -> usize {
        self.1.len()
    }
}

/// Passes messages over the link of a simulated network, in order.
fn over_link<T: Message>(mut link: StreamLink, mut queue: mpsc::Receiver<T>) -> mpsc::Receiver<T> {
    let (in_flight, mut due) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            let at = link.send(message.length());
            if in_flight.send((at, message)).await.is_err() {
                return;
            }
        }
    });
    let (arrived, out) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some((at, message)) = due.recv().await {
            at.wait().await;
            if arrived.send(message).await.is_err() {
                return;
            }
        }
    });
    out
}

async fn forward(
    mut arriving: mpsc::Receiver<Arrival>,
    arrivals: &mpsc::Sender<Arrival>,
) -> Result<(), String> {
    while let Some(arrival) = arriving.recv().await {
        if arrivals.send(arrival).await.is_err() {
            break;
        }
    }
    // `read` or `write` reports the reason.
    std::future::pending().await
}

async fn read(
    mut reader: FrameReader,
    from: SocketAddr,
    arrivals: &mpsc::Sender<Arrival>,
) -> Result<(), String> {
    loop {
        let message = match reader.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err("the server closed it".into()),
            Err(error) => return Err(error.to_string()),
        };
        // While there is no room, nothing is read from the connection, so the server has to wait.
        if arrivals.send((from, message)).await.is_err() {
            // The socket is gone; its queued messages are sent first.
            std::future::pending::<()>().await;
        }
    }
}

async fn write(mut writer: FrameWriter, mut queue: mpsc::Receiver<Bytes>) -> Result<(), String> {
    while let Some(message) = queue.recv().await {
        writer.push(&message);
        // Messages already waiting are sent with it: one call and one TLS record for many packets.
        while writer.waiting() < WRITE_BYTES
            && let Ok(message) = queue.try_recv()
        {
            writer.push(&message);
        }
        match timeout(WRITE_TIMEOUT, writer.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                return Err(format!("nothing could be sent for {} s", WRITE_TIMEOUT.as_secs()));
            }
        }
    }
    Ok(())
}
