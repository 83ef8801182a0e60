//! The signaling server: `GET /api/signal`, the rooms, revocation, draining.
//!
//! This module performs the upgrade itself instead of using the web framework: a socket must answer
//! an oversize message with 1009, invalid UTF-8 with 1007 and an invalid frame with 1002, and its
//! buffers must stay small ([`websocket`]).

pub mod counters;
pub(super) mod end;
pub mod fragments;
pub mod handshake;
mod identity;
pub mod limits;
pub mod meter;
pub mod origin;
pub(super) mod outbox;
mod quota;
mod refusal;
pub mod request;
pub(super) mod rooms;
mod socket;
pub mod tap;
pub mod websocket;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::MissedTickBehavior,
};

use self::{
    counters::Counters,
    end::End,
    fragments::Fragments,
    handshake::Admitted,
    identity::Identity,
    limits::{Limits, Timings},
    outbox::Outbox,
    quota::{HandshakeQuota, SocketSlots},
    refusal::Refusal,
    rooms::{RoomLock, Rooms},
    socket::Member,
    tap::{Tap, Visit},
};
pub use self::{
    origin::Origins,
    request::{Arrival, ClientAddr, RequestId},
};
use super::{
    bus::{self, BusConfig, BusCounters, BusHandle, BusState, Command},
    room::Action,
};
use crate::{
    auth::jwt::Verifier,
    lock::locked,
    pairs::{Hint, InUse, PairStore},
    proto::signaling::{LeaveReason, PATH, close},
    types::{ConnId, PairId},
};

/// Maximum number of hints of the pair store handled together.
const HINT_BATCH: usize = 256;

/// Configuration of the signaling server.
#[derive(Debug, Clone, Default)]
pub struct SignalingConfig {
    /// Origins of the web pages that may connect.
    pub origins: Origins,
    /// Whether the server serves a page of its own, which may connect under any name of the server.
    pub own_page: bool,
    /// Receives the visits.
    pub tap: Tap,
    /// Whether `?token=` is accepted.
    pub allow_query_token: bool,
    /// Whether a token is checked on connect only, so that a live socket may outlast it.
    pub connect_only: bool,
    /// Intervals and timeouts.
    pub timings: Timings,
    /// Limits on messages, queues, sockets and handshakes.
    pub limits: Limits,
    /// The bus to the other nodes, when there are several.
    pub bus: Option<BusConfig>,
}

/// State shared by all sockets.
pub(super) struct Shared {
    pub(super) config: SignalingConfig,
    pub(super) verifier: Arc<Verifier>,
    pub(super) store: Arc<dyn PairStore>,
    pub(super) counters: Counters,
    quota: HandshakeQuota,
    pub(super) draining: watch::Sender<bool>,
    pub(super) rooms: Rooms,
    pub(super) sockets: Arc<Semaphore>,
    bus: Option<Arc<BusHandle>>,
    /// Taken by the task that carries out the commands.
    bus_commands: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
}

impl Shared {
    /// Seats a socket and sends the resulting messages to both devices. `None` if the bus was lost
    /// in the meantime.
    async fn join(
        &self,
        pair: &PairId,
        member: &Identity,
        exp: u64,
        arrived: Instant,
    ) -> Option<RoomLock> {
        let Some(bus) = &self.bus else {
            return Some(self.rooms.enter(pair, member, |room| {
                room.room.join(member.role, &member.device, &member.conn, exp)
            }));
        };
        let answer = bus.await_claim(&member.conn);
        let room = self.rooms.enter(pair, member, |room| {
            let (role, device, conn) = (member.role, &member.device, &member.conn);
            vec![Action::Bus(room.claim(role, device, conn, exp, bus.time_at(arrived)))]
        });
        if answer.await.is_ok() {
            return Some(room);
        }
        self.rooms.leave(pair, member, LeaveReason::Closed);
        None
    }

    /// Whether the state of the bus allows sockets to join; true without a bus.
    pub(super) fn is_bus_up(&self) -> bool {
        self.bus.as_ref().is_none_or(|bus| bus.is_up())
    }

