//! Mapping and filtering with the help of a TURN server, for servers without an alternate address
//! (most servers).
//!
//! The relayed address is one more remote endpoint: it reports the source address of our packets,
//! and it sends to three of our sockets, which have (a) never sent to its IP address, (b) sent to
//! another of its ports, or (c) sent to it. Which packets arrive distinguishes
//! endpoint-independent, address-dependent and address-and-port-dependent filtering; if (c) fails,
//! nothing is known.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use tokio::{
    net::UdpSocket,
    time::{timeout, timeout_at},
};

use super::{DoctorConfig, target::ServerTarget};
use crate::{
    nat::Behaviour,
    stun::{
        client::{self, Client, ClientError},
        discovery::{Bounds, Findings, Observed},
        message::{Builder, Class, Message, method},
    },
};

/// When a packet is sent and repeated, and when it counts as lost; ms from the start.
const SENT_AT: [u64; 4] = [0, 200, 500, 1000];
const LOST_AFTER: u64 = 1600;

/// Timeout of the whole test.
const WITHIN: Duration = Duration::from_secs(7);

/// Findings about the NAT from a TURN server.
#[derive(Debug, Clone)]
pub(super) struct RelayFindings {
    /// External addresses of one socket, as seen by the servers and the relayed address.
    pub(super) observed: Vec<Observed>,
    /// The filtering, as far as it is known.
    pub(super) filtering: Bounds,
}

/// Tests with the first usable TURN server; otherwise returns the reason, human-readable.
pub(super) async fn probe(
    config: &DoctorConfig,
    targets: &[ServerTarget],
    local: IpAddr,
    found: &Findings,
    until: Instant,
) -> Result<RelayFindings, String> {
    let family = local.is_ipv4();
    let mut why = "no TURN server is available".to_owned();
    for target in targets {
        let (Some(uri), Some(address)) = (&target.uri, target.address) else { continue };
        if !uri.turn || address.is_ipv4() != family {
            continue;
        }
        let server = client::Server {
            address,
            host: uri.host.clone(),
            transport: uri.transport,
            bind: config.interface.as_ref().and(target.local),
            trust: config.trust.clone(),
            login: target.login.clone(),
        };
        let until = until.min(Instant::now() + WITHIN);
        match timeout_at(until.into(), probe_server(&server, local, found)).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(ClientError::Refused { code: 403, .. })) => {
                "the TURN server does not relay to this machine's address".clone_into(&mut why);
            }
            Ok(Err(error)) => why = format!("the TURN server failed: {error}"),
            Err(_) => "the TURN server timed out".clone_into(&mut why),
        }
    }
    Err(why)
}

async fn probe_server(
    server: &client::Server,
    local: IpAddr,
    found: &Findings,
) -> Result<RelayFindings, ClientError> {
    let mut client = Client::connect(server).await?;
    let allocation = client.allocate().await?;
    let seen = through(&mut client, allocation.relayed, local, found).await;
    // An allocation that is not released counts against the user's quota until it expires.
    let _ = client.release().await;
    seen
}

async fn through(
    client: &mut Client,
    relayed: SocketAddr,
    local: IpAddr,
    found: &Findings,
) -> Result<RelayFindings, ClientError> {
    let ours: BTreeSet<IpAddr> = found.observed.iter().map(|one| one.mapped.ip()).collect();
    for ip in ours {
        client.permit(ip).await?;
    }
    let answering: Vec<SocketAddr> = found.observed.iter().map(|one| one.server).collect();
    let other_host = answering.iter().find(|server| server.ip() != relayed.ip()).copied();
    let same_host = answering.iter().find(|server| server.ip() == relayed.ip()).copied();

    let (opened, observed) = open_socket(client, relayed, local, &answering).await?;
    let Some((socket, peer)) = opened else {
        return Ok(RelayFindings { observed, filtering: Bounds::UNKNOWN });
    };
    if !arrives(client, &socket, peer, relayed).await? {
        return Ok(RelayFindings { observed, filtering: Bounds::UNKNOWN });
    }
    let mut arrived = [None, None];
    for (arrived, server) in arrived.iter_mut().zip([other_host, same_host]) {
        let Some(server) = server else { continue };
        let socket = UdpSocket::bind((local, 0)).await?;
        if let Some(mapped) = mapped_by(&socket, server).await {
            *arrived = Some(arrives(client, &socket, mapped, relayed).await?);
        }
        if *arrived == Some(true) {
            break;
        }
    }
    Ok(RelayFindings { observed, filtering: filtering(arrived) })
}

