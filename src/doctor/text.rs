//! Human-readable output: sections with aligned columns, a check mark or cross before each line,
//! and the verdict at the end. Text from servers is made printable before it is shown.

use std::fmt::Write;

use super::{
    problem::Severity,
    report::{Contacted, DoctorReport, Nat, Server},
};
use crate::{
    report::{
        human,
        layout::{WIDTH, hanging, wrap},
    },
    text::{clock_skew_words, printable, rough_duration},
};

const GOOD: &str = "✓";
const BAD: &str = "✗";
const NOTE: &str = "!";

/// Prefix of a line that is good, bad or neither.
pub const MARKED: [&str; 3] = ["  ✓", "  ✗", "  !"];

fn mark(good: bool) -> &'static str {
    if good { GOOD } else { BAD }
}

/// The report as text, without a trailing newline.
#[must_use]
pub fn text(report: &DoctorReport) -> String {
    let mut lines = Vec::new();
    network(&mut lines, report);
    nat(&mut lines, &report.nat);
    servers(&mut lines, &report.servers);
    contacts(&mut lines, report);
    problems(&mut lines, report);
    lines.push(String::new());
    lines.push("verdict".to_owned());
    lines.extend(wrap(&report.verdict.text, 2, WIDTH));
    lines.join("\n")
}

fn row(lines: &mut Vec<String>, mark: &str, label: &str, value: &str) {
    let label = printable(label);
    lines.extend(hanging(&format!("  {mark} {label:<13} "), value, WIDTH));
}

fn network(lines: &mut Vec<String>, report: &DoctorReport) {
    lines.push("network".to_owned());
    let named =
        report.interfaces.iter().filter(|one| !matches!(one.scope, "loopback" | "link-local"));
    let mut any = false;
    for one in named.take(6) {
        any = true;
        let vpn = if one.vpn { ", looks like a VPN" } else { "" };
        row(lines, " ", &one.name, &format!("{} ({}{vpn})", one.address, one.scope));
    }
    if !any {
        row(lines, " ", "interfaces", "only loopback");
    }
    let answer = |ipv6| match ipv6 {
        Some(true) => "reaches the servers",
        Some(false) => "does not reach the servers",
        None => "not tested: no server has an IPv6 address that this machine can reach",
    };
    row(lines, " ", "IPv6", answer(report.nat.ipv6));
}

fn nat(lines: &mut Vec<String>, nat: &Nat) {
    lines.push(String::new());
    lines.push("NAT".to_owned());
    match nat.udp {
        Some(udp) => row(lines, mark(udp), "UDP", if udp { "passes" } else { "is blocked" }),
        None => row(lines, NOTE, "UDP", "unknown: no server answered"),
    }
    let Some(translated) = nat.translated else { return };
    let address = |ip: Option<std::net::IpAddr>| ip.map_or_else(String::new, |ip| ip.to_string());
    let seen = format!("{} as {}", address(nat.local), address(nat.mapped));
    row(
        lines,
        " ",
        "seen",
        &if translated { seen } else { format!("{}: no NAT", address(nat.local)) },
    );
    if !nat.pool.is_empty() {
        let pool: Vec<_> = nat.pool.iter().map(ToString::to_string).collect();
        row(lines, NOTE, "pool", &pool.join(", "));
    }
    let by = |by: Option<&str>| match by {
        Some("rfc5780") => " (RFC 5780)",
        Some("turn") => " (with the help of TURN)",
        Some("servers") => " (from several servers)",
        _ => "",
    };
    if let Some(mapping) = nat.mapping {
        row(lines, " ", "mapping", &format!("{mapping}{}", by(nat.mapping_by)));
    }
    if let Some(filtering) = nat.filtering {
        let unknown =
            nat.filtering_unknown.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        row(lines, " ", "filtering", &format!("{filtering}{}{unknown}", by(nat.filtering_by)));
    }
    if let Some(ports) = nat.ports {
        row(lines, " ", "ports", ports.as_str());
    }
    if let Some(hairpinning) = nat.hairpinning {
        row(lines, " ", "hairpinning", if hairpinning { "yes" } else { "no" });
    }
    if let Some([alive, gone]) = nat.binding_lifetime_s {
        let lifetime = match (alive, gone) {
            (Some(alive), None) => format!("longer than {alive} s"),
            (Some(alive), Some(gone)) => format!("between {alive} s and {gone} s"),
            (None, _) => "unknown: the server cannot respond to another port".to_owned(),
        };
        row(lines, " ", "binding", &format!("lifetime {lifetime}"));
    }
    if let Some(profile) = &nat.profile {
        row(lines, " ", "profile", profile);
    }
}

