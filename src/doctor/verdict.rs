//! The verdict: which peers can be reached, over which paths, and what to do.
//!
//! Which peers can be reached directly follows from [`theory`]: this machine's NAT against every profile of
//! the matrix. If a behavior is known only within bounds, the stricter one counts.

use super::{
    DoctorConfig,
    problem::{Problem, Severity},
    report::{Class, DoctorReport, Nat, Verdict},
};
use crate::nat::{
    BINDING_TIMEOUT, Behaviour, Layer, Nat as Translating, Path, Ports, Profile,
    profile::{MATRIX, NAMES},
    theory::{self, Relays},
};

/// Draws the conclusion, and adds the problems that follow from the findings as a whole.
pub(super) fn judge(
    report: &mut DoctorReport,
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
    verdict.text = describe(report, &verdict, profile.as_ref(), contacted, any_configured);
    verdict
}

/// Missing responses over UDP mean that it is blocked only if the servers respond over other transports.
fn settle_udp(report: &mut DoctorReport) {
    let by_stream = report.servers.iter().any(|one| one.reachable && one.transport != "udp");
    let by_udp = report.servers.iter().any(|one| one.reachable && one.transport == "udp");
    match report.nat.udp {
        Some(false) if by_udp => report.nat.udp = Some(true),
        Some(false) if !by_stream => report.nat.udp = None,
        _ => {}
    }
}

/// Whether a problem concerns only the network, so that no server needs to be fixed.
fn is_of_network(code: &str) -> bool {
    matches!(
        code,
        "udp-blocked" | "no-relay" | "no-relay-over-tcp" | "no-ice-servers" | "nat-unknown"
    )
}

/// The NATs and firewalls between this machine and the internet; `None` when unknown.
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

/// The name of this profile; port allocation matters only if ports can be predicted.
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
    // Behind an unknown NAT, assume that only relays work.
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
            "this network blocks outgoing UDP",
            "allow UDP to the TURN servers, or use TURN over TCP or TLS, preferably on port 443",
        ));
    }
    let scope = nat.mapped.map(super::scope::scope);
    if nat.translated == Some(true) && nat.seen_from.is_none() && scope == Some("private") {
        problems.push(
            Problem::error(
                "double-nat",
                None,
                "the servers see a private address: there may be another NAT between them and the internet",
                "use servers on the internet to detect all NATs",
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
                "an address is in 100.64.0.0/10: the carrier uses carrier-grade NAT (RFC 6598)",
                "rely on a TURN server or use IPv6; changes to the router do not help",
            )
            .warning(),
        );
    }
    if let Some(vpn) = interfaces.iter().find(|one| Some(one.address) == nat.local && one.vpn) {
        problems.push(
            Problem::error(
                "vpn",
                Some(&vpn.name),
                "the route to the servers seems to go through a VPN",
                "disconnect the VPN, which this report describes, or select another --interface",
            )
            .warning(),
        );
    }
    problems
}

/// Turns errors into warnings: a network that blocks UDP is not the servers' fault, and if every peer can be
/// reached anyway, a failing server does not matter.
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

fn about_relays(report: &DoctorReport, verdict: &Verdict, any_configured: bool) -> Option<Problem> {
    if !any_configured {
        return Some(Problem::error(
            "no-ice-servers",
            None,
            "no STUN or TURN server is known",
            "pass --ice-server stun:HOST and turn:HOST, or have the token API return them",
        ));
    }
    if verdict.none.is_empty() {
        return None;
    }
    let named = report.servers.iter().any(|server| server.turn);
    if verdict.relays.is_empty() {
        let (message, remedy) = if named {
            ("no TURN server works", "fix the TURN servers named above")
        } else {
            (
                "no TURN server is known",
                "pass --ice-server turn:HOST, or run `orion-peer serve` with its embedded TURN \
                 server",
            )
        };
        let message =
            format!("{message}: peers that cannot be reached directly cannot be reached at all");
        return Some(Problem::error("no-relay", None, message, remedy));
    }
    Some(Problem::error(
        "no-relay-over-tcp",
        None,
        "no TURN server works over TCP or TLS: peers without UDP cannot be reached",
        "enable TCP or TLS on the TURN server, and pass turn:HOST?transport=tcp or turns:HOST",
    ))
}

