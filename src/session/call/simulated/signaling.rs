//! A model of the signaling sockets and of three kinds of server, around the real room.

use super::*;

/// A signaling socket, as both ends see it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) conn: ConnId,
    pub(super) role: Role,
    /// The network of the device when it connected.
    pub(super) network: u32,
    pub(super) open_at_device: bool,
    pub(super) open_at_server: bool,
    pub(super) to_server: VecDeque<(Instant, Body)>,
    pub(super) to_device: VecDeque<(Instant, Text)>,
}

impl World {
    pub(super) fn dial(&mut self, role: Role, delay: Duration) {
        let device = self.device(role);
        device.attempt += 1;
        device.dialing = true;
        let attempt = device.attempt;
        self.at(delay, Event::Dial(role, attempt));
    }

    pub(super) fn socket_of(&mut self, role: Role) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.role == role && socket.open_at_device)
    }

    pub(super) fn socket(&mut self, conn: &ConnId) -> Option<&mut Socket> {
        self.sockets.iter_mut().find(|socket| socket.conn == *conn)
    }

    pub(super) fn dialed(&mut self, role: Role, attempt: u32) {
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
            ice_servers: self.ice_servers(),
            again: false,
            timings: DialTimings::default(),
            clock_skew: (skew.abs() >= 2.0).then_some(skew),
        };
        self.at(PING_EVERY, Event::Ping(conn.clone(), true));
        self.note(format!("{role:?} joins as {conn}"));
        let actions = self.room.join(role, &device_id, &conn, 0);
        self.input(role, CallInput::Signaling(connected));
        self.serve(actions);
        // Messages that were queued while there was no socket.
        while let Some(body) = self.device(role).unsent.pop_front() {
            self.transmit(role, body);
        }
    }

    /// Fresh credentials, which expire by the server's clock.
    pub(super) fn ice_servers(&self) -> Vec<IceServer> {
        let expire = (self.now - self.start + CREDENTIALS_LIVE).as_secs() + 1_800_000_000;
        vec![IceServer {
            urls: vec!["turn:192.0.2.1".into()],
            username: Some(format!("{expire}:device")),
            credential: Some("secret".into()),
        }]
    }

    pub(super) fn serve(&mut self, actions: impl IntoIterator<Item = Action>) {
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

    pub(super) fn deliver(&mut self, to: &ConnId, text: Text) {
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

    pub(super) fn transmit(&mut self, role: Role, body: Body) {
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
    pub(super) fn passes(&self, role: Role, network: u32) -> Option<bool> {
        let device = &self.devices[index(role)];
        (device.network == network).then_some(device.is_online())
    }

    /// Whether packets pass on a socket now; TCP retransmits those that do not, so `event` happens again.
    pub(super) fn reaches(&mut self, role: Role, network: u32, event: Event) -> bool {
        let passes = self.passes(role, network);
        if passes == Some(false) {
            self.at(Duration::from_secs(1), event);
        }
        passes == Some(true)
    }

    pub(super) fn reach_server(&mut self, conn: &ConnId) {
        let open = |socket: &&mut Socket| socket.open_at_server && socket.open_at_device;
        let Some(socket) = self.socket(conn).filter(open) else { return };
        let (role, network) = (socket.role, socket.network);
        if !self.reaches(role, network, Event::ToServer(conn.clone())) {
            return;
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

    pub(super) fn reach_device(&mut self, conn: &ConnId) {
        let open = |socket: &&mut Socket| socket.open_at_device;
        let Some(socket) = self.socket(conn).filter(open) else { return };
        let (role, network) = (socket.role, socket.network);
        if !self.reaches(role, network, Event::ToDevice(conn.clone())) {
            return;
        }
        loop {
            let now = self.now;
            let Some(socket) = self.socket(conn).filter(open) else { return };
            let Some((_, text)) = socket.to_device.pop_front_if(|(at, _)| *at <= now) else {
                return;
            };
            let message = Message::parse(text.as_str()).unwrap();
            self.input(role, CallInput::Signaling(ClientEvent::Message(message)));
        }
    }

    /// The device notices that its socket is gone, and connects again.
    pub(super) fn device_lost_socket(&mut self, role: Role, delay: Duration) {
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

    pub(super) fn close_at_device(&mut self, role: Role) {
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

    pub(super) fn close_at_server(&mut self, conn: &ConnId) {
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

    pub(super) fn is_suspended(&self, role: Role) -> bool {
        self.devices[index(role)].is_suspended()
    }

    /// The server closes a socket whose device leaves two pings in a row unanswered; `answered`: the previous one was.
    pub(super) fn ping(&mut self, conn: &ConnId, answered: bool) {
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
    pub(super) fn socket_timeout(&mut self, conn: &ConnId) {
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

    pub(super) fn close_all_sockets(&mut self) {
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

    pub(super) fn break_socket(&mut self, role: Role) {
        let Some(socket) = self.socket_of(role) else { return };
        let conn = socket.conn.clone();
        self.close_at_server(&conn);
    }
}