fn servers(lines: &mut Vec<String>, servers: &[Server]) {
    if servers.is_empty() {
        return;
    }
    lines.push(String::new());
    lines.push("ICE servers".to_owned());
    let named = |server: &Server| {
        let url = printable(&server.url);
        let v6 = server.address.is_some_and(|address| address.is_ipv6()) && !url.contains('[');
        format!("  {} {url}{}", mark(server.works()), if v6 { " (IPv6)" } else { "" })
    };
    let heads: Vec<String> = servers.iter().map(named).collect();
    let width = heads.iter().map(|head| head.chars().count()).max().unwrap_or(0) + 2;
    let fit = |server: &Server| width + printable(&results(server)).chars().count() <= WIDTH;
    let beside = servers.iter().all(fit);
    for (server, head) in servers.iter().zip(&heads) {
        if beside {
            lines.push(
                format!("{head:<width$}{}", printable(&results(server))).trim_end().to_owned(),
            );
        } else {
            // Results go below: a URL alone may fill the line.
            lines.push(head.clone());
            lines.extend(wrap(&results(server), 6, WIDTH));
        }
    }
}

/// The results of a server in one line.
fn results(server: &Server) -> String {
    let mut parts = Vec::new();
    if let Some(problem) = server.problem.as_ref().filter(|_| !server.works()) {
        return problem.message.clone();
    }
    if server.relayed.is_some() {
        parts.push("relays".to_owned());
    } else if let Some(answer) = server.answer_ms {
        parts.push(format!("answers in {}", human::millis(answer)));
    }
    if let Some(rtt) = server.rtt_ms {
        parts.push(format!("rtt {}", human::millis(rtt.p50)));
    }
    if let Some(burst) = server.burst {
        let lost = 1.0 - f64::from(burst.received) / f64::from(burst.sent.max(1));
        parts.push(format!("{} of a keyframe lost", human::share(lost)));
    }
    if let Some(throughput) = server.throughput {
        parts.push(format!("throughput {}", human::bitrate(throughput.bits_per_second)));
    }
    if let Some(why) = &server.not_measured {
        parts.push(format!("not measured: {why}"));
    }
    if let Some(left) = server.credential_expires_in_s.filter(|left| server.turn && *left < 3600) {
        let length = rough_duration(left as f64);
        parts.push(match left {
            ..=0 => format!("login expired {length} ago"),
            _ => format!("login valid {length}"),
        });
    }
    parts.join(" · ")
}

fn contacts(lines: &mut Vec<String>, report: &DoctorReport) {
    if report.token.is_none() && report.signaling.is_none() {
        return;
    }
    lines.push(String::new());
    lines.push("signaling".to_owned());
    for (label, one) in [("token", &report.token), ("signaling", &report.signaling)] {
        if let Some(one) = one {
            row(lines, mark(one.ok), label, &contact(one));
        }
    }
    if let Some(skew) = report.clock_skew_s {
        row(lines, NOTE, "clock", &clock_skew_words(skew));
    }
}

fn contact(one: &Contacted) -> String {
    let mut text = one.url.clone().unwrap_or_else(|| "as given".to_owned());
    if let Some(total) = one.total_ms.filter(|_| one.ok && one.url.is_some()) {
        text.push_str("  ");
        text.push_str(&human::millis(total));
    }
    let steps = [
        ("DNS", one.dns_ms),
        ("TCP", one.tcp_ms),
        ("TLS", one.tls_ms),
        ("upgrade", one.upgrade_ms),
    ];
    let steps: Vec<String> = steps
        .into_iter()
        .filter_map(|(name, ms)| Some(format!("{name} {}", human::millis(ms?))))
        .collect();
    if !steps.is_empty() {
        let _ = write!(text, " ({})", steps.join(", "));
    }
    if one.joined == Some(true) {
        text.push_str(", joined");
    }
    text
}

