//! Behavior of the NAT: tested according to RFC 5780 if a server has an alternate address;
//! otherwise, mapping is tested with several servers, and filtering with the help of a TURN server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    DoctorConfig, relayed,
    report::Nat,
    scope::{scope, seen_from},
    target::ServerTarget,
};
use crate::stun::{
    discovery::{
        Findings,
        driver::{binding_lifetime, discover},
        judge,
        lifetime::Lives,
    },
    uri::Transport,
};

/// Maximum number of servers queried for the mapping.
const MAX_SERVERS: usize = 8;

/// The findings, and the local address and server for measuring the lifetime of a binding.
pub(super) async fn look(
    config: &DoctorConfig,
    targets: &[ServerTarget],
    until: Instant,
    progress: &(dyn Fn(&str) + Sync),
) -> (Nat, Option<(IpAddr, SocketAddr)>) {
    let by_udp = |v4: bool| {
        let udp = targets.iter().filter(move |target| {
            target.local.is_some_and(|local| local.is_ipv4() == v4)
                && target.uri.as_ref().is_some_and(|uri| uri.transport == Transport::Udp)
        });
        udp.collect::<Vec<_>>()
    };
    let (v4, v6) = (by_udp(true), by_udp(false));
    let has_v6 = !v6.is_empty();
    let (main, other) = if v4.is_empty() { (v6, Vec::new()) } else { (v4, v6) };
    let (found, v6) =
        tokio::join!(one_family(config, targets, &main, until), any_answers(&other, until));
    let Some((local, found)) = found else { return (Nat::default(), None) };
    progress("servers");
    let (mut nat, reference) = found;
    nat.ipv6 = match (local.is_ipv6(), has_v6) {
        (true, _) => nat.udp,
        (false, true) => v6,
        (false, false) => None,
    };
    (nat, reference.map(|server| (local, server)))
}

/// Whether any of these servers answers; `None` if none could be queried.
async fn any_answers(targets: &[&ServerTarget], until: Instant) -> Option<bool> {
    let local = targets.first()?.local?;
    let servers: Vec<_> = targets.iter().filter_map(|target| target.address).collect();
    let found = discover(local, &servers, left(until)).await.ok()?;
    Some(found.udp_answers())
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Servers that are reached from the same local address; prefers those on the internet.
fn from_one_address(targets: &[&ServerTarget]) -> Option<(IpAddr, Vec<SocketAddr>)> {
    let rank = |target: &&&ServerTarget| match target.address.map(|address| scope(address.ip())) {
        Some("public") => 0,
        Some("loopback") | None => 2,
        Some(_) => 1,
    };
    let local = targets.iter().min_by_key(rank)?.local?;
    let mut servers = Vec::new();
    for target in targets.iter().filter(|target| target.local == Some(local)) {
        for address in &target.all {
            if !servers.contains(address) && servers.len() < MAX_SERVERS {
                servers.push(*address);
            }
        }
    }
    Some((local, servers))
}

type FamilyFindings = (IpAddr, (Nat, Option<SocketAddr>));

async fn one_family(
    config: &DoctorConfig,
    all: &[ServerTarget],
    targets: &[&ServerTarget],
    until: Instant,
) -> Option<FamilyFindings> {
    let (local, servers) = from_one_address(targets)?;
    let found = match discover(local, &servers, left(until)).await {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%local, %error, "cannot open a socket to examine the NAT");
            return None;
        }
    };
    let mut nat = nat_of(local, &servers, &found);
    let mapping_known = nat.translated != Some(true) || found.mapping.exact().is_some();
    if found.udp_answers() && !(mapping_known && found.filtering.exact().is_some()) {
        let relayed = relayed::probe(config, all, local, &found, until).await;
        merge_relay_findings(&mut nat, &found, relayed);
    }
    let reference = found.observed.first().map(|one| one.server);
    // Servers with an alternate address also support RESPONSE-PORT.
    let reference = found.filtering_test.other.map(|(server, _)| server).or(reference);
    Some((local, (nat, reference)))
}

fn nat_of(local: IpAddr, servers: &[SocketAddr], found: &Findings) -> Nat {
    let mapped: BTreeSet<IpAddr> = found.observed.iter().map(|one| one.mapped.ip()).collect();
    let nat = found.translated == Some(true);
    let by_other = found.filtering_test.other.is_some();
    Nat {
        udp: Some(found.udp_answers()),
        translated: found.translated,
        local: Some(local),
        mapped: mapped.first().copied(),
        pool: if mapped.len() > 1 { mapped.into_iter().collect() } else { Vec::new() },
        mapping: nat.then_some(found.mapping),
        filtering: found.udp_answers().then_some(found.filtering),
        mapping_by: nat.then_some(if by_other { "rfc5780" } else { "servers" }),
        filtering_by: found.filtering.exact().map(|_| "rfc5780"),
        filtering_unknown: found.filtering_test.obstacle().map(str::to_owned),
        ports: found.ports,
        hairpinning: found.hairpinning,
        seen_from: seen_from(servers),
        ..Nat::default()
    }
}

fn merge_relay_findings(
    nat: &mut Nat,
    found: &Findings,
    relayed: Result<relayed::RelayFindings, String>,
) {
    match relayed {
        Ok(seen) => {
            if nat.translated == Some(true) {
                let before = found.mapping;
                let together = before.and(judge::mapping(&seen.observed));
                if together != before {
                    nat.mapping_by = Some("turn");
                }
                nat.mapping = Some(together);
            }
            if nat.filtering.is_some_and(|known| known.exact().is_none()) {
                nat.filtering = Some(found.filtering.and(seen.filtering));
                if seen.filtering.exact().is_some() {
                    nat.filtering_by = Some("turn");
                    nat.filtering_unknown = None;
                }
            }
        }
        Err(why) => {
            if let Some(unknown) = &mut nat.filtering_unknown {
                unknown.push_str(", and ");
                unknown.push_str(&why);
            }
        }
    }
}

/// Measures the lifetime of a binding, up to `max`.
pub(super) async fn lifetime(nat: &mut Nat, local: IpAddr, server: SocketAddr, max: Duration) {
    let seconds = |length: Duration| Some(length.as_secs_f64());
    nat.binding_lifetime_s = Some(match binding_lifetime(local, server, max).await {
        Ok(Lives::AtLeast(alive)) => [seconds(alive), None],
        Ok(Lives::Between(alive, gone)) => [seconds(alive), seconds(gone)],
        Ok(Lives::Unknown) | Err(_) => [None, None],
    });
}
