//! A layer of a profile as a ruleset of nftables. Text only; nothing is run here.
//!
//! The kernel's connection tracking is an address-and-port-dependent filter, and keeps the port of a
//! socket towards every remote end (RFC 4787 §4.1: endpoint-independent). Everything laxer is learnt
//! from what goes out: the map `back` says which socket an external port belongs to, the set `sent`
//! which remote ends it has sent to. A packet that comes in by them is translated in `prerouting`.
//!
//! What is addressed to the NAT itself is dropped in `input`, before it leaves an entry behind: an
//! early packet of the other peer would otherwise take the mapping's place, and the mapping would move
//! to another port. RFC 5780 probes do not see that; two peers do.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

use crate::nat::{Behaviour, Layer, Nat, Ports};

/// External ports that are given one after the other: first, and how many. Their list must fit into one
/// message to the kernel, which is small for users who are not root.
const PORTS: (u32, u32) = (40_000, 2048);

/// Stands for the long list of them until the ruleset is loaded.
pub const PORT_LIST: &str = "{ 0 : 40000, 1 : 40001, … }";

/// A layer that netfilter cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("netfilter cannot be the NAT `{layer}`: {why}")]
pub struct Unsupported {
    /// As in a profile.
    pub layer: String,
    /// What it has no means for.
    pub why: &'static str,
}

/// What the machine of one layer is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// For `nft -f -`, with [`PORT_LIST`] for the list of ports; see [`Rules::loadable`].
    pub nft: String,
    /// Files below /proc/sys, and what to write there.
    pub sysctls: Vec<(String, String)>,
}

impl Rules {
    /// The ruleset with every port in it.
    #[must_use]
    pub fn loadable(&self) -> String {
        if self.nft.contains(PORT_LIST) {
            self.nft.replace(PORT_LIST, &ports_by_number())
        } else {
            self.nft.clone()
        }
    }
}

/// Rules of a machine that is one layer: `wan` is its interface towards the internet, with the address
/// `external`; those towards the peers are `lan0`, `lan1`, ….
///
/// # Errors
/// Netfilter has no means to do what the layer does.
pub fn rules(layer: &Layer, external: Ipv4Addr) -> Result<Rules, Unsupported> {
    let timeout = match layer {
        Layer::Nat(nat) => Some(nat.timeout),
        Layer::Firewall { timeout, .. } => Some(*timeout),
        Layer::UdpBlocked => None,
    };
    let mut sysctls = Vec::new();
    if let Some(timeout) = timeout {
        let seconds = whole_seconds(layer, timeout)?.to_string();
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            sysctls.push((format!("net/netfilter/{name}"), seconds.clone()));
        }
    }
    let nft = match layer {
        Layer::Nat(nat) => translation(nat, external).map_err(|why| unsupported(layer, why))?,
        Layer::Firewall { filtering, timeout } => firewall(*filtering, *timeout),
        Layer::UdpBlocked => no_udp(),
    };
    Ok(Rules { nft, sysctls })
}

fn unsupported(layer: &Layer, why: &'static str) -> Unsupported {
    Unsupported { layer: layer.to_string(), why }
}

fn whole_seconds(layer: &Layer, timeout: Duration) -> Result<u64, Unsupported> {
    let seconds = timeout.as_secs();
    if seconds == 0 || timeout.subsec_nanos() != 0 {
        return Err(unsupported(layer, "its connection tracking counts whole seconds"));
    }
    if seconds > 100_000_000 {
        return Err(unsupported(layer, "its connection tracking counts to about three years"));
    }
    Ok(seconds)
}

/// The port part of `snat ip to W`, with a leading ` : ` or space; empty for the internal port.
fn port_of(nat: &Nat) -> Result<String, &'static str> {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    // The number comes out as a port with its bytes swapped: any port, but not 0.
    let hash = |of: &str| format!(" : jhash {of} mod 64512 seed 0x5eed offset 1024");
    match (nat.mapping, nat.ports) {
        (EndpointIndependent, Ports::Preserving) => Ok(String::new()),
        (EndpointIndependent, Ports::Random) => Ok(hash("ip saddr . udp sport")),
        (AddressDependent, Ports::Random) => Ok(hash("ip saddr . udp sport . ip daddr")),
        (AddressAndPortDependent, Ports::Random) => Ok(" fully-random".to_owned()),
        (AddressAndPortDependent, Ports::Sequential) => {
            Ok(format!(" : numgen inc mod {} map {PORT_LIST}", PORTS.1))
        }
        (EndpointIndependent | AddressDependent, Ports::Sequential) => {
            Err("it counts ports up for each connection, so it has sequential ports only with \
                 address-and-port-dependent mapping")
        }
        (AddressDependent | AddressAndPortDependent, Ports::Preserving) => {
            Err("it gives a preserved port to every remote end, which is endpoint-independent \
                 mapping")
        }
    }
}

