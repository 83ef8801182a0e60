//! Binds the listeners, and binds relay sockets to random free ports.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rand::Rng;
use socket2::SockRef;
use tokio::net::{TcpListener, UdpSocket};

use super::config::{TlsListener, TurnConfig, TurnError};

/// Kernel buffer size of every UDP socket in bytes: the usual default loses bursts as large as a
/// keyframe.
const SOCKET_BUFFER: usize = 4 << 20;

/// Number of ports tried for one relay socket.
const PORT_TRIES: u32 = 256;

type Listener<T> = Option<(T, SocketAddr)>;

pub(super) struct Listeners {
    pub udp: Listener<UdpSocket>,
    pub tcp: Listener<TcpListener>,
    pub tls: Listener<TcpListener>,
}

pub(super) async fn bind_listeners(config: &TurnConfig) -> Result<Listeners, TurnError> {
    // The port that the system chose for UDP may be in use for TCP, in which case another is tried.
    let free = |address: Option<SocketAddr>| address.is_some_and(|address| address.port() == 0);
    let mut tries = if free(config.udp) && free(config.tcp) { 16 } else { 1 };
    loop {
        tries -= 1;
        match bind_once(config).await {
            Err(TurnError::Listen { transport: "tcp", source, .. })
                if tries > 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
}

async fn bind_once(config: &TurnConfig) -> Result<Listeners, TurnError> {
    let failed =
        |transport, address| move |source| TurnError::Listen { transport, address, source };
    let mut udp = None;
    if let Some(address) = config.udp {
        let socket = UdpSocket::bind(address).await.map_err(failed("udp", address))?;
        enlarge_buffers(&socket);
        let bound = socket.local_addr().map_err(failed("udp", address))?;
        udp = Some((socket, bound));
    }
    let mut tcp = None;
    if let Some(mut address) = config.tcp {
        if let (0, Some((_, bound))) = (address.port(), &udp) {
            address.set_port(bound.port());
        }
        tcp = Some(listen("tcp", address).await?);
    }
    let mut tls = None;
    if let Some(TlsListener { address, .. }) = &config.tls {
        tls = Some(listen("tls", *address).await?);
    }
    if udp.is_none() && tcp.is_none() && tls.is_none() {
        return Err(TurnError::NoListener);
    }
    Ok(Listeners { udp, tcp, tls })
}

async fn listen(
    transport: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), TurnError> {
    let failed = |source| TurnError::Listen { transport, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Checks the relay address, to fail at startup rather than at the first allocation.
pub(super) fn check_relay(config: &TurnConfig) -> Result<(), TurnError> {
    if config.relay_ports.is_empty() {
        return Err(TurnError::NoRelayPorts(config.relay_ports.clone()));
    }
    let address = bind_address(config);
    std::net::UdpSocket::bind((address, 0))
        .map(drop)
        .map_err(|source| TurnError::Relay { address, source })
}

fn bind_address(config: &TurnConfig) -> IpAddr {
    config.relay_bind.unwrap_or(config.relay_address)
}

/// Binds a random free port of the range: predictable ports would help off-path attackers.
pub(super) fn bind_in_range(config: &TurnConfig, even: bool) -> io::Result<UdpSocket> {
    let (first, last) =
        (u32::from(*config.relay_ports.start()), u32::from(*config.relay_ports.end()));
    let size = last - first + 1;
    let start = rand::rng().random_range(0..size);
    let mut failure = io::Error::new(io::ErrorKind::AddrInUse, "no free relay port");
    let ports = (0..size).map(|step| first + (start + step) % size);
    for port in ports.filter(|port| !even || port % 2 == 0).take(PORT_TRIES as usize) {
        match std::net::UdpSocket::bind((bind_address(config), port as u16)) {
            Ok(socket) => {
                socket.set_nonblocking(true)?;
                let socket = UdpSocket::from_std(socket)?;
                enlarge_buffers(&socket);
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

pub(super) fn enlarge_buffers(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    // The kernel may grant less, which is slower but works.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
}
