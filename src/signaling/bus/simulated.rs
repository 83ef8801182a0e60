//! A simulation of three nodes and two clients that reconnect, in virtual time and from a seed. Its
//! in-memory bus loses, repeats and reorders messages, stops nodes, and loses leases.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    CLAIM_SLACK, Claimed, Command, Envelope, Health, Judged, LEASE, Lease, NodeId, Own, Renewed,
    Reply, Say, SharedRoom,
};
use crate::{
    pairs::Role,
    proto::signaling::{Body, LeaveReason, Message, close},
    signaling::{
        room::{Action, Kind, Relayed, Room},
        text::Text,
    },
    types::ConnId,
};

const STEP: Duration = Duration::from_millis(50);
const ROLES: [Role; 2] = [Role::Phone, Role::Mac];

fn index(role: Role) -> usize {
    usize::from(role == Role::Mac)
}

/// A message received by a node: an envelope, or its own echo.
#[derive(Debug, Clone)]
enum Heard {
    Envelope(Envelope),
    Echo(u64),
}

/// A node: the real state machines, and the queues of its connection.
struct Node {
    id: NodeId,
    room: SharedRoom,
    health: Health,
    connected: bool,
    stopped_until: Instant,
    commands: VecDeque<Command>,
    replies: VecDeque<(Command, Reply)>,
    inbox: VecDeque<Heard>,
}

/// A device and its socket.
#[derive(Debug)]
struct Client {
    socket: Option<(usize, ConnId)>,
    seated: bool,
    back_at: Instant,
    silent_since: Option<Instant>,
    present: bool,
    offers: u64,
    offer: u64,
    answer: u64,
    /// Number of messages sent on this socket.
    sent: u64,
    /// The peer's socket, and the number of the latest message received from it.
    heard: Option<(ConnId, u64)>,
}

/// Probabilities of the faults.
#[derive(Debug, Clone, Copy)]
struct Faults {
    lose: f64,
    repeat: f64,
    swap: f64,
    /// Probability per step that a node is killed, stopped or disconnected, that Redis loses all
    /// leases, or that a client loses its socket.
    break_something: f64,
}

struct World {
    now: Instant,
    random: StdRng,
    faults: Faults,
    nodes: Vec<Node>,
    leases: [Option<(Lease, Instant)>; 2],
    start: Instant,
    clients: [Client; 2],
    /// Texts and close codes in transit to sockets.
    in_transit: VecDeque<(usize, ConnId, Result<Text, u16>)>,
    conns: u64,
}

