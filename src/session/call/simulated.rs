//! A simulation of calls in virtual time: two cores, the real room of the signaling server, and models of the
//! signaling sockets, the peer connections and the networks. A case is a list of faults, which proptest shrinks.
//!
//! In a quiet world, one without an active fault, the peers must be connected to each other within [`HEALS_WITHIN`]
//! and stay connected. A failure prints the faults and the timeline.

mod peers;
mod signaling;

use std::{
    cell::Cell,
    collections::{BTreeMap, VecDeque},
    fmt::Write,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::{
    peers::{SimulatedPeer, candidate, read_sdp},
    signaling::Socket,
};
use super::{
    CallEvent,
    core::{CallAction, CallCore, CallInput, Closing, Now, Outcome, Surroundings},
};
use crate::{
    pairs::Role,
    peer::{ConnectionState, PeerConfig, PeerEvent, PeerRole, Vitals},
    proto::{
        signaling::{Body, IceCandidateInit, LeaveReason, Message},
        token::IceServer,
    },
    signaling::{
        client::{ClientEvent, DialTimings},
        room::{Action, Kind, Room},
        server::limits::Limits,
        text::Text,
    },
    types::{ConnId, PairId},
};

/// A quiet world has connected the peers after this time. The slowest case: a peer moves, and the server notices its
/// dead socket only after a ping and its timeout, 35 s; consent expires after 30 s; then the longest pause, 8 s.
const HEALS_WITHIN: Duration = Duration::from_secs(90);

/// The driver polls every 0.5 s; less often is enough here.
const POLL_EVERY: Duration = Duration::from_secs(2);
const ICE_EVERY: Duration = Duration::from_secs(1);
const DISCONNECTED_AFTER: Duration = Duration::from_secs(4);
const FAILED_AFTER: Duration = Duration::from_secs(30);
const SOCKET_TIMEOUT: Duration = Duration::from_secs(35);
/// Two unanswered pings take about as long as the ping interval and timeout of the real server.
const PING_EVERY: Duration = Duration::from_secs(17);
const TOKEN_EVERY: Duration = Duration::from_mins(4);
const CREDENTIALS_LIVE: Duration = Duration::from_hours(1);
/// More than 100 days of calls.
const CASES: u32 = 2400;

const ROLES: [Role; 2] = [Role::Phone, Role::Mac];

/// What the signaling server does beyond relaying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ServerKind {
    /// This project's server.
    Full,
    /// It does not relay `state`.
    WithoutState,
    /// It only relays: no `hello`, no `peer-joined`, no held offers.
    Minimal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FaultKind {
    /// The device has no network.
    Offline(Role),
    /// The device gets other addresses, after a time without any.
    Moves(Role),
    /// Nothing passes between the peers, though both reach the server.
    PathBroken,
    /// The signaling server is down.
    ServerDown,
    /// The signaling server closes all sockets, as in a deployment.
    ServerDrains,
    /// The device's process is suspended.
    Suspended(Role),
    /// The app is killed and started again.
    Restarted(Role),
    /// The device's signaling socket breaks.
    SocketBreaks(Role),
}

/// A fault, and the time since the previous one.
#[derive(Debug, Clone, Copy)]
struct Fault {
    after: Duration,
    kind: FaultKind,
    lasts: Duration,
}

#[derive(Debug)]
enum Event {
    FaultStarts(usize),
    FaultEnds(usize),
    Poll(Role),
    Deadline(Role),
    IceTick(Role),
    Dial(Role, u32),
    Dialed(Role, u32),
    ToServer(ConnId),
    ToDevice(ConnId),
    SocketTimeout(ConnId),
    Ping(ConnId, bool),
    Candidates(Role, u64),
    Renew(Role),
    Check,
}

struct Device {
    core: CallCore,
    /// Number of faults that stop the app, suspend it, and keep it offline.
    stopped: u32,
    suspensions: u32,
    offline: u32,
    network: u32,
    /// Inputs that wait until the process resumes.
    inbox: VecDeque<CallInput>,
    peer: Option<SimulatedPeer>,
    /// Messages that wait for a socket.
    unsent: VecDeque<Body>,
    /// Number of the current attempt to connect to the server; older ones are void.
    attempt: u32,
    dialing: bool,
    clock_skew: f64,
    /// The next deadline that is scheduled.
    scheduled: Option<Instant>,
}

impl Device {
    fn is_online(&self) -> bool {
        self.offline == 0
    }

    fn is_suspended(&self) -> bool {
        self.suspensions > 0
    }
}

struct View {
    vitals: Option<Vitals>,
    offline: bool,
}

impl Surroundings for View {
    fn vitals(&self) -> Option<Vitals> {
        self.vitals.clone()
    }

    fn can_restart(&self) -> bool {
        true
    }

    fn no_relay(&self) -> Option<String> {
        None
    }

    fn is_offline(&self) -> bool {
        self.offline
    }

    fn abandoned_drivers(&self) -> usize {
        0
    }
}

struct World {
    start: Instant,
    now: Instant,
    rng: StdRng,
    /// Events by time; the number keeps the order of those of one time.
    queue: BTreeMap<(Instant, u64), Event>,
    entries: u64,
    devices: [Device; 2],
    sockets: Vec<Socket>,
    kind: ServerKind,
    room: Room,
    server_down: u32,
    path_broken: u32,
    faults: Vec<Fault>,
    active: usize,
    quiet_since: Instant,
    /// When the peers were connected to each other after the last fault.
    healed: Option<Instant>,
    ids: u64,
    /// The server delivers some messages twice.
    repeats: bool,
    log: Vec<(Duration, String)>,
    broken: Option<String>,
    offers: u64,
}

static LIMITS: LazyLock<Arc<Limits>> = LazyLock::new(|| Arc::new(Limits::default()));

fn index(role: Role) -> usize {
    usize::from(role == Role::Mac)
}

fn core(role: Role) -> CallCore {
    CallCore::new(&PeerConfig::new(match role {
        Role::Phone => PeerRole::Sender,
        Role::Mac => PeerRole::Receiver,
    }))
}

impl World {
    fn new(seed: u64, kind: ServerKind, skew: f64, faults: Vec<Fault>) -> Self {
        // All worlds share an origin far enough from zero for times before it.
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        let start = *ORIGIN + Duration::from_secs(100_000);
        let device = |role: Role| Device {
            core: core(role),
            stopped: 0,
            suspensions: 0,
            offline: 0,
            network: 1,
            inbox: VecDeque::new(),
            peer: None,
            unsent: VecDeque::new(),
            attempt: 0,
            dialing: false,
            clock_skew: if role == Role::Phone { skew } else { 0.0 },
            scheduled: None,
        };
        let mut world = Self {
            start,
            now: start,
            rng: StdRng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            entries: 0,
            devices: [device(Role::Phone), device(Role::Mac)],
            sockets: Vec::new(),
            kind,
            room: Room::new(PairId::from("demo"), Arc::clone(&LIMITS)),
            server_down: 0,
            path_broken: 0,
            faults,
            active: 0,
            quiet_since: start,
            healed: None,
            ids: 0,
            repeats: seed.is_multiple_of(3),
            log: Vec::new(),
            broken: None,
            offers: 0,
        };
        for role in ROLES {
            let offset = world.jitter(500);
            world.at(offset, Event::Poll(role));
            world.at(offset, Event::IceTick(role));
            world.at(offset + TOKEN_EVERY, Event::Renew(role));
            world.dial(role, offset);
        }
        world.at(Duration::from_secs(5), Event::Check);
        let mut at = Duration::ZERO;
        for number in 0..world.faults.len() {
            at += world.faults[number].after;
            world.at(at, Event::FaultStarts(number));
        }
        world
    }

    fn jitter(&mut self, max_ms: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(1..=max_ms))
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.at_time(self.now + delay, event);
    }

    fn at_time(&mut self, at: Instant, event: Event) {
        self.entries += 1;
        self.queue.insert((at, self.entries), event);
    }

    fn note(&mut self, text: String) {
        self.log.push((self.now - self.start, text));
    }

    fn device(&mut self, role: Role) -> &mut Device {
        &mut self.devices[index(role)]
    }

    /// Runs until all faults are over and the world has been quiet for a while.
    fn run(&mut self) {
        let total: Duration = self.faults.iter().map(|fault| fault.after).sum();
        let longest = self.faults.iter().map(|fault| fault.lasts).max().unwrap_or_default();
        let end = self.start + total + longest + HEALS_WITHIN + Duration::from_mins(1);
        while self.broken.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first().filter(|((at, _), _)| *at <= end)
            else {
                break;
            };
            self.now = at;
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::FaultStarts(number) => self.fault_starts(number),
            Event::FaultEnds(number) => self.fault_ends(number),
            Event::Poll(role) => {
                self.input(role, CallInput::Poll);
                self.at(POLL_EVERY, Event::Poll(role));
            }
            Event::Deadline(role) => {
                self.device(role).scheduled = None;
                let due = self.devices[index(role)].core.deadline();
                if due.is_some_and(|due| due <= self.now) {
                    self.input(role, CallInput::Deadline);
                } else {
                    self.schedule(role);
                }
            }
            Event::IceTick(role) => {
                self.ice_tick(role);
                self.at(ICE_EVERY, Event::IceTick(role));
            }
            Event::Dial(role, attempt) => {
                let device = &self.devices[index(role)];
                if device.attempt != attempt || device.stopped > 0 {
                    return;
                }
                let reachable =
                    self.server_down == 0 && device.is_online() && !device.is_suspended();
                if reachable {
                    let takes = self.jitter(300);
                    self.at(takes, Event::Dialed(role, attempt));
                } else {
                    let pause = Duration::from_millis(500) + self.jitter(4000);
                    self.at(pause, Event::Dial(role, attempt));
                }
            }
            Event::Dialed(role, attempt) => self.dialed(role, attempt),
            Event::ToServer(conn) => self.reach_server(&conn),
            Event::ToDevice(conn) => self.reach_device(&conn),
            Event::SocketTimeout(conn) => self.socket_timeout(&conn),
            Event::Ping(conn, answered) => self.ping(&conn, answered),
            Event::Candidates(role, id) => {
                if self.devices[index(role)].peer.as_ref().is_some_and(|peer| peer.id == id) {
                    for candidate in [Some(candidate()), None] {
                        self.input(role, CallInput::Peer(PeerEvent::LocalCandidate(candidate)));
                    }
                }
            }
            Event::Renew(role) => {
                let ice_servers = self.ice_servers();
                if self.socket_of(role).is_some() {
                    let relayed = true;
                    self.input(role, CallInput::Renewed { ice_servers, relayed });
                }
                self.at(TOKEN_EVERY, Event::Renew(role));
            }
            Event::Check => {
                self.check();
                self.at(Duration::from_secs(5), Event::Check);
            }
        }
    }

    fn fault_starts(&mut self, number: usize) {
        let fault = self.faults[number];
        self.note(format!("FAULT {:?} for {:?}", fault.kind, fault.lasts));
        self.active += 1;
        self.healed = None;
        match fault.kind {
            FaultKind::Offline(role) | FaultKind::Moves(role) => {
                self.device(role).offline += 1;
                self.input(role, CallInput::Offline);
            }
            FaultKind::PathBroken => self.path_broken += 1,
            FaultKind::ServerDown => {
                self.server_down += 1;
                self.close_all_sockets();
            }
            FaultKind::ServerDrains => self.close_all_sockets(),
            FaultKind::Suspended(role) => self.device(role).suspensions += 1,
            FaultKind::Restarted(role) => {
                let device = self.device(role);
                device.stopped += 1;
                device.core = core(role);
                device.inbox.clear();
                device.unsent.clear();
                device.peer = None;
                device.attempt += 1;
                device.dialing = false;
                self.close_at_device(role);
            }
            FaultKind::SocketBreaks(role) => self.break_socket(role),
        }
        self.at(fault.lasts, Event::FaultEnds(number));
    }

    fn fault_ends(&mut self, number: usize) {
        let fault = self.faults[number];
        self.note(format!("over: {:?}", fault.kind));
        match fault.kind {
            FaultKind::Offline(role) => {
                self.device(role).offline -= 1;
                self.back_online(role);
            }
            FaultKind::Moves(role) => {
                let device = self.device(role);
                device.offline -= 1;
                device.network += 1;
                self.back_online(role);
            }
            FaultKind::PathBroken => self.path_broken -= 1,
            FaultKind::ServerDown => self.server_down -= 1,
            FaultKind::Suspended(role) => {
                self.device(role).suspensions -= 1;
                let waiting = std::mem::take(&mut self.device(role).inbox);
                for input in waiting {
                    self.input(role, input);
                }
            }
            FaultKind::Restarted(role) => {
                self.device(role).stopped -= 1;
                if self.devices[index(role)].stopped == 0 {
                    self.dial(role, Duration::from_millis(100));
                }
            }
            FaultKind::ServerDrains | FaultKind::SocketBreaks(_) => {}
        }
        self.active -= 1;
        if self.active == 0 {
            self.quiet_since = self.now;
        }
    }

    /// The driver reports a move when an address is available after none was left.
    fn back_online(&mut self, role: Role) {
        if self.devices[index(role)].offline == 0 {
            self.input(role, CallInput::Moved);
        }
    }

    fn is_quiet(&self, length: Duration) -> bool {
        self.active == 0 && self.now - self.quiet_since >= length
    }

    fn input(&mut self, role: Role, input: CallInput) {
        let device = self.device(role);
        if device.stopped > 0 {
            return;
        }
        if device.is_suspended() {
            // A poll is late rather than repeated.
            if !matches!(input, CallInput::Poll | CallInput::Deadline) {
                device.inbox.push_back(input);
            }
            return;
        }
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let view =
                View { vitals: self.vitals(role), offline: !self.devices[index(role)].is_online() };
            let age = (self.now - self.start).as_secs_f64() + 1_800_000_000.0;
            let wall = age + self.devices[index(role)].clock_skew;
            let wall: SystemTime = UNIX_EPOCH + Duration::from_secs_f64(wall);
            let now = Now { at: self.now, wall };
            self.device(role).core.handle(now, input, &view);
            while let Some(action) = self.device(role).core.next_action() {
                next = self.perform(role, action).map(CallInput::Done);
            }
        }
        self.schedule(role);
    }

    fn schedule(&mut self, role: Role) {
        let device = &self.devices[index(role)];
        if let Some(due) = device.core.deadline()
            && device.scheduled.is_none_or(|scheduled| due < scheduled)
        {
            let due = due.max(self.now + Duration::from_millis(1));
            self.device(role).scheduled = Some(due);
            self.at_time(due, Event::Deadline(role));
        }
    }

    fn perform(&mut self, role: Role, action: CallAction) -> Option<Outcome> {
        match action {
            CallAction::Emit(event) => self.emitted(role, &event),
            CallAction::Send(body) => {
                if !matches!(body, Body::Ice { .. }) {
                    let t = body.t();
                    self.note(format!("{role:?} sends {t}"));
                }
                self.transmit(role, body);
            }
            CallAction::Probe => {
                let dead = self.socket_of(role).is_some_and(|socket| !socket.open_at_server);
                let network = self.devices[index(role)].network;
                let moved = self.socket_of(role).is_some_and(|socket| socket.network != network);
                if dead || moved {
                    self.device_lost_socket(role, Duration::from_secs(3));
                }
            }
            CallAction::Reconnect => {
                self.close_at_device(role);
                self.dial(role, Duration::from_millis(10));
            }
            CallAction::Offer { .. } => {
                self.offers += 1;
                return Some(Outcome::Offered(Ok(self.open_peer(role, None))));
            }
            CallAction::Answer { sdp, renegotiation, .. } => {
                let remote = read_sdp(&sdp);
                let answer = if renegotiation {
                    self.restart_peer(role, Some(remote)).unwrap()
                } else {
                    self.open_peer(role, Some(remote))
                };
                return Some(Outcome::Answered(Ok((answer, self.now))));
            }
            CallAction::AcceptAnswer(sdp) => {
                let peer = self.device(role).peer.as_mut()?;
                peer.remote = Some(read_sdp(&sdp));
                return Some(Outcome::Accepted(Ok(self.now)));
            }
            CallAction::RestartIce(_) => {
                self.offers += 1;
                return Some(Outcome::Restarted(self.restart_peer(role, None)));
            }
            CallAction::AddCandidate(_) => {
                if self.devices[index(role)].peer.is_none() {
                    self.violation("a candidate without a peer connection");
                }
            }
            CallAction::Close(closing) => {
                self.device(role).peer = None;
                if let Closing::Lost(why) = &closing {
                    self.note(format!("{role:?} loses its connection: {}", why.code));
                    if self.is_quiet(HEALS_WITHIN) {
                        self.violation("a connection was lost in a quiet world");
                    }
                }
            }
            CallAction::End => self.violation("the call ended"),
        }
        None
    }

    fn emitted(&mut self, role: Role, event: &CallEvent) {
        match event {
            CallEvent::Connected => self.note(format!("{role:?} is connected")),
            CallEvent::Restarting(why) => {
                let text = format!("{role:?} restarts ICE: {why}");
                self.note(text);
            }
            CallEvent::Failed(why) | CallEvent::Refused(why) => {
                let text = format!("the call failed: {}", why.message);
                self.violation(&text);
            }
            _ => {}
        }
    }

    fn violation(&mut self, what: &str) {
        let what = what.to_owned();
        self.note(format!("VIOLATION: {what}"));
        self.broken.get_or_insert(what);
    }

    /// The peers of a quiet world are connected to each other, and know it.
    fn check(&mut self) {
        if !self.is_quiet(HEALS_WITHIN) {
            return;
        }
        if !self.are_connected() {
            let states: Vec<_> =
                self.devices.iter().map(|device| format!("{:?}", device.peer)).collect();
            self.violation(&format!("not connected: {}", states.join(" / ")));
        }
    }

    fn timeline(&self) -> String {
        let mut text = String::new();
        for (at, what) in &self.log {
            let _ = writeln!(text, "{:>10.2} s  {what}", at.as_secs_f64());
        }
        text
    }
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Phone), Just(Role::Mac)]
}

