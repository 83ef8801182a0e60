//! The server's side of STUN and TURN without input or output: a datagram and the time go in, what to
//! do comes out. Authentication (RFC 8489 §9.2), the data paths (RFC 8656 §10-12) and the table of
//! allocations are here, the requests in [`super::requests`].

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Instant, SystemTime},
};

use super::{
    allocation::{Allocation, Bandwidth, Way},
    behaviour::{self, Route},
    config::TurnConfig,
    credentials::long_term_key,
    nonce::Nonces,
    requests::Pending,
    stats::{Counters, DropReason, Refusal},
};
use crate::stun::message::{Builder, Class, Message, attr, method, padded};

/// Transport between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP
    Udp,
    /// TCP
    Tcp,
}

/// What names an allocation (RFC 8656 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// UDP or TCP.
    pub transport: Transport,
    /// The client's address.
    pub client: SocketAddr,
    /// Ours.
    pub server: SocketAddr,
}

/// The time, by both clocks: the monotonic one for lifetimes, the other for user names.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic.
    pub instant: Instant,
    /// Of the wall.
    pub wall: SystemTime,
}

impl Now {
    /// The time now.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// What to do about a datagram.
#[derive(Debug)]
pub enum Action<R> {
    /// Nothing.
    Drop,
    /// Send this back.
    Reply(Vec<u8>),
    /// Send this by that route.
    ReplyBy(Vec<u8>, Route),
    /// Send that part of the datagram to a peer.
    ToPeer {
        /// From this relay socket.
        relay: R,
        /// To this peer.
        peer: SocketAddr,
        /// Where the payload is in the datagram.
        payload: Range<usize>,
    },
    /// Bind a relay socket, then call [`Protocol::allocated`].
    Bind(Box<Pending>),
}

/// Who sent a request: the name, and the key that verified it.
pub(super) type User = (String, [u8; 16]);

/// State of the server.
pub struct Protocol<R> {
    pub(super) config: TurnConfig,
    pub(super) counters: Arc<Counters>,
    pub(super) allocations: HashMap<FiveTuple, Allocation<R>>,
    pub(super) users: HashMap<String, usize>,
    /// The relayed addresses of all allocations.
    pub(super) relayed: HashSet<SocketAddr>,
    bandwidth: Bandwidth,
    nonces: Nonces,
}

impl<R: Clone> Protocol<R> {
    /// A server without allocations.
    pub fn new(config: TurnConfig, counters: Arc<Counters>, now: Instant) -> Self {
        let nonces = Nonces::new(now, config.limits.nonce_lifetime);
        let bandwidth = Bandwidth::new(config.limits.total_bytes_per_second, now);
        Self {
            config,
            counters,
            allocations: HashMap::new(),
            users: HashMap::new(),
            relayed: HashSet::new(),
            bandwidth,
            nonces,
        }
    }

    /// Takes one datagram, or one frame of a TCP connection, from a client.
    pub fn client_datagram(&mut self, tuple: FiveTuple, data: &[u8], now: Now) -> Action<R> {
        if matches!(data.first(), Some(0x40..=0x7F)) {
            return self.channel_data(tuple, data, now.instant);
        }
        let Some(message) = Message::parse(data) else { return Action::Drop };
        match (message.class, message.method) {
            (Class::Request, method::BINDING) => self.binding(tuple, &message),
            (Class::Request, _) => self.request(tuple, &message, now),
            (Class::Indication, method::SEND) => self.send(tuple, &message, now.instant),
            _ => Action::Drop,
        }
    }

    /// Frames what a peer sent for the client of that allocation; `None` drops it.
    pub fn peer_datagram(
        &mut self,
        tuple: FiveTuple,
        peer: SocketAddr,
        payload: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        let allocation = self.allocations.get_mut(&tuple).filter(|a| a.expires > now)?;
        if let Err(reason) =
            passes(allocation, &mut self.bandwidth, Way::ToClient, peer, payload.len(), now)
        {
            self.counters.count_drop(reason);
            return None;
        }
        self.counters.packets_to_clients.fetch_add(1, Relaxed);
        self.counters.bytes_to_clients.fetch_add(payload.len() as u64, Relaxed);
        let Some(number) = allocation.channel_of(peer, now) else {
            return Some(
                Builder::new(Class::Indication, method::DATA, rand::random())
                    .address(attr::XOR_PEER_ADDRESS, peer)
                    .attribute(attr::DATA, payload)
                    .finish(),
            );
        };
        let mut framed = Vec::with_capacity(4 + padded(payload.len()));
        framed.extend_from_slice(&number.to_be_bytes());
        framed.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        framed.extend_from_slice(payload);
        if tuple.transport == Transport::Tcp {
            framed.resize(padded(framed.len()), 0);
        }
        Some(framed)
    }

