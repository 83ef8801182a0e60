//! Discovers the behavior of the NAT in front of this machine (RFC 4787) with the help of STUN servers
//! (RFC 5780): mapping (§4.3), filtering (§4.4), hairpinning (§4.5), and port allocation.
//!
//! [`Discovery`] has neither sockets nor a clock: datagrams and times are passed in, and it returns the
//! datagrams to send from each of its sockets. Each test uses its own socket if another test would affect
//! the state of the NAT. Requests are repeated, so that single lost packets do not change the findings.
//!
//! - [`judge`]: draws conclusions from the observations
//! - [`lifetime`]: the lifetime of a binding without traffic (§4.6)
//! - [`driver`]: real sockets and a clock

pub mod driver;
mod exchange;
pub mod judge;
pub mod lifetime;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Instant};

use exchange::{Exchange, Purpose};
pub use judge::{Bounds, FilteringTest, Findings, Observed, Round};

use super::message::{ChangeRequest, Class, Message, TransactionId, attr, method};

/// Number of sockets of the port test, which are used one after the other.
const PORT_SOCKETS: usize = 5;

/// The socket of the mapping test.
const MAPPING: usize = 0;

/// The socket of the filtering test, which sends only to the server's first address.
const FILTERING: usize = 1;

/// The two sockets of the hairpinning test, which try to reach each other.
const HAIRPIN: [usize; 2] = [2, 3];

/// The first socket of the port test.
const PORTS: usize = 4;

/// The maximum number of sockets of a discovery; they are numbered from 0.
pub const SOCKETS: usize = PORTS + PORT_SOCKETS;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The socket to send from, below [`SOCKETS`].
    pub socket: usize,
    /// The destination.
    pub to: SocketAddr,
    /// The content of the datagram.
    pub datagram: Vec<u8>,
}

/// Discovers how the NAT behaves.
#[derive(Debug)]
pub struct Discovery {
    exchanges: Vec<Exchange>,
    /// A server with another address, and that address.
    other: Option<(SocketAddr, SocketAddr)>,
    /// A server that answered, which the other tests use.
    reference: Option<SocketAddr>,
    mapped: [Option<SocketAddr>; 2],
    hairpinned: Option<bool>,
    locals: [Option<SocketAddr>; SOCKETS],
    next_id: u64,
    id_base: [u8; 4],
}

impl Discovery {
    /// A discovery that uses these servers, each address once. `id` is a random number that makes the
    /// transaction ids of this discovery differ from those of others.
    #[must_use]
    pub fn new(servers: &[SocketAddr], id: u32, now: Instant) -> Self {
        let mut discovery = Self {
            exchanges: Vec::new(),
            other: None,
            reference: None,
            mapped: [None; 2],
            hairpinned: None,
            locals: [None; SOCKETS],
            next_id: 0,
            id_base: id.to_be_bytes(),
        };
        for server in servers {
            if !discovery.exchanges.iter().any(|exchange| exchange.to == *server) {
                discovery.ask(Purpose::Mapping, MAPPING, *server, None, now);
            }
        }
        discovery
    }

    fn ask(
        &mut self,
        purpose: Purpose,
        socket: usize,
        to: SocketAddr,
        change: Option<ChangeRequest>,
        now: Instant,
    ) {
        let mut id = TransactionId::default();
        id[..4].copy_from_slice(&self.id_base);
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        self.exchanges.push(Exchange::new(id, purpose, socket, to, change, now));
    }

    /// Sets the address a socket is bound to.
    pub fn bound(&mut self, socket: usize, local: SocketAddr) {
        self.locals[socket] = Some(local);
    }

