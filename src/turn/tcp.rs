//! Clients over TCP and TLS (RFC 8656 §3.1): STUN messages and padded `ChannelData` one after the other
//! on a stream (§12.5). The relayed side stays UDP.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{
    protocol::{FiveTuple, Transport},
    server::{Client, Shared, pause},
};
use crate::stun::stream::{FrameReader, FrameWriter, Stream};

/// How long a client may take to read an answer before its connection is given up.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take for its part of the TLS handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// Frames waiting for a client that reads slowly; what comes on top is dropped. Several keyframes of
/// 100 KB, about 90 frames each, have room.
const WRITE_QUEUE: usize = 1024;

/// Bytes written at one time, about: a TLS record holds 16 KiB.
const WRITE_BYTES: usize = 64 * 1024;

/// Accepts connections until the server stops.
pub(super) async fn serve(
    shared: Arc<Shared>,
    listener: TcpListener,
    server: SocketAddr,
    tls: Option<TlsAcceptor>,
) {
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
        let connection = connection(Arc::clone(&shared), stream, tuple, tls.clone());
        shared.spawn(async move {
            connection.await;
            drop(place);
        });
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    tuple: FiveTuple,
    tls: Option<TlsAcceptor>,
) {
    // Without it small packets wait for acknowledgements; a failure only costs speed.
    let _ = stream.set_nodelay(true);
    let _open = Open::new(Arc::clone(&shared), tuple);
    let stream = match tls {
        None => Stream::from(stream),
        Some(tls) => match timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
            Ok(Ok(stream)) => Stream::from(TlsStream::from(stream)),
            Ok(Err(error)) => {
                tracing::debug!(client = %tuple.client, %error, "TLS handshake for TURN");
                return;
            }
            Err(_) => return,
        },
    };
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

async fn read(shared: &Arc<Shared>, mut frames: FrameReader, tuple: FiveTuple, client: Client) {
    loop {
        match timeout(shared.config.limits.tcp_idle, frames.next()).await {
            Ok(Ok(Some(frame))) => shared.client_datagram(tuple, &frame, &client).await,
            Err(_) if shared.protocol().has(tuple) => {}
            _ => return,
        }
    }
}

async fn write(mut writer: FrameWriter, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = queue.recv().await {
        writer.push(&frame);
        // What waits already goes with it: one call, and one TLS record, for many frames.
        while writer.waiting() < WRITE_BYTES
            && let Ok(frame) = queue.try_recv()
        {
            writer.push(&frame);
        }
        match timeout(WRITE_TIMEOUT, writer.flush()).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
