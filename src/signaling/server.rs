//! The signaling server: `GET /api/signal`, the rooms, revocation, draining.
//!
//! The upgrade is done by hand rather than by the web framework: a socket must answer an oversize
//! message with 1009, bad UTF-8 with 1007 and a bad frame with 1002, and keep small buffers
//! ([`super::websocket`]).

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use super::handshake::{ClientAddr, Origins};
use super::{
    counters::Counters,
    handshake::{self, Admitted},
    limits::{KeyedRate, Limits, Timings},
    outbox::{End, Outbox},
    room::{Action, Room},
    socket::{self, Member},
    websocket,
};
use crate::{
    auth::jwt::Verifier,
    pairs::{PairStore, Role},
    proto::signaling::{LeaveReason, PATH, close},
    types::{ConnId, PairId},
};

/// How the signaling server behaves.
#[derive(Debug, Clone, Default)]
pub struct SignalingConfig {
    /// Web pages that may connect.
    pub origins: Origins,
    /// Whether `?token=` is taken.
    pub allow_query_token: bool,
    /// Whether a token counts at connect only, and a live socket outlasts it.
    pub connect_only: bool,
    /// How long it waits for what.
    pub timings: Timings,
    /// How much it takes.
    pub limits: Limits,
}

/// The room of a pair, and the sockets in it.
#[derive(Debug)]
pub(super) struct Occupied {
    room: Room,
    outboxes: HashMap<ConnId, Arc<Outbox>>,
}

impl Occupied {
    fn apply(&self, actions: impl IntoIterator<Item = Action>) {
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
            }
        }
    }

    /// Relays a message; see [`Room::relay`]. True when the peer's queue is filling up.
    pub(super) fn relay(
        &mut self,
        role: Role,
        conn: &ConnId,
        kind: super::room::Kind,
        text: super::room::Text,
    ) -> (super::room::Relayed, bool) {
        let (outcome, action) = self.room.relay(role, conn, kind, text);
        self.apply(action);
        let peers = self.outboxes.iter().filter(|(other, _)| *other != conn);
        (outcome, peers.into_iter().any(|(_, outbox)| outbox.is_half_full()))
    }
}

pub(super) type RoomLock = Arc<Mutex<Occupied>>;

/// Locks `mutex`; what it guards is whole after any panic, as it changes in single steps.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all sockets share.
pub(super) struct Shared {
    pub(super) config: SignalingConfig,
    pub(super) verifier: Arc<Verifier>,
    pub(super) store: Arc<dyn PairStore>,
    pub(super) counters: Counters,
    pub(super) handshakes: Option<KeyedRate<IpAddr>>,
    pub(super) draining: watch::Sender<bool>,
    /// Locked before any room's own lock.
    rooms: Mutex<HashMap<PairId, RoomLock>>,
    sockets: Arc<Semaphore>,
}

impl Shared {
    /// Seats a socket, and says to everybody what there is to say.
    fn join(&self, pair: &PairId, member: &socket::Identity, exp: u64) -> RoomLock {
        let mut rooms = locked(&self.rooms);
        let room = rooms.entry(pair.clone()).or_insert_with(|| {
            Arc::new(Mutex::new(Occupied {
                room: Room::new(pair.clone(), self.config.limits.clone()),
                outboxes: HashMap::new(),
            }))
        });
        let mut occupied = locked(room);
        occupied.outboxes.insert(member.conn.clone(), Arc::clone(&member.outbox));
        let actions = occupied.room.join(member.role, &member.device, &member.conn, exp);
        occupied.apply(actions);
        drop(occupied);
        Arc::clone(room)
    }

    /// Unseats a socket; the room goes with the last one.
    pub(super) fn leave(&self, pair: &PairId, member: &socket::Identity, reason: LeaveReason) {
        let mut rooms = locked(&self.rooms);
        let Some(room) = rooms.get(pair) else { return };
        let mut occupied = locked(room);
        let action = occupied.room.leave(member.role, &member.conn, reason);
        occupied.apply(action);
        occupied.outboxes.remove(&member.conn);
        let empty = occupied.outboxes.is_empty();
        drop(occupied);
        if empty {
            rooms.remove(pair);
        }
    }

    fn revoke(&self, pair: &PairId) {
        let room = locked(&self.rooms).get(pair).cloned();
        if let Some(room) = room {
            let mut occupied = locked(&room);
            let actions = occupied.room.revoke();
            occupied.apply(actions);
        }
    }
}

/// The signaling server; clones share it.
#[derive(Clone)]
pub struct Signaling(Arc<Shared>);

impl std::fmt::Debug for Signaling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signaling").field("config", &self.0.config).finish_non_exhaustive()
    }
}

