//! Limits of the embedded TURN server: allowed peers, bandwidth, counts and ports.

use std::{net::IpAddr, ops::RangeInclusive};

use clap::Args;

use crate::{
    cli::failure::Failure,
    peer::local_network::local_addresses,
    turn::{IpNet, PeerFilter, TurnLimits},
    units,
};

/// Minimum bandwidth in bits per second: below it, a second's worth of traffic is less than one large packet.
const MIN_BANDWIDTH: u64 = 64_000;

/// Flags of `serve` for the TURN limits.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "STUN and TURN")]
// The fields are the flags' names.
#[allow(clippy::struct_field_names)]
pub struct TurnLimitArgs {
    /// Allow relaying to this network, such as 192.168.0.0/16, even if it is private or belongs to this machine;
    /// repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub turn_allow_peer: Vec<IpNet>,
    /// Forbid relaying to this network even if it is public; takes precedence over --turn-allow-peer; repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub turn_deny_peer: Vec<IpNet>,
    /// Maximum concurrent allocations per device; default: 30
    #[arg(long, value_name = "N")]
    pub turn_quota: Option<usize>,
    /// Maximum concurrent allocations in total; default: 1000
    #[arg(long, value_name = "N")]
    pub turn_max_allocations: Option<usize>,
    /// Maximum concurrent TCP and TLS connections per IP address (IPv6: per /64); 0: unlimited; default: 64
    #[arg(long, value_name = "N")]
    pub turn_connections_per_ip: Option<u32>,
    /// Maximum bandwidth per allocation and direction, such as 5Mbit, including IP and UDP headers, with bursts of one
    /// second; excess traffic is dropped; default: unlimited
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub turn_bandwidth: Option<u64>,
    /// Maximum total bandwidth of all allocations per direction; default: unlimited
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub turn_total_bandwidth: Option<u64>,
    /// Range of relay ports; default: 49152-65535
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    pub turn_ports: Option<RangeInclusive<u16>>,
}

impl TurnLimitArgs {
    /// The first of these flags that is given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--turn-allow-peer", !self.turn_allow_peer.is_empty()),
            ("--turn-deny-peer", !self.turn_deny_peer.is_empty()),
            ("--turn-quota", self.turn_quota.is_some()),
            ("--turn-max-allocations", self.turn_max_allocations.is_some()),
            ("--turn-connections-per-ip", self.turn_connections_per_ip.is_some()),
            ("--turn-bandwidth", self.turn_bandwidth.is_some()),
            ("--turn-total-bandwidth", self.turn_total_bandwidth.is_some()),
            ("--turn-ports", self.turn_ports.is_some()),
        ];
        flags.into_iter().find_map(|(flag, given)| given.then_some(flag))
    }

    /// The limits, with defaults for flags that are not given. A dev server has no limits per client.
    ///
    /// # Errors
    /// Exit code 2 for limits that would disable relaying.
    pub fn limits(&self, dev: bool) -> Result<TurnLimits, Failure> {
        let default = if dev { TurnLimits::for_one_machine() } else { TurnLimits::default() };
        let allocations = self.turn_max_allocations.unwrap_or(default.allocations);
        let per_user = self.turn_quota.unwrap_or(default.allocations_per_user);
        for (flag, count) in [("--turn-quota", per_user), ("--turn-max-allocations", allocations)] {
            if count == 0 {
                return Err(Failure::usage(
                    format!("{flag} 0 would disable relaying"),
                    "use at least 1, or --no-turn to run without a relay",
                ));
            }
        }
        let bytes = |bits: Option<u64>| bits.map(|bits| bits / 8);
        Ok(TurnLimits {
            allocations,
            allocations_per_user: per_user,
            tcp_connections_per_address: match self.turn_connections_per_ip {
                Some(maximum) => (maximum > 0).then_some(maximum),
                None => default.tcp_connections_per_address,
            },
            bytes_per_second: bytes(self.turn_bandwidth),
            total_bytes_per_second: bytes(self.turn_total_bandwidth),
            ..default
        })
    }

    /// The peers to which relaying is allowed. A dev server relays to this machine, any other server to its own
    /// addresses only if they are given explicitly; `relays` are its addresses as known to clients.
    ///
    /// # Errors
    /// An address of the machine cannot be represented as a network.
    pub fn peers(&self, dev: bool, relays: &[IpAddr]) -> Result<PeerFilter, Failure> {
        let mut own = local_addresses(None, true, true, true);
        own.extend(relays);
        let mut allow = self.turn_allow_peer.clone();
        if dev {
            for address in own.drain(..) {
                let host = address
                    .to_string()
                    .parse::<IpNet>()
                    .map_err(|error| Failure::usage(error.to_string(), "add --no-turn"))?;
                allow.push(host);
            }
        }
        Ok(PeerFilter { allow_loopback: dev, allow, deny: self.turn_deny_peer.clone(), own })
    }
}

