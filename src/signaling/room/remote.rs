//! A room with one device on another node: handles messages from the bus and sends commands to it.

use super::{Action, Flight, Held, Note, Place, Remote, Room, Seat, Text};
use crate::{
    pairs::Role,
    proto::signaling::{Body, LeaveReason, close},
    signaling::bus::{Claimed, Command, Envelope, Lease, Own, Renewed, Say},
    types::{ConnId, DeviceId},
};

/// Value of [`Remote::received`] after a gap: further messages are ignored.
const DEAF: u64 = u64::MAX;

fn index(role: Role) -> usize {
    match role {
        Role::Phone => 0,
        Role::Mac => 1,
    }
}

impl Room {
    /// The latest known epoch of the device in `role`.
    #[must_use]
    pub fn latest(&self, role: Role) -> u64 {
        self.latest[index(role)]
    }

    fn saw(&mut self, role: Role, epoch: u64) {
        let latest = &mut self.latest[index(role)];
        *latest = epoch.max(*latest);
    }

    /// Whether `conn` is seated in `role`, on this node.
    #[must_use]
    pub fn is_here(&self, role: Role, conn: &ConnId) -> bool {
        self.seat(role).is_some_and(|seat| seat.is_here() && seat.conn == *conn)
    }

    /// The sockets on this node.
    pub fn here(&self) -> impl Iterator<Item = (Role, &ConnId)> {
        [Role::Phone, Role::Mac].into_iter().filter_map(|role| {
            let seat = self.seat(role).filter(|seat| seat.is_here())?;
            Some((role, &seat.conn))
        })
    }

    /// The socket of the device in `role` if it is on another node, and the number of messages sent
    /// to it.
    #[must_use]
    pub fn there(&self, role: Role) -> Option<(&ConnId, u64)> {
        let seat = self.seat(role)?;
        match &seat.place {
            Place::There(remote) => Some((&seat.conn, remote.sent)),
            Place::Here(_) => None,
        }
    }

    /// A socket of this node has obtained its lease. `claimed` never contains a peer on this node.
    pub fn join_claimed(
        &mut self,
        role: Role,
        device: &DeviceId,
        conn: &ConnId,
        exp: u64,
        claimed: Claimed,
    ) -> Vec<Action> {
        if self.seat(role).is_some_and(|seat| seat.epoch > claimed.epoch) {
            return vec![replaced(conn.clone())];
        }
        self.saw(role, claimed.epoch);
        let mut actions = self.unseat(role, LeaveReason::Replaced);
        let other = role.other();
        match claimed.peer {
            // The answer to the claim is newer than any message received before it.
            Some(lease) if self.seat(other).is_none_or(|seat| seat.epoch < lease.epoch) => {
                actions.extend(self.seat_there(other, lease));
            }
            None if self.there(other).is_some() => *self.seat_mut(other) = None,
            _ => {}
        }
        actions.extend(self.take_seat(role, device, conn, exp, claimed.epoch));
        actions
    }

    fn seat_there(&mut self, role: Role, lease: Lease) -> Vec<Action> {
        self.saw(role, lease.epoch);
        let mut actions = self.unseat(role, LeaveReason::Replaced);
        let joined =
            Body::PeerJoined { device_id: lease.device.clone(), conn_id: lease.conn.clone() };
        actions.extend(self.say_here(role.other(), joined));
        *self.seat_mut(role) = Some(Seat {
            device: lease.device,
            conn: lease.conn,
            epoch: lease.epoch,
            held: Held::default(),
            place: Place::There(Remote { node: lease.node, sent: 0, received: 0 }),
        });
        let own = self.seat_mut(role.other()).as_mut();
        let held = own.map(|own| std::mem::take(&mut own.held)).unwrap_or_default();
        for text in held.texts {
            actions.extend(self.forward(role.other(), text, true));
        }
        actions
    }

    /// The device in `role` joined on another node. Does nothing if that is already known.
    pub fn peer_joined(&mut self, role: Role, lease: Lease) -> Vec<Action> {
        if lease.epoch <= self.latest(role) {
            return Vec::new();
        }
        self.seat_there(role, lease)
    }

    /// The socket `conn` of the device in `role`, on another node, is gone.
    pub fn peer_left(&mut self, role: Role, conn: &ConnId, reason: LeaveReason) -> Vec<Action> {
        if self.there(role).is_none_or(|(there, _)| there != conn) {
            return Vec::new();
        }
        if reason == LeaveReason::Revoked {
            return self.revoke();
        }
        self.unseat(role, reason)
    }

    /// The node of the device in `role` is gone. Its lease is released as well: if the node returns,
    /// the socket there must not continue as if no messages had been lost.
    pub fn peer_unreachable(&mut self, role: Role, conn: &ConnId) -> Vec<Action> {
        let mut actions = self.peer_left(role, conn, LeaveReason::Timeout);
        if !actions.is_empty() {
            actions.push(Action::Note(Note::Unreachable));
        }
        actions.push(Action::Bus(Command::Release {
            pair: self.pair.clone(),
            role,
            conn: conn.clone(),
            reason: LeaveReason::Timeout,
        }));
        actions
    }