    /// Ends the allocations whose time is up.
    pub fn expire(&mut self, now: Instant) {
        let over: Vec<_> =
            self.allocations.iter().filter(|(_, a)| a.expires <= now).map(|(t, _)| *t).collect();
        for tuple in over {
            self.remove(tuple);
        }
    }

    /// Ends an allocation, and with it its relay socket.
    pub fn remove(&mut self, tuple: FiveTuple) {
        let Some(allocation) = self.allocations.remove(&tuple) else { return };
        self.relayed.remove(&allocation.relayed);
        let user = self.config.credentials.quota_key(&allocation.username);
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }

    /// Ends every allocation.
    pub fn clear(&mut self) {
        self.allocations.clear();
        self.users.clear();
        self.relayed.clear();
    }

    /// How many allocations there are.
    pub fn active(&self) -> usize {
        self.allocations.len()
    }

    /// Whether that client has an allocation.
    pub fn has(&self, tuple: FiveTuple) -> bool {
        self.allocations.contains_key(&tuple)
    }

    /// RFC 8489 §6.3.1; answered without credentials.
    fn binding(&self, tuple: FiveTuple, request: &Message<'_>) -> Action<R> {
        const KNOWN: [u16; 9] = [
            attr::USERNAME,
            attr::MESSAGE_INTEGRITY,
            attr::MESSAGE_INTEGRITY_SHA256,
            attr::REALM,
            attr::NONCE,
            attr::PRIORITY,
            attr::USE_CANDIDATE,
            attr::CHANGE_REQUEST,
            attr::RESPONSE_PORT,
        ];
        let route = behaviour::route(&self.config, tuple, request);
        let known = if route.is_some() { &KNOWN[..] } else { &KNOWN[..7] };
        let unknown = request.unknown(known);
        if !unknown.is_empty() {
            return self.unknown_attributes(request, &unknown, None);
        }
        self.counters.bindings.fetch_add(1, Relaxed);
        let answer = Builder::answer(Class::Success, request)
            .address(attr::XOR_MAPPED_ADDRESS, canonical(tuple.client));
        match route {
            None => Action::Reply(answer.fingerprint().finish()),
            Some(route) => {
                let answer = answer
                    .plain_address(attr::RESPONSE_ORIGIN, route.origin)
                    .plain_address(attr::OTHER_ADDRESS, route.other)
                    .fingerprint();
                Action::ReplyBy(answer.finish(), route)
            }
        }
    }

    fn send(&mut self, tuple: FiveTuple, message: &Message<'_>, now: Instant) -> Action<R> {
        let data = message.attributes().find(|a| a.kind == attr::DATA);
        let peer = message.address(attr::XOR_PEER_ADDRESS);
        let (Some(data), Some(peer)) = (data, peer) else { return Action::Drop };
        if !message.unknown(&[attr::DATA, attr::XOR_PEER_ADDRESS]).is_empty() {
            return Action::Drop;
        }
        let start = data.offset + 4;
        self.relay(tuple, peer, start..start + data.value.len(), now)
    }

    fn channel_data(&mut self, tuple: FiveTuple, data: &[u8], now: Instant) -> Action<R> {
        let &[n0, n1, l0, l1, ref rest @ ..] = data else { return Action::Drop };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let number = u16::from_be_bytes([n0, n1]);
        let peer = self.allocations.get(&tuple).and_then(|a| a.peer_of(number, now));
        match peer {
            Some(peer) if length <= rest.len() => self.relay(tuple, peer, 4..4 + length, now),
            _ => Action::Drop,
        }
    }

    fn relay(
        &mut self,
        tuple: FiveTuple,
        peer: SocketAddr,
        payload: Range<usize>,
        now: Instant,
    ) -> Action<R> {
        let allocation = self.allocations.get_mut(&tuple).filter(|a| a.expires > now);
        let Some(allocation) = allocation else { return Action::Drop };
        let config = &self.config;
        // Another client's relay may be reached there, but no other service of this machine.
        let own = peer.ip() == config.relay_address
            && !self.relayed.contains(&peer)
            && !config.peers.allows(peer.ip());
        let passed = if own {
            Err(DropReason::OwnAddress)
        } else {
            passes(allocation, &mut self.bandwidth, Way::ToPeer, peer, payload.len(), now)
        };
        if let Err(reason) = passed {
            self.counters.count_drop(reason);
            return Action::Drop;
        }
        self.counters.packets_to_peers.fetch_add(1, Relaxed);
        self.counters.bytes_to_peers.fetch_add(payload.len() as u64, Relaxed);
        Action::ToPeer { relay: allocation.relay.clone(), peer, payload }
    }

