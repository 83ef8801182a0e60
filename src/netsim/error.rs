//! What can go wrong when a gateway is set up.

use std::{io, net::IpAddr};

/// Why a gateway or a socket behind it could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The outside address cannot be used.
    #[error("the simulated NAT cannot use {address} as its outside address: {source}")]
    Outside {
        /// The address.
        address: IpAddr,
        /// Why not.
        source: io::Error,
    },
    /// All loopback addresses that were tried are taken or not there.
    #[error(
        "the simulated NAT found no loopback address of its own, the last tried was {last}: {source}"
    )]
    Loopback {
        /// The last one tried.
        last: IpAddr,
        /// Why not.
        source: io::Error,
    },
    /// Translation is only done for IPv4.
    #[error("NAT profile `{profile}` translates IPv4 only, and {address} is IPv6")]
    Ipv4Only {
        /// The profile.
        profile: String,
        /// The address.
        address: IpAddr,
    },
    /// Both the carrier and what is behind it must translate.
    #[error("`{profile}` does not translate: a carrier and the routers behind it must")]
    Carrier {
        /// The profile that does not.
        profile: String,
    },
    /// A socket behind the gateway cannot be made.
    #[error("no socket on {address} behind the simulated NAT: {source}")]
    Inside {
        /// The address inside.
        address: IpAddr,
        /// Why not.
        source: io::Error,
    },
}

impl LabError {
    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Loopback { source, .. } if is_missing(source) => {
                "give this machine loopback addresses for the NATs: for i in 1 2 3 4; do sudo ifconfig \
                 lo0 alias 127.64.0.$i; done (macOS has only 127.0.0.1 until then)"
                    .into()
            }
            Self::Loopback { .. } => {
                "end other runs of orion-peer, or free UDP ports of 127.64.0.0/10".into()
            }
            Self::Outside { address, source } if is_missing(source) && address.is_loopback() => {
                format!("give this machine that address: sudo ifconfig lo0 alias {address} (macOS)")
            }
            Self::Outside { .. } => "choose an address of this machine".into(),
            Self::Ipv4Only { .. } => {
                "choose an IPv4 address (--network udp4), or a profile that does not translate: none or \
                 firewall"
                    .into()
            }
            Self::Carrier { .. } => "choose profiles with a NAT, such as port or sym".into(),
            Self::Inside { .. } => {
                "the lab needs UDP sockets of this machine: look at the limit of open files (ulimit -n)"
                    .into()
            }
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}
