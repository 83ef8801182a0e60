//! Tests each STUN and TURN server over each transport and address family: DNS, reachability,
//! authentication, allocation, and round trips and throughput through the allocation.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::{StreamExt, future::join_all, stream};
use tokio::time::{timeout, timeout_at};

use super::{
    DoctorConfig,
    mirror::mirror,
    problem::Problem,
    report::{Burst, Rtt, Server, Throughput, millis},
    target::{ServerTarget, local_towards},
};
use crate::{
    peer::gathering::refusal_remedy,
    proto::token::{IceServer, expiry},
    stun::{
        client::{self, Client, ClientError, Login},
        uri::{ServerUri, Transport, is_turn},
    },
    text::printable,
};

/// Timeout of a DNS lookup.
const RESOLVE_WITHIN: Duration = Duration::from_secs(4);

/// Number of round trips measured through an allocation.
const ROUND_TRIPS: u32 = 10;

/// Maximum number of transports of one host tested concurrently: a user's number of allocations is
/// limited, and bursts must not interfere with each other.
const MAX_CONCURRENT: usize = 2;

/// Credentials that expire sooner than this are reported, seconds.
const EXPIRES_SOON_S: i64 = 600;

/// Resolves every name once; returns a target for each URL and address family.
pub(super) async fn resolve(
    config: &DoctorConfig,
    servers: &[IceServer],
    until: Instant,
) -> Vec<ServerTarget> {
    let listed = servers.iter().flat_map(|server| {
        let login = server.username.clone().zip(server.credential.clone());
        let login = login.map(|(username, password)| Login { username, password });
        server.urls.iter().map(move |url| (url.as_str(), login.clone()))
    });
    let mut urls: Vec<(&str, Option<Login>)> = Vec::new();
    for (url, login) in listed {
        if !urls.iter().any(|(known, _)| *known == url) {
            urls.push((url, login));
        }
    }
    let each = urls.into_iter().map(|(url, login)| resolve_one(config, url, login, until));
    join_all(each).await.into_iter().flatten().collect()
}

async fn resolve_one(
    config: &DoctorConfig,
    url: &str,
    login: Option<Login>,
    until: Instant,
) -> Vec<ServerTarget> {
    let turn = is_turn(url);
    let mut row = Server { url: url.to_owned(), turn, ..Server::default() };
    let uri: ServerUri = match url.parse() {
        Ok(uri) => uri,
        Err(error) => {
            let message = format!("not a valid ICE server URL: {error}");
            let remedy = "use stun:HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST";
            row.problem = Some(Problem::error(code(&row, "bad-url"), Some(url), message, remedy));
            return vec![ServerTarget::without_address(row)];
        }
    };
    row.transport = match uri.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
        Transport::Tls => "tls",
    };
    let started = Instant::now();
    let found = lookup(&uri, until).await;
    row.resolve_ms = Some(millis(started.elapsed()));
    let found = found.map(|all| all.into_iter().filter(|one| config.includes(one.ip())).collect());
    match found.map(|found: Vec<_>| by_family(config, &uri, login.as_ref(), &row, &found)) {
        Ok(targets) if !targets.is_empty() => targets,
        other => {
            let (message, remedy) = match other {
                Err(why) => {
                    (why, "check the spelling of the host name and this machine's name server")
                }
                Ok(_) => {
                    ("the host has no address of the selected family".to_owned(), "check --network")
                }
            };
            let problem = Problem::error(code(&row, "unresolved"), Some(url), message, remedy);
            row.problem = Some(problem);
            vec![ServerTarget::without_address(row)]
        }
    }
}

async fn lookup(uri: &ServerUri, until: Instant) -> Result<Vec<SocketAddr>, String> {
    let within = RESOLVE_WITHIN.min(until.saturating_duration_since(Instant::now()));
    match timeout(within, tokio::net::lookup_host(uri.endpoint())).await {
        Ok(Ok(found)) => Ok(found.collect()),
        Ok(Err(error)) => Err(format!("cannot resolve host name: {error}")),
        Err(_) => Err(format!("DNS lookup timed out after {} s", within.as_secs())),
    }
}

/// A target for the first address of each family that has a route.
fn by_family(
    config: &DoctorConfig,
    uri: &ServerUri,
    login: Option<&Login>,
    row: &Server,
    found: &[SocketAddr],
) -> Vec<ServerTarget> {
    let mut targets = Vec::new();
    for v4 in [true, false] {
        let all: Vec<_> = found.iter().copied().filter(|one| one.is_ipv4() == v4).collect();
        let Some(&address) = all.first() else { continue };
        let local = local_towards(config, address);
        // For a name with addresses of both families, one route is enough.
        let elsewhere =
            || found.iter().any(|one| one.is_ipv4() != v4 && local_towards(config, *one).is_some());
        if local.is_none() && elsewhere() {
            continue;
        }
        targets.push(ServerTarget {
            uri: Some(uri.clone()),
            login: login.cloned(),
            address: Some(address),
            local,
            all,
            row: Server { address: Some(address), ..row.clone() },
        });
    }
    targets
}