fn describe(
    report: &DoctorReport,
    verdict: &Verdict,
    profile: Option<&Profile>,
    contacted: bool,
    any_configured: bool,
) -> String {
    let mut text = describe_nat(&report.nat, profile, any_configured);
    if let Some(seen_from) = report.nat.seen_from {
        text.push_str(match seen_from {
            "this-machine" => ", as seen by servers on this machine",
            _ => ", as seen by servers in this network",
        });
    }
    text.push_str(": ");
    let direct = match (verdict.direct.len(), verdict.direct.as_slice()) {
        (_, _) if profile.is_none() => "unknown which peers can be reached directly".to_owned(),
        (0, _) => "no peer can be reached directly".to_owned(),
        (n, _) if n + 1 >= MATRIX.len() => "every peer with UDP can be reached directly".to_owned(),
        (_, list) => format!("only peers {} can be reached directly", located(list)),
    };
    text.push_str(&direct);
    text.push_str("; ");
    let relays = listed(&verdict.relays);
    let relayed = match (verdict.relays.is_empty(), verdict.none.as_slice()) {
        (true, []) => "no relay is needed".to_owned(),
        (true, _) if profile.is_none() => {
            "no TURN server works, so peers that cannot be reached directly cannot be reached at all".to_owned()
        }
        (true, none) => {
            format!("no TURN server works, so peers {} cannot be reached", located(none))
        }
        (false, []) => format!("TURN over {relays} works, so every peer can be reached"),
        (false, none) => {
            format!("TURN over {relays} works, but peers {} cannot be reached", located(none))
        }
    };
    text.push_str(&relayed);
    text.push('.');
    if !contacted {
        text.push_str(" However, peers cannot find each other: signaling does not work.");
    }
    text
}

/// Where peers with these NAT profiles are: `without NAT or behind a full-cone NAT or a symmetric NAT`.
fn located(profiles: &[String]) -> String {
    let (open, behind): (Vec<&str>, Vec<&str>) =
        profiles.iter().map(String::as_str).partition(|name| *name == "none");
    let behind: Vec<&str> = behind.into_iter().map(described).collect();
    let behind = match behind.as_slice() {
        [] => return "without NAT".to_owned(),
        [one] => format!("behind {one}"),
        [first @ .., last] => format!("behind {} or {last}", first.join(", ")),
    };
    if open.is_empty() { behind } else { format!("without NAT or {behind}") }
}

/// A profile of [`MATRIX`] in words; other names are returned unchanged.
fn described(profile: &str) -> &str {
    match profile {
        "firewall" => "a firewall",
        "fullcone" => "a full-cone NAT",
        "addr" => "an address-restricted NAT",
        "port" => "a port-restricted NAT",
        "sym" => "a symmetric NAT",
        "port+port" => "two port-restricted NATs",
        "port+sym" => "a port-restricted NAT and a symmetric NAT",
        "udp-blocked" => "a network that blocks UDP",
        other => other,
    }
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

fn describe_nat(nat: &Nat, profile: Option<&Profile>, any_configured: bool) -> String {
    let Some(profile) = profile else {
        return if any_configured {
            "No server answered over UDP, so the NAT is unknown".to_owned()
        } else {
            "No STUN or TURN server is known, so the NAT is unknown".to_owned()
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
                Some(Ports::Sequential) => ", sequential ports",
                _ => "",
            };
            format!("Behind a {kind} (mapping {mapping}, filtering {filtering}{ports})")
        }
        (_, true) => "No NAT and no firewall that filters UDP".to_owned(),
        (_, false) if nat.filtering.is_some_and(|known| known.exact().is_some()) => {
            format!("No NAT, but a firewall (filtering {filtering})")
        }
        (_, false) => format!("No NAT, possibly a firewall (filtering {filtering})"),
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
