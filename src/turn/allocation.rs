//! One allocation (RFC 8656 §6): a relayed address, the peers that may send through it, and its channels.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::stun::message::TransactionId;

/// Lifetime granted if none is requested, and the minimum granted (RFC 8656 §3.2).
pub const DEFAULT_LIFETIME: Duration = Duration::from_mins(10);

/// Maximum lifetime granted (RFC 8656 §7.2).
pub const MAX_LIFETIME: Duration = Duration::from_hours(1);

/// How long an allocation may outlive the credentials of its user: time to renew it with fresh ones.
pub const EXPIRY_GRACE: Duration = Duration::from_mins(1);

/// Maximum number of peers to which an allocation remembers having sent; if exceeded, the set is cleared.
const PEERS_REMEMBERED: usize = 1024;

/// Lifetime of a permission (RFC 8656 §9).
const PERMISSION_LIFETIME: Duration = Duration::from_mins(5);

/// Lifetime of a channel (RFC 8656 §12).
const CHANNEL_LIFETIME: Duration = Duration::from_mins(10);

/// An allocation; `R` is the relay socket it owns and closes when dropped.
#[derive(Debug)]
pub struct Allocation<R> {
    /// The relay socket.
    pub relay: R,
    /// The relayed address, as reported to the client.
    pub relayed: SocketAddr,
    /// Username of the Allocate request, or the newest one of a Refresh: all further requests must come
    /// from the same user.
    pub username: String,
    /// The key of that username. After the username has expired, it remains valid except for extending the
    /// lifetime.
    pub key: [u8; 16],
    /// Transaction ID of the Allocate request, to recognize its retransmission.
    pub transaction: TransactionId,
    /// When the allocation expires.
    pub expires: Instant,
    permissions: HashMap<IpAddr, Instant>,
    channels: HashMap<u16, Channel>,
    numbers: HashMap<SocketAddr, u16>,
    sent_to: HashSet<SocketAddr>,
    /// The last peer in `sent_to`: most packets go to the same peer as the previous one.
    last_sent_to: Option<SocketAddr>,
    pub(super) bandwidth: Bandwidth,
}

#[derive(Debug)]
struct Channel {
    peer: SocketAddr,
    expires: Instant,
}

/// Why a permission or channel was not installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstallError {
    /// The channel is bound to another peer, or the peer to another channel.
    Taken,
    /// The maximum number is reached.
    Full,
}

impl<R> Allocation<R> {
    /// An allocation without permissions.
    pub fn new(
        relay: R,
        relayed: SocketAddr,
        (username, key): (String, [u8; 16]),
        transaction: TransactionId,
        expires: Instant,
    ) -> Self {
        Self {
            relay,
            relayed,
            username,
            key,
            transaction,
            expires,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            numbers: HashMap::new(),
            sent_to: HashSet::new(),
            last_sent_to: None,
            bandwidth: Bandwidth::default(),
        }
    }

    /// Installs or refreshes permissions, all of them or none.
    ///
    /// # Errors
    /// [`InstallError::Full`] above `limit` permissions.
    pub fn permit(
        &mut self,
        peers: &[IpAddr],
        limit: usize,
        now: Instant,
    ) -> Result<(), InstallError> {
        self.permissions.retain(|_, expires| *expires > now);
        let mut new: Vec<_> = peers.iter().filter(|p| !self.permissions.contains_key(p)).collect();
        new.sort_unstable();
        new.dedup();
        if self.permissions.len() + new.len() > limit {
            return Err(InstallError::Full);
        }
        self.permissions.extend(peers.iter().map(|peer| (*peer, now + PERMISSION_LIFETIME)));
        Ok(())
    }

    /// Binds or refreshes a channel, and permits its peer.
    ///
    /// # Errors
    /// [`InstallError`] if the channel or the peer is taken, or above `limit` channels.
    pub fn bind(
        &mut self,
        number: u16,
        peer: SocketAddr,
        limit: usize,
        now: Instant,
    ) -> Result<(), InstallError> {
        self.channels.retain(|_, channel| channel.expires > now);
        self.numbers.retain(|_, number| self.channels.contains_key(number));
        let other_peer = self.channels.get(&number).is_some_and(|channel| channel.peer != peer);
        let other_number = self.numbers.get(&peer).is_some_and(|n| *n != number);
        if other_peer || other_number {
            return Err(InstallError::Taken);
        }
        if self.channels.len() >= limit && !self.channels.contains_key(&number) {
            return Err(InstallError::Full);
        }
        self.permit(&[peer.ip()], limit, now)?;
        self.channels.insert(number, Channel { peer, expires: now + CHANNEL_LIFETIME });
        self.numbers.insert(peer, number);
        Ok(())
    }

    /// Whether data may be exchanged with `peer`.
    pub fn permits(&self, peer: IpAddr, now: Instant) -> bool {
        self.permissions.get(&peer).is_some_and(|expires| *expires > now)
    }