/// Tests all servers, at most [`MAX_CONCURRENT`] transports of one host at a time.
pub(super) async fn probe(
    config: &DoctorConfig,
    targets: &[ServerTarget],
    clock_skew: Option<f64>,
    until: Instant,
) -> Vec<Server> {
    let mut groups: BTreeMap<Option<IpAddr>, Vec<usize>> = BTreeMap::new();
    for (index, target) in targets.iter().enumerate() {
        groups.entry(target.address.map(|address| address.ip())).or_default().push(index);
    }
    let each = groups.into_values().map(|indexes| {
        stream::iter(indexes)
            .map(async |index| (index, probe_one(config, &targets[index], clock_skew, until).await))
            .buffer_unordered(MAX_CONCURRENT)
            .collect::<Vec<_>>()
    });
    let mut rows: Vec<_> = join_all(each).await.into_iter().flatten().collect();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

async fn probe_one(
    config: &DoctorConfig,
    target: &ServerTarget,
    clock_skew: Option<f64>,
    until: Instant,
) -> Server {
    let mut row = target.row.clone();
    let (Some(uri), Some(address)) = (&target.uri, target.address) else { return row };
    let now = SystemTime::now();
    row.credential_expires_in_s = target.login.as_ref().and_then(|login| expires_in(login, now));
    let server = client::Server {
        address,
        host: uri.host.clone(),
        transport: uri.transport,
        bind: target.local.filter(|_| config.interface.is_some()),
        trust: config.trust.clone(),
        login: target.login.clone().filter(|_| uri.turn),
    };
    let result = if target.local.is_none() {
        Ok(Err(ClientError::Io(std::io::Error::other("no route from this machine"))))
    } else {
        timeout_at(until.into(), exchange(&server, uri.turn, target.local, &mut row)).await
    };
    let login = server.login.as_ref().map(|login| login.username.as_str());
    row.problem = match result {
        Ok(Ok(())) => expiring(&row),
        Ok(Err(error)) => Some(describe(&row, &error, login, now, clock_skew)),
        Err(_) if row.works() => {
            row.not_measured.get_or_insert_with(|| "the time limit was reached".to_owned());
            expiring(&row)
        }
        Err(_) => Some(Problem::error(
            code(&row, "timeout"),
            Some(&row.url),
            "timed out before it was tested",
            "try again with a longer --timeout",
        )),
    };
    row
}

/// Tests one server; partial findings are in `row` even on a timeout.
async fn exchange(
    server: &client::Server,
    turn: bool,
    local: Option<IpAddr>,
    row: &mut Server,
) -> Result<(), ClientError> {
    let started = Instant::now();
    let mut client = Client::connect(server).await?;
    if server.transport != Transport::Udp {
        row.connect_ms = Some(millis(started.elapsed()));
    }
    let asked = Instant::now();
    if !turn {
        client.binding().await?;
        row.reachable = true;
        row.answer_ms = Some(millis(asked.elapsed()));
        return Ok(());
    }
    let allocated = client.allocate().await;
    match &allocated {
        Ok(_) => (row.reachable, row.authenticated) = (true, Some(true)),
        Err(ClientError::Refused { code, .. }) => {
            row.reachable = true;
            // Errors other than these are sent only to authenticated users.
            row.authenticated = Some(!matches!(code, 400 | 401 | 420 | 438));
        }
        Err(_) => {}
    }
    let allocation = allocated?;
    row.answer_ms = Some(millis(asked.elapsed()));
    row.relayed = Some(allocation.relayed);
    row.lifetime_s = Some(allocation.lifetime.as_secs());
    let measured = measure(&mut client, &allocation, local, row).await;
    // An allocation that is not released counts against the user's quota until it expires.
    let _ = client.release().await;
    match measured {
        Err(ClientError::Refused { code, reason }) => {
            row.not_measured = Some(format!(
                "the server relays neither to itself nor to this machine ({code} {reason})"
            ));
            Ok(())
        }
        other => other,
    }
}

/// Measures round trips and a burst: from the relayed address to itself or, if that is forbidden, to a
/// socket of this machine that echoes everything.
async fn measure(
    client: &mut Client,
    allocation: &client::Allocation,
    local: Option<IpAddr>,
    row: &mut Server,
) -> Result<(), ClientError> {
    let own = allocation.relayed;
    if client.permit(own.ip()).await.is_ok() && through(client, own, row).await? {
        return Ok(());
    }
    let (Some(local), Some(mapped)) = (local, allocation.mapped) else {
        row.not_measured = Some("nothing came back through the relayed address".to_owned());
        return Ok(());
    };
    client.permit(mapped.ip()).await?;
    let Ok(mirror) = mirror(local, own).await else { return Ok(()) };
    // Its first packets open the NAT, and reveal its external address as seen by the relay.
    let seen = client.receive(Instant::now() + Duration::from_millis(1500)).await?;
    let came_back = match seen {
        Some((peer, _)) => through(client, peer, row).await?,
        None => false,
    };
    mirror.abort();
    if !came_back {
        row.not_measured = Some("nothing came back through the relayed address".to_owned());
    }
    Ok(())
}

/// Whether anything came back from `peer`.
async fn through(
    client: &mut Client,
    peer: SocketAddr,
    row: &mut Server,
) -> Result<bool, ClientError> {
    let first = client.round_trips(peer, 3).await?;
    if first.is_empty() {
        return Ok(false);
    }
    let mut times = client.round_trips(peer, ROUND_TRIPS).await?;
    times.sort_unstable();
    if let (Some(min), Some(max)) = (times.first(), times.last()) {
        row.rtt_ms = Some(Rtt {
            sent: ROUND_TRIPS,
            lost: ROUND_TRIPS.saturating_sub(times.len() as u32),
            min: millis(*min),
            p50: millis(times[times.len() / 2]),
            max: millis(*max),
        });
    }
    let burst = client.burst(peer).await?;
    row.burst =
        Some(Burst { sent: burst.sent, received: burst.received, took_ms: millis(burst.took) });
    let throughput = client.throughput(peer).await?;
    row.throughput = Some(Throughput {
        sent: throughput.sent,
        received: throughput.received,
        bits_per_second: throughput.bits_per_second.round(),
    });
    Ok(true)
}

/// Seconds until TURN REST credentials expire, according to their username.
fn expires_in(login: &Login, now: SystemTime) -> Option<i64> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Some(i64::try_from(expiry(&login.username)?).ok()?.saturating_sub_unsigned(now))
}

