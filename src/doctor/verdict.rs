//! What follows from everything that was found: which peers can be reached, how, and what to do.
//!
//! Who is reached directly comes from [`theory`]: this machine's NAT against
//! every profile of the matrix. Where a behaviour is known only between bounds, the stricter one counts.

use serde::Serialize;

use super::{
    DoctorConfig,
    report::{Nat, Problem, Report, Severity},
};
use crate::nat::{
    BINDING_TIMEOUT, Behaviour, Layer, Nat as Translating, Path, Ports, Profile,
    profile::{MATRIX, NAMES},
    theory::{self, Relays},
};

/// Who can be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every peer, directly or by a relay.
    All,
    /// Some cannot be.
    Some,
    /// Nobody: signaling or every server fails.
    #[default]
    None,
}

/// What follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Who can be reached.
    pub class: Class,
    /// Exit code: 0 all, 3 some cannot be reached, 1 nothing works or a server fails.
    pub exit: u8,
    /// In plain words.
    pub text: String,
    /// NAT profiles of peers that are reached directly.
    pub direct: Vec<String>,
    /// Of those that are reached by a relay.
    pub relay: Vec<String>,
    /// Of those that are not reached.
    pub none: Vec<String>,
    /// Transports by which a relay works: `udp`, `tcp`, `tls`.
    pub relays: Vec<&'static str>,
}

/// Judges, and adds the problems that show only in the whole.
pub(super) fn judge(
    report: &mut Report,
    config: &DoctorConfig,
    any_configured: bool,
    problems: &mut Vec<Problem>,
) -> Verdict {
    let mut relays: Vec<&'static str> = report
        .servers
        .iter()
        .filter(|server| server.turn && server.works())
        .map(|server| server.transport)
        .collect();
    relays.sort_by_key(|transport| ["udp", "tcp", "tls"].iter().position(|t| t == transport));
    relays.dedup();
    settle_udp(report);
    let profile = profile(&report.nat);
    report.nat.profile = profile.as_ref().and_then(|profile| name(profile, &report.nat));
    let mut verdict = reach(profile.as_ref(), relays);
    problems.extend(about_the_nat(&report.nat, &report.interfaces));
    soften(&report.nat, &verdict, problems);
    if let Some(problem) = about_relays(report, &verdict, any_configured) {
        problems.push(problem);
    }
    let contacted = [&report.token, &report.signaling].into_iter().flatten().all(|one| one.ok);
    let works = report.servers.iter().any(super::report::Server::works);
    let host_only = !any_configured && config.contact.is_some();
    let fails = problems.iter().any(|p| p.severity == Severity::Error && !is_of_network(&p.code));
    (verdict.class, verdict.exit) = match () {
        () if !contacted || (any_configured && !works) => (Class::None, 1),
        () if verdict.none.is_empty() && !host_only && works => (Class::All, 0),
        () if fails => (Class::Some, 1),
        () => (Class::Some, 3),
    };
    verdict.text = words(report, &verdict, profile.as_ref(), contacted, any_configured);
    verdict
}

/// Silence of UDP means that it is blocked only when the same machines answer otherwise.
fn settle_udp(report: &mut Report) {
    let by_stream = report.servers.iter().any(|one| one.reachable && one.transport != "udp");
    let by_udp = report.servers.iter().any(|one| one.reachable && one.transport == "udp");
    match report.nat.udp {
        Some(false) if by_udp => report.nat.udp = Some(true),
        Some(false) if !by_stream => report.nat.udp = None,
        _ => {}
    }
}

/// Problems of the network and not of a server: nothing is to be repaired there.
fn is_of_network(code: &str) -> bool {
    matches!(
        code,
        "udp-blocked" | "no-relay" | "no-relay-over-tcp" | "no-ice-servers" | "nat-unknown"
    )
}

/// What stands in front of this machine; `None` when it is not known.
fn profile(nat: &Nat) -> Option<Profile> {
    if nat.udp == Some(false) {
        return Some(Profile { layers: vec![Layer::UdpBlocked] });
    }
    let strictest = Behaviour::AddressAndPortDependent;
    let filtering = nat.filtering.map_or(strictest, |known| known.at_most);
    let layers = match nat.translated? {
        true => {
            let mapping = nat.mapping.map_or(strictest, |known| known.at_most);
            let plain = Translating::new(mapping, filtering);
            vec![Layer::Nat(Translating { ports: nat.ports.unwrap_or(plain.ports), ..plain })]
        }
        false if filtering == Behaviour::EndpointIndependent => Vec::new(),
        false => vec![Layer::Firewall { filtering, timeout: BINDING_TIMEOUT }],
    };
    Some(Profile { layers })
}

