//! Commands of a node to the bus, and the replies.

use super::{Envelope, NodeId};
use crate::{
    pairs::Role,
    proto::signaling::LeaveReason,
    types::{ConnId, DeviceId, PairId},
};

/// The location of a device's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The node that has it.
    pub node: NodeId,
    /// The socket.
    pub conn: ConnId,
    /// The device.
    pub device: DeviceId,
    /// Arrival time of the socket, µs since 1970 by the bus's clock; always greater than the epoch
    /// of the socket it replaced.
    pub epoch: u64,
}

/// A command to the bus. The commands of one node are carried out in order.
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
        /// Arrival time of the socket, µs since 1970 by the bus's clock.
        since: u64,
    },
    /// Renew a lease, and read the lease of the other device.
    Renew {
        /// The pair.
        pair: PairId,
        /// The device's role.
        role: Role,
        /// The socket the lease is for.
        conn: ConnId,
        /// The other device's socket, if known to be on another node.
        peer: Option<ConnId>,
        /// Number of messages sent to `peer`.
        sent: u64,
        /// The latest known epoch of the other device.
        peer_epoch: u64,
    },
    /// Release a lease if this socket still has it.
    Release {
        /// The pair.
        pair: PairId,
        /// The device's role.
        role: Role,
        /// The socket the lease was for.
        conn: ConnId,
        /// The reason reported to the other device.
        reason: LeaveReason,
    },
    /// Send a message to a socket of another node.
    Publish {
        /// The node.
        node: NodeId,
        /// The message.
        envelope: Envelope,
    },
    /// Send a number to this node itself, and return the bus's time.
    Echo(u64),
}

impl Command {
    /// The pair and the socket of this node that the reply concerns.
    #[must_use]
    pub fn subject(&self) -> Option<(&PairId, &ConnId)> {
        match self {
            Self::Claim { pair, conn, .. } | Self::Renew { pair, conn, .. } => Some((pair, conn)),
            Self::Publish { envelope, .. } => Some((&envelope.pair, &envelope.from)),
            Self::Release { .. } | Self::Echo(_) => None,
        }
    }
}

/// The reply to a [`Command`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// [`Command::Claim`]
    Claimed(Claimed),
    /// [`Command::Claim`]: the device has a lease for a socket that arrived later.
    Late,
    /// [`Command::Renew`]
    Renewed(Renewed),
    /// [`Command::Release`]
    Done,
    /// [`Command::Echo`]: µs since 1970 by the bus's clock.
    Time(u64),
    /// [`Command::Publish`]: the number of nodes that received the message; 0 if the node is gone.
    Published(u64),
}

/// A lease that was obtained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The epoch of the lease.
    pub epoch: u64,
    /// The other device's lease.
    pub peer: Option<Lease>,
}

/// The outcome of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// The state of the lease to renew.
    pub own: Own,
    /// The other device's lease, if the own lease was kept.
    pub peer: Option<Lease>,
}

/// The state of a lease to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// It was renewed.
    Kept,
    /// A newer socket has it.
    Taken,
    /// It expired, or Redis lost it.
    Absent,
}
