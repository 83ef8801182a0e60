//! Clients over TCP (RFC 8656 §3.1): STUN messages and padded `ChannelData` one after the other on a
//! stream (§12.5). The relayed side stays UDP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{
    protocol::{FiveTuple, Transport, frame},
    server::{Client, Shared, pause},
};

/// How long a client may take to read an answer before its connection is given up.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Frames waiting for a client that reads slowly; what comes on top is dropped.
const WRITE_QUEUE: usize = 512;

/// Accepts connections until the server stops.
pub(super) async fn serve(shared: Arc<Shared>, listener: TcpListener, server: SocketAddr) {
    let places = Arc::new(Semaphore::new(shared.config.limits.tcp_connections));
    loop {
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(%client, "TURN connection over the limit");
            continue;
        };
        let tuple = FiveTuple { transport: Transport::Tcp, client, server };
        let connection = connection(Arc::clone(&shared), stream, tuple);
        shared.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, tuple: FiveTuple) {
    // Without it small packets wait for acknowledgements; a failure only costs speed.
    let _ = stream.set_nodelay(true);
    let _open = Open::new(Arc::clone(&shared), tuple);
    let (reader, writer) = stream.into_split();
    let (frames, queue) = mpsc::channel(WRITE_QUEUE);
    tokio::select! {
        () = read(&shared, reader, tuple, Client::Tcp(frames)) => {}
        () = write(writer, queue) => {}
    }
}

/// Counts the connection, and ends its allocation with it however it ends.
struct Open {
    shared: Arc<Shared>,
    tuple: FiveTuple,
}

impl Open {
    fn new(shared: Arc<Shared>, tuple: FiveTuple) -> Self {
        shared.counters.tcp_connections.fetch_add(1, Relaxed);
        Self { shared, tuple }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open: &AtomicU64 = &self.shared.counters.tcp_connections;
        open.fetch_sub(1, Relaxed);
        self.shared.protocol().remove(self.tuple);
    }
}

async fn read(shared: &Arc<Shared>, mut reader: OwnedReadHalf, tuple: FiveTuple, client: Client) {
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    loop {
        loop {
            match frame(&buffer) {
                Ok(Some((length, padding))) => {
                    shared.client_datagram(tuple, &buffer[..length], &client).await;
                    buffer.advance(length + padding);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
        buffer.reserve(4096);
        match timeout(shared.config.limits.tcp_idle, reader.read_buf(&mut buffer)).await {
            Ok(Ok(1..)) => {}
            Err(_) if shared.protocol().has(tuple) => {}
            _ => return,
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        match timeout(WRITE_TIMEOUT, writer.write_all(&frame)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
