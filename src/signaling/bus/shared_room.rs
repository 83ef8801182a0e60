//! The room of a pair on one of several nodes, sans-IO: who waits for a lease, and when leases are
//! renewed.

use std::time::Instant;

use super::{Claimed, Command, Envelope, Lease, NodeId, RENEW_EVERY, Renewed, Say};
use crate::{
    pairs::Role,
    proto::signaling::LeaveReason,
    signaling::room::{Action, Note, Room},
    types::{ConnId, DeviceId, PairId},
};

/// What may come for a socket before the answer to its claim: hello's peer holds 65 messages at most.
const EARLY: usize = 256;

/// A socket whose claim is under way.
#[derive(Debug)]
struct Waiting {
    device: DeviceId,
    conn: ConnId,
    exp: u64,
    /// What came for it meanwhile; answers and messages come on two connections.
    early: Vec<Envelope>,
}

/// The room of a pair, of which this node may have one device, or both. Without a bus it is just its
/// [`Room`].
#[derive(Debug)]
pub struct SharedRoom {
    /// The room.
    pub room: Room,
    pair: PairId,
    waiting: Vec<Waiting>,
    renewals: Vec<(ConnId, Instant)>,
}

impl SharedRoom {
    /// Shares an empty room.
    #[must_use]
    pub fn new(pair: PairId, room: Room) -> Self {
        Self { room, pair, waiting: Vec::new(), renewals: Vec::new() }
    }

    /// A socket came, and needs a lease.
    ///
    /// `since` is when it came, µs since 1970 by the bus's clock.
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

    /// The socket got its lease, which goes back at once when the socket no longer waits.
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

    /// The claim came too late: the device has a socket that is newer than this one.
    pub fn late(&mut self, conn: &ConnId) -> Vec<Action> {
        self.waiting.retain(|waiting| waiting.conn != *conn);
        self.room.interrupt(conn, "late", "a newer socket of this device was faster").into()
    }

    /// A socket is gone; its lease is to be given up.
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

    /// Something came from another node.
    pub fn receive(&mut self, envelope: Envelope) -> Vec<Action> {
        let waiting = self.waiting.iter_mut().find(|waiting| waiting.conn == envelope.to);
        if let Some(waiting) = waiting {
            if waiting.early.len() < EARLY {
                waiting.early.push(envelope);
            }
            // One left out is a gap in the numbers.
            return Vec::new();
        }
        let kick = envelope.say == Say::Kick;
        let role = if kick { envelope.role } else { envelope.role.other() };
        if !self.room.is_here(role, &envelope.to) {
            let mut actions = vec![Action::Note(Note::Stray)];
            if !kick {
                // Somebody takes a socket for live that is gone.
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

    /// The leases that are to be renewed by now.
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

    /// The answer to a [`Command::Renew`].
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

    /// The answer to a [`Command::Publish`]: whether the other node got the message.
    pub fn published(&mut self, envelope: &Envelope, receivers: u64) -> Vec<Action> {
        self.room.taken(envelope.role, &envelope.from, envelope.text.len());
        if receivers > 0 {
            return Vec::new();
        }
        self.room.peer_unreachable(envelope.role.other(), &envelope.to)
    }

    /// The bus is back. What was said meanwhile is lost: sockets with a peer on another node begin
    /// anew, the others look at their leases.
    pub fn back(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        for (role, conn) in self.room.here() {
            if self.room.there(role.other()).is_some() {
                let reason = "the bus between the nodes was away";
                actions.extend(self.room.interrupt(conn, "break", reason));
            }
        }
        for (_, at) in &mut self.renewals {
            *at = now;
        }
        actions
    }

    /// The bus has been away for so long that leases are no longer sure.
    #[must_use]
    pub fn lost(&self) -> Vec<Action> {
        let reason = "the bus between the nodes is lost";
        self.room.here().flat_map(|(_, conn)| self.room.interrupt(conn, "lost", reason)).collect()
    }
}

fn elsewhere(lease: Option<Lease>, node: &NodeId) -> Option<Lease> {
    lease.filter(|lease| lease.node != *node)
}
