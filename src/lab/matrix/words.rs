//! One pair described in sentences: the networks, the expected path and why, and the result.

use std::fmt::Write;

use super::{
    plan::CellPlan,
    schema::Cell,
    table::{difference, ms},
};
use crate::{
    nat::{Behaviour, Layer, NamedNetwork, Path, Profile},
    text::printable,
};

/// Describes the networks, and the path that theory predicts.
#[must_use]
pub fn before(plan: &CellPlan) -> String {
    let mut text = String::new();
    let ends = [("A", &plan.a), ("B", &plan.b)];
    for (end, network) in &ends[..if plan.same_nat { 1 } else { 2 }] {
        let end = if plan.same_nat { "A and B" } else { end };
        let _ = writeln!(text, "{end}: {}", describe(network));
    }
    let turn = match plan.turn.names().as_slice() {
        [] => "no TURN server".to_owned(),
        names => format!("TURN over {}", names.join(", ")),
    };
    let _ = write!(text, "{turn}. Expected: {} - {}", plan.expected, why(plan));
    text
}

/// Why pings may go unanswered although nothing else is lost.
pub(super) const PINGS_EXPIRE: &str = "a lost ping is not retransmitted after 100 ms (maxPacketLifeTime of the wire \
                                       contract)";

/// Describes the result of the measurement.
#[must_use]
pub fn after(cell: &Cell) -> String {
    if cell.measured == Path::None {
        let verdict = if cell.agree { ", as expected" } else { "" };
        let mut text = format!("Not connected{verdict}");
        if let Some(reason) = &cell.reason {
            let _ = write!(text, ": {}: {}", reason.stage, printable(&reason.message));
            if !cell.agree && !reason.remedy.is_empty() {
                let _ = write!(text, "\n  try: {}", printable(&reason.remedy));
            }
        }
        return text;
    }
    let kinds: Vec<String> = cell
        .by_type
        .iter()
        .map(|(kind, count)| match cell.connections {
            1 => kind.clone(),
            _ => format!("{count} x {kind}"),
        })
        .collect();
    let verdict = if cell.agree { ", as expected" } else { "" };
    let mut text = format!("Connected {} ({}){verdict}\n", cell.measured, kinds.join(", "));
    let stages: Vec<String> = cell
        .stages
        .stages()
        .iter()
        .filter(|(name, _)| !matches!(*name, "total" | "firstKeyframe" | "dns"))
        .filter_map(|(name, time)| Some(format!("{} {}", stage(name), ms(Some((**time)?)))))
        .collect();
    let _ = writeln!(text, "  setup     {} ({})", ms(cell.setup_ms), stages.join(", "));
    if cell.first_picture_ms.is_some() {
        let (start, join) = (ms(cell.first_picture_ms), ms(cell.first_picture_from_join_ms));
        let _ = writeln!(text, "  picture   first after {start}, {join} after joining");
    }
    let lost = cell.ping_loss.filter(|lost| *lost > 0.0);
    let unanswered = lost.map(|lost| format!(", {:.0} % of pings unanswered *", lost * 100.0));
    let _ = writeln!(text, "  RTT       {}{}", ms(cell.rtt_ms), unanswered.unwrap_or_default());
    if let Some(keyframe) = &cell.keyframe {
        let whole = match (keyframe.sent, keyframe.intact) {
            (1, 1) => "intact".to_owned(),
            (sent, intact) => format!("{intact} of {sent} intact"),
        };
        let bytes = keyframe.bytes.unwrap_or_default() / 1e3;
        let (latency, network) = (ms(keyframe.latency_ms), ms(keyframe.network_ms));
        let _ = writeln!(
            text,
            "  keyframe  {bytes:.0} KB, {latency} from capture to complete (network {network}), {whole}"
        );
    }
    if lost.is_some() {
        let _ = writeln!(text, "  * {PINGS_EXPIRE}");
    }
    if cell.connections > 1 {
        let _ = writeln!(text, "  times are medians of {} connections", cell.connections);
    }
    if !cell.agree {
        let _ = write!(text, "  {}", difference(cell));
    } else if let Some(reason) = &cell.reason {
        let _ = write!(text, "  however, {}: {}", reason.stage, printable(&reason.message));
    }
    text.truncate(text.trim_end().len());
    text
}

fn stage(name: &str) -> &str {
    match name {
        "ice" => "ICE",
        "dtls" => "DTLS",
        "tls" => "TLS",
        "dataChannel" => "data channel",
        name => name,
    }
}

/// `home-router = port: NAT with …; 8ms delay`.
#[must_use]
pub fn describe(network: &NamedNetwork) -> String {
    let profile = network.profile.to_string();
    let mut text = printable(&network.name);
    if profile != network.name {
        let _ = write!(text, " = {profile}");
    }
    let _ = write!(text, ": {}", behaviour(&network.profile));
    if !network.link.is_clear() {
        let _ = write!(text, "; {}", network.link);
    }
    text
}

/// Describes a profile in the terms of RFC 4787, from the peer outward.
#[must_use]
pub fn behaviour(profile: &Profile) -> String {
    let layers: Vec<String> = profile.layers.iter().map(layer).collect();
    match layers.as_slice() {
        [] => "public address, no NAT".into(),
        layers => layers.join(", behind "),
    }
}

