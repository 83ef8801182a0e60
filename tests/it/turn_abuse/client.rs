//! A TURN client that sends exactly the messages of a test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use orion_peer::{
    auth::unix_now,
    stun::message::{Builder, Class, Message, attr, long_term_key, method},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

use super::secrets;
use crate::run::HANG;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub const UDP: (u16, &[u8]) = (attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);

pub enum Wire {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

pub struct Client {
    pub wire: Wire,
    pub username: String,
    pub password: String,
    pub nonce: Vec<u8>,
    transaction: u8,
}

/// Connects to `server` from an address of this machine.
pub async fn connect(server: SocketAddr, from: IpAddr) -> TcpStream {
    let socket = if from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(server).await.unwrap()
}

pub fn binding() -> Vec<u8> {
    Builder::new(Class::Request, method::BINDING, *b"a transactio").finish()
}

/// The bytes of an address in XOR form, for this transaction.
pub fn xor(peer: SocketAddr, transaction: [u8; 12]) -> Vec<u8> {
    let message =
        Builder::new(Class::Request, 0, transaction).address(attr::XOR_PEER_ADDRESS, peer).finish();
    message[24..].to_vec()
}

impl Client {
    fn on(wire: Wire) -> Self {
        let (username, password, nonce) = (String::new(), String::new(), Vec::new());
        let mut client = Self { wire, username, password, nonce, transaction: 0 };
        client.login("phone", unix_now() + 600);
        client
    }

    /// A client over UDP, from 127.0.0.1 or `::1`.
    pub async fn udp(server: SocketAddr) -> Self {
        let from = if server.is_ipv4() { LOCAL } else { server.ip() };
        Self::udp_from(server, from).await
    }

    pub async fn udp_from(server: SocketAddr, from: IpAddr) -> Self {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.connect(server).await.unwrap();
        Self::on(Wire::Udp(socket))
    }

    pub async fn tcp(server: SocketAddr) -> Self {
        let from = if server.is_ipv4() { LOCAL } else { server.ip() };
        Self::on(Wire::Tcp(connect(server, from).await))
    }

    /// Switches to fresh credentials; the nonce stays.
    pub fn login(&mut self, id: &str, expires_at: u64) {
        let made = secrets().mint(id, expires_at);
        (self.username, self.password) = (made.username, made.password);
    }

    pub async fn send(&mut self, message: &[u8]) {
        match &mut self.wire {
            Wire::Udp(socket) => drop(socket.send(message).await.unwrap()),
            Wire::Tcp(stream) => stream.write_all(message).await.unwrap(),
        }
    }

    /// The next message from the server, including its padding.
    pub async fn next(&mut self) -> Vec<u8> {
        timeout(HANG, self.read()).await.expect("the server sends nothing")
    }

    async fn read(&mut self) -> Vec<u8> {
        match &mut self.wire {
            Wire::Udp(socket) => {
                let mut buffer = vec![0; 65_536];
                let length = socket.recv(&mut buffer).await.unwrap();
                buffer.truncate(length);
                buffer
            }
            Wire::Tcp(stream) => {
                let mut message = vec![0; 4];
                stream.read_exact(&mut message).await.unwrap();
                let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
                let rest = if message[0] < 0x40 { 16 + length } else { (length + 3) & !3 };
                message.resize(4 + rest, 0);
                stream.read_exact(&mut message[4..]).await.unwrap();
                message
            }
        }
    }

    /// Asserts that the server sends nothing else: the next message is the answer to a Binding request.
    pub async fn hears_nothing(&mut self) {
        self.send(&binding()).await;
        let next = self.next().await;
        let next = Message::parse(&next).expect("a STUN message");
        assert_eq!((next.class, next.method), (Class::Success, method::BINDING));
    }

