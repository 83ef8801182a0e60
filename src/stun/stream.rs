//! STUN and TURN over TCP and TLS (RFC 8489 §6.2.2 and §6.2.3, RFC 8656 §3.1): connects, and splits
//! a stream into messages. Used by the client, the embedded server and all requests to servers.
//!
//! `error`: why connecting failed

mod error;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
pub use error::DialError;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, TlsStream};

use super::message::{HEADER_BYTES, MAGIC_COOKIE, padded};
use crate::tls::Trust;

/// Timeout of connecting, including TLS: less than an ICE server's timeout for an answer.
pub const DIAL_WITHIN: Duration = Duration::from_secs(4);

/// First byte of `ChannelData` (RFC 8656 §12). Channel numbers are 0x4000 to 0x4FFF, and up to
/// 0x7FFF in RFC 5766.
const CHANNEL_DATA: std::ops::RangeInclusive<u8> = 0x40..=0x7F;

/// Number of bytes to read from the stream at a time.
const READ_BYTES: usize = 16 * 1024;

/// A connection that carries STUN messages and `ChannelData`.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects to a server, with TLS if `tls` is given; `host` is the name for which its certificate
/// must be valid. `bind` is the local address to connect from, if this machine has it.
///
/// # Errors
/// [`DialError`], at the latest after [`DIAL_WITHIN`].
pub async fn dial(
    address: SocketAddr,
    host: &str,
    tls: Option<&Trust>,
    bind: Option<IpAddr>,
) -> Result<Stream, DialError> {
    let late = |step| DialError::Timeout { address, step, within: DIAL_WITHIN };
    let started = tokio::time::Instant::now();
    let tcp = timeout(DIAL_WITHIN, connect(address, bind))
        .await
        .map_err(|_| late("TCP connection"))?
        .map_err(|error| DialError::from_tcp(address, &error))?;
    // Otherwise small messages wait for acknowledgments; a failure only costs speed.
    let _ = tcp.set_nodelay(true);
    let Some(trust) = tls else { return Ok(Stream::from(tcp)) };
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| DialError::NoName { host: host.to_owned() })?;
    let handshake = TlsConnector::from(trust.client()).connect(name, tcp);
    let left = DIAL_WITHIN.saturating_sub(started.elapsed());
    let tls = timeout(left, handshake)
        .await
        .map_err(|_| late("TLS handshake"))?
        .map_err(|error| DialError::from_tls(address, host, &error))?;
    Ok(Stream::from(TlsStream::from(tls)))
}

async fn connect(address: SocketAddr, bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let bind = bind.filter(|ip| ip.is_ipv4() == address.is_ipv4() && !ip.is_unspecified());
    if let Some(ip) = bind {
        match socket.bind(SocketAddr::new(ip, 0)) {
            // The address belongs to a simulated network.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {}
            bound => bound?,
        }
    }
    socket.connect(address).await
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Inner::Tcp(stream))
    }
}

impl From<TlsStream<TcpStream>> for Stream {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self(Inner::Tls(Box::new(stream)))
    }
}

impl Stream {
    /// The local address.
    ///
    /// # Errors
    /// The error of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Inner::Tcp(stream) => stream.local_addr(),
            Inner::Tls(stream) => stream.get_ref().0.local_addr(),
        }
    }

    /// Splits the stream into a reader and a writer of whole messages.
    #[must_use]
    pub fn into_split(self) -> (FrameReader, FrameWriter) {
        let (read, write) = tokio::io::split(self);
        let reader = FrameReader { stream: read, buffer: BytesMut::new() };
        (reader, FrameWriter { stream: write, buffer: BytesMut::new() })
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Inner::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Reads whole messages.
#[derive(Debug)]
pub struct FrameReader {
    stream: ReadHalf<Stream>,
    buffer: BytesMut,
}

impl FrameReader {
    /// The next STUN message or `ChannelData`, without its padding; `None` if the peer closed the
    /// connection between two messages. Dropping the future loses no data.
    ///
    /// # Errors
    /// The connection failed, ended within a message, or carries something else.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some((length, padding)) = frame(&self.buffer)? {
                let message = self.buffer.split_to(length).freeze();
                self.buffer.advance(padding);
                return Ok(Some(message));
            }
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                // TLS ended without a closing alert, which most servers omit.
                Err(error)
                    if error.kind() == io::ErrorKind::UnexpectedEof && self.buffer.is_empty() =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Writes whole messages.
#[derive(Debug)]
pub struct FrameWriter {
    stream: WriteHalf<Stream>,
    buffer: BytesMut,
}

impl FrameWriter {
    /// Queues a STUN message or `ChannelData` for [`FrameWriter::flush`]; `ChannelData` is padded to
    /// four bytes (RFC 8656 §12.5).
    pub fn push(&mut self, message: &[u8]) {
        self.buffer.extend_from_slice(message);
        if message.first().is_some_and(|first| CHANNEL_DATA.contains(first)) {
            let padding = padded(message.len()) - message.len();
            self.buffer.extend_from_slice(&[0; 3][..padding]);
        }
    }

    /// Number of bytes waiting for [`FrameWriter::flush`].
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Sends the queued messages. If the future is dropped, another call resumes where it stopped.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.buffer).await?;
        self.stream.flush().await
    }

    /// Sends one message.
    ///
    /// # Errors
    /// The connection failed.
    pub async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.push(message);
        self.flush().await
    }
}

/// A stream carries something that is neither a STUN message nor `ChannelData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither a STUN message nor ChannelData")]
pub struct NotAFrame;

impl From<NotAFrame> for io::Error {
    fn from(error: NotAFrame) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// Lengths of the message at the start of a stream and of its padding (RFC 8656 §12.5); `None` if
/// more bytes are needed.
///
/// # Errors
/// [`NotAFrame`], as soon as it is certain.
pub fn frame(stream: &[u8]) -> Result<Option<(usize, usize)>, NotAFrame> {
    let &[first, _, l0, l1, ..] = stream else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([l0, l1]));
    let cookie = MAGIC_COOKIE.to_be_bytes();
    let stun = stream.iter().skip(4).zip(cookie).all(|(byte, expected)| *byte == expected);
    let length = match first {
        0x00..=0x3F if length % 4 == 0 && stun => HEADER_BYTES + length,
        first if CHANNEL_DATA.contains(&first) => 4 + length,
        _ => return Err(NotAFrame),
    };
    let padding = padded(length) - length;
    Ok((stream.len() >= length + padding).then_some((length, padding)))
}

#[cfg(test)]
mod tests;
