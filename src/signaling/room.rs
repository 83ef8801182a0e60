//! The room of one pair, sans-IO: the devices present, the messages held, and the response to each
//! event.
//!
//! Every method returns the [`Action`]s to carry out, in order; this module does not access sockets.
//! Concurrent offers (glare) need no rule here: both are relayed, and the clients resolve the
//! conflict by the roles assigned in `hello`.

mod remote;

use std::{collections::VecDeque, sync::Arc};

use super::{
    bus::{Command, NodeId},
    server::limits::Limits,
    text::Text,
};
use crate::{
    pairs::Role,
    proto::signaling::{Body, LeaveReason, Message, RELAYED_ADDITIONS, close},
    types::{ConnId, DeviceId, PairId},
};

/// A step for the caller to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Queue a text frame, within the limits of the queue.
    Send {
        /// The socket.
        to: ConnId,
        /// The frame.
        text: Text,
    },
    /// Queue a text frame that was held; it is exempt from the limits of the queue.
    Flush {
        /// The socket.
        to: ConnId,
        /// The frame.
        text: Text,
    },
    /// Close the socket once its queue has been sent.
    Close {
        /// The socket.
        conn: ConnId,
        /// Close code.
        code: u16,
        /// Human-readable close reason.
        reason: &'static str,
    },
    /// Send a command to the bus between the nodes.
    Bus(Command),
    /// Count an event.
    Note(Note),
}

/// An event to count that the bus between the nodes caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// A socket was closed, with the cause.
    Closed(&'static str),
    /// A message arrived for a socket that no longer exists.
    Stray,
    /// The other device's node is gone.
    Unreachable,
}

/// The outcome of relaying a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relayed {
    /// Passed on: the other device is present.
    Delivered,
    /// Kept until the other device joins.
    Held,
    /// The other device is absent, and messages of this kind are not held or the limit is reached.
    Dropped,
    /// The sender's socket has been replaced.
    Stale,
}

/// The kind of a message to relay; it decides whether the message is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `offer`
    Offer,
    /// `answer`
    Answer,
    /// `ice`
    Ice,
    /// `bye`
    Bye,
    /// `state`
    State,
}

impl Kind {
    /// The kind of `body`; `None` if such messages are not relayed.
    #[must_use]
    pub fn of(body: &Body) -> Option<Self> {
        match body {
            Body::Offer { .. } => Some(Self::Offer),
            Body::Answer { .. } => Some(Self::Answer),
            Body::Ice { .. } => Some(Self::Ice),
            Body::Bye { .. } => Some(Self::Bye),
            Body::State { .. } => Some(Self::State),
            _ => None,
        }
    }
}

/// A device in the room.
#[derive(Debug)]
struct Seat {
    device: DeviceId,
    conn: ConnId,
    /// Epoch of its lease; 0 without a bus.
    epoch: u64,
    held: Held,
    place: Place,
}

impl Seat {
    fn is_here(&self) -> bool {
        matches!(self.place, Place::Here(_))
    }
}

/// The node that has the socket of a seat.
#[derive(Debug)]
enum Place {
    /// This node.
    Here(Flight),
    /// Another node.
    There(Remote),
}

/// Messages of a socket on this node that the bus has not accepted yet.
#[derive(Debug, Default)]
struct Flight {
    messages: usize,
    bytes: usize,
}

/// A device on another node, and counts of the messages exchanged with the device on this node.
#[derive(Debug)]
struct Remote {
    node: NodeId,
    sent: u64,
    received: u64,
}

/// Messages sent before the other device joined: the latest offer, and candidates.
#[derive(Debug, Default)]
struct Held {
    texts: VecDeque<Text>,
    bytes: usize,
    candidates: usize,
    has_offer: bool,
}

impl Held {
    fn offer(&mut self, text: Text, limits: &Limits) -> Relayed {
        if self.has_offer {
            // Candidates sent before any offer belong to the first offer. The ones held now belong
            // to the offer that this one supersedes.
            *self = Self::default();
        }
        let kept = self.push(text, limits);
        self.has_offer = kept == Relayed::Held;
        kept
    }

    fn candidate(&mut self, text: Text, limits: &Limits) -> Relayed {
        if self.candidates >= limits.held_candidates {
            return Relayed::Dropped;
        }
        let kept = self.push(text, limits);
        self.candidates += usize::from(kept == Relayed::Held);
        kept
    }

    fn push(&mut self, text: Text, limits: &Limits) -> Relayed {
        if self.bytes + text.len() > limits.held_bytes {
            return Relayed::Dropped;
        }
        self.bytes += text.len();
        self.texts.push_back(text);
        Relayed::Held
    }
}

/// The room of one pair.
#[derive(Debug)]
pub struct Room {
    pair: PairId,
    limits: Arc<Limits>,
    ios: Option<Seat>,
    mac: Option<Seat>,
    /// The latest known epochs of the phone and the Mac.
    latest: [u64; 2],
}

impl Room {
    /// An empty room.
    #[must_use]
    pub fn new(pair: PairId, limits: Arc<Limits>) -> Self {
        Self { pair, limits, ios: None, mac: None, latest: [0; 2] }
    }

