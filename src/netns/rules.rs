//! A layer of a profile as an nftables ruleset. Text only; nothing is executed here.
//!
//! The kernel's connection tracking is an address-and-port-dependent filter, and preserves the port of a
//! socket toward every remote endpoint (RFC 4787 §4.1: endpoint-independent). For more permissive filters,
//! outgoing packets are recorded: the map `back` contains the socket behind an external port, and the set
//! `sent` the remote endpoints to which it has sent. Incoming packets that match are translated in
//! `prerouting`.
//!
//! Packets addressed to the NAT itself are dropped in `input`, before they create a conntrack entry:
//! otherwise an early packet from the remote peer would occupy the mapping, and the mapping would move to
//! another port. RFC 5780 probes do not detect this; a connection of two peers does.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

use crate::nat::{Behaviour, Layer, Nat, Ports};

/// External ports that are allocated sequentially: first port and number of ports. The list must fit into
/// one netlink message, which is small for users other than root.
const PORTS: (u32, u32) = (40_000, 2048);

/// Placeholder for the long port list until the ruleset is loaded.
pub const PORT_LIST: &str = "{ 0 : 40000, 1 : 40001, … }";

/// A layer that netfilter cannot implement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("netfilter cannot implement the NAT `{layer}`: {why}")]
pub struct Unsupported {
    /// The layer as written in a profile.
    pub layer: String,
    /// Why netfilter cannot implement it.
    pub why: &'static str,
}

/// Configuration of the machine of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Input of `nft -f -`, with [`PORT_LIST`] for the list of ports; see [`Rules::loadable`].
    pub nft: String,
    /// Files below /proc/sys, and the values to write.
    pub sysctls: Vec<(String, String)>,
}

impl Rules {
    /// The ruleset with the full port list.
    #[must_use]
    pub fn loadable(&self) -> String {
        if self.nft.contains(PORT_LIST) {
            self.nft.replace(PORT_LIST, &ports_by_number())
        } else {
            self.nft.clone()
        }
    }
}

/// The rules of a machine that implements one layer: `wan` is its interface toward the internet, with the
/// address `external`; those toward the peers are `lan0`, `lan1`, ….
///
/// # Errors
/// Netfilter cannot implement the layer.
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
        return Err(unsupported(layer, "connection tracking counts whole seconds"));
    }
    if seconds > 100_000_000 {
        return Err(unsupported(
            layer,
            "connection tracking timeouts are limited to about three years",
        ));
    }
    Ok(seconds)
}

/// The port part of `snat ip to W`, with a leading ` : ` or space; empty to preserve the internal port.
fn port_of(nat: &Nat) -> Result<String, &'static str> {
    use Behaviour::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    // The number becomes a port with its bytes swapped: any port except 0.
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
            Err("it increments the port per connection, so sequential ports require \
                 address-and-port-dependent mapping")
        }
        (AddressDependent | AddressAndPortDependent, Ports::Preserving) => Err(
            "a preserved port is the same for every remote endpoint, which is endpoint-independent \
                 mapping",
        ),
    }
}

/// The results of `numgen` as an explicit port list: if they were used directly, their bytes would be
/// swapped, and the ports would not be sequential.
fn ports_by_number() -> String {
    let (first, count) = PORTS;
    let all: Vec<String> = (0..count).map(|n| format!("{n} : {}", first + n)).collect();
    format!("{{ {} }}", all.join(", "))
}

/// Key of the set `sent`: the part of a remote endpoint that the filter considers. `port` and `address` are
/// the expressions for the external port, `remote` for the remote address and port.
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
        return Err("the external port of a hairpinned packet is known too late to filter by \
                    it, so hairpinning needs endpoint-independent filtering or preserved ports");
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
    // Hairpinned packets are filtered before their external port is known, unless it is preserved.
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

/// Rules that admit packets that match `back` and `sent`.
fn incoming(nat: &Nat, external: Ipv4Addr) -> String {
    let known = key(nat.filtering, "udp dport", ["ip saddr", "udp sport"]);
    let known = known.map_or(String::new(), |known| format!("{known} @sent "));
    let mut text =
        format!("\t\tiifname \"wan\" ip daddr {external} {known}dnat ip to udp dport map @back\n");
    if nat.hairpinning {
        // The sender's external address equals the one it sends to.
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

/// The IPv6 equivalent of a layer; IPv6 is not translated: a firewall that admits established flows and
/// `ICMPv6` (RFC 6092 and RFC 4890).
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

/// Rules that drop everything from the internet to the machine itself.
fn closed_input() -> String {
    "\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n\
     \t\tiifname \"wan\" ct state established,related accept\n\
     \t\tiifname \"wan\" drop\n\t}\n"
        .to_owned()
}
