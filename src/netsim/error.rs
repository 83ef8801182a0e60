//! Errors of setting up a gateway.

use std::{io, net::IpAddr};

/// Why a gateway or a socket behind it could not be created.
#[derive(Debug, thiserror::Error)]
pub enum NetsimError {
    /// The external address cannot be used.
    #[error("the simulated NAT cannot use {address} as its external address: {source}")]
    Outside {
        /// The external address.
        address: IpAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// All loopback addresses that were tried are taken or do not exist.
    #[error("the simulated NAT found no free loopback address (last tried: {last}): {source}")]
    Loopback {
        /// The last address tried.
        last: IpAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Only IPv4 is translated.
    #[error("NAT profile `{profile}` translates IPv4 only, but {address} is IPv6")]
    Ipv4Only {
        /// The profile.
        profile: String,
        /// The IPv6 address.
        address: IpAddr,
    },
    /// Both the carrier and the gateway behind it must translate.
    #[error(
        "NAT profile `{profile}` does not translate addresses, but a carrier and the routers behind it must"
    )]
    Carrier {
        /// The profile that does not translate.
        profile: String,
    },
    /// A socket behind the gateway cannot be created.
    #[error("cannot create a socket on {address} behind the simulated NAT: {source}")]
    Inside {
        /// The internal address.
        address: IpAddr,
        /// Error of the operating system.
        source: io::Error,
    },
}

impl NetsimError {
    /// How to fix it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Loopback { source, .. } if is_missing(source) => {
                "add loopback addresses for the NATs: for i in 1 2 3 4; do sudo ifconfig \
                 lo0 alias 127.64.0.$i; done (macOS has only 127.0.0.1 until then)"
                    .into()
            }
            Self::Loopback { .. } => {
                "end other runs of orion-peer, or free the UDP ports on 127.64.0.0/10".into()
            }
            Self::Outside { address, source } if is_missing(source) && address.is_loopback() => {
                format!("add the address to this machine: sudo ifconfig lo0 alias {address} (macOS)")
            }
            Self::Outside { .. } => "choose an address of this machine".into(),
            Self::Ipv4Only { .. } => {
                "choose an IPv4 address (--network udp4), or a profile that does not translate: none or \
                 firewall"
                    .into()
            }
            Self::Carrier { .. } => "choose profiles with a NAT, such as port or sym".into(),
            Self::Inside { .. } => {
                "check the limit on open files (ulimit -n): the simulation uses real UDP sockets"
                    .into()
            }
        }
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
}
