//! One peer's side of a lab: the networks between it and the internet, and its addresses there.

use std::{
    fmt::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{FIRST_HOST, GATEWAY, GATEWAY6, INTERNET, internet6};
use crate::{
    nat::{IpVersions, Layer},
    netns::plan::NetworkPlan,
};

/// A network that a peer can be in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The peer's interface there.
    pub interface: String,
    /// The peer's address there.
    pub address: Ipv4Addr,
    pub(super) prefix: u8,
    pub(super) gateway: Ipv4Addr,
    /// IP versions of the network.
    pub ip: IpVersions,
    pub(super) address6: Ipv6Addr,
    pub(super) gateway6: Ipv6Addr,
    /// Letter of the machines between it and the internet: a1, a2, …
    pub letter: char,
    /// The machine next to the peer, and that machine's interface toward it.
    pub next: (String, String),
}

impl Attachment {
    /// Joins the network, as input of `ip -batch -`.
    #[must_use]
    pub fn arrive(&self, address: Ipv4Addr) -> String {
        let Self { interface, prefix, gateway, address6, gateway6, .. } = self;
        let mut text = format!("link set {interface} up\n");
        if self.ip.has_v4() {
            let _ = write!(
                text,
                "addr add {address}/{prefix} dev {interface}\nroute replace default via {gateway}\n"
            );
        }
        if self.ip.has_v6() {
            let _ = write!(
                text,
                "addr add {address6}/64 dev {interface} nodad\n\
                 route replace default via {gateway6} dev {interface}\n"
            );
        }
        text
    }

    /// Leaves the network, as input of `ip -batch -`.
    #[must_use]
    pub fn leave(&self) -> String {
        let interface = &self.interface;
        format!("addr flush dev {interface}\nlink set {interface} down\n")
    }

    /// Picks another address of the same network; the IPv6 address changes with it.
    pub fn another(&mut self, number: u32) -> Ipv4Addr {
        let [.., host] = self.address6.segments();
        self.address6 = Ipv6Addr::from_bits(self.address6.to_bits() ^ u128::from(host));
        self.address6 = Ipv6Addr::from_bits(self.address6.to_bits() + 0x1000 + u128::from(number));
        let room = (1 << (32 - u32::from(self.prefix))) - 3 - FIRST_HOST;
        Ipv4Addr::from_bits(self.gateway.to_bits() - 1 + FIRST_HOST + number % room)
    }
}

/// A network between two machines: the machine nearer to the internet has the first address, and the other
/// has the second.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) base: Ipv4Addr,
    pub(super) prefix: u8,
}

impl Segment {
    pub(super) fn host(self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + number)
    }

    /// `side` 0 is A, 1 is B, others are networks they can move to; `depth` counts layers from the peer
    /// outward.
    pub(super) fn new(public: bool, side: u8, depth: u8) -> Self {
        match (public, side) {
            (true, 0) => Self { base: Ipv4Addr::new(198, 51, 100, depth * 16), prefix: 28 },
            (true, 1) => Self { base: Ipv4Addr::new(192, 0, 2, depth * 16), prefix: 28 },
            (true, _) => Self { base: Ipv4Addr::new(198, 18, side, depth * 16), prefix: 28 },
            (false, _) if depth == 0 => {
                Self { base: Ipv4Addr::new(192, 168, side + 1, 0), prefix: 24 }
            }
            (false, _) => Self { base: Ipv4Addr::new(100, 64, side * 16 + depth, 0), prefix: 24 },
        }
    }
}

/// One peer's side during layout.
pub(super) struct Side<'p> {
    pub(super) number: u8,
    pub(super) letter: char,
    pub(super) layers: &'p [Layer],
    /// The network on the peer's side of each layer.
    pub(super) segments: Vec<Segment>,
    pub(super) ip: IpVersions,
    pub(super) mtu: Option<u16>,
}

impl<'p> Side<'p> {
    pub(super) fn new(number: u8, network: &'p NetworkPlan) -> Self {
        let layers = &network.profile.layers[..];
        let public = |depth: usize| !layers[depth..].iter().any(|l| matches!(l, Layer::Nat(_)));
        let segments =
            (0..layers.len()).map(|k| Segment::new(public(k), number, k as u8)).collect();
        let letter = char::from(b'a' + number);
        Self { number, letter, layers, segments, ip: network.ip, mtu: network.mtu }
    }

    /// The attachment of the peer to this network.
    pub(super) fn attachment(&self, peer: usize) -> Attachment {
        let (address, prefix, gateway) = match self.segments.first() {
            Some(lan) => (lan.host(2), lan.prefix, lan.host(1)),
            None => (self.outermost(), 24, GATEWAY),
        };
        let home = usize::from(self.number) == peer;
        let interface = if home { "eth0".to_owned() } else { format!("eth{}", self.number) };
        let (address6, gateway6) = match self.layers {
            [] => (self.outermost6(), GATEWAY6),
            _ => (self.host6(0, 2), self.host6(0, 1)),
        };
        let (ip, letter) = (self.ip, self.letter);
        let next = match self.layers {
            [] => (INTERNET.to_owned(), letter.to_string()),
            _ => (self.router(0), "lan0".to_owned()),
        };
        Attachment { interface, address, prefix, gateway, ip, address6, gateway6, letter, next }
    }

    /// IPv6 address of a host on the peer's side of layer `k`.
    pub(super) fn host6(&self, k: usize, host: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, u16::from(self.number) + 1, k as u16, 0, 0, 0, host)
    }

    pub(super) fn outermost6(&self) -> Ipv6Addr {
        internet6(2 + u16::from(self.number))
    }

    /// IPv6 address and gateway on the internet's side of layer `k`.
    pub(super) fn wan6(&self, k: usize) -> (Ipv6Addr, Ipv6Addr) {
        if k + 1 < self.layers.len() {
            (self.host6(k + 1, 2), self.host6(k + 1, 1))
        } else {
            (self.outermost6(), GATEWAY6)
        }
    }

    /// IPv4 address on the internet.
    pub(super) fn outermost(&self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 2 + self.number)
    }

    /// IPv4 address, prefix and gateway on the internet's side of layer `k`.
    pub(super) fn wan(&self, k: usize) -> (Ipv4Addr, u8, Ipv4Addr) {
        match self.segments.get(k + 1) {
            Some(segment) => (segment.host(2), segment.prefix, segment.host(1)),
            None => (self.outermost(), 24, GATEWAY),
        }
    }

    pub(super) fn router(&self, k: usize) -> String {
        format!("{}{}", self.letter, k + 1)
    }

    /// The namespace on the internet's side of layer `k`, and its interface.
    pub(super) fn above(&self, k: usize) -> (String, String) {
        if k + 1 < self.layers.len() {
            (self.router(k + 1), "lan0".to_owned())
        } else {
            (INTERNET.to_owned(), self.letter.to_string())
        }
    }
}