    /// Whether data was sent to this peer before.
    pub fn has_sent_to(&mut self, peer: SocketAddr) -> bool {
        if self.last_sent_to == Some(peer) {
            return true;
        }
        let known = self.sent_to.contains(&peer);
        if known {
            self.last_sent_to = Some(peer);
        }
        known
    }

    /// Remembers having sent to a peer.
    pub fn note_sent_to(&mut self, peer: SocketAddr) {
        if self.sent_to.len() >= PEERS_REMEMBERED {
            self.sent_to.clear();
        }
        self.sent_to.insert(peer);
        self.last_sent_to = Some(peer);
    }

    /// The peer of a channel.
    pub fn peer_of(&self, number: u16, now: Instant) -> Option<SocketAddr> {
        self.channels.get(&number).filter(|c| c.expires > now).map(|c| c.peer)
    }

    /// The channel of a peer.
    pub fn channel_of(&self, peer: SocketAddr, now: Instant) -> Option<u16> {
        let number = *self.numbers.get(&peer)?;
        self.peer_of(number, now).is_some().then_some(number)
    }
}

/// Bandwidth toward peers and toward the client; unlimited without buckets.
#[derive(Debug, Default)]
pub(super) struct Bandwidth(Option<[Bucket; 2]>);

/// Direction of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayDirection {
    /// From the client to a peer.
    ToPeer,
    /// From a peer to the client.
    ToClient,
}

impl Bandwidth {
    /// `rate` bytes per second in each direction.
    pub fn new(rate: Option<u64>, now: Instant) -> Self {
        Self(rate.map(|rate| [Bucket::new(rate, now), Bucket::new(rate, now)]))
    }

    /// Consumes `bytes` if they are available.
    pub fn take(&mut self, direction: RelayDirection, bytes: usize, now: Instant) -> bool {
        self.0.as_mut().is_none_or(|buckets| buckets[direction as usize].take(bytes, now))
    }
}

/// Token bucket that holds one second's worth of bytes.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Self {
        Self { rate, tokens: rate as f64, filled: now }
    }

    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let rate = self.rate as f64;
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + grown).min(rate);
        self.filled = now;
        let enough = self.tokens >= bytes as f64;
        if enough {
            self.tokens -= bytes as f64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(now: Instant) -> Allocation<()> {
        let user = ("u".to_owned(), [0; 16]);
        Allocation::new((), "192.0.2.1:5".parse().unwrap(), user, [0; 12], now + DEFAULT_LIFETIME)
    }

    #[test]
    fn permissions_expire_after_five_minutes_and_channels_after_ten() {
        let now = Instant::now();
        let mut allocation = allocation(now);
        let peer: SocketAddr = "198.51.100.1:7".parse().unwrap();
        allocation.bind(0x4000, peer, 8, now).unwrap();
        assert!(allocation.permits(peer.ip(), now + Duration::from_secs(299)));
        assert!(!allocation.permits(peer.ip(), now + Duration::from_mins(5)));
        assert_eq!(allocation.channel_of(peer, now + Duration::from_secs(599)), Some(0x4000));
        assert_eq!(allocation.channel_of(peer, now + Duration::from_mins(10)), None);
        assert_eq!(allocation.peer_of(0x4000, now + Duration::from_mins(10)), None);
    }

    #[test]
    fn a_channel_has_one_peer_and_a_peer_one_channel() {
        let now = Instant::now();
        let mut allocation = allocation(now);
        let peers: [SocketAddr; 2] =
            ["198.51.100.1:7".parse().unwrap(), "198.51.100.1:8".parse().unwrap()];
        allocation.bind(0x4000, peers[0], 8, now).unwrap();
        allocation.bind(0x4000, peers[0], 8, now).unwrap();
        assert_eq!(allocation.bind(0x4000, peers[1], 8, now), Err(InstallError::Taken));
        assert_eq!(allocation.bind(0x4001, peers[0], 8, now), Err(InstallError::Taken));
        let later = now + CHANNEL_LIFETIME;
        allocation.bind(0x4000, peers[1], 8, later).unwrap();
        assert_eq!(allocation.channel_of(peers[0], later), None);
    }

    #[test]
    fn the_number_of_peers_is_bounded() {
        let now = Instant::now();
        let mut allocation = allocation(now);
        let peers: Vec<IpAddr> = (0..4).map(|n| IpAddr::from([198, 51, 100, n])).collect();
        assert_eq!(allocation.permit(&peers, 3, now), Err(InstallError::Full));
        assert!(!allocation.permits(peers[0], now), "a rejected list installs nothing");
        allocation.permit(&peers[..3], 3, now).unwrap();
        allocation.permit(&peers[..3], 3, now).unwrap();
        assert_eq!(allocation.permit(&peers[3..], 3, now), Err(InstallError::Full));
        allocation.permit(&peers[3..], 3, now + PERMISSION_LIFETIME).unwrap();
    }

    #[test]
    fn the_bucket_passes_its_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(1000, now);
        assert!(bucket.take(1000, now));
        assert!(!bucket.take(1, now));
        assert!(bucket.take(500, now + Duration::from_millis(500)));
        assert!(!bucket.take(500, now + Duration::from_millis(500)));
    }
}