fn expiring(row: &Server) -> Option<Problem> {
    let left = row.credential_expires_in_s.filter(|left| *left < EXPIRES_SOON_S && row.turn)?;
    let message = format!("the credential expires in {left} s");
    let remedy = "fetch a new token before each connection, or increase the lifetime of the TURN credentials";
    Some(Problem::error("credential-expires-soon", Some(&row.url), message, remedy).warning())
}

fn code(row: &Server, what: &str) -> String {
    format!("{}-{what}", if row.turn { "turn" } else { "stun" })
}

fn describe(
    row: &Server,
    error: &ClientError,
    username: Option<&str>,
    now: SystemTime,
    clock_skew: Option<f64>,
) -> Problem {
    let (what, remedy) = match error {
        ClientError::Dial(dial) => {
            let message = printable(&dial.to_string());
            return Problem::error(dial.code(), Some(&row.url), message, dial.remedy());
        }
        ClientError::Refused { code, .. } => {
            (code.to_string(), refusal_remedy(*code, username, now, clock_skew))
        }
        ClientError::Closed => {
            ("closed".to_owned(), "check that the server is running, and on this port".to_owned())
        }
        ClientError::Io(_) => {
            ("unreachable".to_owned(), "check this machine's network and routes".to_owned())
        }
        ClientError::HungUp | ClientError::Answer(_) | ClientError::TooLong => (
            "no-answer".to_owned(),
            "check that it is a STUN (RFC 8489) or TURN (RFC 8656) server".to_owned(),
        ),
        ClientError::Silent { .. } if row.transport == "udp" => (
            "silent".to_owned(),
            "check host and port, that the server is running, and whether a firewall blocks UDP"
                .to_owned(),
        ),
        ClientError::Silent { .. } => {
            ("silent".to_owned(), "check that the server speaks TURN on this port".to_owned())
        }
    };
    let message = printable(&error.to_string());
    let message = match error {
        ClientError::Refused { .. } => format!("request rejected: {message}"),
        _ => message,
    };
    Problem::error(code(row, &what), Some(&row.url), message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_username_states_the_expiry_of_a_credential() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let left = |username: &str| {
            expires_in(&Login { username: username.into(), password: String::new() }, now)
        };
        assert_eq!(left("1700000060:phone"), Some(60));
        assert_eq!(left("1699999940"), Some(-60));
        assert_eq!(left("phone"), None);
        assert_eq!(left("42:phone"), None);
    }
}