/// The numbers of `numgen` as ports, in words: by themselves they come out with their bytes swapped, and
/// would not be sequential.
fn ports_by_number() -> String {
    let (first, count) = PORTS;
    let all: Vec<String> = (0..count).map(|n| format!("{n} : {}", first + n)).collect();
    format!("{{ {} }}", all.join(", "))
}

/// Key of the set `sent`: what of a remote end the filter looks at. `port` and `address` are the
/// expressions for the external port, `remote` for the remote end's address and port.
fn key(filtering: Behaviour, port: &str, remote: [&str; 2]) -> Option<String> {
    match filtering {
        Behaviour::EndpointIndependent => None,
        Behaviour::AddressDependent => Some(format!("{port} . {}", remote[0])),
        Behaviour::AddressAndPortDependent => {
            Some(format!("{port} . {} . {}", remote[0], remote[1]))
        }
    }
}

fn translation(nat: &Nat, external: Ipv4Addr) -> Result<String, &'static str> {
    let port = port_of(nat)?;
    let preserving = nat.ports == Ports::Preserving;
    let strict = nat.filtering == Behaviour::AddressAndPortDependent;
    if nat.hairpinning && !preserving && nat.filtering != Behaviour::EndpointIndependent {
        return Err(
            "the external port of a packet that turns around is known too late to filter by \
                    it, so hairpinning needs endpoint-independent filtering or preserved ports",
        );
    }
    let mut text = String::from("table ip nat {\n");
    if !strict || nat.hairpinning {
        text += &memory(nat, external);
    }
    text += "\tchain prerouting {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n";
    if !strict || nat.hairpinning {
        text += &incoming(nat, external);
    }
    text += "\t}\n";
    let _ = write!(
        text,
        "\tchain postrouting {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\toifname \"wan\" meta l4proto udp snat ip to {external}{port}\n\
         \t\toifname \"wan\" snat ip to {external}\n"
    );
    if nat.hairpinning {
        let _ = writeln!(
            text,
            "\t\tiifname \"lan*\" oifname \"lan*\" meta l4proto udp ct status dnat \
             snat ip to {external}{port}"
        );
    }
    text += "\t}\n";
    let _ = write!(
        text,
        "\tchain input {{\n\t\ttype filter hook input priority filter; policy accept;\n\
         \t\tiifname \"wan\" ct state established,related accept\n\
         \t\tiifname \"wan\" drop\n\
         \t\tiifname \"lan*\" ip daddr {external} drop\n\t}}\n"
    );
    text += "\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n\
             \t\tiifname \"wan\" ct state established,related accept\n\
             \t\tiifname \"wan\" ct status dnat accept\n\
             \t\tiifname \"wan\" drop\n\
             \t\tiifname \"lan*\" oifname \"lan*\" ct status dnat accept\n\
             \t\tiifname \"lan*\" oifname \"lan*\" drop\n\t}\n}\n";
    Ok(text)
}

/// The map `back`, the set `sent`, and the chains that fill them.
fn memory(nat: &Nat, external: Ipv4Addr) -> String {
    let time = format!("flags dynamic,timeout; timeout {}s;", nat.timeout.as_secs());
    let mut text =
        format!("\tmap back {{\n\t\ttype inet_service : ipv4_addr . inet_service; {time}\n\t}}\n");
    let remote = ["ip daddr", "udp dport"];
    let sent = key(nat.filtering, "udp sport", remote);
    if sent.is_some() {
        let kind = match nat.filtering {
            Behaviour::AddressAndPortDependent => "inet_service . ipv4_addr . inet_service",
            _ => "inet_service . ipv4_addr",
        };
        let _ = writeln!(text, "\tset sent {{\n\t\ttype {kind}; {time}\n\t}}");
    }
    text +=
        "\tchain learn {\n\t\ttype filter hook postrouting priority srcnat + 10; policy accept;\n";
    for (direction, inside) in [
        ("original", "ct original ip saddr . ct original proto-src"),
        ("reply", "ct reply ip saddr . ct reply proto-src"),
    ] {
        let _ = writeln!(
            text,
            "\t\toifname \"wan\" meta l4proto udp ct direction {direction} \
             update @back {{ udp sport : {inside} }}"
        );
    }
    if let Some(sent) = &sent {
        let _ = writeln!(text, "\t\toifname \"wan\" meta l4proto udp update @sent {{ {sent} }}");
    }
    text += "\t}\n";
    // What turns around is judged before its own port is known; a preserved one is known already.
    if let (true, Some(sent)) = (nat.hairpinning, &sent) {
        let _ = write!(
            text,
            "\tchain turn_around {{\n\t\ttype filter hook prerouting priority mangle; policy accept;\n\
             \t\tiifname \"lan*\" ip daddr {external} meta l4proto udp \
             update @back {{ udp sport : ip saddr . udp sport }}\n\
             \t\tiifname \"lan*\" ip daddr {external} meta l4proto udp update @sent {{ {sent} }}\n\t}}\n"
        );
    }
    text
}

