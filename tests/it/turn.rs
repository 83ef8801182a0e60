//! The embedded TURN server, tested with coturn's client `turnutils_uclient` and with plain STUN.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use orion_peer::auth::turn_rest::TurnSecrets;
use orion_peer::stun::message::{Builder, Class, Message, attr, method};
use orion_peer::turn::{PeerFilter, RejectReason, TurnConfig, TurnError, TurnLimits, TurnServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

const SECRET: &str = "rotating-in";
const OLD_SECRET: &str = "rotating-out";

fn config() -> TurnConfig {
    let credentials = TurnSecrets { current: SECRET.into(), previous: Some(OLD_SECRET.into()) };
    TurnConfig::loopback(0, Arc::new(credentials))
}

/// Starts a UDP echo server on 127.0.0.1.
async fn echo() -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&buffer[..length], from).await.unwrap();
        }
    });
    (address, task)
}

/// One run of coturn's client.
struct Uclient<'a> {
    server: SocketAddr,
    peer: SocketAddr,
    credentials: (String, String),
    flags: &'a [&'a str],
}

impl Uclient<'_> {
    /// Runs the client for at most 30 s and returns its output: after a rejection it keeps trying.
    async fn run(&self) -> String {
        let mut command = Command::new("turnutils_uclient");
        command
            .args(["-c", "-v", "-n", "20", "-z", "5"])
            .args(["-u", &self.credentials.0, "-w", &self.credentials.1])
            .args(["-p", &self.server.port().to_string()])
            .args(["-e", &self.peer.ip().to_string(), "-r", &self.peer.port().to_string()])
            .args(self.flags)
            .arg(self.server.ip().to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(Duration::from_secs(30), command.output())
            .await
            .expect("turnutils_uclient ends")
            .expect("turnutils_uclient is installed (Debian package coturn)");
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).into_owned()
    }
}

fn fresh(secret: &str) -> (String, String) {
    mint(secret, SystemTime::now())
}

/// Credentials that are valid for ten minutes from `at`.
fn mint(secret: &str, at: SystemTime) -> (String, String) {
    let secrets = TurnSecrets { current: secret.into(), previous: None };
    let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let made = secrets.mint("phone", at + 600);
    (made.username, made.password)
}

fn assert_all_came_back(output: &str) {
    assert!(output.contains("tot_recv_msgs=20"), "{output}");
    assert!(output.contains("Total lost packets 0"), "{output}");
}

async fn relays(flags: &[&str], secret: &str) {
    let server = TurnServer::start(config()).await.unwrap();
    let (peer, _echo) = echo().await;
    let address = server.udp_address().unwrap();
    let client = Uclient { server: address, peer, credentials: fresh(secret), flags };
    assert_all_came_back(&client.run().await);
    let stats = server.stats();
    // The client makes one allocation to probe the server and one to use.
    assert_eq!(stats.allocations_total, 2);
    assert_eq!((stats.packets_to_peers, stats.packets_to_clients), (20, 20));
    assert_eq!(stats.bytes_to_peers, stats.bytes_to_clients);
    assert!(stats.refused.is_empty(), "{:?}", stats.refused);
    server.close().await;
}

#[tokio::test]
async fn coturns_client_relays_over_udp_by_channels() {
    relays(&[], SECRET).await;
}

#[tokio::test]
async fn coturns_client_relays_over_udp_by_indications() {
    relays(&["-s"], SECRET).await;
}

#[tokio::test]
async fn coturns_client_relays_over_tcp_by_channels() {
    relays(&["-t"], OLD_SECRET).await;
}

#[tokio::test]
async fn coturns_client_relays_over_tcp_by_indications() {
    relays(&["-t", "-s", "-l", "1173"], SECRET).await;
}

/// Runs the client in a case in which it must be rejected.
async fn refused(config: TurnConfig, credentials: (String, String), peer: Ipv4Addr) -> String {
    let server = TurnServer::start(config).await.unwrap();
    let address = server.udp_address().unwrap();
    let peer = SocketAddr::from((peer, 9));
    let client = Uclient { server: address, peer, credentials, flags: &[] };
    let output = client.run().await;
    let refused: Vec<RejectReason> = server.stats().refused.into_keys().collect();
    server.close().await;
    format!("{refused:?} {output}")
}

#[tokio::test]
async fn coturns_client_is_refused_with_a_wrong_password() {
    let (username, _) = fresh(SECRET);
    let output = refused(config(), (username, "guess".into()), Ipv4Addr::LOCALHOST).await;
    assert!(output.starts_with("[Unauthorized] "), "{output}");
    assert!(output.contains("Cannot complete Allocation"), "{output}");
}

#[tokio::test]
async fn coturns_client_is_refused_with_expired_credentials() {
    let yesterday = SystemTime::now() - Duration::from_hours(24);
    let expired = mint(SECRET, yesterday);
    let output = refused(config(), expired, Ipv4Addr::LOCALHOST).await;
    assert!(output.starts_with("[Unauthorized] "), "{output}");
    assert!(output.contains("Cannot complete Allocation"), "{output}");
}

#[tokio::test]
async fn coturns_client_is_refused_over_the_quota() {
    let limits = TurnLimits { allocations_per_user: 0, ..TurnLimits::default() };
    let config = TurnConfig { limits, ..config() };
    let output = refused(config, fresh(SECRET), Ipv4Addr::LOCALHOST).await;
    assert!(output.starts_with("[Quota] "), "{output}");
    assert!(output.contains("486"), "{output}");
}

