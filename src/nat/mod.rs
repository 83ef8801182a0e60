//! What lies between a peer and the internet: NATs and firewalls by their behaviour (RFC 4787), and
//! the link. Vocabulary only; [`crate::netsim`] and [`crate::netns`] make it real.
//!
//! - [`profile`]: a stack of them by name, `port+sym`
//! - [`link`]: loss, delay, jitter, rate; versions of IP
//! - [`named`]: both together under a name, `home-router`; [`mod@file`]: those in files
//! - [`theory`]: whether two peers can reach each other directly

pub mod file;
pub mod link;
pub mod named;
pub mod profile;
pub mod theory;

use std::{fmt, time::Duration};

pub use link::{IpVersions, Link, Queue};
pub use named::{LinkChanges, NamedNetwork, NetworkError, network};
pub use profile::{Profile, ProfileError};
pub use theory::{Path, expected};

/// How long a mapping lives without traffic unless told otherwise: what RFC 4787 §4.3 recommends.
pub const BINDING_TIMEOUT: Duration = Duration::from_mins(5);

/// What a NAT looks at of the remote end: for mapping (RFC 4787 §4.1) which external port a packet
/// leaves by, for filtering (§5) which packets may come in. In the order of strictness.
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
    /// All of them, from the laxest.
    pub const ALL: [Self; 3] =
        [Self::EndpointIndependent, Self::AddressDependent, Self::AddressAndPortDependent];

    /// As RFC 4787 calls it: `endpoint-independent`.
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
    /// The internal one when it is free, else any other ("port preservation").
    Preserving,
    /// Any.
    Random,
    /// One above the last one given.
    Sequential,
}

impl Ports {
    /// As in a profile: `preserving`, `random`, `sequential`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::Random => "random",
            Self::Sequential => "sequential",
        }
    }
}

/// One NAT that translates addresses and ports (NAPT).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nat {
    /// RFC 4787 §4.1.
    pub mapping: Behaviour,
    /// RFC 4787 §5.
    pub filtering: Behaviour,
    /// RFC 4787 §4.2.
    pub ports: Ports,
    /// Whether two hosts behind it reach each other by their external addresses (RFC 4787 §6).
    pub hairpinning: bool,
    /// How long a mapping lives without outbound traffic (RFC 4787 §4.3).
    pub timeout: Duration,
}

impl Nat {
    /// A NAT of that mapping and filtering: ports are preserved when the mapping is
    /// endpoint-independent and random otherwise, no hairpinning, [`BINDING_TIMEOUT`].
    #[must_use]
    pub fn new(mapping: Behaviour, filtering: Behaviour) -> Self {
        let ports = match mapping {
            Behaviour::EndpointIndependent => Ports::Preserving,
            _ => Ports::Random,
        };
        Self { mapping, filtering, ports, hairpinning: false, timeout: BINDING_TIMEOUT }
    }
}

/// One box on the way from a peer to the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layer {
    /// Translates and filters.
    Nat(Nat),
    /// Filters without translating: a stateful firewall in front of a public address.
    Firewall {
        /// Which packets may come in.
        filtering: Behaviour,
        /// How long it remembers what went out.
        timeout: Duration,
    },
    /// Lets no UDP through in either direction.
    UdpBlocked,
}
