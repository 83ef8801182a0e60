//! The server side of STUN and TURN, without I/O: it takes a datagram and the time and returns the action
//! to perform. This module contains the allocation table and Binding requests; authentication is in
//! [`authenticate`], the other requests are in [`requests`], and the data paths are in
//! [`relaying`].

mod authenticate;
mod relaying;
mod requests;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use self::requests::Pending;
use super::{
    allocation::{Allocation, Bandwidth},
    behaviour::{self, Route},
    config::TurnConfig,
    nonce::Nonces,
    revoked::RevokedPairs,
    stats::Counters,
    tuple::{FiveTuple, Now},
};
use crate::{
    metering::{HashedRate, TokenBucket},
    stun::message::{Builder, Class, Message, attr, method},
};

/// The action that a datagram requires.
#[derive(Debug)]
pub enum TurnAction<R> {
    /// Ignore it.
    Drop,
    /// Send this response to the client.
    Reply(Vec<u8>),
    /// Send this response by the given route.
    ReplyBy(Vec<u8>, Route),
    /// Relay part of the datagram to a peer.
    ToPeer {
        /// The relay socket to send from.
        relay: R,
        /// The destination.
        peer: SocketAddr,
        /// Range of the payload in the datagram.
        payload: Range<usize>,
    },
    /// Bind a relay socket, then call [`Protocol::allocated`].
    Bind(Box<Pending>),
}

/// The sender of a request: the username and the key that verified it.
pub(super) type User = (String, [u8; 16]);

/// Resources that a user is using.
#[derive(Debug)]
pub(super) struct Usage {
    pub allocations: usize,
    /// Rate limit for sending to new peers; `None` means no limit.
    pub new_peers: Option<TokenBucket>,
}

/// State of the server.
pub struct Protocol<R> {
    pub(super) config: TurnConfig,
    pub(super) counters: Arc<Counters>,
    pub(super) allocations: HashMap<FiveTuple, Allocation<R>>,
    /// Keyed by quota key. Users without allocations remain until their state no longer has any effect.
    pub(super) users: HashMap<String, Usage>,
    /// The relayed addresses of all allocations.
    pub(super) relayed: HashSet<SocketAddr>,
    pub(super) bandwidth: Bandwidth,
    pub(super) nonces: Nonces,
    /// Rate limit for error responses to unauthenticated addresses.
    pub(super) errors: Option<HashedRate>,
    pub(super) revoked: RevokedPairs,
}

impl<R: Clone> Protocol<R> {
    /// A server without allocations.
    pub fn new(config: TurnConfig, counters: Arc<Counters>, now: Instant) -> Self {
        let nonces = Nonces::new(now, config.limits.nonce_lifetime);
        let bandwidth = Bandwidth::new(config.limits.total_bytes_per_second, now);
        let errors = config.limits.unauthenticated_errors;
        Self {
            errors: errors.map(|rate| HashedRate::new(rate, now)),
            revoked: RevokedPairs::default(),
            config,
            counters,
            allocations: HashMap::new(),
            users: HashMap::new(),
            relayed: HashSet::new(),
            bandwidth,
            nonces,
        }
    }

    /// Handles one datagram, or one frame of a TCP connection, from a client.
    pub fn client_datagram(&mut self, tuple: FiveTuple, data: &[u8], now: Now) -> TurnAction<R> {
        if matches!(data.first(), Some(0x40..=0x7F)) {
            return self.channel_data(tuple, data, now.instant);
        }
        let Some(message) = Message::parse(data) else { return TurnAction::Drop };
        match (message.class, message.method) {
            (Class::Request, method::BINDING) => self.binding(tuple, &message, now),
            (Class::Request, _) => self.request(tuple, &message, now),
            (Class::Indication, method::SEND) => {
                self.send(tuple, &message, data.len(), now.instant)
            }
            _ => TurnAction::Drop,
        }
    }

    /// Removes expired allocations and state that no longer has any effect.
    pub fn expire(&mut self, now: Now) {
        self.end(|allocation| allocation.expires <= now.instant);
        self.users.retain(|_, user| {
            let idle = user.new_peers.as_ref().is_none_or(|bucket| bucket.is_full(now.instant));
            user.allocations > 0 || !idle
        });
        self.revoked.forget_until(now.unix());
    }

    /// The pairs with allocations.
    pub fn pairs(&self) -> HashSet<String> {
        let credentials = &self.config.credentials;
        let names = self.allocations.values().map(|allocation| &allocation.username);
        names.filter_map(|name| credentials.pair(name)).map(str::to_owned).collect()
    }

    /// Removes the allocations of a pair, and rejects its credentials that expire by `until`, in Unix
    /// seconds. Returns the number of removed allocations.
    pub fn revoke(&mut self, pair: &str, until: u64) -> usize {
        self.revoked.insert(pair, until);
        let credentials = Arc::clone(&self.config.credentials);
        self.end(|allocation| credentials.pair(&allocation.username) == Some(pair))
    }

    fn end(&mut self, over: impl Fn(&Allocation<R>) -> bool) -> usize {
        let over: Vec<_> =
            self.allocations.iter().filter(|(_, a)| over(a)).map(|(tuple, _)| *tuple).collect();
        for tuple in &over {
            self.remove(*tuple);
        }
        over.len()
    }

    /// Removes an allocation along with its relay socket.
    pub fn remove(&mut self, tuple: FiveTuple) {
        let Some(allocation) = self.allocations.remove(&tuple) else { return };
        self.relayed.remove(&allocation.relayed);
        let user = self.config.credentials.quota_key(&allocation.username);
        if let Some(user) = self.users.get_mut(user) {
            user.allocations = user.allocations.saturating_sub(1);
        }
    }

    /// Removes every allocation.
    pub fn clear(&mut self) {
        self.allocations.clear();
        self.users.clear();
        self.relayed.clear();
    }

    /// Number of allocations.
    pub fn active(&self) -> usize {
        self.allocations.len()
    }

    /// Whether the client has an allocation.
    pub fn has(&self, tuple: FiveTuple) -> bool {
        self.allocations.contains_key(&tuple)
    }

    /// Answers a Binding request (RFC 8489 §6.3.1) without requiring credentials, and with a FINGERPRINT
    /// only if the request has one: the response must not be longer than necessary.
    fn binding(&mut self, tuple: FiveTuple, request: &Message<'_>, now: Now) -> TurnAction<R> {
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
            return self.unknown_attributes(tuple, request, &unknown, None, now.instant);
        }
        self.counters.bindings.fetch_add(1, Relaxed);
        let answer = Builder::answer(Class::Success, request)
            .address(attr::XOR_MAPPED_ADDRESS, canonical(tuple.client));
        let answer = match route {
            None => answer,
            Some(route) => answer
                .plain_address(attr::RESPONSE_ORIGIN, route.origin)
                .plain_address(attr::OTHER_ADDRESS, route.other),
        };
        let answer = if request.has_fingerprint() { answer.fingerprint() } else { answer };
        match route {
            None => TurnAction::Reply(answer.finish()),
            Some(route) => TurnAction::ReplyBy(answer.finish(), route),
        }
    }
}

/// Reports the IPv4 address to an IPv4 client of a dual-stack socket.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
