//! Limits of the embedded TURN server: who may be relayed to, how much, and on which ports.

use std::{net::IpAddr, ops::RangeInclusive};

use clap::Args;

use crate::{
    cli::failure::Failure,
    peer::config::local_addresses,
    turn::{IpNet, PeerFilter, TurnLimits},
    units,
};

/// Least bandwidth taken, bits a second: below it a second's worth is less than one large packet.
const MIN_BANDWIDTH: u64 = 64_000;

/// Flags of `serve` for the limits of TURN.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "STUN and TURN")]
// The fields are the flags' names.
#[allow(clippy::struct_field_names)]
pub struct TurnLimitArgs {
    /// Networks that may be relayed to although they are private or this machine's, such as
    /// 192.168.0.0/16; repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub turn_allow_peer: Vec<IpNet>,
    /// Networks that may not be relayed to although they are public; goes before --turn-allow-peer;
    /// repeatable
    #[arg(long, value_name = "NETWORK", value_delimiter = ',')]
    pub turn_deny_peer: Vec<IpNet>,
    /// Allocations one device may hold at a time; default 30
    #[arg(long, value_name = "N")]
    pub turn_quota: Option<usize>,
    /// Allocations all devices may hold at a time; default 1000
    #[arg(long, value_name = "N")]
    pub turn_max_allocations: Option<usize>,
    /// TCP and TLS connections of one IP address at a time (IPv6: of one /64), 0 for no limit; default
    /// 64
    #[arg(long, value_name = "N")]
    pub turn_connections_per_ip: Option<u32>,
    /// Bandwidth of one allocation each way, such as 5Mbit, IP and UDP headers included, with bursts of
    /// a second; what is over it is dropped; default: no limit
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub turn_bandwidth: Option<u64>,
    /// Bandwidth of all allocations together each way; default: no limit
    #[arg(long, value_name = "RATE", value_parser = bandwidth)]
    pub turn_total_bandwidth: Option<u64>,
    /// Ports to relay on; default 49152-65535
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    pub turn_ports: Option<RangeInclusive<u16>>,
}

impl TurnLimitArgs {
    /// The first flag of these that is given.
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

    /// How much of everything; for what is not given, the default. A dev server has no limits for one
    /// client.
    ///
    /// # Errors
    /// Exit code 2 for limits that let nothing through.
    pub fn limits(&self, dev: bool) -> Result<TurnLimits, Failure> {
        let default = if dev { TurnLimits::for_one_machine() } else { TurnLimits::default() };
        let allocations = self.turn_max_allocations.unwrap_or(default.allocations);
        let per_user = self.turn_quota.unwrap_or(default.allocations_per_user);
        for (flag, count) in [("--turn-quota", per_user), ("--turn-max-allocations", allocations)] {
            if count == 0 {
                return Err(Failure::usage(
                    format!("{flag} 0 lets nobody relay"),
                    "give 1 or more, or --no-turn for no relay at all",
                ));
            }
        }
        let bytes = |bits: Option<u64>| bits.map(|bits| bits / 8);
        Ok(TurnLimits {
            allocations,
            allocations_per_user: per_user,
            tcp_connections_per_address: match self.turn_connections_per_ip {
                Some(most) => (most > 0).then_some(most),
                None => default.tcp_connections_per_address,
            },
            bytes_per_second: bytes(self.turn_bandwidth),
            total_bytes_per_second: bytes(self.turn_total_bandwidth),
            ..default
        })
    }

    /// Who may be relayed to. A dev server relays to this machine, any other to its addresses only
    /// where they are named; `relays` are the addresses clients know it by.
    ///
    /// # Errors
    /// When the machine has an address that cannot be written.
    pub fn peers(&self, dev: bool, relays: &[IpAddr]) -> Result<PeerFilter, Failure> {
        let mut own = local_addresses(None, true, true, true);
        own.extend(relays);
        let mut allow = self.turn_allow_peer.clone();
        if dev {
            for address in own.drain(..) {
                let host = address
                    .to_string()
                    .parse::<IpNet>()
                    .map_err(|error| Failure::usage(error.to_string(), "give --no-turn"))?;
                allow.push(host);
            }
        }
        Ok(PeerFilter { allow_loopback: dev, allow, deny: self.turn_deny_peer.clone(), own })
    }
}

fn bandwidth(text: &str) -> Result<u64, String> {
    let bits = units::bit_rate(text).map_err(|error| error.to_string())?;
    if bits < MIN_BANDWIDTH {
        return Err("less than 64kbit lets no large packet through".into());
    }
    Ok(bits)
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("`{text}` is no range of ports: write 49152-65535, from 1 on");
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
    fn limits_are_what_the_flags_say() {
        let default = read(&[]).unwrap().limits(false).unwrap();
        assert_eq!((default.allocations, default.allocations_per_user), (1000, 30));
        assert_eq!(default.tcp_connections_per_address, Some(64));
        let most = |flags: &[&str], dev| {
            read(flags).unwrap().limits(dev).unwrap().tcp_connections_per_address
        };
        assert_eq!(most(&[], true), None);
        assert_eq!(most(&["--turn-connections-per-ip", "5"], true), Some(5));
        assert_eq!(most(&["--turn-connections-per-ip", "0"], false), None);
        assert_eq!((default.bytes_per_second, default.total_bytes_per_second), (None, None));
        let flags = ["--turn-bandwidth", "2Mbit", "--turn-total-bandwidth", "1Gbit"];
        let limits = read(&flags).unwrap().limits(false).unwrap();
        assert_eq!(limits.bytes_per_second, Some(250_000));
        assert_eq!(limits.total_bytes_per_second, Some(125_000_000));
        assert_eq!(read(&["--turn-ports", "50000-50010"]).unwrap().turn_ports, Some(50000..=50010));
    }

    #[test]
    fn limits_that_let_nothing_through_are_refused() {
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
    fn own_addresses_are_for_dev_servers_only() {
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
