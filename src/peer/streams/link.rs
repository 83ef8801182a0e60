//! One connection between a local address and a TURN server: dialled, then both ways until one end
//! closes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::mpsc, time::timeout};

use super::StreamServers;
use crate::{
    netsim::{Direction, StreamLink},
    peer::gathering::Watcher,
    stun::stream::{DialError, FrameReader, FrameWriter},
};

/// Messages that wait for the connection: ten keyframes of 100 KB, about 90 packets each. What comes
/// on top is dropped, as UDP would.
const QUEUE: usize = 1024;

/// Bytes written at one time, about.
const WRITE_BYTES: usize = 64 * 1024;

/// How long the server may leave its end of the connection unread.
const WRITE_WITHIN: Duration = Duration::from_secs(10);

/// A message and the stand-in address of the server it is from.
pub(super) type Arrival = (SocketAddr, Bytes);

/// What is to be sent; dropping it sends what waits and closes the connection.
#[derive(Debug)]
pub(super) struct Link {
    messages: mpsc::Sender<Bytes>,
    /// Many messages share its memory, which is used again once they are written.
    storage: BytesMut,
}

/// Between which addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// Of the crate's socket.
    pub(super) local: SocketAddr,
    /// The server, as the crate knows it.
    pub(super) stand_in: SocketAddr,
    /// The server's own address, and its index.
    pub(super) server: (SocketAddr, usize),
}

impl Link {
    /// Begins to connect.
    pub(super) fn start(
        ends: Ends,
        servers: Arc<StreamServers>,
        watcher: Arc<Watcher>,
        arrivals: mpsc::Sender<Arrival>,
    ) -> Self {
        let (messages, queue) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            if let Err(error) = run(ends, &servers, &watcher, queue, &arrivals).await {
                tracing::debug!(server = %ends.server.0, local = %ends.local, %error, "TURN");
                watcher.unconnected(ends.local, ends.stand_in, error);
            }
        });
        Self { messages, storage: BytesMut::new() }
    }

    /// Queues a message; an error once the connection is gone.
    pub(super) fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if self.storage.capacity() < message.len() {
            self.storage.reserve(WRITE_BYTES.max(message.len()));
        }
        self.storage.extend_from_slice(message);
        match self.messages.try_send(self.storage.split().freeze()) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::debug!("a packet is dropped: the connection to the TURN server is stuck");
                Ok(())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(super::gone()),
        }
    }
}

/// Ends well when this side closes.
async fn run(
    ends: Ends,
    servers: &StreamServers,
    watcher: &Watcher,
    queue: mpsc::Receiver<Bytes>,
    arrivals: &mpsc::Sender<Arrival>,
) -> Result<(), DialError> {
    watcher.put_off(ends.local, ends.stand_in);
    let dialling = async {
        servers.let_udp_go_first(|| watcher.udp_relay_answers(servers)).await;
        watcher.begun(ends.local, ends.stand_in);
        servers.dial(ends.server, ends.local).await
    };
    let stream = tokio::select! {
        dialled = dialling => dialled?,
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
            ended = pass_on(arriving, arrivals) => ended,
        }
    } else {
        tokio::select! {
            ended = read(reader, ends.stand_in, arrivals) => ended,
            ended = write(writer, queue) => ended,
        }
    };
    ended.map_err(|reason| DialError::Ended { address: ends.server.0, reason })
}

/// What has a length on the wire.
trait Message: Send + 'static {
    /// Bytes.
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

/// What goes over the link of a simulated network, in the order it went in.
fn over_link<T: Message>(mut link: StreamLink, mut queue: mpsc::Receiver<T>) -> mpsc::Receiver<T> {
    let (under_way, mut due) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            let at = link.send(message.length());
            if under_way.send((at, message)).await.is_err() {
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

async fn pass_on(
    mut arriving: mpsc::Receiver<Arrival>,
    arrivals: &mpsc::Sender<Arrival>,
) -> Result<(), String> {
    while let Some(arrival) = arriving.recv().await {
        if arrivals.send(arrival).await.is_err() {
            break;
        }
    }
    // The reading or the writing end tells why.
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
            Ok(None) => return Err("the server has closed it".into()),
            Err(error) => return Err(error.to_string()),
        };
        // With no room the connection waits, and the server's end of it.
        if arrivals.send((from, message)).await.is_err() {
            // The socket is gone; what it still had to send goes first.
            std::future::pending::<()>().await;
        }
    }
}

async fn write(mut writer: FrameWriter, mut queue: mpsc::Receiver<Bytes>) -> Result<(), String> {
    while let Some(message) = queue.recv().await {
        writer.push(&message);
        // What waits already goes with it: one call, and one TLS record, for many packets.
        while writer.waiting() < WRITE_BYTES
            && let Ok(message) = queue.try_recv()
        {
            writer.push(&message);
        }
        match timeout(WRITE_WITHIN, writer.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                return Err(format!("nothing could be sent for {} s", WRITE_WITHIN.as_secs()));
            }
        }
    }
    Ok(())
}
