//! The task between the rooms and Redis: sends commands in order, delivers received messages, and
//! reconnects.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::OptionFuture};
use tokio::{
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval, sleep},
};

use super::{
    BusConfig, Command, Envelope, Health, Judged, Reply,
    handle::{BusHandle, BusState},
    redis::{Connected, Heard, Wire},
};
use crate::{
    lock::locked,
    proto::signaling::LeaveReason,
    signaling::{
        room::{Action, Note},
        server::Shared,
    },
};

/// Interval between checks of the timers.
const TICK: Duration = Duration::from_millis(250);

/// Interval between searches for leases that are due for renewal.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Delay between attempts to connect.
const RETRY: Duration = Duration::from_millis(250);

/// Maximum number of commands sent together.
const BATCH: usize = 64;

type Batch = Pin<Box<dyn Future<Output = Result<Vec<(Command, Reply)>, String>> + Send>>;

/// Runs until the future is dropped.
pub(in crate::signaling) async fn drive(
    shared: Arc<Shared>,
    bus: Arc<BusHandle>,
    config: BusConfig,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let now = Instant::now();
    let mut driver = Driver { shared, bus, health: Health::new(now), was_up: false, looked: now };
    let mut complained = false;
    loop {
        match driver.connect(&config, &mut ticks).await {
            Ok(connected) => {
                complained = false;
                let why = driver.serve(connected, &mut commands, &mut ticks).await;
                driver.disconnect(&mut commands);
                tracing::warn!(bus = config.address(), why, "connection to the bus lost");
            }
            // Logged once, not four times a second.
            Err(error) if !std::mem::replace(&mut complained, true) => tracing::warn!(%error),
            Err(_) => {}
        }
        driver.pause(&mut ticks).await;
    }
}

struct Driver {
    shared: Arc<Shared>,
    bus: Arc<BusHandle>,
    health: Health,
    /// Whether the bus was up before.
    was_up: bool,
    /// Time of the last search for leases to renew.
    looked: Instant,
}

impl Driver {
    async fn connect(
        &mut self,
        config: &BusConfig,
        ticks: &mut Interval,
    ) -> Result<Connected, super::BusError> {
        let node = self.bus.node.clone();
        let mut connecting = std::pin::pin!(config.connect(&node));
        loop {
            tokio::select! {
                connected = &mut connecting => return connected,
                _ = ticks.tick() => { self.tick(); }
            }
        }
    }

    async fn pause(&mut self, ticks: &mut Interval) {
        let mut pause = std::pin::pin!(sleep(RETRY));
        loop {
            tokio::select! {
                () = &mut pause => return,
                _ = ticks.tick() => { self.tick(); }
            }
        }
    }

