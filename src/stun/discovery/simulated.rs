//! A NAT, a link and STUN servers for tests, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    nat::{Behaviour, Ports},
    stun::message::{Builder, Class, Message, attr, method},
};

/// One-way delay.
const DELAY: Duration = Duration::from_millis(20);

/// The part of a remote address that the NAT distinguishes.
fn key(behaviour: Behaviour, remote: SocketAddr) -> String {
    match behaviour {
        Behaviour::EndpointIndependent => String::new(),
        Behaviour::AddressDependent => remote.ip().to_string(),
        Behaviour::AddressAndPortDependent => remote.to_string(),
    }
}

/// The NAT or firewall between the sockets and the servers.
#[derive(Debug, Clone)]
pub struct Middlebox {
    /// The mapping (RFC 4787 §4.1); `None` translates nothing.
    pub mapping: Option<Behaviour>,
    /// The filtering (RFC 4787 §5); `None` filters nothing.
    pub filtering: Option<Behaviour>,
    /// The port allocation (RFC 4787 §4.2).
    pub ports: Ports,
    /// Whether hairpinning works (RFC 4787 §6).
    pub hairpinning: bool,
    /// Lifetime of a binding without outbound traffic.
    pub timeout: Duration,
    /// Whether everything is blocked.
    pub blocked: bool,
    /// One in this many datagrams is lost.
    pub lose_every: usize,
}

impl Default for Middlebox {
    fn default() -> Self {
        Self {
            mapping: None,
            filtering: None,
            ports: Ports::Random,
            hairpinning: false,
            timeout: Duration::from_mins(5),
            blocked: false,
            lose_every: usize::MAX,
        }
    }
}

/// The capabilities of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// They support RFC 5780, and their other address answers.
    Full,
    /// They announce another address that does not answer.
    OtherIsSilent,
    /// They do not support RFC 5780 and reject CHANGE-REQUEST.
    Plain,
    /// They announce another address but answer from the usual one.
    Ignoring,
}

struct Binding {
    external: SocketAddr,
    internal: usize,
    remotes: HashSet<String>,
    used: Instant,
}

/// Time, sequence number, receiving socket, sender and datagram.
type Arrival = (Instant, usize, usize, SocketAddr, Vec<u8>);

/// The network.
pub struct Network {
    middlebox: Middlebox,
    servers: Servers,
    /// Internal addresses of the sockets.
    pub locals: Vec<SocketAddr>,
    bindings: BTreeMap<(usize, String), Binding>,
    opened: HashMap<usize, HashSet<String>>,
    next_port: u16,
    passed: usize,
    now: Instant,
    arriving: BinaryHeap<Reverse<Arrival>>,
}

const EXTERNAL: &str = "198.51.100.7";

/// The addresses of the server pair, primary first.
pub const PRIMARY: &str = "203.0.113.10:3478";
const OTHER: &str = "203.0.113.11:3479";

impl Network {
    pub fn new(middlebox: Middlebox, servers: Servers, sockets: usize, now: Instant) -> Self {
        let local = |n: usize| format!("192.168.1.2:{}", 50_000 + 7 * n).parse().unwrap();
        Self {
            middlebox,
            servers,
            locals: (0..sockets).map(local).collect(),
            bindings: BTreeMap::new(),
            opened: HashMap::new(),
            next_port: 40_000,
            passed: 0,
            now,
            arriving: BinaryHeap::new(),
        }
    }

