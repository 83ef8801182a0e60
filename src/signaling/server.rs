//! The signaling server: `GET /api/signal`, the rooms, revocation, draining.
//!
//! The upgrade is done by hand rather than by the web framework: a socket must answer an oversize
//! message with 1009, bad UTF-8 with 1007 and a bad frame with 1002, and keep small buffers
//! ([`websocket`]).

pub mod counters;
pub(super) mod end;
pub mod fragments;
mod gate;
pub mod handshake;
pub mod limits;
pub mod meter;
pub mod origin;
pub(super) mod outbox;
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
    gate::{Gate, Places},
    handshake::Admitted,
    limits::{Limits, Timings},
    outbox::Outbox,
    rooms::{RoomLock, Rooms, locked},
    socket::Member,
    tap::{Tap, Visit},
};
pub use self::{
    handshake::{Arrival, ClientAddr, RequestId},
    origin::Origins,
};
use super::{
    bus::{self, BusConfig, BusCounters, BusState, Command, Link},
    room::Action,
};
use crate::{
    auth::jwt::Verifier,
    pairs::{Hint, InUse, PairStore},
    proto::signaling::{LeaveReason, PATH, close},
    types::{ConnId, PairId},
};

/// Hints of the pair store looked at together.
const HINTS_AT_ONCE: usize = 256;

/// How the signaling server behaves.
#[derive(Debug, Clone, Default)]
pub struct SignalingConfig {
    /// Web pages that may connect.
    pub origins: Origins,
    /// Whether there is a page of the server's own, which may connect under every name it is served by.
    pub own_page: bool,
    /// Who watches.
    pub tap: Tap,
    /// Whether `?token=` is taken.
    pub allow_query_token: bool,
    /// Whether a token counts at connect only, and a live socket outlasts it.
    pub connect_only: bool,
    /// How long it waits for what.
    pub timings: Timings,
    /// How much it takes.
    pub limits: Limits,
    /// The bus to the other nodes, when there are several.
    pub bus: Option<BusConfig>,
}

/// What all sockets share.
pub(super) struct Shared {
    pub(super) config: SignalingConfig,
    pub(super) verifier: Arc<Verifier>,
    pub(super) store: Arc<dyn PairStore>,
    pub(super) counters: Counters,
    gate: Gate,
    pub(super) draining: watch::Sender<bool>,
    pub(super) rooms: Rooms,
    pub(super) sockets: Arc<Semaphore>,
    bus: Option<Arc<Link>>,
    /// Taken by the task that carries them out.
    bus_commands: Mutex<Option<mpsc::UnboundedReceiver<Command>>>,
}

impl Shared {
    /// Seats a socket, and says to everybody what there is to say. None when the bus between the
    /// nodes went away meanwhile.
    async fn join(
        &self,
        pair: &PairId,
        member: &socket::Identity,
        exp: u64,
        came: Instant,
    ) -> Option<RoomLock> {
        let Some(bus) = &self.bus else {
            return Some(self.rooms.enter(pair, member, |room| {
                room.room.join(member.role, &member.device, &member.conn, exp)
            }));
        };
        let answer = bus.await_claim(&member.conn);
        let room = self.rooms.enter(pair, member, |room| {
            let (role, device, conn) = (member.role, &member.device, &member.conn);
            vec![Action::Bus(room.claim(role, device, conn, exp, bus.time_at(came)))]
        });
        if answer.await.is_ok() {
            return Some(room);
        }
        self.rooms.leave(pair, member, LeaveReason::Closed);
        None
    }

    /// Whether sockets may join as far as the bus between the nodes is concerned.
    pub(super) fn is_bus_up(&self) -> bool {
        self.bus.as_ref().is_none_or(|bus| bus.is_up())
    }

    fn revoke(&self, pair: &PairId) {
        if let Some(room) = self.rooms.of(pair) {
            let mut occupied = locked(&room);
            let actions = occupied.room.room.revoke();
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
        let (bus, bus_commands) = config.bus.as_ref().map(|_| Link::new()).unzip();
        let bus = bus.map(Arc::new);
        Self(Arc::new(Shared {
            gate: Gate::new(&config.limits),
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
        self.0.rooms.len()
    }

    /// State of the bus between the nodes, and what was counted of it; none on a single node.
    #[must_use]
    pub fn bus(&self) -> Option<(BusState, &BusCounters)> {
        self.0.bus.as_ref().map(|bus| (bus.state(), &bus.counters))
    }

    /// Keeps in touch with the other nodes. Runs until it is dropped; does nothing on a single node.
    /// To be called once.
    pub async fn run_bus(self) {
        let commands = locked(&self.0.bus_commands).take();
        if let (Some(link), Some(config), Some(commands)) =
            (&self.0.bus, &self.0.config.bus, commands)
        {
            bus::drive(Arc::clone(&self.0), Arc::clone(link), config.clone(), commands).await;
        }
    }

    /// Waits until the bus is up, but not for long: then sockets are refused until it is.
    pub async fn await_bus(&self) {
        if let Some(bus) = &self.0.bus {
            bus.await_up().await;
        }
    }

    /// Looks again and again whether the pairs of live sockets are still active, and at once at
    /// those the store hints at; closes the sockets of those that are not, and ends what else is in use
    /// for them. Runs until it is dropped. While the store is down, everything stays.
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

    /// Forgets addresses, pairs and users that have gone quiet.
    pub fn forget_idle(&self) {
        self.0.gate.forget_idle();
    }

    /// Whether new sockets are refused because the server is about to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
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
        if let Some(bus) = &self.0.bus {
            bus.flush().await;
        }
    }

    /// Closes every socket with 1012 at once, without waiting.
    pub fn close_all(&self) {
        self.0.draining.send_replace(true);
        for room in self.0.rooms.every() {
            locked(&room).kick(End::with(close::RESTART, "the server stops", LeaveReason::Closed));
        }
    }
}

/// The pairs of the next hints; none when it may be any pair.
async fn hinted(hints: &mut Option<mpsc::Receiver<Hint>>) -> Option<Vec<PairId>> {
    let mut heard = Vec::new();
    if let Some(hints) = hints {
        hints.recv_many(&mut heard, HINTS_AT_ONCE).await;
    }
    if heard.is_empty() {
        // No hints, or none any more: this never ends, and the poll goes on.
        *hints = None;
        return std::future::pending().await;
    }
    let pair = |hint| match hint {
        Hint::Pair(pair) => Some(pair),
        Hint::Any => None,
    };
    heard.into_iter().map(pair).collect()
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
            tracing::info!(code = refusal.code, "handshake refused");
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
            Err(error) => tracing::debug!(%error, "a handshake was not finished"),
        }
    });
    response
}

/// A socket's place among all, among those of its address, and among those of its user.
fn seats(
    shared: &Shared,
    request: &axum::http::Extensions,
    admitted: &Admitted,
) -> Result<(OwnedSemaphorePermit, Places), handshake::Refusal> {
    let places = shared.gate.places(request.get(), &admitted.user)?;
    Ok((handshake::place(shared)?, places))
}

/// Runs one socket to its end.
async fn serve(
    shared: Arc<Shared>,
    io: TokioIo<hyper::upgrade::Upgraded>,
    admitted: Admitted,
    request: Option<RequestId>,
    client: Option<IpAddr>,
) {
    let websocket = websocket::accept(Fragments::new(io, &shared.config.limits)).await;
    let identity = socket::Identity {
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
