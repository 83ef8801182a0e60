//! What lies between a peer and the internet: NATs and firewalls by their behaviour (RFC 4787), and the
//! link. Vocabulary only; implemented by [`crate::netsim`] and [`crate::netns`].
//!
//! - [`profile`]: a stack of layers by name, `port+sym`
//! - [`link`]: loss, delay, jitter, rate; IP versions
//! - [`named`]: both together under a name, `home-router`; [`mod@file`]: networks in files
//! - [`theory`]: whether two peers can reach each other directly

pub mod file;
pub mod link;
pub mod named;
pub mod profile;
pub mod theory;

use std::{fmt, time::Duration};

pub use link::{IpVersions, LinkSettings, Queue};
pub use named::{LinkChanges, NamedNetwork, NetworkError, network};
pub use profile::{Profile, ProfileError};
pub use theory::{Path, expected};

/// Default lifetime of a mapping without traffic: the recommendation of RFC 4787 §4.3.
pub const BINDING_TIMEOUT: Duration = Duration::from_mins(5);

/// The part of the remote endpoint that a NAT considers: for mapping (RFC 4787 §4.1), which external port a
/// packet leaves from; for filtering (§5), which packets may enter. Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behaviour {
    /// Nothing.
    EndpointIndependent,
    /// Its address.
    AddressDependent,
    /// Its address and port.
    AddressAndPortDependent,
}

impl Behaviour {
    /// All behaviours, from the most permissive.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// The RFC 4787 term, such as `endpoint-independent`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "endpoint-independent",
            Self::AddressDependent => "address-dependent",
            Self::AddressAndPortDependent => "address-and-port-dependent",
        }
    }

    /// The initials: `ei`, `ad` or `apd`.
    #[must_use]
    pub fn initials(self) -> &'static str {
        match self {
            Self::EndpointIndependent => "ei",
            Self::AddressDependent => "ad",
            Self::AddressAndPortDependent => "apd",
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which external port a new mapping gets (RFC 4787 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The internal port if it is free, otherwise any other ("port preservation").
    Preserving,
    /// A random port.
    Random,
    /// The port after the last one assigned.
    Sequential,
}

impl Ports {
    /// The name in a profile: `preserving`, `random`, `sequential`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Random => "random",
            Self::Sequential => "sequential",
        }
    }
}

/// A NAT that translates addresses and ports (NAPT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nat {
    /// Mapping behaviour, RFC 4787 §4.1.
    pub mapping: Behaviour,
    /// Filtering behaviour, RFC 4787 §5.
    pub filtering: Behaviour,
    /// Port assignment, RFC 4787 §4.2.
    pub ports: Ports,
    /// Whether two hosts behind it reach each other through their external addresses (RFC 4787 §6).
    pub hairpinning: bool,
    /// Lifetime of a mapping without outbound traffic (RFC 4787 §4.3).
    pub timeout: Duration,
}

impl Nat {
    /// A NAT with this mapping and filtering: ports are preserved if the mapping is endpoint-independent
    /// and random otherwise, no hairpinning, [`BINDING_TIMEOUT`].
    #[must_use]
    pub fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        let ports = match mapping {
            Behaviour::EndpointIndependent => Ports::Preserving,
            _ => Ports::Random,
        };
        Self { mapping, filtering, ports, hairpinning: false, timeout: BINDING_TIMEOUT }
    }
}

/// One box on the path from a peer to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Translates and filters.
    Nat(Nat),
    /// Filters without translating: a stateful firewall in front of a public address.
    Firewall {
        /// Which packets may enter.
        filtering: Behaviour,
        /// How long it remembers an outbound packet.
        timeout: Duration,
    },
    /// Blocks UDP in both directions.
    UdpBlocked,
}