fn layer(layer: &Layer) -> String {
    match layer {
        Layer::UdpBlocked => "firewall that blocks UDP".into(),
        Layer::Firewall { filtering, .. } => format!("firewall without NAT, {filtering} filtering"),
        Layer::Nat(nat) => {
            let hairpin = if nat.hairpinning { ", hairpinning" } else { "" };
            format!("NAT with {} mapping, {} filtering{hairpin}", nat.mapping, nat.filtering)
        }
    }
}

/// Why theory predicts the expected path.
#[must_use]
pub fn why(plan: &CellPlan) -> String {
    let (a, b) = (&plan.a.profile, &plan.b.profile);
    let blocked: Vec<&str> = [("A", a), ("B", b)]
        .into_iter()
        .filter(|(_, profile)| !profile.passes_udp())
        .map(|(end, _)| end)
        .collect();
    if !blocked.is_empty() {
        let who = blocked.join(" and ");
        return match plan.expected {
            Path::None => format!("UDP is blocked at {who}, and no TURN server offers TCP or TLS"),
            _ => format!("UDP is blocked at {who}, but TURN over TCP or TLS works"),
        };
    }
    let obstacle = match (plan.same_nat, plan.expected) {
        (true, Path::Direct) => return "the NAT hairpins packets to its external address".into(),
        (false, Path::Direct) => return direct(a, b),
        (true, _) => {
            "the NAT does not hairpin packets to its external address, or uses a new port \
                      for them"
                .to_owned()
        }
        (false, _) => mismatch(a, b),
    };
    match plan.expected {
        Path::None => format!("{obstacle}, and there is no relay"),
        _ => obstacle,
    }
}

fn direct(a: &Profile, b: &Profile) -> String {
    match (a.filtering(), b.filtering()) {
        (None, _) | (_, None) => {
            "one peer has no filter and learns the other's address from its packets"
        }
        (Some(Behaviour::EndpointIndependent), _) | (_, Some(Behaviour::EndpointIndependent)) => {
            "one peer's NAT filters nothing, so it learns the other's address from its packets"
        }
        _ => "each peer's checks open its own filter for the other's",
    }
    .to_owned()
}

fn mismatch(a: &Profile, b: &Profile) -> String {
    let endpoint = Some(Behaviour::EndpointIndependent);
    let changing = |profile: &Profile| profile.mapping() > endpoint;
    match (changing(a), changing(b)) {
        (true, true) => {
            "both NATs use a new port for every destination, so neither peer knows where to send"
        }
        (true, false) => {
            "A's NAT uses a new port for every destination, and B's admits only known ports"
        }
        (false, true) => {
            "B's NAT uses a new port for every destination, and A's admits only known ports"
        }
        (false, false) => "no check passes both filters",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lab::matrix::{example, plan::Transports},
        nat::network,
    };

    fn plan(a: &str, b: &str, turn: &str) -> CellPlan {
        CellPlan::new(network(a).unwrap(), network(b).unwrap(), turn.parse().unwrap(), 1)
    }

    #[test]
    fn before_describes_the_networks_and_the_reason() {
        let text = before(&plan("lte-symmetric", "port", "udp,tcp"));
        for words in [
            "A: lte-symmetric = sym: NAT with address-and-port-dependent mapping",
            "30ms delay, 15ms jitter",
            "B: port: NAT with endpoint-independent mapping",
            "TURN over udp, tcp. Expected: relay - A's NAT uses a new port for every destination",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn every_expectation_has_a_reason() {
        for (a, b, turn, words) in [
            ("none", "sym", "none", "has no filter"),
            ("fullcone", "sym", "udp", "filters nothing"),
            ("port", "port", "udp", "open its own filter"),
            ("sym", "sym", "udp", "neither peer knows"),
            ("sym", "sym", "none", "and there is no relay"),
            ("port", "sym", "udp", "B's NAT uses a new port"),
            ("udp-blocked", "port", "tls", "UDP is blocked at A, but TURN over TCP"),
            ("udp-blocked", "udp-blocked", "udp", "A and B, and no TURN server offers TCP"),
        ] {
            let text = why(&plan(a, b, turn));
            assert!(text.contains(words), "{a} {b}: {text}");
        }
        let both = network("port:hairpin").unwrap();
        let same = CellPlan::same_nat(both.clone(), both, Transports::ALL, 1).unwrap();
        let text = before(&same);
        assert!(text.starts_with("A and B: port:hairpin: NAT with"), "{text}");
        assert!(text.contains("Expected: direct - the NAT hairpins packets"), "{text}");
    }

    #[test]
    fn after_describes_the_result() {
        let text = after(&example::cell("port", "port"));
        for words in [
            "Connected direct (srflx), as expected",
            "setup     84 ms (token 2.0 ms",
            "ICE 54 ms, DTLS 10 ms, data channel 3.0 ms)",
            "RTT       1.2 ms",
            "picture   first after 125 ms, 115 ms after joining",
            "keyframe  41 KB, 38 ms from capture to complete (network 5.0 ms), intact",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let text = after(&example::failed("port", "sym"));
        assert!(text.starts_with("Not connected: ice: no pair"), "{text}");
        assert!(text.contains("\n  try: add a TURN server"), "{text}");
    }
}
