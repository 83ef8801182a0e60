//! One NAT or firewall as specified by RFC 4787: a table of mappings, and for each mapping the remote
//! endpoints that may reply. No I/O; the time is passed in, and is monotonic.
//!
//! | requirement | implementation |
//! |---|---|
//! | REQ-1 mapping, REQ-8 filtering | any of the three behaviors, independently |
//! | REQ-2 address pooling | one external address, so it is paired |
//! | REQ-3 port assignment | no two mappings share a port |
//! | REQ-4 port parity | not preserved: RFC 7857 advises against it |
//! | REQ-5 timers | [`Nat::timeout`](crate::nat::Nat), for mappings and for the permission to reply |
//! | REQ-6 refresh | by outbound packets; optionally by inbound ones |
//! | REQ-7, REQ-10 to REQ-14 | not implemented: addresses of the WAN, ALGs, ICMP and fragments |
//! | REQ-9 hairpinning | with the external source, see [`super::stack`] |
//!
//! Tables are bounded. When a table is full of entries that have not expired, new entries are rejected and
//! existing ones stay, so that no host loses a connection because another one opens many.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::random::Random;
use crate::nat::{Behaviour, Layer, Nat, Ports};

/// Maximum mappings of one NAT: what home routers support, and few enough for file descriptors.
pub const MAX_MAPPINGS: usize = 4096;

/// Maximum remote endpoints per mapping.
pub const MAX_REMOTES: usize = 1024;

/// First port of mappings (REQ-3: not below 1024 for a host whose port is above).
const FIRST_PORT: u16 = 1024;

/// Number of ports tried. With [`MAX_MAPPINGS`] of 64 thousand ports taken, the probability that 64 random
/// ones are all taken is 10^-76.
const PORT_TRIES: usize = 64;

/// Decides whether an external address is free, and takes it. If mappings are backed by real sockets, the
/// operating system decides.
pub trait PortSpace {
    /// Takes the address, unless it is already taken.
    fn acquire(&mut self, external: SocketAddr) -> bool;

    /// Releases the address when its mapping has ended.
    fn release(&mut self, external: SocketAddr);
}

/// A port space in which every port is free, for NATs behind another NAT.
#[derive(Debug, Clone, Copy, Default)]
pub struct EveryPort;

impl PortSpace for EveryPort {
    fn acquire(&mut self, _: SocketAddr) -> bool {
        true
    }

    fn release(&mut self, _: SocketAddr) {}
}

/// Why a packet was not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All UDP is blocked.
    #[error("UDP is blocked")]
    Blocked,
    /// The table of mappings, or of the mapping's remote endpoints, is full.
    #[error("the table is full")]
    TableFull,
    /// No external port is free.
    #[error("no external port is free")]
    NoPort,
    /// No mapping has this external address.
    #[error("no such mapping")]
    NoMapping,
    /// The remote endpoint is not permitted to reply.
    #[error("the sender is filtered")]
    Filtered,
    /// The packet is for an external address of the same NAT, which does not hairpin.
    #[error("the NAT does not hairpin")]
    NoHairpinning,
}

/// What determines the mapping of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    inside: SocketAddr,
    address: Option<IpAddr>,
    port: Option<u16>,
}

/// The part of a remote endpoint that filtering considers.
type Remote = (IpAddr, u16);

#[derive(Debug)]
struct Mapping {
    key: Key,
    expires: Duration,
    /// Remote endpoints that may reply, and until when.
    remotes: HashMap<Remote, Duration>,
}

#[derive(Debug)]
enum Kind {
    Nat { external: Ipv4Addr, ports: Ports, hairpinning: bool },
    Firewall,
    Blocked,
}

/// The state of one layer of a profile.
#[derive(Debug)]
pub struct Translator {
    kind: Kind,
    mapping: Behaviour,
    filtering: Behaviour,
    timeout: Duration,
    inbound_refreshes: bool,
    random: Random,
    last_port: u16,
    /// Keyed by external address.
    mappings: HashMap<SocketAddr, Mapping>,
    by_key: HashMap<Key, SocketAddr>,
}

impl Translator {
    /// A layer whose external address is `external`, if it has one.
    #[must_use]
    pub fn new(layer: Layer, external: Ipv4Addr, seed: u64) -> Self {
        let open = Behaviour::EndpointIndependent;
        let (kind, mapping, filtering, timeout) = match layer {
            Layer::Nat(Nat { mapping, filtering, ports, hairpinning, timeout }) => {
                (Kind::Nat { external, ports, hairpinning }, mapping, filtering, timeout)
            }
            Layer::Firewall { filtering, timeout } => (Kind::Firewall, open, filtering, timeout),
            Layer::UdpBlocked => (Kind::Blocked, open, open, Duration::ZERO),
        };
        let mut random = Random::new(seed, "ports");
        Self {
            kind,
            mapping,
            filtering,
            timeout,
            inbound_refreshes: false,
            last_port: random.port(FIRST_PORT, u16::MAX),
            random,
            mappings: HashMap::new(),
            by_key: HashMap::new(),
        }
    }

    /// Lets inbound packets refresh mappings, too (REQ-6 b leaves that open). Off by default.
    #[must_use]
    pub fn with_inbound_refresh(mut self, refreshes: bool) -> Self {
        self.inbound_refreshes = refreshes;
        self
    }

    /// The external address; `None` if this layer does not translate.
    #[must_use]
    pub fn external(&self) -> Option<IpAddr> {
        match self.kind {
            Kind::Nat { external, .. } => Some(external.into()),
            _ => None,
        }
    }

    /// Whether hosts behind it reach each other through their external addresses.
    #[must_use]
    pub fn hairpins(&self) -> bool {
        matches!(self.kind, Kind::Nat { hairpinning: true, .. })
    }