fn fault() -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![
        role().prop_map(FaultKind::Offline),
        role().prop_map(FaultKind::Moves),
        Just(FaultKind::PathBroken),
        Just(FaultKind::ServerDown),
        Just(FaultKind::ServerDrains),
        role().prop_map(FaultKind::Suspended),
        role().prop_map(FaultKind::Restarted),
        role().prop_map(FaultKind::SocketBreaks),
    ];
    // Some faults come in quick succession, others long after the peers have recovered.
    let after = prop_oneof![0..4_000u64, 0..40_000u64, 100_000..400_000u64];
    let lasts = prop_oneof![1..500u64, 500..10_000u64, 10_000..90_000u64];
    (after, kind, lasts).prop_map(|(after, kind, lasts)| Fault {
        after: Duration::from_millis(after),
        kind,
        lasts: Duration::from_millis(lasts),
    })
}

fn server() -> impl Strategy<Value = ServerKind> {
    prop_oneof![Just(ServerKind::Full), Just(ServerKind::WithoutState), Just(ServerKind::Minimal)]
}

/// Every seed that ever failed is in `proptest-regressions` and runs first.
#[test]
fn calls_recover_from_any_faults() {
    let simulated = Cell::new(Duration::ZERO);
    let cases = (
        prop::collection::vec(fault(), 0..90),
        server(),
        prop_oneof![Just(0.0), -4000.0..4000.0],
        any::<u64>(),
    );
    let mut runner = TestRunner::new(ProptestConfig {
        cases: CASES,
        max_shrink_iters: 3000,
        source_file: Some(file!()),
        ..ProptestConfig::default()
    });
    let run = runner.run(&cases, |(faults, kind, skew, seed)| {
        let mut world = World::new(seed, kind, skew, faults);
        world.run();
        simulated.set(simulated.get() + (world.now - world.start));
        match &world.broken {
            None => Ok(()),
            Some(broken) => Err(TestCaseError::fail(format!("{broken}\n{}", world.timeline()))),
        }
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
    let days = simulated.get().as_secs() / 86_400;
    println!("{days} days of calls");
    assert!(days >= 100, "only {days} days");
}

/// The time from the end of an isolated fault until the peers are connected, at worst, in seconds.
fn heals_after(kind: FaultKind, lasts: u64, server: ServerKind) -> u64 {
    let after = Duration::from_mins(1);
    let lasts = Duration::from_secs(lasts);
    let times = (0..100).map(|seed| {
        let mut world = World::new(seed, server, 0.0, vec![Fault { after, kind, lasts }]);
        world.run();
        assert_eq!(world.broken, None, "{}", world.timeline());
        world.healed.unwrap() - world.quiet_since
    });
    times.max().unwrap_or_default().as_secs() + 1
}

/// The limits, in seconds, are for a server with and without `state`, and for one that only relays. While the server is
/// down, media continues.
#[test]
fn isolated_faults_heal_quickly() {
    use FaultKind::{
        Moves, Offline, PathBroken, Restarted, ServerDown, ServerDrains, SocketBreaks, Suspended,
    };
    use Role::{Mac, Phone};
    let mut slow = String::new();
    for (kind, lasts, limits) in [
        (SocketBreaks(Phone), 1, [1; 3]),
        (SocketBreaks(Mac), 1, [1; 3]),
        (ServerDrains, 1, [1; 3]),
        (ServerDown, 20, [1; 3]),
        (PathBroken, 3, [1; 3]),
        (PathBroken, 10, [1; 3]),
        (PathBroken, 60, [1; 3]),
        (Offline(Phone), 10, [3; 3]),
        (Offline(Mac), 10, [3; 3]),
        (Offline(Phone), 60, [3; 3]),
        (Offline(Mac), 60, [3; 3]),
        (Moves(Phone), 1, [3; 3]),
        (Moves(Mac), 1, [4; 3]),
        (Moves(Phone), 10, [3; 3]),
        (Moves(Mac), 10, [3; 3]),
        (Moves(Phone), 60, [3; 3]),
        (Moves(Mac), 60, [3; 3]),
        (Suspended(Phone), 10, [2; 3]),
        (Suspended(Mac), 10, [3; 3]),
        (Suspended(Phone), 60, [7; 3]),
        (Suspended(Mac), 60, [7; 3]),
        (Restarted(Phone), 1, [3; 3]),
        (Restarted(Mac), 1, [2, 4, 4]),
        (Restarted(Phone), 60, [3; 3]),
        (Restarted(Mac), 60, [3; 3]),
    ] {
        let servers = [ServerKind::Full, ServerKind::WithoutState, ServerKind::Minimal];
        for (server, limit) in servers.into_iter().zip(limits) {
            let worst = heals_after(kind, lasts, server);
            if worst > limit {
                let _ =
                    writeln!(slow, "{kind:?} for {lasts} s, {server:?}: {worst} s, limit {limit}");
            }
        }
    }
    assert!(slow.is_empty(), "{slow}");
}