    /// A signed request of the next transaction.
    pub fn signed(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> Builder {
        self.unsigned(method, attributes)
            .attribute(attr::USERNAME, self.username.as_bytes())
            .attribute(attr::REALM, b"orion")
            .attribute(attr::NONCE, &self.nonce)
            .integrity(&self.key())
    }

    pub fn unsigned(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> Builder {
        self.transaction += 1;
        let start = Builder::new(Class::Request, method, [self.transaction; 12]);
        attributes.iter().fold(start, |builder, (kind, value)| builder.attribute(*kind, value))
    }

    pub fn key(&self) -> [u8; 16] {
        long_term_key(&self.username, "orion", &self.password)
    }

    /// Gets a nonce from the server.
    pub async fn challenge(&mut self) {
        let request = self.unsigned(method::ALLOCATE, &[UDP]).finish();
        self.send(&request).await;
        let answer = self.next().await;
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.error_code(), Some(401));
        self.nonce = answer.get(attr::NONCE).unwrap().to_vec();
    }

    /// Sends a signed request and returns the answer.
    pub async fn ask(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let request = self.signed(method, attributes).finish();
        self.send(&request).await;
        self.next().await
    }

    /// Sends a signed request and returns the error code of the answer, 0 for success.
    pub async fn code(&mut self, method: u16, attributes: &[(u16, &[u8])]) -> u16 {
        let answer = self.ask(method, attributes).await;
        Message::parse(&answer).expect("a STUN message").error_code().unwrap_or(0)
    }

    /// Makes an allocation and returns its relayed address.
    pub async fn allocate(&mut self) -> SocketAddr {
        self.challenge().await;
        let family: &[u8] = match &self.wire {
            Wire::Udp(socket) if socket.local_addr().unwrap().is_ipv6() => &[2, 0, 0, 0],
            Wire::Tcp(stream) if stream.local_addr().unwrap().is_ipv6() => &[2, 0, 0, 0],
            _ => &[1, 0, 0, 0],
        };
        let wanted = [UDP, (attr::REQUESTED_ADDRESS_FAMILY, family)];
        let answer = self.ask(method::ALLOCATE, &wanted).await;
        let answer = Message::parse(&answer).unwrap();
        assert_eq!(answer.error_code(), None);
        answer.address(attr::XOR_RELAYED_ADDRESS).unwrap()
    }

    fn next_peer(&self, peer: SocketAddr) -> Vec<u8> {
        xor(peer, [self.transaction + 1; 12])
    }

    pub async fn permit(&mut self, peer: SocketAddr) -> u16 {
        let peer = self.next_peer(peer);
        self.code(method::CREATE_PERMISSION, &[(attr::XOR_PEER_ADDRESS, &peer)]).await
    }

    pub async fn bind(&mut self, channel: u16, peer: SocketAddr) -> u16 {
        let peer = self.next_peer(peer);
        let [n0, n1] = channel.to_be_bytes();
        let number = [n0, n1, 0, 0];
        let attributes: [(u16, &[u8]); 2] =
            [(attr::CHANNEL_NUMBER, &number), (attr::XOR_PEER_ADDRESS, &peer)];
        self.code(method::CHANNEL_BIND, &attributes).await
    }

    /// Sends a Refresh; returns the LIFETIME of the answer, or its error code.
    pub async fn refresh(&mut self, seconds: u32) -> Result<u32, u16> {
        let answer = self.ask(method::REFRESH, &[(attr::LIFETIME, &seconds.to_be_bytes())]).await;
        let answer = Message::parse(&answer).unwrap();
        answer.error_code().map_or_else(|| Ok(answer.number(attr::LIFETIME).unwrap()), Err)
    }

    pub async fn indicate(&mut self, peer: SocketAddr, data: &[u8]) {
        let message = Builder::new(Class::Indication, method::SEND, [9; 12])
            .address(attr::XOR_PEER_ADDRESS, peer)
            .attribute(attr::DATA, data)
            .finish();
        self.send(&message).await;
    }

    pub async fn channel_data(&mut self, channel: u16, data: &[u8]) {
        let mut message = channel.to_be_bytes().to_vec();
        message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        message.extend(data);
        if matches!(self.wire, Wire::Tcp(_)) {
            message.resize((message.len() + 3) & !3, 0);
        }
        self.send(&message).await;
    }
}
