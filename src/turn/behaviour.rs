//! NAT behavior discovery, server side (RFC 5780 §6): with an alternate address the server has four UDP
//! sockets, two addresses with two ports each, and responds from the one that is requested.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::net::UdpSocket;

use super::{
    config::{TurnConfig, TurnError},
    tuple::{ClientTransport, FiveTuple},
};
use crate::stun::message::{Message, attr};

/// Number of attempts to find ports that are free on both addresses.
const PORT_TRIES: usize = 16;

/// The sockets involved in answering a Binding request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The socket to respond from: RESPONSE-ORIGIN.
    pub origin: SocketAddr,
    /// The socket whose address and port both differ from those of the receiving socket: OTHER-ADDRESS.
    pub other: SocketAddr,
    /// Destination of the response: the client's address, with RESPONSE-PORT if requested.
    pub to: SocketAddr,
}

/// The route of a response; `None` if this server has no alternate address, or over TCP, where no other
/// socket can respond.
pub(super) fn route(config: &TurnConfig, tuple: FiveTuple, request: &Message<'_>) -> Option<Route> {
    let (primary, alternate) = (config.udp?, config.alternate?);
    if tuple.transport != ClientTransport::Udp {
        return None;
    }
    let asked = tuple.server;
    let opposite = |is_primary: bool| if is_primary { alternate } else { primary };
    let other = SocketAddr::new(
        opposite(asked.ip() == primary.ip()).ip(),
        opposite(asked.port() == primary.port()).port(),
    );
    let change = request.change_request().unwrap_or_default();
    let origin = SocketAddr::new(
        if change.ip { other.ip() } else { asked.ip() },
        if change.port { other.port() } else { asked.port() },
    );
    let mut to = tuple.client;
    if let Some([high, low, ..]) = request.get(attr::RESPONSE_PORT) {
        to.set_port(u16::from_be_bytes([*high, *low]));
    }
    Some(Route { origin, other, to })
}

/// The three sockets in addition to the primary one.
pub(super) type Sockets = Vec<(SocketAddr, Arc<UdpSocket>)>;

/// Binds the sockets of the alternate address, and stores the bound addresses in `config`.
pub(super) async fn bind(config: &mut TurnConfig) -> Result<Sockets, TurnError> {
    let Some(wanted) = config.alternate else { return Ok(Vec::new()) };
    let wrong = |reason| TurnError::Alternate { alternate: wanted, reason };
    let primary = config.udp.ok_or_else(|| wrong("there is no primary UDP address"))?;
    if primary.ip().is_unspecified() || wanted.ip().is_unspecified() {
        return Err(wrong(
            "neither address may be a wildcard: responses must come from the requested address",
        ));
    }
    if wanted.ip() == primary.ip() || wanted.is_ipv4() != primary.is_ipv4() {
        return Err(wrong("it must be a different address of the same family"));
    }
    if wanted.port() == primary.port() {
        return Err(wrong("its port must differ"));
    }
    let mut tries = if wanted.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_once(primary, wanted).await {
            Ok((sockets, alternate)) => {
                config.alternate = Some(alternate);
                return Ok(sockets);
            }
            Err((_, error)) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err((address, source)) => {
                return Err(TurnError::Listen { transport: "udp", address, source });
            }
        }
    }
}

async fn bind_once(
    primary: SocketAddr,
    wanted: SocketAddr,
) -> Result<(Sockets, SocketAddr), (SocketAddr, io::Error)> {
    let mut sockets = Sockets::new();
    let mut open = async |address: SocketAddr| {
        let socket = UdpSocket::bind(address).await.map_err(|error| (address, error))?;
        let bound = socket.local_addr().map_err(|error| (address, error))?;
        sockets.push((bound, Arc::new(socket)));
        Ok(bound)
    };
    let alternate = open(wanted).await?;
    open(SocketAddr::new(primary.ip(), alternate.port())).await?;
    open(SocketAddr::new(alternate.ip(), primary.port())).await?;
    Ok((sockets, alternate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::turn_rest::TurnSecrets,
        stun::message::{Builder, ChangeRequest, Class, method},
    };

    fn config() -> TurnConfig {
        let secrets = TurnSecrets { current: "s".into(), previous: None };
        TurnConfig {
            alternate: "127.0.0.2:3479".parse().ok(),
            ..TurnConfig::loopback(3478, Arc::new(secrets))
        }
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn routed(server: &str, transport: ClientTransport, builder: Builder) -> Option<Route> {
        let raw = builder.finish();
        let client = at("192.0.2.1:1000");
        let tuple = FiveTuple { transport, client, server: at(server) };
        route(&config(), tuple, &Message::parse(&raw).unwrap())
    }

    #[test]
    fn the_other_address_is_opposite_and_the_origin_is_as_requested() {
        let asking = |ip, port| {
            let change = ChangeRequest { ip, port };
            Builder::new(Class::Request, method::BINDING, [0; 12]).change_request(change)
        };
        for (server, other, by_ip, by_port) in [
            ("127.0.0.1:3478", "127.0.0.2:3479", "127.0.0.2:3478", "127.0.0.1:3479"),
            ("127.0.0.2:3479", "127.0.0.1:3478", "127.0.0.1:3479", "127.0.0.2:3478"),
            ("127.0.0.1:3479", "127.0.0.2:3478", "127.0.0.2:3479", "127.0.0.1:3478"),
        ] {
            let origin = |ip, port| {
                let route = routed(server, ClientTransport::Udp, asking(ip, port)).unwrap();
                assert_eq!(route.other, at(other));
                assert_eq!(route.to, at("192.0.2.1:1000"));
                route.origin.to_string()
            };
            assert_eq!(
                [
                    origin(false, false),
                    origin(true, true),
                    origin(true, false),
                    origin(false, true)
                ],
                [server, other, by_ip, by_port]
            );
        }
        assert_eq!(routed("127.0.0.1:3478", ClientTransport::Tcp, asking(true, true)), None);
    }

    #[test]
    fn a_response_goes_to_the_requested_port() {
        let request = Builder::new(Class::Request, method::BINDING, [0; 12])
            .attribute(attr::RESPONSE_PORT, &[0x12, 0x34, 0, 0]);
        let route = routed("127.0.0.1:3478", ClientTransport::Udp, request).unwrap();
        assert_eq!(route.to, at("192.0.2.1:4660"));
    }

    #[tokio::test]
    async fn an_invalid_alternate_is_rejected() {
        for (udp, alternate) in [
            ("127.0.0.1:3478", "127.0.0.1:3479"),
            ("127.0.0.1:3478", "127.0.0.2:3478"),
            ("127.0.0.1:3478", "[::1]:3479"),
            ("0.0.0.0:3478", "127.0.0.2:3479"),
        ] {
            let (udp, alternate) = (udp.parse().ok(), alternate.parse().ok());
            let mut config = TurnConfig { udp, alternate, ..config() };
            let error = bind(&mut config).await.unwrap_err();
            assert!(matches!(error, TurnError::Alternate { .. }), "{error}");
            assert!(!error.remedy().is_empty());
        }
    }
}