fn bandwidth(text: &str) -> Result<u64, String> {
    let bits = units::bit_rate(text).map_err(|error| error.to_string())?;
    if bits < MIN_BANDWIDTH {
        return Err("must be at least 64kbit, or large packets would never pass".into());
    }
    Ok(bits)
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong =
        || units::not_valid(text, "port range", "FIRST-LAST from 1 to 65535, such as 49152-65535");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TurnLimitArgs,
    }

    fn read(flags: &[&str]) -> Result<TurnLimitArgs, String> {
        let line = ["serve"].iter().chain(flags);
        Line::try_parse_from(line).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn flags_set_the_limits() {
        let default = read(&[]).unwrap().limits(false).unwrap();
        assert_eq!((default.allocations, default.allocations_per_user), (1000, 30));
        assert_eq!(default.tcp_connections_per_address, Some(64));
        let maximum = |flags: &[&str], dev| {
            read(flags).unwrap().limits(dev).unwrap().tcp_connections_per_address
        };
        assert_eq!(maximum(&[], true), None);
        assert_eq!(maximum(&["--turn-connections-per-ip", "5"], true), Some(5));
        assert_eq!(maximum(&["--turn-connections-per-ip", "0"], false), None);
        assert_eq!((default.bytes_per_second, default.total_bytes_per_second), (None, None));
        let flags = ["--turn-bandwidth", "2Mbit", "--turn-total-bandwidth", "1Gbit"];
        let limits = read(&flags).unwrap().limits(false).unwrap();
        assert_eq!(limits.bytes_per_second, Some(250_000));
        assert_eq!(limits.total_bytes_per_second, Some(125_000_000));
        assert_eq!(read(&["--turn-ports", "50000-50010"]).unwrap().turn_ports, Some(50000..=50010));
    }

    #[test]
    fn limits_that_would_disable_relaying_are_rejected() {
        for flags in [["--turn-quota", "0"], ["--turn-max-allocations", "0"]] {
            let failure = read(&flags).unwrap().limits(false).unwrap_err();
            assert!(failure.message.contains(flags[0]), "{failure}");
        }
        for flags in [
            ["--turn-bandwidth", "1kbit"],
            ["--turn-bandwidth", "fast"],
            ["--turn-ports", "5-4"],
            ["--turn-ports", "0-4"],
            ["--turn-ports", "50000"],
            ["--turn-deny-peer", "10.0.0.0/33"],
        ] {
            assert!(read(&flags).unwrap_err().contains(flags[0]), "{flags:?}");
        }
    }

    #[test]
    fn only_dev_servers_relay_to_their_own_addresses() {
        let args = read(&["--turn-deny-peer", "8.8.8.8"]).unwrap();
        let relays = ["203.0.114.7".parse().unwrap()];
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        for (dev, allowed) in [(true, true), (false, false)] {
            let peers = args.peers(dev, &relays).unwrap();
            assert_eq!((peers.allows(here), peers.allows(relays[0])), (allowed, allowed));
            assert!(!peers.allows("8.8.8.8".parse().unwrap()));
        }
    }
}