/// The named profile that is this one; which ports a NAT gives matters only where they can be guessed.
fn name(profile: &Profile, nat: &Nat) -> Option<String> {
    let exact =
        |known: Option<crate::stun::discovery::Bounds>| known.is_none_or(|k| k.exact().is_some());
    if profile.passes_udp() && !(exact(nat.mapping) && exact(nat.filtering)) {
        return None;
    }
    let counts = nat.ports == Some(Ports::Sequential);
    let symmetric = profile.mapping() == Some(Behaviour::AddressAndPortDependent);
    let is = |text: &&str| {
        let Ok(named) = text.parse::<Profile>() else { return false };
        let counting = named
            .layers
            .iter()
            .any(|layer| matches!(layer, Layer::Nat(nat) if nat.ports == Ports::Sequential));
        named.passes_udp() == profile.passes_udp()
            && named.translates() == profile.translates()
            && (named.mapping(), named.filtering()) == (profile.mapping(), profile.filtering())
            && counting == (counts && symmetric)
    };
    let known = NAMES.iter().find(|text| is(text)).map(|text| (*text).to_owned());
    known.or_else(|| match (profile.mapping(), profile.filtering()) {
        (Some(mapping), Some(filtering)) => {
            Some(format!("{}m-{}f", mapping.initials(), filtering.initials()))
        }
        _ => None,
    })
}

fn reach(profile: Option<&Profile>, relays: Vec<&'static str>) -> Verdict {
    let offered = Relays {
        udp: relays.contains(&"udp"),
        stream: relays.iter().any(|transport| *transport != "udp"),
    };
    // Behind something unknown nothing but relays can be counted on.
    let unknown = Profile {
        layers: vec![Layer::Nat(Translating::new(
            Behaviour::AddressAndPortDependent,
            Behaviour::AddressAndPortDependent,
        ))],
    };
    let mut verdict = Verdict { relays, ..Verdict::default() };
    for text in MATRIX {
        let Ok(other) = text.parse::<Profile>() else { continue };
        let list = match theory::expected(profile.unwrap_or(&unknown), &other, offered) {
            Path::Direct => &mut verdict.direct,
            Path::Relay => &mut verdict.relay,
            Path::None => &mut verdict.none,
        };
        list.push(text.to_owned());
    }
    verdict
}

fn about_the_nat(nat: &Nat, interfaces: &[super::report::Interface]) -> Vec<Problem> {
    let mut problems = Vec::new();
    if nat.udp == Some(false) {
        problems.push(Problem::error(
            "udp-blocked",
            None,
            "UDP does not get out of this network",
            "let UDP out to the TURN servers, or use TURN over TCP or TLS, best on port 443",
        ));
    }
    let scope = nat.mapped.map(super::interfaces::scope);
    if nat.translated == Some(true) && nat.seen_from.is_none() && scope == Some("private") {
        problems.push(
            Problem::error(
                "double-nat",
                None,
                "the servers see a private address of this machine: there may be another NAT beyond",
                "use servers on the internet to see all of it",
            )
            .warning(),
        );
    }
    let shared = interfaces.iter().any(|one| one.scope == "shared" && !one.vpn);
    if shared || scope == Some("shared") {
        problems.push(
            Problem::error(
                "carrier-grade-nat",
                None,
                "an address of 100.64.0.0/10: the carrier has a NAT of its own (RFC 6598)",
                "nothing is to be done at the router: count on a TURN server, or use IPv6",
            )
            .warning(),
        );
    }
    if let Some(vpn) = interfaces.iter().find(|one| Some(one.address) == nat.local && one.vpn) {
        problems.push(
            Problem::error(
                "vpn",
                Some(&vpn.name),
                "the way to the servers leads through what looks like a VPN",
                "what is told here holds for the VPN: switch it off, or look with --interface",
            )
            .warning(),
        );
    }
    problems
}

/// What a network that blocks UDP silences is no fault of the servers, and where everybody is reached
/// all the same a server's fault is only good to know.
fn soften(nat: &Nat, verdict: &Verdict, problems: &mut [Problem]) {
    let all = verdict.none.is_empty();
    for problem in problems {
        let silenced = nat.udp == Some(false) && problem.code.ends_with("-silent");
        let of_servers = ["turn-", "stun-", "tcp-", "tls-", "udp-"];
        if silenced || (all && of_servers.iter().any(|prefix| problem.code.starts_with(prefix))) {
            problem.severity = Severity::Warning;
        }
    }
}

