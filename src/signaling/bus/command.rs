//! What a node asks of the bus, and what the bus answers.

use std::fmt;

use super::Envelope;
use crate::{
    pairs::Role,
    proto::signaling::LeaveReason,
    types::{ConnId, DeviceId, PairId},
};

/// One process of the server, from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub String);

impl NodeId {
    /// A new one, unlike all others.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a device's socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The node that has it.
    pub node: NodeId,
    /// The socket.
    pub conn: ConnId,
    /// The device.
    pub device: DeviceId,
    /// When the socket came, µs since 1970 by the bus's clock, and more than that of the socket before.
    pub epoch: u64,
}

/// What is asked of the bus. Commands of one node are carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Take the lease of a device for a new socket.
    Claim {
        /// The pair.
        pair: PairId,
        /// The device's role.
        role: Role,
        /// The device.
        device: DeviceId,
        /// The new socket.
        conn: ConnId,
        /// When it came, µs since 1970 by the bus's clock.
        since: u64,
    },
    /// Keep a lease, and look at that of the other device.
    Renew {
        /// The pair.
        pair: PairId,
        /// The device's role.
        role: Role,
        /// The socket the lease is for.
        conn: ConnId,
        /// The other device's socket on another node, as far as known.
        peer: Option<ConnId>,
        /// Messages sent to it.
        sent: u64,
        /// The latest epoch known of the other device.
        peer_epoch: u64,
    },
    /// Give a lease up, if it is still that of this socket.
    Release {
        /// The pair.
        pair: PairId,
        /// The device's role.
        role: Role,
        /// The socket the lease was for.
        conn: ConnId,
        /// What the other device is told.
        reason: LeaveReason,
    },
    /// Send to a socket of another node.
    Publish {
        /// The node.
        node: NodeId,
        /// What to send.
        envelope: Envelope,
    },
    /// Send a number to this node itself, and tell the time.
    Echo(u64),
}

impl Command {
    /// The pair and the socket of this node that the answer matters to.
    #[must_use]
    pub fn subject(&self) -> Option<(&PairId, &ConnId)> {
        match self {
            Self::Claim { pair, conn, .. } | Self::Renew { pair, conn, .. } => Some((pair, conn)),
            Self::Publish { envelope, .. } => Some((&envelope.pair, &envelope.from)),
            Self::Release { .. } | Self::Echo(_) => None,
        }
    }
}

/// What became of a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// [`Command::Claim`]
    Claimed(Claimed),
    /// [`Command::Claim`]: the device has a lease for a socket that came later.
    Late,
    /// [`Command::Renew`]
    Renewed(Renewed),
    /// [`Command::Release`]
    Done,
    /// [`Command::Echo`]: µs since 1970 by the bus's clock.
    Time(u64),
    /// [`Command::Publish`]: how many nodes got it; none when the node is gone.
    Published(u64),
}

/// A lease was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Its epoch.
    pub epoch: u64,
    /// The other device's lease.
    pub peer: Option<Lease>,
}

/// What became of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The lease that was to be renewed.
    pub own: Own,
    /// The other device's lease, when the own one was kept.
    pub peer: Option<Lease>,
}

/// A lease that was to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It was.
    Kept,
    /// A newer socket has it.
    Taken,
    /// It ran out, or Redis lost it.
    Absent,
}
