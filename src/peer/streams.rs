//! TURN over TCP and TLS (RFC 8656 §3.1), which the `webrtc` crate does not support (webrtc-rs/webrtc#848).
//!
//! The crate gets a UDP server with a made-up name, `relay-1.invalid` (RFC 6761 §6.4). Resolving it resolves the real
//! host and yields an unassigned stand-in address: 240.0.0.1 (RFC 1112 §4), or `100::1` (RFC 6666) for IPv6.
//! Datagrams that a socket of the crate sends to this address go over a TCP or TLS connection to the server instead,
//! and answers appear to come from the address. Neither the name nor the address is visible outside: events and
//! statistics show the URL as configured.
//!
//! - `socket`: the UDP socket that separates the two kinds of addresses
//! - `connection`: one connection to a server

mod connection;
mod socket;

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

pub(super) use socket::StreamSocket;

use crate::{
    netsim::{Direction, Gateway},
    proto::token::IceServer,
    stun::{
        stream::{DialError, Stream, dial},
        uri::{ServerUri, Transport, read_url},
    },
    tls::Trust,
    types::RelayTransport,
};

/// Delay before a connection is started if there is also a TURN server over UDP: relayed candidates have the same
/// priority regardless of their transport, and the first pair that works is nominated.
const HEAD_START: Duration = Duration::from_millis(150);

/// Additional delay if TURN over UDP has answered by then: time for a pair over UDP to be nominated, which itself
/// first waits for a direct pair.
const LONGER_START: Duration = Duration::from_millis(600);

/// Approximate size of a packet that opens a connection, bytes.
const HANDSHAKE_BYTES: usize = 60;

/// Suffix of the made-up names.
const SUFFIX: &str = ".invalid";

/// The TURN servers over TCP and TLS of one peer connection.
pub(super) struct StreamServers {
    servers: Vec<StreamServer>,
    trust: Trust,
    head_start: Duration,
    /// The simulated network whose link the connections use.
    gateway: Option<Arc<Gateway>>,
    /// The server's address behind each stand-in.
    behind: Mutex<HashMap<SocketAddr, SocketAddr>>,
}

#[derive(Debug)]
struct StreamServer {
    /// URL as configured.
    url: String,
    uri: ServerUri,
}

impl fmt::Debug for StreamServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServers").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl StreamServers {
    /// The configured servers that use TCP or TLS; `gateway` is the simulated network in front of them.
    pub(super) fn new(
        configured: &[IceServer],
        trust: Trust,
        gateway: Option<Arc<Gateway>>,
    ) -> Self {
        let mut servers: Vec<StreamServer> = Vec::new();
        let mut head_start = Duration::ZERO;
        for url in configured.iter().flat_map(|server| &server.urls) {
            let Ok(uri) = read_url(url) else { continue };
            if uri.transport != Transport::Udp {
                if servers.iter().all(|known| known.url != *url) {
                    servers.push(StreamServer { url: url.clone(), uri });
                }
            } else if uri.turn {
                head_start = HEAD_START;
            }
        }
        servers.truncate(usize::from(u8::MAX));
        Self { servers, trust, head_start, gateway, behind: Mutex::default() }
    }

    /// Whether there are no such servers.
    pub(super) fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The made-up host and port that the crate gets for this URL.
    pub(super) fn stand_in(&self, url: &str) -> Option<String> {
        let index = self.servers.iter().position(|server| server.url == url)?;
        Some(format!("relay-{}{SUFFIX}:{}", index + 1, self.servers[index].uri.port))
    }

    /// The index of the server with this made-up name, with or without a port.
    fn named(&self, endpoint: &str) -> Option<usize> {
        let (number, _) = endpoint.strip_prefix("relay-")?.split_once(SUFFIX)?;
        let index = number.parse::<usize>().ok()?.checked_sub(1)?;
        (index < self.servers.len()).then_some(index)
    }

    /// The real host and port to look up for a made-up name.
    pub(super) fn endpoint(&self, stand_in: &str) -> Option<String> {
        self.named(stand_in).map(|index| self.servers[index].uri.endpoint())
    }

    /// Stores the resolved addresses of the real host, and returns the stand-ins, one for each address family.
    pub(super) fn resolved(&self, stand_in: &str, found: &[SocketAddr]) -> Vec<SocketAddr> {
        let Some(index) = self.named(stand_in) else { return Vec::new() };
        let number = index as u16 + 1;
        let mut behind = self.behind.lock().expect("no holder of this lock panics");
        let mut given = Vec::new();
        for v4 in [true, false] {
            let Some(real) = found.iter().find(|address| address.is_ipv4() == v4) else { continue };
            let ip: IpAddr = if v4 {
                Ipv4Addr::new(240, 0, 0, number as u8).into()
            } else {
                Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, number).into()
            };
            let address = SocketAddr::new(ip, real.port());
            behind.insert(address, *real);
            given.push(address);
        }
        given
    }

    /// The configured URL and the transport for a made-up URL that the crate reports.
    pub(super) fn configured(&self, url: &str) -> Option<(&str, RelayTransport)> {
        let server = &self.servers[self.named(url.strip_prefix("turn:")?)?];
        let transport = match server.uri.transport {
            Transport::Udp => RelayTransport::Udp,
            Transport::Tcp => RelayTransport::Tcp,
            Transport::Tls => RelayTransport::Tls,
        };
        Some((&server.url, transport))
    }

    /// The server's address behind a stand-in, and its index.
    fn behind(&self, address: SocketAddr) -> Option<(SocketAddr, usize)> {
        let number = match address.ip() {
            IpAddr::V4(ip) => match ip.octets() {
                [240, 0, 0, number] => u16::from(number),
                _ => return None,
            },
            IpAddr::V6(ip) => match ip.segments() {
                [0x100, 0, 0, 0, 0, 0, 0, number] => number,
                _ => return None,
            },
        };
        let real = *self.behind.lock().expect("no holder of this lock panics").get(&address)?;
        Some((real, usize::from(number) - 1))
    }

    /// Whether this is a stand-in address.
    pub(super) fn stands_in(&self, address: SocketAddr) -> bool {
        self.behind(address).is_some()
    }

    /// Gives TURN over UDP a head start; `udp_answers` returns whether it answers.
    async fn give_udp_a_head_start(&self, udp_answers: impl Fn() -> bool) {
        tokio::time::sleep(self.head_start).await;
        if !self.head_start.is_zero() && udp_answers() {
            tokio::time::sleep(LONGER_START).await;
        }
    }

    /// Connects to the server behind a stand-in.
    async fn dial(
        &self,
        (address, index): (SocketAddr, usize),
        local: SocketAddr,
    ) -> Result<Stream, DialError> {
        let uri = &self.servers[index].uri;
        let tls = (uri.transport == Transport::Tls).then_some(&self.trust);
        self.shake_hands(1 + usize::from(tls.is_some())).await;
        dial(address, &uri.host, tls, Some(local.ip())).await
    }

    /// Simulates the round trips over the link that open a connection: one for TCP (RFC 9293 §3.5), one more for TLS
    /// (RFC 8446 §2).
    async fn shake_hands(&self, round_trips: usize) {
        let Some(gateway) = &self.gateway else { return };
        for _ in 0..round_trips {
            for direction in [Direction::Up, Direction::Down] {
                gateway.stream_link(direction).send(HANDSHAKE_BYTES).wait().await;
            }
        }
    }
}

