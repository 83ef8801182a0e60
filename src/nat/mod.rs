//! Describes the network between a peer and the internet: NATs and firewalls by their behavior (RFC 4787),
//! and the link. These are only types; [`crate::netsim`] and [`crate::netns`] implement them.
//!
//! - [`profile`]: a named stack of layers, such as `port+sym`
//! - [`link`]: loss, delay, jitter, rate; IP versions
//! - [`named`]: a profile and a link under one name, such as `home-router`; [`mod@file`]: networks in files
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

/// The part of the remote endpoint on which a NAT's behavior depends: its mapping (RFC 4787 §4.1), which
/// chooses the external port of a packet, or its filtering (§5), which decides what packets may enter.
/// Ordered by strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Behaviour {
    /// Depends on nothing.
    EndpointIndependent,
    /// Depends on the remote address.
    AddressDependent,
    /// Depends on the remote address and port.
    AddressAndPortDependent,
}

impl Behaviour {
    /// All behaviors, from the most permissive.
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

/// How the external port of a new mapping is chosen (RFC 4787 §4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The internal port if it is free, otherwise any other port ("port preservation").
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
    /// Mapping behavior, RFC 4787 §4.1.
    pub mapping: Behaviour,
    /// Filtering behavior, RFC 4787 §5.
    pub filtering: Behaviour,
    /// Port assignment, RFC 4787 §4.2.
    pub ports: Ports,
    /// Whether two hosts behind the NAT reach each other through their external addresses (RFC 4787 §6).
    pub hairpinning: bool,
    /// Lifetime of a mapping without outbound traffic (RFC 4787 §4.3).
    pub timeout: Duration,
}

impl Nat {
    /// A NAT with this mapping and filtering, without hairpinning and with [`BINDING_TIMEOUT`]. Ports are
    /// preserved if the mapping is endpoint-independent, and random otherwise.
    #[must_use]
    pub fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        let ports = match mapping {
            Behaviour::EndpointIndependent => Ports::Preserving,
            _ => Ports::Random,
        };
        Self { mapping, filtering, ports, hairpinning: false, timeout: BINDING_TIMEOUT }
    }
}

/// One device on the path from a peer to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Translates and filters.
    Nat(Nat),
    /// Filters without translating: a stateful firewall in front of a public address.
    Firewall {
        /// The filtering of inbound packets.
        filtering: Behaviour,
        /// How long the firewall remembers an outbound packet.
        timeout: Duration,
    },
    /// Blocks UDP in both directions.
    UdpBlocked,
}