fn about_relays(report: &Report, verdict: &Verdict, any_configured: bool) -> Option<Problem> {
    if !any_configured {
        return Some(Problem::error(
            "no-ice-servers",
            None,
            "no STUN or TURN server is known",
            "give --ice-server stun:HOST and turn:HOST, or let the token API name them",
        ));
    }
    if verdict.none.is_empty() {
        return None;
    }
    let named = report.servers.iter().any(|server| server.turn);
    if verdict.relays.is_empty() {
        let (message, remedy) = if named {
            ("no TURN server works", "repair the TURN servers, as told above")
        } else {
            ("no TURN server is known", "add one: --ice-server turn:HOST, or `serve` with its own")
        };
        let message = format!("{message}: who cannot be reached directly cannot be reached");
        return Some(Problem::error("no-relay", None, message, remedy));
    }
    Some(Problem::error(
        "no-relay-over-tcp",
        None,
        "no TURN server works over TCP or TLS: peers without UDP cannot be reached",
        "let the TURN server listen on TCP or TLS, and name turn:HOST?transport=tcp or turns:HOST",
    ))
}

fn words(
    report: &Report,
    verdict: &Verdict,
    profile: Option<&Profile>,
    contacted: bool,
    any_configured: bool,
) -> String {
    let mut text = whereabouts(&report.nat, profile, any_configured);
    if let Some(seen_from) = report.nat.seen_from {
        text.push_str(match seen_from {
            "this-machine" => ", as far as servers on this machine can tell",
            _ => ", as far as servers in this network can tell",
        });
    }
    text.push_str(": ");
    let some = |list: &[String]| list.join(", ");
    let direct = match (verdict.direct.len(), verdict.direct.as_slice()) {
        (_, _) if profile.is_none() => "who is reached directly cannot be told".to_owned(),
        (0, _) => "nobody is reached directly".to_owned(),
        (n, _) if n + 1 >= MATRIX.len() => "every peer that has UDP is reached directly".to_owned(),
        (_, list) => format!("direct only with peers behind {}", some(list)),
    };
    text.push_str(&direct);
    text.push_str("; ");
    let relays = listed(&verdict.relays);
    let relayed = match (verdict.relays.is_empty(), verdict.none.as_slice()) {
        (true, []) => "no relay is needed".to_owned(),
        (true, _) if profile.is_none() => {
            "no TURN server works, so whoever is not reached directly is not reached".to_owned()
        }
        (true, none) => {
            format!("no TURN server works, so peers behind {} are not reached", some(none))
        }
        (false, []) => format!("TURN over {relays} works, so every peer can be reached"),
        (false, none) => {
            format!("TURN over {relays} works, but peers behind {} are not reached", some(none))
        }
    };
    text.push_str(&relayed);
    text.push('.');
    if !contacted {
        text.push_str(" But peers cannot find each other: signaling does not work.");
    }
    text
}

/// `UDP, TCP and TLS`.
fn listed(transports: &[&str]) -> String {
    let names: Vec<String> = transports.iter().map(|one| one.to_uppercase()).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn whereabouts(nat: &Nat, profile: Option<&Profile>, any_configured: bool) -> String {
    let Some(profile) = profile else {
        return if any_configured {
            "No server answered by UDP, so the NAT is not known".to_owned()
        } else {
            "No STUN or TURN server is known, so the NAT is not known".to_owned()
        };
    };
    if !profile.passes_udp() {
        return "Behind a network that blocks UDP".to_owned();
    }
    let filtering = nat.filtering.map_or_else(|| "unknown".to_owned(), |known| known.to_string());
    match (nat.translated, profile.layers.is_empty()) {
        (Some(true), _) => {
            let kind = match nat.mapping.and_then(crate::stun::discovery::Bounds::exact) {
                Some(Behaviour::AddressAndPortDependent) => "symmetric NAT",
                _ => "NAT",
            };
            let mapping =
                nat.mapping.map_or_else(|| "unknown".to_owned(), |known| known.to_string());
            let ports = match nat.ports {
                Some(Ports::Sequential) => ", ports one after the other",
                _ => "",
            };
            format!("Behind a {kind} (mapping {mapping}, filtering {filtering}{ports})")
        }
        (_, true) => "No NAT and no firewall against UDP".to_owned(),
        (_, false) if nat.filtering.is_some_and(|known| known.exact().is_some()) => {
            format!("No NAT, but a firewall (filtering {filtering})")
        }
        (_, false) => format!("No NAT, perhaps a firewall (filtering {filtering})"),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