/// The error of a socket whose connection to the server has closed.
fn closed_error() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the connection to the TURN server is closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(urls: &[&str]) -> StreamServers {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        StreamServers::new(
            &[IceServer { urls, username: None, credential: None }],
            Trust::web(),
            None,
        )
    }

    #[test]
    fn each_server_has_its_own_name_and_addresses() {
        let tcp = "turn:t.example:80?transport=tcp";
        let tls = "turns:[::1]";
        let servers = servers(&["stun:s", "turn:t.example", tcp, tls, tcp]);
        assert_eq!(servers.head_start, HEAD_START);
        assert_eq!(servers.stand_in("turn:t.example"), None, "UDP is the crate's own");
        assert_eq!(servers.stand_in(tcp).unwrap(), "relay-1.invalid:80");
        let name = servers.stand_in(tls).unwrap();
        assert_eq!(name, "relay-2.invalid:5349");
        assert_eq!(servers.endpoint(&name).unwrap(), "[::1]:5349");
        assert_eq!(servers.endpoint("t.example:80"), None);
        assert_eq!(servers.endpoint("relay-3.invalid:80"), None);
        let real: Vec<SocketAddr> = ["192.0.2.1:5349", "192.0.2.2:5349", "[2001:db8::1]:5349"]
            .map(|address| address.parse().unwrap())
            .to_vec();
        let given = servers.resolved(&name, &real);
        let stand_ins = ["240.0.0.2:5349", "[100::2]:5349"];
        assert_eq!(given, stand_ins.map(|address| address.parse::<SocketAddr>().unwrap()));
        assert_eq!(servers.behind(given[0]), Some((real[0], 1)));
        assert_eq!(servers.behind(given[1]), Some((real[2], 1)));
        assert_eq!(servers.behind(real[0]), None);
        assert_eq!(servers.behind("240.0.0.1:80".parse().unwrap()), None, "not looked up yet");
        let reported = format!("turn:{name}?transport=udp");
        assert_eq!(servers.configured(&reported), Some((tls, RelayTransport::Tls)));
        assert_eq!(servers.configured("turn:t.example:3478?transport=udp"), None);
    }

    #[test]
    fn without_udp_there_is_no_head_start() {
        let servers = servers(&["stun:s", "turns:t"]);
        assert_eq!(servers.head_start, Duration::ZERO);
        assert!(!servers.is_empty());
    }
}
