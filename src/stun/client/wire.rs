//! Sends and receives whole messages over UDP, TCP or TLS.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    time::{timeout, timeout_at},
};

use super::{ClientError, PATIENCE, Server};
use crate::stun::{
    stream::{FrameReader, FrameWriter, dial},
    uri::Transport,
};

/// Size of the socket's kernel buffers, bytes: the usual default loses bursts as large as a
/// keyframe.
const SOCKET_BUFFER: usize = 1 << 20;

/// Maximum size of a UDP datagram, bytes.
const MAX_DATAGRAM: usize = 65_536;

#[derive(Debug)]
pub(super) enum Wire {
    Udp { socket: UdpSocket, buffer: Vec<u8> },
    Stream { reader: FrameReader, writer: FrameWriter },
}

impl Wire {
    pub(super) async fn open(server: &Server) -> Result<Self, ClientError> {
        let tls = (server.transport == Transport::Tls).then_some(&server.trust);
        if server.transport != Transport::Udp {
            let stream = dial(server.address, &server.host, tls, server.bind).await?;
            let (reader, writer) = stream.into_split();
            return Ok(Self::Stream { reader, writer });
        }
        let any: IpAddr = if server.address.is_ipv4() {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        let local = server.bind.filter(|ip| ip.is_ipv4() == any.is_ipv4()).unwrap_or(any);
        let socket = UdpSocket::bind((local, 0)).await?;
        socket.connect(server.address).await?;
        let options = SockRef::from(&socket);
        // The kernel may grant less, in which case packets of a burst may be lost.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER);
        Ok(Self::Udp { socket, buffer: vec![0; MAX_DATAGRAM] })
    }

    /// Whether the transport is reliable, so that requests need no retransmission.
    pub(super) fn is_reliable(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    pub(super) async fn send(&mut self, message: &[u8]) -> Result<(), ClientError> {
        match self {
            Self::Udp { socket, .. } => match socket.send(message).await {
                // Caused by an earlier datagram; `receive` reports it if nothing else arrives.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                sent => Ok(sent.map(drop)?),
            },
            Self::Stream { writer, .. } => timeout(PATIENCE, writer.send(message))
                .await
                .map_err(|_| ClientError::Silent { requests: 1, within: PATIENCE })?
                .map_err(ClientError::Io),
        }
    }

    /// The next message; `None` if none arrives until then.
    pub(super) async fn receive(&mut self, until: Instant) -> Result<Option<Vec<u8>>, ClientError> {
        match self {
            Self::Udp { socket, buffer } => {
                match timeout_at(until.into(), socket.recv(buffer)).await {
                    Ok(Ok(length)) => Ok(Some(buffer[..length].to_vec())),
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Ok(None),
                }
            }
            Self::Stream { reader, .. } => match timeout_at(until.into(), reader.next()).await {
                Ok(Ok(Some(message))) => Ok(Some(message.to_vec())),
                Ok(Ok(None)) => Err(ClientError::HungUp),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Ok(None),
            },
        }
    }
}