    /// The time of the next arrival.
    pub fn next(&self) -> Option<Instant> {
        self.arriving.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next datagram that has arrived by `now`: socket, sender, datagram.
    pub fn arrived(&mut self, now: Instant) -> Option<(usize, SocketAddr, Vec<u8>)> {
        self.now = now;
        self.next().filter(|at| *at <= now)?;
        let Reverse((_, _, socket, from, datagram)) = self.arriving.pop()?;
        Some((socket, from, datagram))
    }

    fn lost(&mut self) -> bool {
        self.passed += 1;
        self.middlebox.blocked || self.passed.is_multiple_of(self.middlebox.lose_every)
    }

    /// A socket sends.
    pub fn send(&mut self, now: Instant, socket: usize, to: SocketAddr, datagram: &[u8]) {
        self.now = now;
        if self.lost() {
            return;
        }
        let source = self.outbound(socket, to);
        if to.ip() == source.ip() {
            if self.middlebox.hairpinning && self.middlebox.mapping.is_some() {
                self.inbound(source, to, datagram.to_vec());
            }
            return;
        }
        self.serve(source, to, datagram);
    }

    fn outbound(&mut self, socket: usize, to: SocketAddr) -> SocketAddr {
        let local = self.locals[socket];
        let filtering = self.middlebox.filtering.unwrap_or(Behaviour::EndpointIndependent);
        let remote = key(filtering, to);
        let Some(mapping) = self.middlebox.mapping else {
            self.opened.entry(socket).or_default().insert(remote);
            return local;
        };
        let external = match self.middlebox.ports {
            Ports::Preserving
                if !self.bindings.values().any(|b| b.external.port() == local.port()) =>
            {
                local.port()
            }
            Ports::Sequential => self.next_port,
            // Scattered and without duplicates: 7919 and 20000 have no common factor.
            _ => 30_000 + (u32::from(self.next_port - 40_000) * 7919 % 20_000) as u16,
        };
        let (now, timeout) = (self.now, self.middlebox.timeout);
        let key = (socket, key(mapping, to));
        if self.bindings.get(&key).is_some_and(|b| now - b.used >= timeout) {
            self.bindings.remove(&key);
        }
        let binding = self.bindings.entry(key).or_insert_with(|| {
            self.next_port += 1;
            let external = SocketAddr::new(EXTERNAL.parse().unwrap(), external);
            Binding { external, internal: socket, remotes: HashSet::new(), used: now }
        });
        binding.used = now;
        binding.remotes.insert(remote);
        binding.external
    }

    fn inbound(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        if self.lost() {
            return;
        }
        let filtering = self.middlebox.filtering.unwrap_or(Behaviour::EndpointIndependent);
        let remote = key(filtering, from);
        let socket = if self.middlebox.mapping.is_none() {
            let socket = self.locals.iter().position(|local| *local == to);
            socket.filter(|socket| {
                let opened = self.opened.get(socket);
                self.middlebox.filtering.is_none()
                    || opened.is_some_and(|all| all.contains(&remote))
            })
        } else {
            let alive =
                |b: &&Binding| b.external == to && self.now - b.used < self.middlebox.timeout;
            let binding = self.bindings.values().find(alive);
            binding.filter(|b| b.remotes.contains(&remote)).map(|b| b.internal)
        };
        if let Some(socket) = socket {
            let order = self.passed;
            self.arriving.push(Reverse((self.now + 2 * DELAY, order, socket, from, datagram)));
        }
    }

    /// The server behavior of RFC 5780 §6; every other address is a server without RFC 5780.
    fn serve(&mut self, client: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let Some(request) = Message::parse(datagram) else { return };
        let (primary, other): (SocketAddr, SocketAddr) =
            (PRIMARY.parse().unwrap(), OTHER.parse().unwrap());
        let pair = [primary.ip(), other.ip()].contains(&to.ip());
        let knows = pair && self.servers != Servers::Plain;
        if to.ip() == other.ip() && self.servers == Servers::OtherIsSilent {
            return;
        }
        if !knows
            && (request.change_request().is_some() || request.get(attr::RESPONSE_PORT).is_some())
        {
            let refused = Builder::answer(Class::Error, &request).error(420, "Unknown Attribute");
            return self.inbound(to, client, refused.finish());
        }
        let mut answer = Builder::new(Class::Success, method::BINDING, request.transaction)
            .address(attr::XOR_MAPPED_ADDRESS, client);
        let (mut from, mut goes) = (to, client);
        if knows {
            let opposite = SocketAddr::new(
                if to.ip() == primary.ip() { other.ip() } else { primary.ip() },
                if to.port() == primary.port() { other.port() } else { primary.port() },
            );
            answer = answer.plain_address(attr::OTHER_ADDRESS, opposite);
            let change = request.change_request().filter(|_| self.servers != Servers::Ignoring);
            let change = change.unwrap_or_default();
            from.set_ip(if change.ip { opposite.ip() } else { to.ip() });
            from.set_port(if change.port { opposite.port() } else { to.port() });
            if from.ip() == other.ip() && self.servers == Servers::OtherIsSilent {
                return;
            }
            if let Some([high, low, ..]) = request.get(attr::RESPONSE_PORT) {
                goes.set_port(u16::from_be_bytes([*high, *low]));
            }
        }
        self.inbound(from, goes, answer.finish());
    }
}