impl Signaling {
    /// A server without sockets.
    #[must_use]
    pub fn new(
        config: SignalingConfig,
        verifier: Arc<Verifier>,
        store: Arc<dyn PairStore>,
    ) -> Self {
        let sockets = Arc::new(Semaphore::new(config.limits.sockets as usize));
        Self(Arc::new(Shared {
            handshakes: config.limits.handshakes.map(KeyedRate::new),
            config,
            verifier,
            store,
            counters: Counters::default(),
            draining: watch::Sender::new(false),
            rooms: Mutex::default(),
            sockets,
        }))
    }

    /// The route [`PATH`].
    pub fn router(&self) -> Router {
        Router::new().route(PATH, get(upgrade)).with_state(self.clone())
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Sockets open now.
    #[must_use]
    pub fn sockets(&self) -> usize {
        (self.0.config.limits.sockets as usize).saturating_sub(self.0.sockets.available_permits())
    }

    /// Rooms with somebody in them.
    #[must_use]
    pub fn rooms(&self) -> usize {
        locked(&self.0.rooms).len()
    }

    /// Looks again and again whether the pairs of live sockets are still active, and closes the
    /// sockets of those that are not. Runs until it is dropped. While the store is down, sockets
    /// stay.
    pub async fn watch_revocations(self) {
        loop {
            tokio::time::sleep(self.0.config.timings.revocation_poll).await;
            if let Some(handshakes) = &self.0.handshakes {
                handshakes.forget_idle();
            }
            let pairs: Vec<PairId> = locked(&self.0.rooms).keys().cloned().collect();
            for pair in pairs {
                match self.0.store.active_pair(&pair).await {
                    Ok(Some(_)) => {}
                    Ok(None) => {
                        tracing::info!(%pair, "pair revoked");
                        self.0.revoke(&pair);
                    }
                    Err(error) => tracing::warn!(%error, "cannot check for revoked pairs"),
                }
            }
        }
    }

    /// Refuses new sockets from now on, closes the live ones with 1012 over the drain jitter, and
    /// waits until they are gone, but not for long.
    pub async fn drain(&self) {
        self.0.draining.send_replace(true);
        let timings = &self.0.config.timings;
        let patience = timings.drain_jitter + timings.close_within + Duration::from_secs(1);
        let gone = self.0.sockets.acquire_many(self.0.config.limits.sockets);
        if tokio::time::timeout(patience, gone).await.is_err() {
            tracing::warn!(left = self.sockets(), "sockets were left when the drain ended");
        }
    }

    /// Closes every socket with 1012 at once, without waiting.
    pub fn close_all(&self) {
        self.0.draining.send_replace(true);
        for room in locked(&self.0.rooms).values() {
            for outbox in locked(room).outboxes.values() {
                outbox.kick(End::with(close::RESTART, "the server stops", LeaveReason::Closed));
            }
        }
    }
}

/// `GET /api/signal`.
async fn upgrade(State(signaling): State<Signaling>, mut request: Request) -> Response {
    let shared = signaling.0;
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let admitted = match handshake::admit(&shared, &parts).await {
        Ok(admitted) => Arc::clone(&shared.sockets)
            .try_acquire_owned()
            .map(|permit| (admitted, permit))
            .map_err(|_| handshake::overloaded()),
        Err(refusal) => Err(refusal),
    };
    let (admitted, permit) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            shared.counters.refused.count(refusal.code);
            return refusal.into_response();
        }
    };
    let response = admitted.response();
    tokio::spawn(async move {
        match on_upgrade.await {
            Ok(upgraded) => serve(shared, TokioIo::new(upgraded), admitted, permit).await,
            Err(error) => tracing::debug!(%error, "a handshake was not finished"),
        }
    });
    response
}

/// Runs one socket to its end.
async fn serve(
    shared: Arc<Shared>,
    io: TokioIo<hyper::upgrade::Upgraded>,
    admitted: Admitted,
    permit: OwnedSemaphorePermit,
) {
    let websocket = websocket::accept(io).await;
    let identity = socket::Identity {
        device: admitted.claims.sub,
        role: admitted.role,
        conn: ConnId(uuid::Uuid::new_v4().to_string()),
        outbox: Arc::new(Outbox::new(&shared.config.limits)),
    };
    let (pair, exp) = (admitted.claims.pair_id, admitted.claims.exp);
    tracing::info!(%pair, device = %identity.device, conn = %identity.conn, "socket opened");
    shared.counters.opened.fetch_add(1, Ordering::Relaxed);
    let room = shared.join(&pair, &identity, exp);
    Member::new(shared, room, pair, identity, exp).run(websocket).await;
    drop(permit);
}