    /// A newer socket of the same device joined on another node.
    pub fn kicked(&mut self, role: Role, conn: &ConnId) -> Vec<Action> {
        if !self.is_here(role, conn) {
            return Vec::new();
        }
        let mut actions = vec![Action::Note(Note::Closed("takeover"))];
        actions.extend(self.unseat(role, LeaveReason::Replaced));
        actions
    }

    /// Closes a socket of this node so that its client reconnects.
    #[must_use]
    pub fn interrupt(&self, conn: &ConnId, why: &'static str, reason: &'static str) -> [Action; 2] {
        let code = if why == "lost" { close::TRY_AGAIN_LATER } else { close::RESTART };
        let close = Action::Close { conn: conn.clone(), code, reason };
        [Action::Note(Note::Closed(why)), close]
    }

    /// Handles a relayed message or a message count from the device in `role`, which is on another
    /// node. A gap in the sequence numbers closes the receiver's socket.
    pub fn heard(&mut self, envelope: Envelope) -> Vec<Action> {
        let Envelope { role, from, to, say, text, .. } = envelope;
        let seat = self.seat_mut(role).as_mut().filter(|seat| seat.conn == from);
        let Some(Seat { place: Place::There(remote), .. }) = seat else { return Vec::new() };
        if remote.received == DEAF {
            return Vec::new();
        }
        match say {
            Say::Relay { seq, .. } if seq <= remote.received => Vec::new(),
            Say::Relay { seq, held } if seq == remote.received + 1 => {
                remote.received = seq;
                let action =
                    if held { Action::Flush { to, text } } else { Action::Send { to, text } };
                vec![action]
            }
            Say::Sync { seq } if seq == remote.received => Vec::new(),
            _ => {
                remote.received = DEAF;
                self.interrupt(&to, "gap", "messages between the nodes were lost").into()
            }
        }
    }

    /// Forwards a message from the device in `role` to the node of the other device.
    pub(super) fn forward(&mut self, role: Role, text: Text, held: bool) -> Option<Action> {
        let pair = self.pair.clone();
        let (own, peer) = match role {
            Role::Phone => (self.ios.as_mut()?, self.mac.as_mut()?),
            Role::Mac => (self.mac.as_mut()?, self.ios.as_mut()?),
        };
        let (Place::Here(flight), Place::There(remote)) = (&mut own.place, &mut peer.place) else {
            return None;
        };
        remote.sent += 1;
        flight.messages += 1;
        flight.bytes += text.len();
        let (from, to) = (own.conn.clone(), peer.conn.clone());
        let say = Say::Relay { seq: remote.sent, held };
        let envelope = Envelope { pair, role, from, to, say, text };
        Some(Action::Bus(Command::Publish { node: remote.node.clone(), envelope }))
    }

    /// The bus has accepted a message of `bytes` bytes from the socket `conn`.
    pub fn taken(&mut self, role: Role, conn: &ConnId, bytes: usize) {
        let seat = self.seat_mut(role).as_mut().filter(|seat| seat.conn == *conn);
        if let Some(Seat { place: Place::Here(flight), .. }) = seat {
            flight.messages = flight.messages.saturating_sub(1);
            flight.bytes = flight.bytes.saturating_sub(bytes);
        }
    }

    /// Whether reading from the socket `conn` should pause because too many of its messages are
    /// waiting for the bus.
    #[must_use]
    pub fn is_congested(&self, role: Role, conn: &ConnId) -> bool {
        let seat = self.seat(role).filter(|seat| seat.conn == *conn);
        let Some(Seat { place: Place::Here(Flight { messages, bytes }), .. }) = seat else {
            return false;
        };
        2 * messages >= self.limits.queue_messages || 2 * bytes >= self.limits.queue_bytes
    }

    /// Handles the answer to a renewal. `peer_epoch` is the latest epoch of the other device that
    /// was known when the renewal was sent; `renewed` never contains a peer on this node.
    pub fn renewed(
        &mut self,
        role: Role,
        conn: &ConnId,
        peer_epoch: u64,
        renewed: Renewed,
    ) -> Vec<Action> {
        if !self.is_here(role, conn) {
            return Vec::new();
        }
        let other = role.other();
        match (renewed.own, renewed.peer) {
            (Own::Taken, _) => self.kicked(role, conn),
            (Own::Absent, _) => {
                self.interrupt(conn, "lease-lost", "this node lost the socket's lease").into()
            }
            (Own::Kept, Some(lease)) => self.peer_joined(other, lease),
            // A newer epoch was received after the renewal was sent; the answer predates it.
            (Own::Kept, None)
                if self.there(other).is_some() && self.latest(other) == peer_epoch =>
            {
                self.unseat(other, LeaveReason::Timeout)
            }
            (Own::Kept, None) => Vec::new(),
        }
    }
}

fn replaced(conn: ConnId) -> Action {
    let reason = "a newer socket of this device took over";
    Action::Close { conn, code: close::REPLACED, reason }
}