fn new_node(number: u64, now: Instant) -> Node {
    Node {
        id: NodeId(format!("node-{number}")),
        room: SharedRoom::new("p".into(), Room::new("p".into(), std::sync::Arc::default())),
        health: Health::new(now),
        connected: false,
        stopped_until: now,
        commands: VecDeque::new(),
        replies: VecDeque::new(),
        inbox: VecDeque::new(),
    }
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let now = Instant::now();
        let client = |_| Client {
            socket: None,
            seated: false,
            back_at: now,
            silent_since: None,
            present: false,
            offers: 0,
            offer: 0,
            answer: 0,
            sent: 0,
            heard: None,
        };
        Self {
            now,
            random: StdRng::seed_from_u64(seed),
            faults,
            nodes: (0..3).map(|number| new_node(number, now)).collect(),
            leases: [None, None],
            start: now,
            clients: ROLES.map(client),
            in_transit: VecDeque::new(),
            conns: 100,
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            if self.random.random_bool(self.faults.break_something) {
                self.break_something();
            }
            for at in 0..self.nodes.len() {
                self.step_node(at);
            }
            for (at, conn, event) in std::mem::take(&mut self.in_transit) {
                match event {
                    Ok(text) => self.hear(at, &conn, &text),
                    Err(code) => self.close(at, &conn, code),
                }
            }
            for role in ROLES {
                self.step_client(role);
            }
        }
    }

    fn break_something(&mut self) {
        let at = self.random.random_range(0..self.nodes.len());
        match self.random.random_range(0..5) {
            0 => {
                self.conns += 1;
                self.nodes[at] = new_node(self.conns, self.now);
                for role in ROLES {
                    if self.clients[index(role)].socket.as_ref().is_some_and(|s| s.0 == at) {
                        self.socket_lost(role);
                    }
                }
            }
            1 => {
                let stop = Duration::from_secs(self.random.random_range(1..60));
                self.nodes[at].stopped_until = self.now + stop;
            }
            2 => self.disconnect(at),
            3 => {
                self.leases = [None, None];
                (0..self.nodes.len()).for_each(|at| self.disconnect(at));
            }
            // A client reconnects, and its node does not notice the end of the old socket.
            _ => {
                let role = *ROLES.choose(&mut self.random).unwrap();
                self.socket_lost(role);
            }
        }
    }

    fn disconnect(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.connected = false;
        node.health.disconnected();
        node.inbox.clear();
        node.replies.clear();
        node.commands.clear();
        self.fail_claims(at);
    }

    /// Closes the sockets that wait for a seat.
    fn fail_claims(&mut self, at: usize) {
        for role in ROLES {
            let client = &self.clients[index(role)];
            if client.socket.as_ref().is_some_and(|s| s.0 == at) && !client.seated {
                self.hang_up(role);
            }
        }
    }

    // One node, following `drive.rs`.

    fn step_node(&mut self, at: usize) {
        let now = self.now;
        if self.nodes[at].stopped_until > now {
            return;
        }
        if !self.nodes[at].connected {
            let node = &mut self.nodes[at];
            node.connected = true;
            let echo = node.health.connected(now);
            node.commands.push_back(echo);
        }
        match self.nodes[at].health.tick(now) {
            Judged::Same(echo) => self.nodes[at].commands.extend(echo),
            Judged::Hung => return self.disconnect(at),
            Judged::Lost => {
                self.fail_claims(at);
                let actions = self.nodes[at].room.lost();
                self.act(at, actions);
            }
        }
        if self.nodes[at].health.is_up() {
            let renewals = self.nodes[at].room.renew(now);
            self.nodes[at].commands.extend(renewals);
        }
        // Replies and messages use different connections, so their order varies.
        if self.random.random_bool(0.7) {
            self.take_replies(at);
        }
        if self.random.random_bool(0.7) {
            self.take_inbox(at);
        }
        if self.random.random_bool(0.2) {
            return;
        }
        while let Some(command) = self.nodes[at].commands.pop_front() {
            let reply = self.carry_out(at, &command);
            self.nodes[at].replies.push_back((command, reply));
        }
    }

    fn take_replies(&mut self, at: usize) {
        while let Some((command, reply)) = self.nodes[at].replies.pop_front() {
            let node = &mut self.nodes[at];
            let (id, room) = (&node.id, &mut node.room);
            let actions = match (command, reply) {
                (Command::Claim { role, conn, .. }, Reply::Claimed(claimed)) => {
                    let actions = room.claimed(id, role, &conn, claimed, self.now);
                    let client = &mut self.clients[index(role)];
                    if client.socket.as_ref().is_some_and(|s| s.1 == conn) {
                        client.seated = true;
                    }
                    actions
                }
                (Command::Claim { conn, .. }, Reply::Late) => room.late(&conn),
                (Command::Renew { role, conn, peer_epoch, .. }, Reply::Renewed(renewed)) => {
                    room.renewed(id, role, &conn, peer_epoch, renewed)
                }
                (Command::Publish { envelope, .. }, Reply::Published(receivers)) => {
                    room.published(&envelope, receivers)
                }
                _ => Vec::new(),
            };
            self.act(at, actions);
        }
    }

    fn take_inbox(&mut self, at: usize) {
        let Faults { lose, repeat, swap, .. } = self.faults;
        if self.nodes[at].inbox.len() > 1 && self.random.random_bool(swap) {
            self.nodes[at].inbox.swap(0, 1);
        }
        let mut inbox: Vec<Heard> = self.nodes[at].inbox.drain(..).collect();
        if let Some(again) = inbox.first().cloned()
            && self.random.random_bool(repeat)
        {
            inbox.push(again);
        }
        for heard in inbox {
            if self.random.random_bool(lose) {
                continue;
            }
            let actions = match heard {
                Heard::Envelope(envelope) => self.nodes[at].room.receive(envelope),
                Heard::Echo(number) if self.nodes[at].health.echoed(number) => {
                    self.nodes[at].room.back(self.now)
                }
                Heard::Echo(_) => Vec::new(),
            };
            self.act(at, actions);
        }
    }

    fn act(&mut self, at: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Bus(command) if self.nodes[at].connected => {
                    self.nodes[at].commands.push_back(command);
                }
                Action::Bus(_) | Action::Note(_) => {}
                Action::Send { to, text } | Action::Flush { to, text } => {
                    self.in_transit.push_back((at, to, Ok(text)));
                }
                Action::Close { conn, code, .. } => {
                    self.in_transit.push_back((at, conn, Err(code)));
                }
            }
        }
    }

    // Redis, following the scripts.

    fn lease(&mut self, role: Role) -> Option<Lease> {
        let lease = &mut self.leases[index(role)];
        lease.take_if(|(_, until)| *until <= self.now);
        lease.as_ref().map(|(lease, _)| lease.clone())
    }

    fn publish(&mut self, node: &NodeId, heard: Heard) -> u64 {
        let node = self.nodes.iter_mut().find(|other| other.id == *node && other.connected);
        let Some(node) = node else { return 0 };
        node.inbox.push_back(heard);
        1
    }

    fn tell(&mut self, to: &Lease, role: Role, from: &ConnId, say: Say) -> u64 {
        let (from, conn) = (from.clone(), to.conn.clone());
        let envelope =
            Envelope { pair: "p".into(), role, from, to: conn, say, text: Text::default() };
        self.publish(&to.node, Heard::Envelope(envelope))
    }

    fn reachable(&mut self, at: usize, role: Role, conn: &ConnId, say: Say) -> Option<Lease> {
        let other = self.lease(role.other())?;
        if other.node != self.nodes[at].id && self.tell(&other, role, conn, say) == 0 {
            self.leases[index(role.other())] = None;
            return None;
        }
        Some(other)
    }

    fn carry_out(&mut self, at: usize, command: &Command) -> Reply {
        let node = self.nodes[at].id.clone();
        match command.clone() {
            Command::Claim { role, device, conn, since, .. } => {
                let (own, until) = (self.lease(role), self.now + LEASE);
                let latest = own.as_ref().map_or(0, |own| own.epoch);
                if since + CLAIM_SLACK.as_micros() as u64 <= latest {
                    return Reply::Late;
                }
                let epoch = since.max(latest + 1);
                let (node, device) = (node.clone(), device.clone());
                let lease = Lease { node: node.clone(), conn: conn.clone(), device, epoch };
                let joined =
                    Say::Joined { node: node.clone(), device: lease.device.clone(), epoch };
                self.leases[index(role)] = Some((lease, until));
                if let Some(own) = own.filter(|own| own.node != node) {
                    self.tell(&own, role, &conn, Say::Kick);
                }
                let peer = self.reachable(at, role, &conn, joined);
                Reply::Claimed(Claimed { epoch, peer })
            }
            Command::Renew { role, conn, peer, sent, .. } => {
                let answer = |own, peer| Reply::Renewed(Renewed { own, peer });
                match self.lease(role) {
                    None => return answer(Own::Absent, None),
                    Some(own) if own.conn != conn => return answer(Own::Taken, None),
                    Some(own) => {
                        self.leases[index(role)] = Some((own, self.now + LEASE));
                    }
                }
                let known = self.lease(role.other()).is_some_and(|other| Some(other.conn) == peer);
                let seq = if known { sent } else { 0 };
                let peer = self.reachable(at, role, &conn, Say::Sync { seq });
                answer(Own::Kept, peer)
            }
            Command::Release { role, conn, reason, .. } => {
                if self.lease(role).is_some_and(|own| own.conn == conn) {
                    self.leases[index(role)] = None;
                    let other = self.lease(role.other()).filter(|other| other.node != node);
                    if let Some(other) = other {
                        self.tell(&other, role, &conn, Say::Left { reason });
                    }
                }
                Reply::Done
            }
            Command::Publish { node, envelope } => {
                Reply::Published(self.publish(&node, Heard::Envelope(envelope)))
            }
            Command::Echo(number) => {
                self.publish(&node, Heard::Echo(number));
                Reply::Time(0)
            }
        }
    }

    // The clients, following the real one.

    /// The node closed the socket.
    fn close(&mut self, at: usize, conn: &ConnId, code: u16) {
        let Some(role) = ROLES.into_iter().find(|role| {
            let socket = &self.clients[index(*role)].socket;
            socket.as_ref().is_some_and(|s| s.0 == at && s.1 == *conn)
        }) else {
            return;
        };
        assert_ne!(code, close::REPLACED, "the newest socket of a device is never replaced");
        self.hang_up(role);
    }

    /// The socket ends, and its node notices.
    fn hang_up(&mut self, role: Role) {
        let Some((at, conn)) = self.clients[index(role)].socket.clone() else { return };
        self.socket_lost(role);
        let actions = self.nodes[at].room.leave(role, &conn, LeaveReason::Closed);
        self.act(at, actions);
    }

    /// The socket ends, and its node does not notice.
    fn socket_lost(&mut self, role: Role) {
        let pause = Duration::from_millis(self.random.random_range(200..1000));
        let client = &mut self.clients[index(role)];
        client.socket = None;
        client.back_at = self.now + pause;
    }

    fn step_client(&mut self, role: Role) {
        let client = &mut self.clients[index(role)];
        let Some((at, _)) = client.socket else {
            if client.back_at <= self.now {
                self.join(role);
            }
            return;
        };
        let sends = client.seated && client.present && self.faults.break_something > 0.0;
        if sends && self.random.random_bool(0.1) {
            self.say(role, Kind::Ice, 0);
        }
        let client = &mut self.clients[index(role)];
        // 25 s until the ping, 10 s for the pong.
        if self.nodes[at].stopped_until <= self.now {
            client.silent_since = None;
        } else if self.now - *client.silent_since.get_or_insert(self.now) > Duration::from_secs(35)
        {
            self.socket_lost(role);
        }
    }

    fn join(&mut self, role: Role) {
        let at = self.random.random_range(0..self.nodes.len());
        let node = &self.nodes[at];
        if node.stopped_until > self.now || !node.health.is_up() {
            self.socket_lost(role);
            return;
        }
        self.conns += 1;
        let since = 1_000_000 + (self.now - self.start).as_micros() as u64;
        let conn = ConnId(format!("conn-{}", self.conns));
        let client = &mut self.clients[index(role)];
        *client = Client {
            socket: Some((at, conn.clone())),
            seated: false,
            silent_since: None,
            present: false,
            offer: 0,
            answer: 0,
            sent: 0,
            heard: None,
            ..*client
        };
        let claim = self.nodes[at].room.claim(role, &"device".into(), &conn, 9, since);
        self.nodes[at].commands.push_back(claim);
    }

    fn say(&mut self, role: Role, kind: Kind, number: u64) {
        let client = &mut self.clients[index(role)];
        let Some((at, conn)) = client.socket.clone() else { return };
        client.sent += 1;
        let sdp = format!("{conn} {} {number}", client.sent);
        let body = match kind {
            Kind::Offer => Body::Offer { sdp },
            Kind::Answer => Body::Answer { sdp, offer: None },
            Kind::Ice | Kind::Bye | Kind::State => Body::Bye { reason: Some(sdp) },
        };
        let text = Message::new("p".into(), body).to_json().into();
        let (outcome, action) = self.nodes[at].room.room.relay(role, &conn, kind, text);
        if outcome == Relayed::Dropped {
            self.clients[index(role)].sent -= 1;
        }
        self.act(at, action.into_iter().collect());
    }

    fn offer(&mut self) {
        let phone = &mut self.clients[0];
        phone.offers += 1;
        (phone.offer, phone.answer) = (phone.offers, 0);
        let number = phone.offer;
        self.say(Role::Phone, Kind::Offer, number);
    }

    /// A text arrived at a socket.
    fn hear(&mut self, at: usize, to: &ConnId, text: &Text) {
        let Some(role) = ROLES.into_iter().find(|role| {
            let socket = &self.clients[index(*role)].socket;
            socket.as_ref().is_some_and(|s| s.0 == at && s.1 == *to)
        }) else {
            return;
        };
        let client = &mut self.clients[index(role)];
        match Message::parse(text).unwrap().body {
            Body::Hello { peer_present, .. } => {
                client.present = peer_present;
                if role == Role::Phone {
                    self.offer();
                }
            }
            Body::PeerJoined { .. } => {
                client.present = true;
                if role == Role::Phone {
                    self.offer();
                }
            }
            Body::PeerLeft { .. } => client.present = false,
            Body::Offer { sdp } => {
                let number = self.relayed(role, &sdp);
                self.clients[1].offer = number;
                self.say(Role::Mac, Kind::Answer, number);
            }
            Body::Answer { sdp, .. } => {
                let number = self.relayed(role, &sdp);
                self.clients[0].answer = number;
            }
            Body::Bye { reason } => drop(self.relayed(role, &reason.unwrap())),
            _ => {}
        }
    }

    /// Checks the order of messages from one socket to another, and returns the number of the offer.
    fn relayed(&mut self, role: Role, sdp: &str) -> u64 {
        let words: Vec<&str> = sdp.split(' ').collect();
        let (from, seq, number) = (ConnId::from(words[0]), words[1], words[2]);
        let seq: u64 = seq.parse().unwrap();
        let client = &mut self.clients[index(role)];
        if let Some((before, latest)) = &client.heard
            && *before == from
        {
            assert_eq!(seq, latest + 1, "out of order, duplicated or lost: {sdp}");
        }
        client.heard = Some((from, seq));
        number.parse().unwrap()
    }

    fn connected(&self) -> bool {
        let [phone, mac] = &self.clients;
        phone.socket.is_some()
            && mac.socket.is_some()
            && phone.present
            && phone.offer > 0
            && phone.answer == phone.offer
            && mac.offer == phone.offer
    }

    fn shown(&self) -> String {
        let rooms: Vec<_> = self.nodes.iter().map(|node| format!("{:?}", node.room)).collect();
        format!("{:#?}\n{:#?}\n{}", self.clients, self.leases, rooms.join("\n"))
    }
}