/// Rules that let in what `back` and `sent` know.
fn incoming(nat: &Nat, external: Ipv4Addr) -> String {
    let known = key(nat.filtering, "udp dport", ["ip saddr", "udp sport"]);
    let known = known.map_or(String::new(), |known| format!("{known} @sent "));
    let mut text =
        format!("\t\tiifname \"wan\" ip daddr {external} {known}dnat ip to udp dport map @back\n");
    if nat.hairpinning {
        // The sender's external address is the same as the one it sends to.
        let known = key(nat.filtering, "udp dport", ["ip daddr", "udp sport"]);
        let known = known.map_or(String::new(), |known| format!("{known} @sent "));
        let _ = writeln!(
            text,
            "\t\tiifname \"lan*\" ip daddr {external} {known}dnat ip to udp dport map @back"
        );
    }
    text
}

fn firewall(filtering: Behaviour, timeout: Duration) -> String {
    let (learn, admit, kind) = match filtering {
        Behaviour::AddressAndPortDependent => ("", "", ""),
        Behaviour::AddressDependent => (
            "ip saddr . udp sport . ip daddr",
            "ip daddr . udp dport . ip saddr",
            "ipv4_addr . inet_service . ipv4_addr",
        ),
        Behaviour::EndpointIndependent => {
            ("ip saddr . udp sport", "ip daddr . udp dport", "ipv4_addr . inet_service")
        }
    };
    let mut text = String::from("table ip firewall {\n");
    let lax = !learn.is_empty();
    if lax {
        let _ = writeln!(
            text,
            "\tset sent {{\n\t\ttype {kind}; flags dynamic,timeout; timeout {}s;\n\t}}",
            timeout.as_secs()
        );
    }
    text += &closed_input();
    text += "\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n";
    if lax {
        let _ = write!(
            text,
            "\t\toifname \"wan\" meta l4proto udp update @sent {{ {learn} }}\n\
             \t\tiifname \"wan\" {admit} @sent accept\n"
        );
    }
    text += "\t\tiifname \"wan\" ct state established,related accept\n\
             \t\tiifname \"wan\" drop\n\t}\n}\n";
    text
}

fn no_udp() -> String {
    format!(
        "table ip firewall {{\n{}\tchain forward {{\n\
         \t\ttype filter hook forward priority filter; policy accept;\n\
         \t\tmeta l4proto udp drop\n\
         \t\tiifname \"wan\" ct state established,related accept\n\
         \t\tiifname \"wan\" drop\n\t}}\n}}\n",
        closed_input()
    )
}

/// What a layer is for IPv6, which is not translated: a firewall that lets in what belongs to what went
/// out, and `ICMPv6` (RFC 6092 and RFC 4890).
#[must_use]
pub fn firewall6(layer: &Layer) -> String {
    let blocked =
        if matches!(layer, Layer::UdpBlocked) { "\t\tmeta l4proto udp drop\n" } else { "" };
    let chain = |hook: &str, more: &str| {
        format!(
            "\tchain {hook} {{\n\t\ttype filter hook {hook} priority filter; policy accept;\n{more}\
             \t\tiifname \"wan\" ct state established,related accept\n\
             \t\tiifname \"wan\" meta l4proto ipv6-icmp accept\n\
             \t\tiifname \"wan\" drop\n\t}}\n"
        )
    };
    format!("table ip6 firewall {{\n{}{}}}\n", chain("input", ""), chain("forward", blocked))
}

/// Nothing from the internet reaches the machine itself.
fn closed_input() -> String {
    "\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\
     \t\tiifname \"wan\" ct state established,related accept\n\
     \t\tiifname \"wan\" drop\n\t}\n"
        .to_owned()
}