    fn revoke(&self, pair: &PairId) {
        if let Some(room) = self.rooms.of(pair) {
            let mut live_room = locked(&room);
            let actions = live_room.shared.room.revoke();
            live_room.apply(actions);
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
        let (bus, bus_commands) = config.bus.as_ref().map(|_| BusHandle::new()).unzip();
        let bus = bus.map(Arc::new);
        Self(Arc::new(Shared {
            quota: HandshakeQuota::new(&config.limits),
            verifier,
            store,
            counters: Counters::default(),
            draining: watch::Sender::new(false),
            rooms: Rooms::new(config.limits.clone(), bus.clone()),
            sockets,
            bus,
            bus_commands: Mutex::new(bus_commands),
            config,
        }))
    }

    /// The route [`PATH`].
    pub fn router(&self) -> Router {
        Router::new().route(PATH, get(upgrade)).with_state(self.clone())
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Number of open sockets.
    #[must_use]
    pub fn sockets(&self) -> usize {
        (self.0.config.limits.sockets as usize).saturating_sub(self.0.sockets.available_permits())
    }

    /// Number of rooms with at least one socket.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.0.rooms.len()
    }

    /// State and counters of the bus; `None` on a single node.
    #[must_use]
    pub fn bus(&self) -> Option<(BusState, &BusCounters)> {
        self.0.bus.as_ref().map(|bus| (bus.state(), &bus.counters))
    }

    /// Exchanges messages with the other nodes until the future is dropped; does nothing on a
    /// single node. Call it once.
    pub async fn run_bus(self) {
        let commands = locked(&self.0.bus_commands).take();
        if let (Some(handle), Some(config), Some(commands)) =
            (&self.0.bus, &self.0.config.bus, commands)
        {
            bus::drive(Arc::clone(&self.0), Arc::clone(handle), config.clone(), commands).await;
        }
    }

    /// Waits until the bus is up, for about a second at most. After that, sockets are rejected
    /// until it is up.
    pub async fn await_bus(&self) {
        if let Some(bus) = &self.0.bus {
            bus.await_up().await;
        }
    }

    /// Closes the sockets of revoked pairs, and ends whatever else `in_use` has for them, until the
    /// future is dropped. It checks the pairs of all live sockets periodically, and pairs that the
    /// store hints at immediately. While the store is down, everything stays open.
    pub async fn watch_revocations(self, in_use: Option<Arc<dyn InUse>>) {
        let in_use = in_use.as_deref();
        let mut hints = self.0.store.hints();
        let mut poll = tokio::time::interval(self.0.config.timings.revocation_poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let hinted = tokio::select! {
                _ = poll.tick() => None,
                hinted = hinted(&mut hints) => hinted,
            };
            if let Some(pairs) = hinted {
                self.end_revoked(pairs, in_use).await;
                continue;
            }
            let mut pairs = self.0.rooms.pairs();
            pairs.extend(in_use.map(InUse::pairs).unwrap_or_default());
            pairs.sort_unstable();
            pairs.dedup();
            self.end_revoked(pairs, in_use).await;
        }
    }

    async fn end_revoked(&self, pairs: Vec<PairId>, in_use: Option<&dyn InUse>) {
        if pairs.is_empty() {
            return;
        }
        match self.0.counters.store.watch(self.0.store.still_active(&pairs)).await {
            Ok(active) => {
                for pair in pairs.iter().filter(|pair| !active.contains(*pair)) {
                    tracing::info!(%pair, "pair revoked");
                    self.0.revoke(pair);
                    if let Some(in_use) = in_use {
                        in_use.revoke(pair);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "cannot check for revoked pairs"),
        }
    }

    /// Removes idle addresses, pairs and users from the rate limiters.
    pub fn forget_idle(&self) {
        self.0.quota.forget_idle();
    }

    /// Whether new sockets are rejected because the server is about to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Rejects new sockets, closes the live ones with 1012, spread over the drain jitter, and waits
    /// until they are closed or a timeout expires.
    pub async fn drain(&self) {
        self.0.draining.send_replace(true);
        let timings = &self.0.config.timings;
        let limit = timings.drain_jitter + timings.close_within + Duration::from_secs(1);
        let closed = self.0.sockets.acquire_many(self.0.config.limits.sockets);
        if tokio::time::timeout(limit, closed).await.is_err() {
            tracing::warn!(left = self.sockets(), "drain timed out with open sockets");
        }
        if let Some(bus) = &self.0.bus {
            bus.flush().await;
        }
    }

    /// Starts to close every socket with 1012 immediately, without waiting.
    pub fn close_all(&self) {
        self.0.draining.send_replace(true);
        for room in self.0.rooms.every() {
            let reason = "the server is stopping";
            locked(&room).kick(End::with(close::RESTART, reason, LeaveReason::Closed));
        }
    }
}

/// The pairs of the next hints; `None` if any pair may be affected.
async fn hinted(hints: &mut Option<mpsc::Receiver<Hint>>) -> Option<Vec<PairId>> {
    let mut received = Vec::new();
    if let Some(hints) = hints {
        hints.recv_many(&mut received, HINT_BATCH).await;
    }
    if received.is_empty() {
        // There are no hints, or the channel is closed: this never returns, and polling continues.
        *hints = None;
        return std::future::pending().await;
    }
    let pair = |hint| match hint {
        Hint::Pair(pair) => Some(pair),
        Hint::Any => None,
    };
    received.into_iter().map(pair).collect()
}

/// `GET /api/signal`.
async fn upgrade(State(signaling): State<Signaling>, mut request: Request) -> Response {
    let shared = signaling.0;
    let on_upgrade = hyper::upgrade::on(&mut request);
    let (parts, _) = request.into_parts();
    let client = parts.extensions.get().map(ClientAddr::ip);
    let admitted = match handshake::admit(&shared, &parts).await {
        Ok(admitted) => seats(&shared, &parts.extensions, &admitted).map(|seats| (admitted, seats)),
        Err(refusal) => Err(refusal),
    };
    let (admitted, seats) = match admitted {
        Ok(admitted) => admitted,
        Err(refusal) => {
            shared.counters.refused.count(refusal.code);
            tracing::info!(code = refusal.code, "handshake rejected");
            shared.config.tap.show(|| Visit::Refused {
                code: refusal.code,
                message: refusal.message.clone(),
                client,
            });
            return refusal.into_response();
        }
    };
    let request = parts.extensions.get::<RequestId>().cloned();
    let response = admitted.response();
    tokio::spawn(async move {
        match on_upgrade.await {
            Ok(upgraded) => {
                serve(shared, TokioIo::new(upgraded), admitted, request, client).await;
                drop(seats);
            }
            Err(error) => tracing::debug!(%error, "the upgrade of a connection failed"),
        }
    });
    response
}

/// Takes a socket's slots in the limits of the server, of its address and of its user.
fn seats(
    shared: &Shared,
    request: &axum::http::Extensions,
    admitted: &Admitted,
) -> Result<(OwnedSemaphorePermit, SocketSlots), Refusal> {
    let slots = shared.quota.socket_slots(request.get(), &admitted.user)?;
    Ok((handshake::place(shared)?, slots))
}

/// Runs one socket until it ends.
async fn serve(
    shared: Arc<Shared>,
    io: TokioIo<hyper::upgrade::Upgraded>,
    admitted: Admitted,
    request: Option<RequestId>,
    client: Option<IpAddr>,
) {
    let websocket = websocket::accept(Fragments::new(io, &shared.config.limits)).await;
    let identity = Identity {
        device: admitted.claims.sub,
        role: admitted.role,
        conn: ConnId(uuid::Uuid::new_v4().to_string()),
        outbox: Arc::new(Outbox::new(&shared.config.limits)),
    };
    let (pair, exp) = (admitted.claims.pair_id, admitted.claims.exp);
    let request = request.as_ref().map(|request| &*request.0);
    tracing::info!(
        %pair, device = %identity.device, conn = %identity.conn, request, "socket opened"
    );
    shared.counters.opened.fetch_add(1, Ordering::Relaxed);
    let Some(room) = shared.join(&pair, &identity, exp, admitted.at).await else {
        socket::turn_away(&shared, websocket).await;
        return;
    };
    shared.config.tap.show(|| Visit::Joined {
        device: identity.device.clone(),
        role: identity.role,
        pair: pair.clone(),
        client,
    });
    Member::new(shared, room, pair, identity, exp).run(websocket).await;
}
