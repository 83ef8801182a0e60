//! The rooms with sockets on this node; applies the actions of each [`Room`] to the sockets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::{end::End, identity::Identity, limits::Limits, outbox::Outbox};
use crate::signaling::{
    bus::{BusHandle, SharedRoom},
    room::{Action, Kind, Relayed, Room},
    text::Text,
};
use crate::{
    lock::locked,
    pairs::Role,
    proto::signaling::LeaveReason,
    types::{ConnId, PairId},
};

/// The room of a pair, and the queues of its sockets.
#[derive(Debug)]
pub(in crate::signaling) struct LiveRoom {
    pub(in crate::signaling) shared: SharedRoom,
    outboxes: HashMap<ConnId, Arc<Outbox>>,
    bus: Option<Arc<BusHandle>>,
}

impl LiveRoom {
    pub(in crate::signaling) fn apply(&self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Send { to, text } => {
                    if let Some(outbox) = self.outboxes.get(&to) {
                        outbox.push(text);
                    }
                }
                Action::Flush { to, text } => {
                    if let Some(outbox) = self.outboxes.get(&to) {
                        outbox.push_held(text);
                    }
                }
                Action::Close { conn, code, reason } => {
                    if let Some(outbox) = self.outboxes.get(&conn) {
                        outbox.kick(End::with(code, reason, LeaveReason::Closed));
                    }
                }
                Action::Bus(command) => {
                    self.bus.iter().for_each(|bus| bus.send(command.clone()));
                }
                Action::Note(note) => self.bus.iter().for_each(|bus| bus.note(note)),
            }
        }
    }

    /// Relays a message; see [`Room::relay`]. True if the peer's queue is at least half full or the
    /// bus is congested.
    pub(in crate::signaling) fn relay(
        &mut self,
        role: Role,
        conn: &ConnId,
        kind: Kind,
        text: Text,
    ) -> (Relayed, bool) {
        let (outcome, action) = self.shared.room.relay(role, conn, kind, text);
        match action {
            Some(Action::Send { to, text }) => {
                if let Some(outbox) = self.outboxes.get(&to) {
                    outbox.push_relayed(text);
                }
            }
            action => self.apply(action),
        }
        let peers = self.outboxes.iter().filter(|(other, _)| *other != conn);
        let filling = peers.into_iter().any(|(_, outbox)| outbox.is_half_full());
        (outcome, filling || self.shared.room.is_congested(role, conn))
    }

    /// Ends every socket in the room.
    pub(super) fn kick(&self, end: End) {
        for outbox in self.outboxes.values() {
            outbox.kick(end);
        }
    }
}

pub(in crate::signaling) type RoomLock = Arc<Mutex<LiveRoom>>;

/// All rooms with at least one socket on this node.
pub(in crate::signaling) struct Rooms {
    /// Locked before the lock of a room.
    live: Mutex<HashMap<PairId, RoomLock>>,
    limits: Arc<Limits>,
    bus: Option<Arc<BusHandle>>,
}

impl Rooms {
    pub(in crate::signaling) fn new(limits: Limits, bus: Option<Arc<BusHandle>>) -> Self {
        Self { live: Mutex::default(), limits: Arc::new(limits), bus }
    }

    pub(in crate::signaling) fn len(&self) -> usize {
        locked(&self.live).len()
    }

    /// The pairs of the rooms.
    pub(in crate::signaling) fn pairs(&self) -> Vec<PairId> {
        locked(&self.live).keys().cloned().collect()
    }

    /// Adds a socket to the room of its pair, which is created for the first socket.
    pub(super) fn enter(
        &self,
        pair: &PairId,
        member: &Identity,
        enter: impl FnOnce(&mut SharedRoom) -> Vec<Action>,
    ) -> RoomLock {
        let mut rooms = locked(&self.live);
        let room = rooms.entry(pair.clone()).or_insert_with(|| {
            let room = Room::new(pair.clone(), Arc::clone(&self.limits));
            Arc::new(Mutex::new(LiveRoom {
                shared: SharedRoom::new(pair.clone(), room),
                outboxes: HashMap::new(),
                bus: self.bus.clone(),
            }))
        });
        let mut live_room = locked(room);
        live_room.outboxes.insert(member.conn.clone(), Arc::clone(&member.outbox));
        let actions = enter(&mut live_room.shared);
        live_room.apply(actions);
        drop(live_room);
        Arc::clone(room)
    }

    /// The room of a pair, if it has a socket on this node.
    pub(in crate::signaling) fn of(&self, pair: &PairId) -> Option<RoomLock> {
        locked(&self.live).get(pair).cloned()
    }

    pub(in crate::signaling) fn every(&self) -> Vec<RoomLock> {
        locked(&self.live).values().cloned().collect()
    }

    /// Removes a socket; the room is removed with its last socket.
    pub(super) fn leave(&self, pair: &PairId, member: &Identity, reason: LeaveReason) {
        let mut rooms = locked(&self.live);
        let Some(room) = rooms.get(pair) else { return };
        let mut live_room = locked(room);
        let actions = live_room.shared.leave(member.role, &member.conn, reason);
        live_room.apply(actions);
        live_room.outboxes.remove(&member.conn);
        let empty = live_room.outboxes.is_empty();
        drop(live_room);
        if empty {
            rooms.remove(pair);
        }
    }
}