#[tokio::test]
async fn coturns_client_cannot_reach_a_denied_peer() {
    let config = TurnConfig { peers: PeerFilter::default(), ..config() };
    let output = refused(config, fresh(SECRET), Ipv4Addr::new(127, 0, 0, 2)).await;
    assert!(output.starts_with("[Forbidden] "), "{output}");
    assert!(output.contains("403"), "{output}");
}

fn binding() -> Vec<u8> {
    Builder::new(Class::Request, method::BINDING, *b"a transactio").fingerprint().finish()
}

fn assert_mapped(answer: &[u8], address: SocketAddr) {
    let answer = Message::parse(answer).expect("a STUN message");
    assert_eq!(answer.class, Class::Success);
    assert_eq!(answer.transaction, *b"a transactio");
    assert_eq!(answer.address(attr::XOR_MAPPED_ADDRESS), Some(address));
}

#[tokio::test]
async fn binding_is_answered_on_udp_without_credentials() {
    let server = TurnServer::start(config()).await.unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"not STUN", server.udp_address().unwrap()).await.unwrap();
    socket.send_to(&binding(), server.udp_address().unwrap()).await.unwrap();
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!(Some(from), server.udp_address());
    assert_mapped(&buffer[..length], socket.local_addr().unwrap());
}

#[tokio::test]
async fn binding_is_answered_on_tcp_regardless_of_segmentation() {
    let server = TurnServer::start(config()).await.unwrap();
    let address = server.tcp_address().unwrap();
    assert_eq!(Some(address), server.udp_address(), "one port for both");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let two = [binding(), binding()].concat();
    for part in two.chunks(7) {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 0..2 {
        let mut buffer = [0; 40];
        stream.read_exact(&mut buffer).await.unwrap();
        assert_mapped(&buffer, stream.local_addr().unwrap());
    }
    stream.write_all(b"\x80 not a frame").await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the server closes the connection");
}

#[tokio::test]
async fn the_allocation_of_a_tcp_client_ends_with_its_connection() {
    let server = TurnServer::start(config()).await.unwrap();
    let mut stream = TcpStream::connect(server.tcp_address().unwrap()).await.unwrap();
    let nonce = stream_nonce(&mut stream).await;
    stream.write_all(&allocate(&nonce)).await.unwrap();
    let answer = read_message(&mut stream).await;
    assert_eq!(Message::parse(&answer).unwrap().class, Class::Success);
    assert_eq!(server.stats().allocations_active, 1);
    drop(stream);
    while server.stats().allocations_active != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_releases_every_socket() {
    let server = TurnServer::start(config()).await.unwrap();
    let address = server.udp_address().unwrap();
    let mut stream = TcpStream::connect(server.tcp_address().unwrap()).await.unwrap();
    let nonce = stream_nonce(&mut stream).await;
    stream.write_all(&allocate(&nonce)).await.unwrap();
    let answer = read_message(&mut stream).await;
    let relayed = Message::parse(&answer).unwrap().address(attr::XOR_RELAYED_ADDRESS).unwrap();
    assert!(UdpSocket::bind(relayed).await.is_err(), "in use during the allocation");
    let reader = server.stats_reader();
    server.close().await;
    UdpSocket::bind(relayed).await.expect("the relay socket is closed");
    UdpSocket::bind(address).await.expect("the UDP listener is closed");
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "the connection is closed");
    assert_eq!((reader().allocations_active, reader().tcp_connections), (0, 0));
}

#[tokio::test]
async fn start_errors_name_the_cause() {
    let held = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let taken = TurnConfig { udp: held.local_addr().ok(), tcp: None, ..config() };
    let error = TurnServer::start(taken).await.err().unwrap();
    assert!(error.to_string().contains(&held.local_addr().unwrap().to_string()), "{error}");
    assert!(error.remedy().contains("other server"), "{}", error.remedy());
    let nowhere = TurnConfig { udp: None, tcp: None, ..config() };
    assert!(matches!(TurnServer::start(nowhere).await, Err(TurnError::NoListener)));
    let foreign: IpAddr = "192.0.2.1".parse().unwrap();
    let foreign = TurnConfig { relay_address: foreign, ..config() };
    assert!(matches!(TurnServer::start(foreign).await, Err(TurnError::Relay { .. })));
}

/// The nonce from the rejection of a first request.
async fn stream_nonce(stream: &mut TcpStream) -> Vec<u8> {
    let request = Builder::new(Class::Request, method::ALLOCATE, [1; 12]).finish();
    stream.write_all(&request).await.unwrap();
    let answer = read_message(stream).await;
    Message::parse(&answer).unwrap().get(attr::NONCE).unwrap().to_vec()
}

fn allocate(nonce: &[u8]) -> Vec<u8> {
    let (username, password) = fresh(SECRET);
    Builder::new(Class::Request, method::ALLOCATE, [2; 12])
        .attribute(attr::REQUESTED_TRANSPORT, &[17, 0, 0, 0])
        .attribute(attr::USERNAME, username.as_bytes())
        .attribute(attr::REALM, b"orion")
        .attribute(attr::NONCE, nonce)
        .integrity(&orion_peer::turn::long_term_key(&username, "orion", &password))
        .finish()
}

async fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut message = vec![0; 20];
    stream.read_exact(&mut message).await.unwrap();
    let length = u16::from_be_bytes([message[2], message[3]]);
    message.resize(20 + usize::from(length), 0);
    stream.read_exact(&mut message[20..]).await.unwrap();
    message
}