    /// Whether neither device is present.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ios.is_none() && self.mac.is_none()
    }

    fn seat(&self, role: Role) -> Option<&Seat> {
        match role {
            Role::Phone => self.ios.as_ref(),
            Role::Mac => self.mac.as_ref(),
        }
    }

    fn seat_mut(&mut self, role: Role) -> &mut Option<Seat> {
        match role {
            Role::Phone => &mut self.ios,
            Role::Mac => &mut self.mac,
        }
    }

    fn say(&self, to: &ConnId, body: Body) -> Action {
        let text = Message::new(self.pair.clone(), body).to_json().into();
        Action::Send { to: to.clone(), text }
    }

    /// Sends `body` to the device in `role` if its socket is on this node.
    fn say_here(&self, role: Role, body: Body) -> Option<Action> {
        let seat = self.seat(role).filter(|seat| seat.is_here())?;
        Some(self.say(&seat.conn, body))
    }

    /// A socket joins. It replaces an older socket of the same device.
    pub fn join(&mut self, role: Role, device: &DeviceId, conn: &ConnId, exp: u64) -> Vec<Action> {
        let mut actions = self.unseat(role, LeaveReason::Replaced);
        actions.extend(self.take_seat(role, device, conn, exp, 0));
        actions
    }

    /// Empties a seat whose device has a newer socket or no longer has any.
    fn unseat(&mut self, role: Role, reason: LeaveReason) -> Vec<Action> {
        let Some(old) = self.seat_mut(role).take() else { return Vec::new() };
        let mut actions = Vec::new();
        if old.is_here() {
            actions.push(Action::Close {
                conn: old.conn,
                code: close::REPLACED,
                reason: "a newer socket of this device took over",
            });
        }
        actions.extend(self.tell_left(role, &old.device, reason));
        actions
    }

    /// Assigns an empty seat to a socket of this node.
    fn take_seat(
        &mut self,
        role: Role,
        device: &DeviceId,
        conn: &ConnId,
        exp: u64,
        epoch: u64,
    ) -> Vec<Action> {
        let hello = Body::Hello {
            conn_id: conn.clone(),
            device_id: device.clone(),
            polite: role == Role::Mac,
            peer_present: self.seat(role.other()).is_some(),
            exp,
            relays: RELAYED_ADDITIONS.map(str::to_owned).into(),
        };
        let mut actions = vec![self.say(conn, hello)];
        let joined = Body::PeerJoined { device_id: device.clone(), conn_id: conn.clone() };
        actions.extend(self.say_here(role.other(), joined));
        if let Some(peer) = self.seat_mut(role.other()) {
            if let Place::There(remote) = &mut peer.place {
                (remote.sent, remote.received) = (0, 0);
            }
            let held = std::mem::take(&mut peer.held);
            let flush = |text| Action::Flush { to: conn.clone(), text };
            actions.extend(held.texts.into_iter().map(flush));
        }
        *self.seat_mut(role) = Some(Seat {
            device: device.clone(),
            conn: conn.clone(),
            epoch,
            held: Held::default(),
            place: Place::Here(Flight::default()),
        });
        actions
    }

    /// Handles a message to relay that arrived on the socket `conn` of the device in `role`.
    pub fn relay(
        &mut self,
        role: Role,
        conn: &ConnId,
        kind: Kind,
        text: Text,
    ) -> (Relayed, Option<Action>) {
        if self.seat(role).is_none_or(|seat| seat.conn != *conn) {
            return (Relayed::Stale, None);
        }
        if let Some(peer) = self.seat(role.other()) {
            let action = if peer.is_here() {
                Some(Action::Send { to: peer.conn.clone(), text })
            } else {
                self.forward(role, text, false)
            };
            return (Relayed::Delivered, action);
        }
        let limits = Arc::clone(&self.limits);
        let Some(seat) = self.seat_mut(role) else { return (Relayed::Stale, None) };
        let outcome = match kind {
            Kind::Offer => seat.held.offer(text, &limits),
            Kind::Ice => seat.held.candidate(text, &limits),
            Kind::Answer | Kind::State => Relayed::Dropped,
            Kind::Bye => {
                seat.held = Held::default();
                Relayed::Dropped
            }
        };
        (outcome, None)
    }

    /// The socket `conn` of the device in `role` is gone. Does nothing if a newer socket of that
    /// device has taken over.
    pub fn leave(&mut self, role: Role, conn: &ConnId, reason: LeaveReason) -> Option<Action> {
        let seat = self.seat_mut(role).take_if(|seat| seat.conn == *conn)?;
        self.tell_left(role, &seat.device, reason)
    }

    /// The pair was revoked: both sockets are closed.
    pub fn revoke(&mut self) -> Vec<Action> {
        let gone: Vec<(Role, Seat)> = [Role::Phone, Role::Mac]
            .into_iter()
            .filter_map(|role| self.seat_mut(role).take().map(|seat| (role, seat)))
            .collect();
        let mut actions = Vec::new();
        for (role, seat) in gone.iter().filter(|(_, seat)| seat.is_here()) {
            for (_, other) in gone.iter().filter(|(other, _)| other != role) {
                let reason = LeaveReason::Revoked;
                let left = Body::PeerLeft { device_id: other.device.clone(), reason };
                actions.push(self.say(&seat.conn, left));
            }
            actions.push(Action::Close {
                conn: seat.conn.clone(),
                code: close::PAIR_REVOKED,
                reason: "the pair was revoked",
            });
        }
        actions
    }

    fn tell_left(&self, role: Role, device: &DeviceId, reason: LeaveReason) -> Option<Action> {
        self.say_here(role.other(), Body::PeerLeft { device_id: device.clone(), reason })
    }
}

#[cfg(test)]
mod tests;
