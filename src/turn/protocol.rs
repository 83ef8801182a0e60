//! The server's side of STUN and TURN without input or output: a datagram and the time go in, what to
//! do comes out. The table of allocations and Binding are here, who is asking in [`super::authenticate`],
//! the requests in [`super::requests`], the data paths in [`super::relaying`].

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    allocation::{Allocation, Bandwidth},
    behaviour::{self, Route},
    config::TurnConfig,
    nonce::Nonces,
    requests::Pending,
    revoked::Revoked,
    stats::Counters,
};
use crate::{
    metering::{HashedRate, TokenBucket},
    stun::message::{Builder, Class, Message, attr, method},
};

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

    /// Seconds since 1970.
    pub fn unix(self) -> u64 {
        self.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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

/// What a user has of the server.
#[derive(Debug)]
pub(super) struct Usage {
    pub allocations: usize,
    /// What sending to new peers is counted against; none is no limit.
    pub new_peers: Option<TokenBucket>,
}

/// State of the server.
pub struct Protocol<R> {
    pub(super) config: TurnConfig,
    pub(super) counters: Arc<Counters>,
    pub(super) allocations: HashMap<FiveTuple, Allocation<R>>,
    /// By quota key. Users without allocations stay until nothing need be remembered of them.
    pub(super) users: HashMap<String, Usage>,
    /// The relayed addresses of all allocations.
    pub(super) relayed: HashSet<SocketAddr>,
    pub(super) bandwidth: Bandwidth,
    pub(super) nonces: Nonces,
    /// What errors for addresses without a login are counted against.
    pub(super) errors: Option<HashedRate>,
    pub(super) revoked: Revoked,
}

impl<R: Clone> Protocol<R> {
    /// A server without allocations.
    pub fn new(config: TurnConfig, counters: Arc<Counters>, now: Instant) -> Self {
        let nonces = Nonces::new(now, config.limits.nonce_lifetime);
        let bandwidth = Bandwidth::new(config.limits.total_bytes_per_second, now);
        let errors = config.limits.unauthenticated_errors;
        Self {
            errors: errors.map(|rate| HashedRate::new(rate, now)),
            revoked: Revoked::default(),
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
            (Class::Request, method::BINDING) => self.binding(tuple, &message, now),
            (Class::Request, _) => self.request(tuple, &message, now),
            (Class::Indication, method::SEND) => {
                self.send(tuple, &message, data.len(), now.instant)
            }
            _ => Action::Drop,
        }
    }

    /// Ends the allocations whose time is up, and forgets what need not be remembered.
    pub fn expire(&mut self, now: Now) {
        self.end(|allocation| allocation.expires <= now.instant);
        self.users.retain(|_, user| {
            let idle = user.new_peers.as_ref().is_none_or(|bucket| bucket.is_full(now.instant));
            user.allocations > 0 || !idle
        });
        self.revoked.forget_until(now.unix());
    }

    /// The pairs that allocations were made for.
    pub fn pairs(&self) -> HashSet<String> {
        let credentials = &self.config.credentials;
        let names = self.allocations.values().map(|allocation| &allocation.username);
        names.filter_map(|name| credentials.pair(name)).map(str::to_owned).collect()
    }

    /// Ends the allocations of a pair, and takes no credentials for it that expire by `until`, seconds
    /// since 1970. Gives how many allocations there were.
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

    /// Ends an allocation, and with it its relay socket.
    pub fn remove(&mut self, tuple: FiveTuple) {
        let Some(allocation) = self.allocations.remove(&tuple) else { return };
        self.relayed.remove(&allocation.relayed);
        let user = self.config.credentials.quota_key(&allocation.username);
        if let Some(user) = self.users.get_mut(user) {
            user.allocations = user.allocations.saturating_sub(1);
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

    /// RFC 8489 §6.3.1; answered without credentials, and with a FINGERPRINT to one only: the answer is not
    /// to be longer than it must.
    fn binding(&mut self, tuple: FiveTuple, request: &Message<'_>, now: Now) -> Action<R> {
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
            None => Action::Reply(answer.finish()),
            Some(route) => Action::ReplyBy(answer.finish(), route),
        }
    }
}

/// An IPv4 client of a dual-stack socket is told its IPv4 address.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
