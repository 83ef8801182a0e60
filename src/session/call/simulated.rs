//! A simulation of calls in virtual time: two cores, the real room of the signaling server, and models of the
//! signaling sockets, the peer connections and the networks. A case is a list of faults, which proptest shrinks.
//!
//! In a quiet world, one without an active fault, the peers must be connected to each other within [`HEALS_WITHIN`]
//! and stay connected. A failure prints the faults and the timeline.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt::Write,
    sync::{Arc, LazyLock},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

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

/// A signaling socket, as both ends see it.
#[derive(Debug)]
struct Socket {
    conn: ConnId,
    role: Role,
    /// The network of the device when it connected.
    network: u32,
    open_at_device: bool,
    open_at_server: bool,
    to_server: VecDeque<(Instant, Body)>,
    to_device: VecDeque<(Instant, Text)>,
}

/// A model of one end of a peer connection: which certificate and ICE generation it knows of the other end, and its
/// state.
#[derive(Debug, Clone)]
struct SimulatedPeer {
    /// Stands for the certificate fingerprint.
    id: u64,
    /// Stands for the ICE credentials; incremented by an ICE restart.
    generation: u32,
    network: u32,
    remote: Option<(u64, u32)>,
    created: Instant,
    state: ConnectionState,
    established: Option<Instant>,
    heard: Option<Instant>,
}

impl SimulatedPeer {
    fn sdp(&self) -> String {
        format!("v=0\r\na=fingerprint:{}\r\na=ice-ufrag:{}\r\n", self.id, self.generation)
    }
}

fn candidate() -> IceCandidateInit {
    IceCandidateInit {
        candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".into(),
        sdp_mid: None,
        sdp_mline_index: None,
        username_fragment: None,
    }
}