    /// Serves one connection until it ends; returns the cause.
    async fn serve(
        &mut self,
        mut connected: Connected,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        ticks: &mut Interval,
    ) -> String {
        self.bus.set_state(BusState::Connected);
        self.bus.send(self.health.connected(Instant::now()));
        let mut running: OptionFuture<Batch> = None.into();
        let mut busy = 0;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                biased;
                // First: a node that was stopped must not act on messages that arrived while it
                // was stopped.
                _ = ticks.tick() => if !self.tick() {
                    return "the bus does not answer".to_owned();
                },
                Some(done) = &mut running, if busy > 0 => {
                    self.bus.finished(std::mem::take(&mut busy));
                    match done {
                        Ok(replies) => replies.into_iter().for_each(|(c, r)| self.replied(c, r)),
                        Err(error) => return error,
                    }
                }
                message = connected.messages.next() => match message {
                    Some(message) => {
                        self.heard(message.get_payload_bytes());
                        // A burst must not fill a socket's queue before the socket's task has run.
                        tokio::task::yield_now().await;
                    }
                    None => return "the subscription was closed".to_owned(),
                },
                taken = commands.recv_many(&mut batch, BATCH), if busy == 0 => {
                    let wire: Wire = connected.wire.clone();
                    let batch = std::mem::take(&mut batch);
                    running = Some(wire.run(connected.commands.clone(), batch).boxed()).into();
                    busy = taken;
                }
            }
        }
    }

    fn disconnect(&mut self, commands: &mut mpsc::UnboundedReceiver<Command>) {
        self.health.disconnected();
        self.bus.set_state(BusState::Down);
        self.bus.counters.broken.fetch_add(1, Ordering::Relaxed);
        while commands.try_recv().is_ok() {}
        self.bus.forget_unfinished();
        self.bus.fail_claims();
    }

    /// Checks the timers; false if the connection is to be abandoned.
    fn tick(&mut self) -> bool {
        let now = Instant::now();
        match self.health.tick(now) {
            Judged::Same(echo) => echo.into_iter().for_each(|echo| self.bus.send(echo)),
            Judged::Hung => return false,
            Judged::Lost => {
                let silence = self.health.silence(now).as_secs();
                tracing::error!(silence, "no answer from the bus: closing all sockets");
                if self.bus.state() == BusState::Up {
                    self.bus.set_state(BusState::Connected);
                }
                self.bus.fail_claims();
                for room in self.shared.rooms.every() {
                    let live_room = locked(&room);
                    let actions = live_room.shared.lost();
                    live_room.apply(actions);
                }
            }
        }
        if self.health.is_up() && now.saturating_duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            self.renew(now);
        }
        true
    }

    fn renew(&self, now: Instant) {
        for room in self.shared.rooms.every() {
            let commands = locked(&room).shared.renew(now);
            for command in commands {
                self.bus.send(command);
            }
        }
    }

    fn heard(&mut self, payload: &[u8]) {
        match Heard::parse(payload) {
            Heard::Echo(number) => {
                if self.health.echoed(number) {
                    self.came_up();
                }
            }
            Heard::Envelope(envelope) => self.received(envelope),
            Heard::Unknown => tracing::debug!("unknown message on the bus"),
        }
    }

    fn came_up(&mut self) {
        let now = Instant::now();
        for room in self.shared.rooms.every() {
            let mut live_room = locked(&room);
            let actions = live_room.shared.back(now);
            live_room.apply(actions);
        }
        self.bus.set_state(BusState::Up);
        let again = std::mem::replace(&mut self.was_up, true);
        tracing::info!(node = %self.bus.node, again, "the bus is up");
    }

    fn received(&self, envelope: Envelope) {
        self.bus.counters.messages.count("received");
        if let Some(room) = self.shared.rooms.of(&envelope.pair) {
            let mut live_room = locked(&room);
            let actions = live_room.shared.receive(envelope);
            live_room.apply(actions);
        } else {
            self.bus.note(Note::Stray);
            if envelope.say != super::Say::Kick {
                let (pair, role, conn) = (envelope.pair, envelope.role.other(), envelope.to);
                let reason = LeaveReason::Closed;
                self.bus.send(Command::Release { pair, role, conn, reason });
            }
        }
    }

    fn replied(&self, command: Command, reply: Reply) {
        if let Reply::Time(time) = reply {
            self.bus.set_time(time, Instant::now());
        }
        let Some((pair, conn)) = command.subject() else { return };
        let Some(room) = self.shared.rooms.of(pair) else {
            if let Command::Claim { pair, role, conn, .. } = command {
                let reason = LeaveReason::Closed;
                self.bus.send(Command::Release { pair, role, conn, reason });
            }
            return;
        };
        let conn = conn.clone();
        let claimed = matches!(reply, Reply::Claimed(_) | Reply::Late);
        let mut live_room = locked(&room);
        let actions = self.actions(&mut live_room.shared, command, reply);
        live_room.apply(actions);
        drop(live_room);
        if claimed {
            self.bus.answer_claim(&conn);
        }
    }

    fn actions(&self, room: &mut super::SharedRoom, command: Command, reply: Reply) -> Vec<Action> {
        let node = &self.bus.node;
        match (command, reply) {
            (Command::Claim { role, conn, .. }, Reply::Claimed(claimed)) => {
                room.claimed(node, role, &conn, claimed, Instant::now())
            }
            (Command::Claim { conn, .. }, Reply::Late) => room.late(&conn),
            (Command::Renew { role, conn, peer_epoch, .. }, Reply::Renewed(renewed)) => {
                room.renewed(node, role, &conn, peer_epoch, renewed)
            }
            (Command::Publish { envelope, .. }, Reply::Published(receivers)) => {
                room.published(&envelope, receivers)
            }
            _ => Vec::new(),
        }
    }
}