    /// The next datagram that is due, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.exchanges.iter_mut().find_map(|exchange| exchange.transmit(now))
    }

    /// The time of the next timeout; `None` if the discovery is done.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.exchanges.iter().filter_map(Exchange::due).min()
    }

    /// Times out requests that have waited too long, and continues with the tests that depend on them.
    pub fn handle_timeout(&mut self, now: Instant) {
        let timed_out: Vec<Purpose> = self
            .exchanges
            .iter_mut()
            .filter_map(|exchange| exchange.give_up(now).then_some(exchange.purpose))
            .collect();
        for purpose in timed_out {
            if let Purpose::Port(index) = purpose {
                self.ask_next_port(index, now);
            }
        }
    }

    /// Whether nothing more is awaited.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.poll_timeout().is_none()
    }

    /// Handles a datagram that arrived at one of the sockets.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        socket: usize,
        from: SocketAddr,
        datagram: &[u8],
    ) {
        let Some(message) = Message::parse(datagram).filter(|m| m.method == method::BINDING) else {
            return;
        };
        let of = |exchange: &&mut Exchange| exchange.id == message.transaction;
        let Some(exchange) = self.exchanges.iter_mut().find(of) else { return };
        if message.class == Class::Request {
            if exchange.purpose == Purpose::Hairpin && HAIRPIN.contains(&socket) {
                self.hairpinned = Some(true);
                self.end_hairpinning();
            }
            return;
        }
        if exchange.socket != socket || !exchange.answer(now, from, &message) {
            return;
        }
        let (purpose, to, mapped) = (exchange.purpose, exchange.to, exchange.mapped());
        if let Some(mapped) = mapped {
            self.answered(purpose, to, mapped, &message, now);
        } else if let Purpose::Port(index) = purpose {
            self.ask_next_port(index, now);
        }
    }

    fn answered(
        &mut self,
        purpose: Purpose,
        to: SocketAddr,
        mapped: SocketAddr,
        message: &Message<'_>,
        now: Instant,
    ) {
        match purpose {
            Purpose::Mapping => {
                self.start_other_tests(to, now);
                let other = message.plain_address(attr::OTHER_ADDRESS);
                if let Some(other) = other.filter(|other| is_usable(to, *other)) {
                    self.use_other(to, other, now);
                }
            }
            Purpose::FilteringFirst => {
                for (change, purpose) in [
                    (ChangeRequest { ip: true, port: true }, Purpose::FilteringBoth),
                    (ChangeRequest { ip: false, port: true }, Purpose::FilteringPort),
                ] {
                    self.ask(purpose, FILTERING, to, Some(change), now);
                }
            }
            Purpose::HairpinMapping(index) => {
                self.mapped[index] = Some(mapped);
                self.hairpin(now);
            }
            Purpose::Port(index) => self.ask_next_port(index, now),
            Purpose::MappingOther
            | Purpose::FilteringBoth
            | Purpose::FilteringPort
            | Purpose::Hairpin => {}
        }
    }

    /// Starts the tests that work with any server: ports and hairpinning.
    fn start_other_tests(&mut self, server: SocketAddr, now: Instant) {
        if self.reference.is_some() {
            return;
        }
        self.reference = Some(server);
        for (index, socket) in HAIRPIN.into_iter().enumerate() {
            self.ask(Purpose::HairpinMapping(index), socket, server, None, now);
        }
        self.ask(Purpose::Port(0), PORTS, server, None, now);
    }

    /// Starts the tests that require a server with another address (RFC 5780 §4.3, §4.4).
    fn use_other(&mut self, server: SocketAddr, other: SocketAddr, now: Instant) {
        if self.other.is_some() {
            return;
        }
        self.other = Some((server, other));
        for to in [SocketAddr::new(other.ip(), server.port()), other] {
            if !self.exchanges.iter().any(|e| e.socket == MAPPING && e.to == to) {
                self.ask(Purpose::MappingOther, MAPPING, to, None, now);
            }
        }
        self.ask(Purpose::FilteringFirst, FILTERING, server, None, now);
    }

    fn ask_next_port(&mut self, index: usize, now: Instant) {
        let next = index + 1;
        if let Some(server) = self.reference.filter(|_| next < PORT_SOCKETS) {
            self.ask(Purpose::Port(next), PORTS + next, server, None, now);
        }
    }

    /// Both sockets send to the other's external address concurrently, so that neither's filter blocks.
    fn hairpin(&mut self, now: Instant) {
        let [Some(first), Some(second)] = self.mapped else { return };
        if HAIRPIN.iter().any(|socket| self.locals[*socket] == Some(first)) {
            return;
        }
        self.hairpinned = Some(false);
        for (socket, to) in HAIRPIN.into_iter().zip([second, first]) {
            self.ask(Purpose::Hairpin, socket, to, None, now);
        }
    }

    fn end_hairpinning(&mut self) {
        let asked = |exchange: &&mut Exchange| exchange.purpose == Purpose::Hairpin;
        self.exchanges.iter_mut().filter(asked).for_each(Exchange::end);
    }

    /// The findings so far.
    #[must_use]
    pub fn findings(&self) -> Findings {
        let seen = |wanted: fn(Purpose) -> bool| {
            self.exchanges.iter().filter(move |exchange| wanted(exchange.purpose))
        };
        let is_mapping = |p| matches!(p, Purpose::Mapping | Purpose::MappingOther);
        let observed: Vec<Observed> = seen(is_mapping).filter_map(Exchange::observed).collect();
        let silent = seen(|p| p == Purpose::Mapping)
            .filter(|exchange| exchange.mapped().is_none())
            .map(|exchange| exchange.to)
            .collect();
        let round = |purpose| {
            self.exchanges
                .iter()
                .find(|e| e.purpose == purpose)
                .map_or(Round::NotMade, Exchange::round)
        };
        let other_answers =
            self.other.is_some_and(|(_, other)| observed.iter().any(|seen| seen.server == other));
        let test = FilteringTest {
            other: self.other,
            other_answers,
            both: round(Purpose::FilteringBoth),
            port: round(Purpose::FilteringPort),
        };
        let ports = seen(|p| matches!(p, Purpose::Port(_)))
            .filter_map(|e| Some((self.locals[e.socket]?.port(), e.mapped()?.port())))
            .collect::<Vec<_>>();
        Findings::new(self.locals[MAPPING], observed, silent, test, self.hairpinned, &ports)
    }
}

/// Whether a server's other address is usable: it must differ in address and port and be of the same
/// family.
fn is_usable(server: SocketAddr, other: SocketAddr) -> bool {
    other.is_ipv4() == server.is_ipv4()
        && other.ip() != server.ip()
        && !other.ip().is_unspecified()
        && other.port() != server.port()
        && other.port() != 0
}