/// Fingerprint and generation of a description.
fn read_sdp(sdp: &str) -> (u64, u32) {
    let value = |name: &str| sdp.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    (value("a=fingerprint:").parse().unwrap(), value("a=ice-ufrag:").parse().unwrap())
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

/// An entry of the queue: the time, a number that keeps the order of entries of one time, the event.
type Entry = Reverse<(Instant, u64, usize)>;

struct World {
    start: Instant,
    now: Instant,
    rng: StdRng,
    queue: BinaryHeap<Entry>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
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
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
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
        let slot = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[slot] = Some(event);
        self.entries += 1;
        self.queue.push(Reverse((at, self.entries, slot)));
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let at = self.now - self.start;
        self.log.push((at, text()));
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
            let Some(Reverse((at, _, slot))) = self.queue.pop() else { break };
            if at > end {
                break;
            }
            self.now = at;
            let event = self.events[slot].take().unwrap();
            self.free.push(slot);
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
                let ice_servers = self.ice_servers(role);
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

    // Faults.

    fn fault_starts(&mut self, number: usize) {
        let fault = self.faults[number];
        self.note(|| format!("FAULT {:?} for {:?}", fault.kind, fault.lasts));
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
        self.note(|| format!("over: {:?}", fault.kind));
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

    // Signaling.

    fn dial(&mut self, role: Role, delay: Duration) {
        let device = self.device(role);
        device.attempt += 1;
        device.dialing = true;
        let attempt = device.attempt;
        self.at(delay, Event::Dial(role, attempt));
    }

    fn socket_of(&mut self, role: Role) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.role == role && socket.open_at_device)
    }

    fn socket(&mut self, conn: &ConnId) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.conn == *conn)
    }

    fn dialed(&mut self, role: Role, attempt: u32) {
        let device = &self.devices[index(role)];
        if device.attempt != attempt || device.stopped > 0 {
            return;
        }
        if self.server_down > 0 || !device.is_online() || device.is_suspended() {
            self.at(Duration::from_secs(1), Event::Dial(role, attempt));
            return;
        }
        self.ids += 1;
        let conn = ConnId(format!("s{}", self.ids));
        let network = device.network;
        self.sockets.retain(|socket| socket.open_at_device || socket.open_at_server);
        self.sockets.push(Socket {
            conn: conn.clone(),
            role,
            network,
            open_at_device: true,
            open_at_server: true,
            to_server: VecDeque::new(),
            to_device: VecDeque::new(),
        });
        let device_id = if role == Role::Phone { "phone" } else { "mac" }.into();
        let skew = self.device(role).clock_skew;
        self.device(role).dialing = false;
        let connected = ClientEvent::Connected {
            pair_id: PairId::from("demo"),
            ice_servers: self.ice_servers(role),
            again: false,
            timings: DialTimings::default(),
            clock_skew: (skew.abs() >= 2.0).then_some(skew),
        };
        self.at(PING_EVERY, Event::Ping(conn.clone(), true));
        self.note(|| format!("{role:?} joins as {conn}"));
        let actions = self.room.join(role, &device_id, &conn, 0);
        self.input(role, CallInput::Signaling(connected));
        self.serve(actions);
        // Messages that were queued while there was no socket.
        while let Some(body) = self.device(role).unsent.pop_front() {
            self.transmit(role, body);
        }
    }

    /// Fresh credentials, which expire by the server's clock.
    fn ice_servers(&self, _role: Role) -> Vec<IceServer> {
        let expire = (self.now - self.start + CREDENTIALS_LIVE).as_secs() + 1_800_000_000;
        vec![IceServer {
            urls: vec!["turn:192.0.2.1".into()],
            username: Some(format!("{expire}:device")),
            credential: Some("secret".into()),
        }]
    }

    fn serve(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            match action {
                Action::Send { to, text } => self.deliver(&to, text),
                Action::Flush { to, text } if self.kind != ServerKind::Minimal => {
                    self.deliver(&to, text);
                }
                Action::Close { conn, .. } => self.close_at_server(&conn),
                Action::Flush { .. } | Action::Bus(_) | Action::Note(_) => {}
            }
        }
    }

    fn deliver(&mut self, to: &ConnId, text: Text) {
        let mut text = text;
        if self.kind != ServerKind::Full {
            let mut message = Message::parse(text.as_str()).unwrap();
            match &mut message.body {
                Body::Hello { .. } | Body::PeerJoined { .. } | Body::PeerLeft { .. }
                    if self.kind == ServerKind::Minimal =>
                {
                    return;
                }
                Body::Hello { relays, .. } => relays.clear(),
                _ => {}
            }
            text = message.to_json().into();
        }
        let twice = self.repeats && self.rng.random_bool(0.05);
        let latency = self.jitter(80);
        let at = self.now + latency;
        let Some(socket) = self.socket(to).filter(|socket| socket.open_at_server) else { return };
        socket.to_device.push_back((at, text.clone()));
        if twice {
            socket.to_device.push_back((at, text));
        }
        self.at_time(at, Event::ToDevice(to.clone()));
    }

    fn transmit(&mut self, role: Role, body: Body) {
        let latency = self.jitter(80);
        let at = self.now + latency;
        if let Some(socket) = self.socket_of(role) {
            let conn = socket.conn.clone();
            socket.to_server.push_back((at, body));
            self.at_time(at, Event::ToServer(conn));
        } else if self.devices[index(role)].unsent.len() < 64 {
            self.device(role).unsent.push_back(body);
        }
    }

    /// Whether packets pass between the device and the server on this socket. `None`: never again.
    fn passes(&self, role: Role, network: u32) -> Option<bool> {
        let device = &self.devices[index(role)];
        (device.network == network).then_some(device.is_online())
    }

    fn reach_server(&mut self, conn: &ConnId) {
        let Some(socket) = self.sockets.iter().find(|socket| socket.conn == *conn) else { return };
        let (role, network) = (socket.role, socket.network);
        if !socket.open_at_server || !socket.open_at_device {
            return;
        }
        match self.passes(role, network) {
            Some(true) => {}
            Some(false) => {
                // TCP retransmits.
                self.at(Duration::from_secs(1), Event::ToServer(conn.clone()));
                return;
            }
            None => return,
        }
        loop {
            let now = self.now;
            let Some(socket) = self.socket(conn) else { return };
            let Some((_, body)) = socket.to_server.pop_front_if(|(at, _)| *at <= now) else {
                return;
            };
            let Some(kind) = Kind::of(&body) else { continue };
            let message = Message::new(PairId::from("demo"), body);
            let (_, action) = self.room.relay(role, conn, kind, message.to_json().into());
            self.serve(action);
        }
    }

    fn reach_device(&mut self, conn: &ConnId) {
        let Some(socket) = self.sockets.iter().find(|socket| socket.conn == *conn) else { return };
        let (role, network) = (socket.role, socket.network);
        if !socket.open_at_device {
            return;
        }
        match self.passes(role, network) {
            Some(true) => {}
            Some(false) => {
                self.at(Duration::from_secs(1), Event::ToDevice(conn.clone()));
                return;
            }
            None => return,
        }
        loop {
            let now = self.now;
            let Some(socket) = self.socket(conn).filter(|socket| socket.open_at_device) else {
                return;
            };
            let Some((_, text)) = socket.to_device.pop_front_if(|(at, _)| *at <= now) else {
                return;
            };
            let message = Message::parse(text.as_str()).unwrap();
            self.input(role, CallInput::Signaling(ClientEvent::Message(message)));
        }
    }

    /// The device notices that its socket is gone, and connects again.
    fn device_lost_socket(&mut self, role: Role, delay: Duration) {
        self.close_at_device(role);
        if self.devices[index(role)].stopped > 0 || self.devices[index(role)].dialing {
            return;
        }
        let will_retry_in = delay + self.jitter(1000);
        let lost = ClientEvent::Disconnected {
            code: None,
            reason: "the socket was lost".into(),
            will_retry_in,
        };
        self.dial(role, will_retry_in);
        self.input(role, CallInput::Signaling(lost));
    }

    fn close_at_device(&mut self, role: Role) {
        let Some(socket) = self.socket_of(role) else { return };
        socket.open_at_device = false;
        let (conn, network) = (socket.conn.clone(), socket.network);
        // The server notices immediately, unless it cannot be reached.
        if self.passes(role, network) == Some(true) {
            self.close_at_server(&conn);
        } else {
            self.at(SOCKET_TIMEOUT, Event::SocketTimeout(conn));
        }
    }

    fn close_at_server(&mut self, conn: &ConnId) {
        let Some(socket) = self.socket(conn) else { return };
        if !std::mem::replace(&mut socket.open_at_server, false) {
            return;
        }
        let (role, network, open) = (socket.role, socket.network, socket.open_at_device);
        let action = self.room.leave(role, conn, LeaveReason::Closed);
        self.serve(action);
        if open && self.passes(role, network) == Some(true) && !self.is_suspended(role) {
            self.device_lost_socket(role, Duration::ZERO);
        } else if open {
            self.at(SOCKET_TIMEOUT, Event::SocketTimeout(conn.clone()));
        }
    }

    fn is_suspended(&self, role: Role) -> bool {
        self.devices[index(role)].is_suspended()
    }

    /// The server closes a socket whose device leaves two pings in a row unanswered; `answered`: the previous one was.
    fn ping(&mut self, conn: &ConnId, answered: bool) {
        let Some(socket) = self.socket(conn).filter(|socket| socket.open_at_server) else { return };
        let (role, network) = (socket.role, socket.network);
        let answers = self.passes(role, network) == Some(true) && !self.is_suspended(role);
        if answers || answered {
            self.at(PING_EVERY, Event::Ping(conn.clone(), answers));
        } else {
            self.close_at_server(conn);
        }
    }

    /// Each end eventually notices a dead socket, by ping and pong.
    fn socket_timeout(&mut self, conn: &ConnId) {
        let Some(socket) = self.socket(conn) else { return };
        let (role, at_device, at_server) =
            (socket.role, socket.open_at_device, socket.open_at_server);
        if at_server && !at_device {
            self.close_at_server(conn);
        } else if at_device && !at_server {
            if self.is_suspended(role) {
                self.at(Duration::from_secs(1), Event::SocketTimeout(conn.clone()));
            } else {
                self.device_lost_socket(role, Duration::ZERO);
            }
        }
    }

    fn close_all_sockets(&mut self) {
        let open: Vec<ConnId> = self
            .sockets
            .iter()
            .filter(|socket| socket.open_at_server)
            .map(|socket| socket.conn.clone())
            .collect();
        for conn in open {
            self.close_at_server(&conn);
        }
    }

    fn break_socket(&mut self, role: Role) {
        let Some(socket) = self.socket_of(role) else { return };
        let conn = socket.conn.clone();
        self.close_at_server(&conn);
    }

    // Peer connections.

    fn vitals(&self, role: Role) -> Option<Vitals> {
        let peer = self.devices[index(role)].peer.as_ref()?;
        let since = |at: Instant| at - peer.created;
        Some(Vitals {
            now: since(self.now),
            ice: peer.established.map(since),
            dtls: peer.established.map(since),
            channel: peer.established.map(since),
            has_data: true,
            check: peer.heard.map(since),
            media: peer.heard.map(since),
            data: peer.heard.map(since),
            ..Vitals::default()
        })
    }

    /// Whether the peer connections of both devices belong together and their packets get through.
    fn linked(&self) -> bool {
        let [phone, mac] = &self.devices;
        let (Some(a), Some(b)) = (&phone.peer, &mac.peer) else { return false };
        let ready = |device: &Device, peer: &SimulatedPeer| {
            device.stopped == 0 && device.is_online() && peer.network == device.network
        };
        a.remote == Some((b.id, b.generation))
            && b.remote == Some((a.id, a.generation))
            && ready(phone, a)
            && ready(mac, b)
            && self.path_broken == 0
    }

    /// Whether the peers are connected to each other, and know it.
    fn are_connected(&self) -> bool {
        let connected = |device: &Device| {
            device.peer.as_ref().is_some_and(|peer| peer.state == ConnectionState::Connected)
        };
        self.linked() && self.devices.iter().all(connected)
    }

    fn ice_tick(&mut self, role: Role) {
        let suspended = self.devices.iter().any(Device::is_suspended);
        let linked = self.linked() && !suspended;
        let (now, own) = (self.now, self.is_suspended(role));
        let Some(peer) = self.device(role).peer.as_mut().filter(|_| !own) else { return };
        let state = if linked {
            peer.heard = Some(now);
            peer.established.get_or_insert(now);
            ConnectionState::Connected
        } else {
            let silence = peer.heard.map(|heard| now - heard);
            match (peer.state, silence) {
                (ConnectionState::Connected, Some(silence)) if silence >= DISCONNECTED_AFTER => {
                    ConnectionState::Disconnected
                }
                (ConnectionState::Disconnected, Some(silence)) if silence >= FAILED_AFTER => {
                    ConnectionState::Failed
                }
                (state, _) => state,
            }
        };
        if std::mem::replace(&mut peer.state, state) != state {
            self.input(role, CallInput::Peer(PeerEvent::State(state)));
        }
        if self.active == 0 && self.are_connected() {
            self.healed.get_or_insert(self.now);
        }
    }

    fn open_peer(&mut self, role: Role, remote: Option<(u64, u32)>) -> String {
        self.ids += 1;
        let (id, now) = (self.ids, self.now);
        let device = self.device(role);
        let peer = SimulatedPeer {
            id,
            generation: 1,
            network: device.network,
            remote,
            created: now,
            state: ConnectionState::New,
            established: None,
            heard: None,
        };
        let sdp = peer.sdp();
        device.peer = Some(peer);
        let gathering = self.jitter(200);
        self.at(gathering, Event::Candidates(role, id));
        sdp
    }

    fn restart_peer(&mut self, role: Role, remote: Option<(u64, u32)>) -> Option<String> {
        let device = self.device(role);
        let network = device.network;
        let peer = device.peer.as_mut()?;
        peer.generation += 1;
        peer.network = network;
        peer.remote = remote;
        let (id, sdp) = (peer.id, peer.sdp());
        let gathering = self.jitter(200);
        self.at(gathering, Event::Candidates(role, id));
        Some(sdp)
    }

    // The cores.

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
                    self.note(|| format!("{role:?} sends {t}"));
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
                    self.note(|| format!("{role:?} loses its connection: {}", why.code));
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
            CallEvent::Connected => self.note(|| format!("{role:?} is connected")),
            CallEvent::Restarting(why) => {
                let text = format!("{role:?} restarts ICE: {why}");
                self.note(|| text);
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
        self.note(|| format!("VIOLATION: {what}"));
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