    /// Holds a request against its user's credentials (RFC 8489 §9.2.4).
    pub(super) fn authenticate(
        &self,
        tuple: FiveTuple,
        request: &Message<'_>,
        now: Now,
    ) -> Result<User, Action<R>> {
        if request.get(attr::MESSAGE_INTEGRITY).is_none() {
            return Err(self.challenge(tuple, request, Refusal::Unauthorized, now.instant));
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (request.text(attr::USERNAME), request.text(attr::REALM), request.get(attr::NONCE))
        else {
            return Err(self.refuse(request, Refusal::BadRequest, None));
        };
        if !self.nonces.holds(nonce, tuple.client, now.instant) {
            self.counters.refuse(Refusal::StaleNonce);
            return Err(self.challenge(tuple, request, Refusal::StaleNonce, now.instant));
        }
        let existing = self.allocations.get(&tuple).filter(|a| a.username == username);
        let passwords = self.config.credentials.passwords(username, now.wall);
        let mut keys = existing.map(|a| a.key).into_iter().chain(
            passwords.iter().map(|password| long_term_key(username, &self.config.realm, password)),
        );
        if let Some(key) = keys.find(|key| realm == self.config.realm && request.verify(key)) {
            return Ok((username.to_owned(), key));
        }
        self.counters.refuse(Refusal::Unauthorized);
        Err(self.challenge(tuple, request, Refusal::Unauthorized, now.instant))
    }

    /// 401 or 438, with what the client needs to try again.
    fn challenge(
        &self,
        tuple: FiveTuple,
        request: &Message<'_>,
        reason: Refusal,
        now: Instant,
    ) -> Action<R> {
        let (code, phrase) = reason.code();
        let answer = Builder::answer(Class::Error, request)
            .error(code, phrase)
            .attribute(attr::REALM, self.config.realm.as_bytes())
            .attribute(attr::NONCE, self.nonces.issue(tuple.client, now).as_bytes());
        Action::Reply(answer.finish())
    }

    /// An error answer, signed when the user is known.
    pub(super) fn refuse(
        &self,
        request: &Message<'_>,
        reason: Refusal,
        key: Option<&[u8; 16]>,
    ) -> Action<R> {
        self.counters.refuse(reason);
        let (code, phrase) = reason.code();
        let answer = Builder::answer(Class::Error, request).error(code, phrase);
        Action::Reply(signed(answer, key))
    }

    /// 420 (RFC 8489 §14.9).
    pub(super) fn unknown_attributes(
        &self,
        request: &Message<'_>,
        unknown: &[u16],
        key: Option<&[u8; 16]>,
    ) -> Action<R> {
        self.counters.refuse(Refusal::UnknownAttribute);
        let (code, phrase) = Refusal::UnknownAttribute.code();
        let list: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        let answer = Builder::answer(Class::Error, request)
            .error(code, phrase)
            .attribute(attr::UNKNOWN_ATTRIBUTES, &list);
        Action::Reply(signed(answer, key))
    }
}

/// Whether a packet may go through an allocation now; if so it is counted against the bandwidth.
fn passes<R>(
    allocation: &mut Allocation<R>,
    all: &mut Bandwidth,
    way: Way,
    peer: SocketAddr,
    bytes: usize,
    now: Instant,
) -> Result<(), DropReason> {
    if !allocation.permits(peer.ip(), now) {
        Err(DropReason::NoPermission)
    } else if !allocation.bandwidth.take(way, bytes, now) {
        Err(DropReason::Bandwidth)
    } else if !all.take(way, bytes, now) {
        Err(DropReason::TotalBandwidth)
    } else {
        Ok(())
    }
}

fn signed(answer: Builder, key: Option<&[u8; 16]>) -> Vec<u8> {
    match key {
        Some(key) => answer.integrity(key).finish(),
        None => answer.finish(),
    }
}

/// An IPv4 client of a dual-stack socket is told its IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
