//! The room of a pair on one of several nodes, sans-IO: the sockets that wait for a lease, and the
//! schedule of renewals.

use std::time::Instant;

use super::{Claimed, Command, Envelope, Lease, NodeId, RENEW_EVERY, Renewed, Say};
use crate::{
    pairs::Role,
    proto::signaling::LeaveReason,
    signaling::room::{Action, Note, Room},
    types::{ConnId, DeviceId, PairId},
};

/// Maximum number of envelopes kept for a socket until its claim is answered; the peer holds at most
/// 65 messages.
const EARLY: usize = 256;

/// A socket whose claim is pending.
#[derive(Debug)]
struct Waiting {
    device: DeviceId,
    conn: ConnId,
    exp: u64,
    /// Envelopes that arrived before the reply to the claim; replies and messages use different
    /// connections.
    early: Vec<Envelope>,
}

/// The room of a pair, with one or both devices on this node. Without a bus, only its [`Room`] is
/// used.
#[derive(Debug)]
pub struct SharedRoom {
    /// The room as this node sees it.
    pub room: Room,
    pair: PairId,
    waiting: Vec<Waiting>,
    renewals: Vec<(ConnId, Instant)>,
}

impl SharedRoom {
    /// Wraps an empty room.
    #[must_use]
    pub fn new(pair: PairId, room: Room) -> Self {
        Self { room, pair, waiting: Vec::new(), renewals: Vec::new() }
    }

    /// A socket arrived; returns the command that claims its lease.
    ///
    /// `since` is its arrival time, µs since 1970 by the bus's clock.
    pub fn claim(
        &mut self,
        role: Role,
        device: &DeviceId,
        conn: &ConnId,
        exp: u64,
        since: u64,
    ) -> Command {
        let (device, conn) = (device.clone(), conn.clone());
        let command = Command::Claim {
            pair: self.pair.clone(),
            role,
            device: device.clone(),
            conn: conn.clone(),
            since,
        };
        self.waiting.push(Waiting { device, conn, exp, early: Vec::new() });
        command
    }

    /// The socket obtained its lease. If it no longer waits, the lease is released immediately.
    pub fn claimed(
        &mut self,
        node: &NodeId,
        role: Role,
        conn: &ConnId,
        claimed: Claimed,
        now: Instant,
    ) -> Vec<Action> {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.conn == *conn) else {
            return vec![self.release(role, conn, LeaveReason::Closed)];
        };
        let Waiting { device, exp, early, .. } = self.waiting.remove(at);
        let claimed = Claimed { peer: elsewhere(claimed.peer, node), ..claimed };
        let mut actions = self.room.join_claimed(role, &device, conn, exp, claimed);
        self.renewals.push((conn.clone(), now + RENEW_EVERY));
        for envelope in early {
            actions.extend(self.receive(envelope));
        }
        actions
    }

    /// The claim was too late: the device has a newer socket.
    pub fn late(&mut self, conn: &ConnId) -> Vec<Action> {
        self.waiting.retain(|waiting| waiting.conn != *conn);
        self.room.interrupt(conn, "late", "a newer socket of this device joined first").into()
    }

    /// A socket is gone; its lease is released.
    pub fn leave(&mut self, role: Role, conn: &ConnId, reason: LeaveReason) -> Vec<Action> {
        self.waiting.retain(|waiting| waiting.conn != *conn);
        self.renewals.retain(|(renewed, _)| renewed != conn);
        let mut actions: Vec<Action> = self.room.leave(role, conn, reason).into_iter().collect();
        actions.push(self.release(role, conn, reason));
        actions
    }

    fn release(&self, role: Role, conn: &ConnId, reason: LeaveReason) -> Action {
        let (pair, conn) = (self.pair.clone(), conn.clone());
        Action::Bus(Command::Release { pair, role, conn, reason })
    }

    /// Handles an envelope from another node.
    pub fn receive(&mut self, envelope: Envelope) -> Vec<Action> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.conn == envelope.to);
        if let Some(waiting) = waiting {
            if waiting.early.len() < EARLY {
                waiting.early.push(envelope);
            }
            // A dropped envelope shows as a gap in the sequence numbers.
            return Vec::new();
        }
        let kick = envelope.say == Say::Kick;
        let role = if kick { envelope.role } else { envelope.role.other() };
        if !self.room.is_here(role, &envelope.to) {
            let mut actions = vec![Action::Note(Note::Stray)];
            if !kick {
                // The sender assumes that a closed socket still exists.
                actions.push(self.release(role, &envelope.to, LeaveReason::Closed));
            }
            return actions;
        }
        match envelope.say {
            Say::Joined { node, device, epoch } => {
                let lease = Lease { node, conn: envelope.from, device, epoch };
                self.room.peer_joined(envelope.role, lease)
            }
            Say::Left { reason } => self.room.peer_left(envelope.role, &envelope.from, reason),
            Say::Kick => self.room.kicked(role, &envelope.to),
            Say::Sync { .. } | Say::Relay { .. } => self.room.heard(envelope),
        }
    }

    /// Renewals of the leases that are due at `now`.
    pub fn renew(&mut self, now: Instant) -> Vec<Command> {
        let room = &self.room;
        let mut commands = Vec::new();
        for (conn, at) in self.renewals.iter_mut().filter(|(_, at)| *at <= now) {
            let Some((role, _)) = room.here().find(|(_, here)| *here == &*conn) else { continue };
            *at = now + RENEW_EVERY;
            let peer = room.there(role.other());
            commands.push(Command::Renew {
                pair: self.pair.clone(),
                role,
                conn: conn.clone(),
                peer: peer.map(|(peer, _)| peer.clone()),
                sent: peer.map_or(0, |(_, sent)| sent),
                peer_epoch: room.latest(role.other()),
            });
        }
        commands
    }

    /// Handles the reply to a [`Command::Renew`].
    pub fn renewed(
        &mut self,
        node: &NodeId,
        role: Role,
        conn: &ConnId,
        peer_epoch: u64,
        renewed: Renewed,
    ) -> Vec<Action> {
        let renewed = Renewed { peer: elsewhere(renewed.peer, node), ..renewed };
        self.room.renewed(role, conn, peer_epoch, renewed)
    }

    /// Handles the reply to a [`Command::Publish`]: the number of nodes that received the message.
    pub fn published(&mut self, envelope: &Envelope, receivers: u64) -> Vec<Action> {
        self.room.taken(envelope.role, &envelope.from, envelope.text.len());
        if receivers > 0 {
            return Vec::new();
        }
        self.room.peer_unreachable(envelope.role.other(), &envelope.to)
    }

    /// The connection to the bus is restored, and messages published during the outage are lost:
    /// closes the sockets with a peer on another node, and renews all leases now.
    pub fn back(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for (role, conn) in self.room.here() {
            if self.room.there(role.other()).is_some() {
                let reason = "the connection to the bus was lost for a time";
                actions.extend(self.room.interrupt(conn, "break", reason));
            }
        }
        for (_, at) in &mut self.renewals {
            *at = now;
        }
        actions
    }

    /// The bus has not answered for so long that leases are no longer trusted.
    #[must_use]
    pub fn lost(&self) -> Vec<Action> {
        let reason = "the bus does not answer";
        self.room.here().flat_map(|(_, conn)| self.room.interrupt(conn, "lost", reason)).collect()
    }
}

fn elsewhere(lease: Option<Lease>, node: &NodeId) -> Option<Lease> {
    lease.filter(|lease| lease.node != *node)
}
