//! Counters of the server, read by metrics and tests.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::lock::locked;

/// Live counters, shared by all tasks of the server.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub allocations_total: AtomicU64,
    pub bindings: AtomicU64,
    pub tcp_connections: AtomicU64,
    pub tcp_refused: AtomicU64,
    pub errors_withheld: AtomicU64,
    pub bytes_to_peers: AtomicU64,
    pub bytes_to_clients: AtomicU64,
    pub packets_to_peers: AtomicU64,
    pub packets_to_clients: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    refused: Mutex<BTreeMap<RejectReason, u64>>,
}

impl Counters {
    pub fn reject(&self, reason: RejectReason) {
        *locked(&self.refused).entry(reason).or_default() += 1;
    }

    /// Counts a packet that is not relayed.
    pub fn count_drop(&self, reason: DropReason) {
        self.dropped[reason as usize].fetch_add(1, Relaxed);
    }

    pub fn snapshot(&self, allocations_active: usize) -> TurnStats {
        TurnStats {
            allocations_active: allocations_active as u64,
            allocations_total: self.allocations_total.load(Relaxed),
            bindings: self.bindings.load(Relaxed),
            tcp_connections: self.tcp_connections.load(Relaxed),
            tcp_refused: self.tcp_refused.load(Relaxed),
            errors_withheld: self.errors_withheld.load(Relaxed),
            bytes_to_peers: self.bytes_to_peers.load(Relaxed),
            bytes_to_clients: self.bytes_to_clients.load(Relaxed),
            packets_to_peers: self.packets_to_peers.load(Relaxed),
            packets_to_clients: self.packets_to_clients.load(Relaxed),
            dropped: DropReason::ALL
                .map(|reason| (reason, self.dropped[reason as usize].load(Relaxed)))
                .into(),
            refused: locked(&self.refused).clone(),
        }
    }
}

/// Why a request was rejected; each corresponds to one ERROR-CODE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// 400: malformed, or a channel that belongs to another peer.
    BadRequest,
    /// 401: unknown or expired user, or wrong password. The first challenge is not counted.
    Unauthorized,
    /// 403: denied by the peer filter.
    Forbidden,
    /// 420: an unknown comprehension-required attribute.
    UnknownAttribute,
    /// 437: no allocation on this 5-tuple, or one exists already.
    AllocationMismatch,
    /// 438: an expired nonce.
    StaleNonce,
    /// 440: no relay with this address family.
    AddressFamily,
    /// 441: another user's allocation.
    WrongCredentials,
    /// 442: only UDP is relayed.
    Transport,
    /// 443: the peer's address family differs from the relay's.
    PeerFamily,
    /// 486: the user has reached the maximum number of allocations.
    Quota,
    /// 508: the server is full.
    Capacity,
}

impl RejectReason {
    /// The ERROR-CODE (RFC 8489 §14.8, RFC 8656 §19).
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::UnknownAttribute => 420,
            Self::AllocationMismatch => 437,
            Self::StaleNonce => 438,
            Self::AddressFamily => 440,
            Self::WrongCredentials => 441,
            Self::Transport => 442,
            Self::PeerFamily => 443,
            Self::Quota => 486,
            Self::Capacity => 508,
        }
    }

    /// Label in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden_peer",
            Self::UnknownAttribute => "unknown_attribute",
            Self::AllocationMismatch => "allocation_mismatch",
            Self::StaleNonce => "stale_nonce",
            Self::AddressFamily => "address_family",
            Self::WrongCredentials => "wrong_credentials",
            Self::Transport => "transport",
            Self::PeerFamily => "peer_family",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
        }
    }
}

/// Why a packet was not relayed. Packets are never queued: a relay must not be slower than the network, and
/// delayed packets are useless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The client has no permission for the peer.
    NoPermission,
    /// The peer is one of the server's own addresses, at a port that is not a client's relay.
    OwnAddress,
    /// The packet exceeds the bandwidth of the allocation.
    Bandwidth,
    /// The packet exceeds the total bandwidth of the server.
    TotalBandwidth,
    /// The client, or the network toward it, is too slow.
    SlowClient,
    /// The operating system could not send the packet to the peer.
    NotSent,
    /// The packet does not fit into a datagram or a STUN message to the client.
    TooLarge,
    /// The user sends to new peers too often.
    NewPeers,
}

impl DropReason {
    /// All reasons, in order.
    pub const ALL: [Self; 8] = [
        Self::NoPermission,
        Self::OwnAddress,
        Self::Bandwidth,
        Self::TotalBandwidth,
        Self::SlowClient,
        Self::NotSent,
        Self::TooLarge,
        Self::NewPeers,
    ];

    /// Label in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoPermission => "no_permission",
            Self::OwnAddress => "own_address",
            Self::Bandwidth => "bandwidth",
            Self::TotalBandwidth => "total_bandwidth",
            Self::SlowClient => "slow_client",
            Self::NotSent => "not_sent",
            Self::TooLarge => "too_large",
            Self::NewPeers => "new_peers",
        }
    }
}

/// A snapshot of the counters. Bytes and packets are relayed payload, without TURN framing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TurnStats {
    /// Current allocations.
    pub allocations_active: u64,
    /// Allocations since the start.
    pub allocations_total: u64,
    /// Binding requests answered.
    pub bindings: u64,
    /// Current TCP connections.
    pub tcp_connections: u64,
    /// TCP connections closed immediately because they exceeded a limit.
    pub tcp_refused: u64,
    /// Error responses over UDP that were withheld because an unauthenticated address caused too many.
    pub errors_withheld: u64,
    /// Bytes from clients to peers.
    pub bytes_to_peers: u64,
    /// Bytes from peers to clients.
    pub bytes_to_clients: u64,
    /// Packets from clients to peers.
    pub packets_to_peers: u64,
    /// Packets from peers to clients.
    pub packets_to_clients: u64,
    /// Packets dropped, by reason; every reason is present.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Requests rejected, by reason.
    pub refused: BTreeMap<RejectReason, u64>,
}
