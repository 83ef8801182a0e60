//! HTTP/1.1 connections for the listeners of this program: accepting continues after any failure, a client that
//! is slow to send its header or keeps its connection open for too long is disconnected, and connections end
//! with the listener. Access control is up to the caller.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::response::Response;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// Pause after a failed accept, which usually means that file descriptors ran out (EMFILE, ENFILE).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Maximum length of a request's header, bytes; a token takes a tenth of that.
const MAX_HEADER: usize = 32 * 1024;

/// Maximum number of lines of a header.
const MAX_HEADER_LINES: usize = 64;

/// Timeout of a graceful shutdown of a connection.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Timeouts of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Within {
    /// For the header of a request, from the end of the previous request: this also ends idle connections.
    pub header: Duration,
    /// For all requests of a connection: afterward it is shut down gracefully and soon closed, even if the
    /// client does not read its responses.
    pub connection: Duration,
}

/// Accepts connections until `stop` turns true; `take` must not block.
pub async fn accept(
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
    mut take: impl FnMut(TcpStream, SocketAddr),
) {
    loop {
        let accepted = tokio::select! {
            () = stopped(&mut stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => take(stream, address),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers the requests of a connection until the client closes it, `stop` turns true, or it times out.
pub async fn requests<A>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    within: Within,
    mut stop: watch::Receiver<bool>,
    answer: impl Fn(Request<Incoming>) -> A,
) where
    A: Future<Output = Result<Response, Infallible>> + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(within.header)
        .max_buf_size(MAX_HEADER)
        .max_headers(MAX_HEADER_LINES)
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stopped(&mut stop) => None,
        () = tokio::time::sleep(within.connection) => None,
    };
    let ended = if let Some(ended) = ended {
        Ok(ended)
    } else {
        connection.as_mut().graceful_shutdown();
        timeout(END_WITHIN, connection).await
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "connection ended"),
        Err(_) => {
            tracing::info!(client = %address.ip().to_canonical(), "slow connection closed");
        }
    }
}

/// Waits until the listener should stop, or the sender of `stop` is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _gone = stop.wait_for(|stop| *stop).await.is_err();
}
