//! A client of one STUN or TURN server over UDP, TCP or TLS: Binding (RFC 8489), and an allocation
//! with long-term credentials and data through it (RFC 8656). It is for testing servers; a peer
//! connection has its own client.
//!
//! - `error`: the errors · `wire`: the transports
//! - [`measure`]: round trips and a burst of a keyframe's size through an allocation

mod error;
pub mod measure;
mod wire;

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

pub use error::ClientError;
use wire::Wire;

use super::{
    message::{Builder, Class, Message, TransactionId, attr, long_term_key, method},
    uri::Transport,
};
use crate::tls::Trust;

/// When a request is sent and retransmitted over UDP, relative to its first transmission.
const SENT_AT: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_millis(1600),
];

/// How long to wait for an answer.
pub const PATIENCE: Duration = Duration::from_millis(3500);

/// Protocol number of UDP, for REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// Maximum number of times a request may be answered with a new nonce.
const MAX_CHALLENGES: usize = 3;

/// A username and its password. `Debug` omits the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The username as sent to the server.
    pub username: String,
    /// The password, which is never sent.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// The answer to an Allocate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocation {
    /// The relayed address (XOR-RELAYED-ADDRESS).
    pub relayed: SocketAddr,
    /// Our address as the server sees it; over TCP, that of the connection.
    pub mapped: Option<SocketAddr>,
    /// The granted LIFETIME.
    pub lifetime: Duration,
}

/// The server's challenge to authenticate (RFC 8489 §9.2.5).
#[derive(Debug)]
struct Challenge {
    realm: String,
    nonce: Vec<u8>,
    key: [u8; 16],
}

/// A client of one server.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    login: Option<Login>,
    challenge: Option<Challenge>,
    /// Data that arrived while something else was awaited.
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
}

/// A server and how to connect to it.
#[derive(Debug, Clone)]
pub struct Server {
    /// The address to connect to.
    pub address: SocketAddr,
    /// The host name for which the server's certificate must be valid.
    pub host: String,
    /// The transport to the server.
    pub transport: Transport,
    /// The local address to bind; `None` leaves the choice to the system.
    pub bind: Option<IpAddr>,
    /// The trusted certificates.
    pub trust: Trust,
    /// Username and password for TURN.
    pub login: Option<Login>,
}