/// The filtering, given whether packets arrived at a socket that never sent to that address, and at one
/// that sent to another port of it; `None` where it could not be tested.
fn filtering(arrived: [Option<bool>; 2]) -> Bounds {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    match arrived {
        [Some(true), _] => Bounds::exactly(EndpointIndependent),
        [_, Some(false)] => Bounds::exactly(AddressAndPortDependent),
        [Some(false), Some(true)] => Bounds::exactly(AddressDependent),
        [Some(false), None] => Bounds { at_least: AddressDependent, ..Bounds::UNKNOWN },
        [None, Some(true)] => Bounds { at_most: AddressDependent, ..Bounds::UNKNOWN },
        [None, None] => Bounds::UNKNOWN,
    }
}

/// A socket, and its external address as seen by the relayed address.
type OpenedSocket = Option<(UdpSocket, SocketAddr)>;

/// A socket that has sent to the relayed address and to the servers, and its address as seen by each.
async fn open_socket(
    client: &mut Client,
    relayed: SocketAddr,
    local: IpAddr,
    servers: &[SocketAddr],
) -> Result<(OpenedSocket, Vec<Observed>), ClientError> {
    let socket = UdpSocket::bind((local, 0)).await?;
    let mut observed = Vec::new();
    for &server in servers {
        if let Some(mapped) = mapped_by(&socket, server).await {
            observed.push(Observed { server, mapped, took: None });
        }
    }
    let started = Instant::now();
    for (sent, next) in schedule(started) {
        debug_assert!(sent <= next);
        socket.send_to(b"orion-peer doctor", relayed).await?;
        if let Some((peer, _)) = client.receive(next).await? {
            observed.push(Observed { server: relayed, mapped: peer, took: None });
            return Ok((Some((socket, peer)), observed));
        }
    }
    Ok((None, observed))
}

/// When to send each packet, and until when to wait for a response.
fn schedule(started: Instant) -> impl Iterator<Item = (Instant, Instant)> {
    let at = move |ms: u64| started + Duration::from_millis(ms);
    let ends = SENT_AT.into_iter().skip(1).chain([LOST_AFTER]);
    SENT_AT.into_iter().zip(ends).map(move |(sent, next)| (at(sent), at(next)))
}

/// The external address of a socket, as seen by that server.
async fn mapped_by(socket: &UdpSocket, server: SocketAddr) -> Option<SocketAddr> {
    let id = rand::random();
    let request = Builder::new(Class::Request, method::BINDING, id).fingerprint().finish();
    let mut buffer = [0; 1500];
    for (_, next) in schedule(Instant::now()) {
        socket.send_to(&request, server).await.ok()?;
        while let Ok(Ok((length, from))) =
            timeout_at(next.into(), socket.recv_from(&mut buffer)).await
        {
            let answer = Message::parse(&buffer[..length]).filter(|m| m.transaction == id);
            if let Some(mapped) = answer.and_then(|answer| answer.mapped_address())
                && from == server
            {
                return Some(mapped);
            }
        }
    }
    None
}

/// Whether packets from the relayed address to `mapped` arrive at the socket.
async fn arrives(
    client: &mut Client,
    socket: &UdpSocket,
    mapped: SocketAddr,
    relayed: SocketAddr,
) -> Result<bool, ClientError> {
    let mut buffer = [0; 1500];
    for (_, next) in schedule(Instant::now()) {
        client.send_to(mapped, b"orion-peer doctor").await?;
        loop {
            let wait = next.saturating_duration_since(Instant::now());
            match timeout(wait, socket.recv_from(&mut buffer)).await {
                Ok(Ok((_, from))) if from == relayed => return Ok(true),
                Ok(_) => {}
                Err(_) => break,
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Behaviour::{
        AddressAndPortDependent as Apd, AddressDependent as Ad, EndpointIndependent as Ei,
    };

    #[test]
    fn arriving_packets_determine_the_filtering() {
        for (arrived, expected) in [
            ([Some(true), None], Bounds::exactly(Ei)),
            ([Some(false), Some(true)], Bounds::exactly(Ad)),
            ([Some(false), Some(false)], Bounds::exactly(Apd)),
            ([None, Some(false)], Bounds::exactly(Apd)),
            ([None, Some(true)], Bounds { at_least: Ei, at_most: Ad }),
            ([Some(false), None], Bounds { at_least: Ad, at_most: Apd }),
            ([None, None], Bounds::UNKNOWN),
        ] {
            assert_eq!(filtering(arrived), expected, "{arrived:?}");
        }
    }
}