const QUIET: Faults = Faults { lose: 0.0, repeat: 0.0, swap: 0.0, break_something: 0.0 };

#[test]
fn without_faults_two_devices_connect_immediately_and_stay_connected() {
    for seed in 0..20 {
        let mut world = World::new(seed, QUIET);
        world.run(Duration::from_secs(3));
        assert!(world.connected(), "{}", world.shown());
        let sockets = world.clients.each_ref().map(|client| client.socket.clone());
        world.run(Duration::from_mins(5));
        assert!(world.connected(), "{}", world.shown());
        assert_eq!(sockets, world.clients.each_ref().map(|client| client.socket.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nodes are killed, stopped and disconnected, and Redis loses leases; messages are delivered
    /// reliably.
    #[test]
    fn the_devices_reconnect_after_any_outage(seed: u64) {
        let broken = Faults { break_something: 0.005, ..QUIET };
        heals(seed, broken);
    }

    /// The bus also loses, repeats and reorders messages, which Redis does not.
    #[test]
    fn the_devices_reconnect_after_messages_are_lost_repeated_or_reordered(seed: u64) {
        let bad = Faults { lose: 0.02, repeat: 0.05, swap: 0.1, break_something: 0.002 };
        heals(seed, bad);
    }
}

/// Runs several rounds of faults, more frequent at the end, each followed by a quiet time in which
/// leases expire and are renewed. Messages must never arrive out of order, twice or with a gap.
fn heals(seed: u64, faults: Faults) {
    let mut world = World::new(seed, faults);
    for _ in 0..4 {
        world.faults = faults;
        world.run(Duration::from_secs(20));
        world.faults.break_something *= 10.0;
        world.faults.lose *= 5.0;
        world.run(Duration::from_secs(2));
        world.faults = QUIET;
        world.run(Duration::from_secs(60 + 35 + 30 + 20));
        assert!(world.connected(), "seed {seed}\n{}", world.shown());
        let sockets: usize = world.nodes.iter().map(|node| node.room.room.here().count()).sum();
        assert_eq!(sockets, 2, "seed {seed}: an old socket is left\n{}", world.shown());
    }
}