impl Client {
    /// Connects. Over UDP, this sends nothing.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn connect(server: &Server) -> Result<Self, ClientError> {
        let wire = Wire::open(server).await?;
        let login = server.login.clone();
        Ok(Self { wire, login, challenge: None, waiting: VecDeque::new() })
    }

    /// Our address as the server sees it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn binding(&mut self) -> Result<SocketAddr, ClientError> {
        let answer = self.ask(method::BINDING, |builder| builder).await?;
        read(&answer)?.mapped_address().ok_or(ClientError::Answer("XOR-MAPPED-ADDRESS"))
    }

    /// Allocates a relayed address.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn allocate(&mut self) -> Result<Allocation, ClientError> {
        let answer = self
            .ask(method::ALLOCATE, |builder| {
                builder.attribute(attr::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0])
            })
            .await?;
        let answer = read(&answer)?;
        let relayed = answer.address(attr::XOR_RELAYED_ADDRESS);
        let lifetime = answer.number(attr::LIFETIME).ok_or(ClientError::Answer("LIFETIME"))?;
        Ok(Allocation {
            relayed: relayed.ok_or(ClientError::Answer("XOR-RELAYED-ADDRESS"))?,
            mapped: answer.mapped_address(),
            lifetime: Duration::from_secs(lifetime.into()),
        })
    }

    /// Permits data between a peer's IP address and the relayed address, in both directions.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn permit(&mut self, peer: IpAddr) -> Result<(), ClientError> {
        let peer = SocketAddr::new(peer, 0);
        let with = |builder: Builder| builder.address(attr::XOR_PEER_ADDRESS, peer);
        self.ask(method::CREATE_PERMISSION, with).await.map(drop)
    }

    /// Ends the allocation.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn release(&mut self) -> Result<(), ClientError> {
        let with = |builder: Builder| builder.attribute(attr::LIFETIME, &[0; 4]);
        self.ask(method::REFRESH, with).await.map(drop)
    }

    /// Sends data from the relayed address to a permitted peer.
    ///
    /// # Errors
    /// [`ClientError::Io`], [`ClientError::TooLong`]
    pub async fn send_to(&mut self, peer: SocketAddr, data: &[u8]) -> Result<(), ClientError> {
        let indication = Builder::new(Class::Indication, method::SEND, rand::random())
            .address(attr::XOR_PEER_ADDRESS, peer)
            .attribute(attr::DATA, data)
            .whole()
            .ok_or(ClientError::TooLong)?;
        self.wire.send(&indication).await
    }

    /// The next data from a peer, with the peer's address; `None` if none arrives until then.
    ///
    /// # Errors
    /// [`ClientError::Io`]
    pub async fn receive(
        &mut self,
        until: Instant,
    ) -> Result<Option<(SocketAddr, Vec<u8>)>, ClientError> {
        loop {
            if let Some(data) = self.waiting.pop_front() {
                return Ok(Some(data));
            }
            let Some(datagram) = self.wire.receive(until).await? else { return Ok(None) };
            self.waiting.extend(data(&datagram));
        }
    }

    /// Sends a request until it succeeds, with credentials once the server requires them.
    async fn ask(
        &mut self,
        method: u16,
        with: impl Fn(Builder) -> Builder,
    ) -> Result<Vec<u8>, ClientError> {
        for _ in 0..=MAX_CHALLENGES {
            let id: TransactionId = rand::random();
            let builder = with(Builder::new(Class::Request, method, id));
            let authenticates = method != method::BINDING;
            let challenge = self.challenge.as_ref().filter(|_| authenticates);
            let key = challenge.map(|challenge| challenge.key);
            let request = match (&self.login, challenge) {
                (Some(login), Some(challenge)) => builder
                    .attribute(attr::USERNAME, login.username.as_bytes())
                    .attribute(attr::REALM, challenge.realm.as_bytes())
                    .attribute(attr::NONCE, &challenge.nonce)
                    .integrity(&challenge.key),
                _ => builder,
            };
            let request = request.fingerprint().whole().ok_or(ClientError::TooLong)?;
            let raw = self.exchange(id, &request).await?;
            let answer = read(&raw)?;
            if answer.class == Class::Success {
                if key.is_some_and(|key| !answer.verify(&key)) {
                    return Err(ClientError::Answer("a valid MESSAGE-INTEGRITY"));
                }
                return Ok(raw);
            }
            let code = answer.error_code().unwrap_or_default();
            let again = match (code, key) {
                (401, None) | (438, _) => self.take_challenge(&answer),
                _ => false,
            };
            if !again {
                return Err(ClientError::refused(&answer));
            }
        }
        Err(ClientError::Refused { code: 438, reason: "Stale Nonce, repeatedly".into() })
    }

    /// Keeps realm and nonce for the next request; returns whether it can be made.
    fn take_challenge(&mut self, answer: &Message<'_>) -> bool {
        let (Some(realm), Some(nonce), Some(login)) =
            (answer.text(attr::REALM), answer.get(attr::NONCE), &self.login)
        else {
            return false;
        };
        self.challenge = Some(Challenge {
            realm: realm.to_owned(),
            nonce: nonce.to_vec(),
            key: long_term_key(&login.username, realm, &login.password),
        });
        true
    }

    /// Sends a request, retransmitting it over UDP, until its response arrives.
    async fn exchange(&mut self, id: TransactionId, raw: &[u8]) -> Result<Vec<u8>, ClientError> {
        let started = Instant::now();
        let times = if self.wire.is_reliable() { &SENT_AT[..1] } else { &SENT_AT };
        for (index, _) in times.iter().enumerate() {
            self.wire.send(raw).await?;
            let next = times.get(index + 1).copied().unwrap_or(PATIENCE);
            while let Some(datagram) = self.wire.receive(started + next).await? {
                match Message::parse(&datagram) {
                    Some(message)
                        if message.transaction == id
                            && matches!(message.class, Class::Success | Class::Error) =>
                    {
                        return Ok(datagram);
                    }
                    _ => self.waiting.extend(data(&datagram)),
                }
            }
        }
        Err(ClientError::Silent { requests: times.len() as u32, within: PATIENCE })
    }
}

fn read(raw: &[u8]) -> Result<Message<'_>, ClientError> {
    Message::parse(raw).ok_or(ClientError::Answer("the form of a STUN message"))
}

/// The peer and the content of a Data indication.
fn data(raw: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
    let message = Message::parse(raw)?;
    if (message.class, message.method) != (Class::Indication, method::DATA) {
        return None;
    }
    let peer = message.address(attr::XOR_PEER_ADDRESS)?;
    Some((peer, message.get(attr::DATA)?.to_vec()))
}