    /// Number of mappings in the table, possibly including some that have expired since the last outbound
    /// packet.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// Handles a packet from inside. Returns its external source address.
    ///
    /// # Errors
    /// [`Refused`] if it is dropped.
    pub fn outbound(
        &mut self,
        now: Duration,
        inside: SocketAddr,
        to: SocketAddr,
        ports: &mut dyn PortSpace,
    ) -> Result<SocketAddr, Refused> {
        if matches!(self.kind, Kind::Blocked) {
            return Err(Refused::Blocked);
        }
        let key = self.key(inside, to);
        let live = |external: &SocketAddr| self.mappings[external].expires > now;
        let external = match self.by_key.get(&key).copied().filter(live) {
            Some(external) => external,
            None => self.create(now, key, ports)?,
        };
        let expires = now.saturating_add(self.timeout);
        let remote = self.remote(to);
        let mapping = self.mappings.get_mut(&external).expect("every key has its mapping");
        mapping.expires = expires;
        if self.filtering != Behaviour::EndpointIndependent {
            mapping.permit(now, remote, expires)?;
        }
        Ok(external)
    }

    /// Handles a packet from outside to an external address. Returns its internal destination.
    ///
    /// # Errors
    /// [`Refused`] if it is dropped.
    pub fn inbound(
        &mut self,
        now: Duration,
        at: SocketAddr,
        from: SocketAddr,
    ) -> Result<SocketAddr, Refused> {
        if matches!(self.kind, Kind::Blocked) {
            return Err(Refused::Blocked);
        }
        let remote = self.remote(from);
        let mapping = self.mappings.get_mut(&at).filter(|mapping| mapping.expires > now);
        let mapping = mapping.ok_or(Refused::NoMapping)?;
        if self.filtering != Behaviour::EndpointIndependent {
            let until = mapping.remotes.get_mut(&remote).filter(|until| **until > now);
            let until = until.ok_or(Refused::Filtered)?;
            if self.inbound_refreshes {
                *until = now.saturating_add(self.timeout);
            }
        }
        if self.inbound_refreshes {
            mapping.expires = now.saturating_add(self.timeout);
        }
        Ok(mapping.key.inside)
    }

    /// Removes all expired mappings.
    pub fn expire(&mut self, now: Duration, ports: &mut dyn PortSpace) {
        self.end(ports, |mapping| mapping.expires <= now);
    }

    /// Removes all mappings of an internal address. Returns their external addresses.
    pub fn forget(&mut self, inside: SocketAddr, ports: &mut dyn PortSpace) -> Vec<SocketAddr> {
        self.end(ports, |mapping| mapping.key.inside == inside)
    }

    fn end(
        &mut self,
        ports: &mut dyn PortSpace,
        over: impl Fn(&Mapping) -> bool,
    ) -> Vec<SocketAddr> {
        let ended: Vec<_> = self
            .mappings
            .extract_if(|_, mapping| over(mapping))
            .map(|(at, m)| (at, m.key))
            .collect();
        for (external, key) in &ended {
            self.by_key.remove(key);
            ports.release(*external);
        }
        ended.into_iter().map(|(external, _)| external).collect()
    }

    fn key(&self, inside: SocketAddr, to: SocketAddr) -> Key {
        let (address, port) = match self.mapping {
            Behaviour::EndpointIndependent => (None, None),
            Behaviour::AddressDependent => (Some(to.ip()), None),
            Behaviour::AddressAndPortDependent => (Some(to.ip()), Some(to.port())),
        };
        Key { inside, address, port }
    }

    fn remote(&self, end: SocketAddr) -> Remote {
        match self.filtering {
            Behaviour::AddressAndPortDependent => (end.ip(), end.port()),
            _ => (end.ip(), 0),
        }
    }

    fn create(
        &mut self,
        now: Duration,
        key: Key,
        ports: &mut dyn PortSpace,
    ) -> Result<SocketAddr, Refused> {
        self.expire(now, ports);
        if self.mappings.len() >= MAX_MAPPINGS {
            return Err(Refused::TableFull);
        }
        let external = self.choose(key.inside, ports)?;
        self.mappings.insert(external, Mapping { key, expires: now, remotes: HashMap::new() });
        self.by_key.insert(key, external);
        Ok(external)
    }

    fn choose(
        &mut self,
        inside: SocketAddr,
        space: &mut dyn PortSpace,
    ) -> Result<SocketAddr, Refused> {
        let Kind::Nat { external, ports, .. } = self.kind else { return Ok(inside) };
        for attempt in 0..PORT_TRIES {
            let port = match ports {
                Ports::Preserving if attempt == 0 => inside.port(),
                Ports::Preserving | Ports::Random => self.random.port(FIRST_PORT, u16::MAX),
                Ports::Sequential => self.last_port.checked_add(1).unwrap_or(FIRST_PORT),
            };
            self.last_port = port;
            let address = SocketAddr::from((external, port));
            if !self.mappings.contains_key(&address) && space.acquire(address) {
                return Ok(address);
            }
        }
        Err(Refused::NoPort)
    }
}

impl Mapping {
    /// Permits a remote endpoint to reply until the given time.
    fn permit(&mut self, now: Duration, remote: Remote, until: Duration) -> Result<(), Refused> {
        if self.remotes.len() >= MAX_REMOTES && !self.remotes.contains_key(&remote) {
            self.remotes.retain(|_, until| *until > now);
            if self.remotes.len() >= MAX_REMOTES {
                return Err(Refused::TableFull);
            }
        }
        self.remotes.insert(remote, until);
        Ok(())
    }
}

#[cfg(test)]
#[path = "translator/tests.rs"]
mod tests;