fn problems(lines: &mut Vec<String>, report: &DoctorReport) {
    if report.problems.is_empty() {
        return;
    }
    lines.push(String::new());
    lines.push("to do".to_owned());
    for problem in &report.problems {
        let mark = if problem.severity == Severity::Error { BAD } else { NOTE };
        let subject =
            problem.subject.as_ref().map(|subject| format!("{subject}: ")).unwrap_or_default();
        let text = format!("{subject}{} [{}]", problem.message, problem.code);
        lines.extend(hanging(&format!("  {mark} "), &text, WIDTH));
        lines.extend(wrap(&format!("try: {}", problem.remedy), 6, WIDTH));
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::doctor::{
        problem::Problem,
        report::{Burst, Interface, Rtt, Throughput},
    };

    fn server(url: &str) -> Server {
        Server {
            url: url.to_owned(),
            transport: "udp",
            turn: true,
            relayed: "203.0.113.1:50000".parse().ok(),
            rtt_ms: Some(Rtt { sent: 10, lost: 1, min: 1_234.5, p50: 1_234.5, max: 1_234.5 }),
            burst: Some(Burst { sent: 100, received: 95, took_ms: 12_345.6 }),
            throughput: Some(Throughput { sent: 1000, received: 950, bits_per_second: 123.4e6 }),
            credential_expires_in_s: Some(600),
            ..Server::default()
        }
    }

    fn report() -> DoctorReport {
        let long = "wss://signaling.some-customer.example:8443/deeply/nested/api/signal";
        let nat = Nat {
            udp: Some(true),
            translated: Some(true),
            local: "2001:db8:1234:5678:9abc:def0:1234:5678".parse().ok(),
            mapped: "2001:db8:8765:4321:cba9:fed0:8765:4321".parse().ok(),
            pool: (1..9).map(|last| std::net::Ipv4Addr::new(203, 0, 113, last).into()).collect(),
            filtering_unknown: Some("the server has no second address to answer from".into()),
            ..Nat::default()
        };
        let servers = vec![
            server("turn:relay-1.europe-west.some-provider.example:3478?transport=udp"),
            Server {
                problem: Some(Problem::error("timeout", None, "nothing came back", "check it")),
                relayed: None,
                ..server("turns:relay-1.europe-west.some-provider.example:5349?transport=tcp")
            },
        ];
        let interfaces = vec![Interface {
            name: "enx0123456789ab".into(),
            address: "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap(),
            scope: "public",
            vpn: true,
        }];
        let mut report = DoctorReport::new(SystemTime::UNIX_EPOCH, interfaces, nat, servers);
        report.signaling = Some(Contacted {
            url: Some(long.into()),
            ok: true,
            total_ms: Some(12_345.6),
            dns_ms: Some(1_234.5),
            tcp_ms: Some(1_234.5),
            tls_ms: Some(1_234.5),
            upgrade_ms: Some(1_234.5),
            joined: Some(true),
            ..Contacted::default()
        });
        let message = format!("the clock of {long} is wrong by far more than tokens allow for");
        report.problems = vec![Problem::error("clock", Some(long), message, "set the clock")];
        report.verdict.text = "word ".repeat(60);
        report
    }

    #[test]
    fn every_line_fits_the_terminal_and_nothing_is_truncated() {
        let report = report();
        let text = text(&report);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line:?}\n{text}");
        }
        let whole = |text: &str| text.split_whitespace().collect::<String>();
        let servers = report.servers.iter().map(|server| server.url.as_str());
        for part in servers.chain(["nothing came back", "login valid 10 min", "203.0.113.8"]) {
            assert!(whole(&text).contains(&whole(part)), "no {part:?} in\n{text}");
        }
        assert_eq!(text.matches("word").count(), 60);
    }

    #[test]
    fn servers_with_short_results_take_one_line_each() {
        let mut report = report();
        report.servers = vec![Server {
            burst: None,
            throughput: None,
            ..server("turn:192.0.2.7:3478?transport=udp")
        }];
        let line =
            "  ✓ turn:192.0.2.7:3478?transport=udp  relays · rtt 1.23 s · login valid 10 min";
        assert!(text(&report).contains(line), "{}", text(&report));
    }

    #[test]
    fn an_expired_login_is_not_shown_as_valid() {
        let mut report = report();
        report.servers = vec![Server {
            credential_expires_in_s: Some(-300),
            ..server("turn:192.0.2.7:3478?transport=udp")
        }];
        let text = text(&report);
        assert!(text.contains("login expired 5 min ago") && !text.contains("valid"), "{text}");
    }
}
