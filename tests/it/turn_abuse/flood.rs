//! Abuse of error responses for reflection, of bandwidth, and of a relay as a port scanner.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use orion_peer::{
    metering::Rate,
    stun::message::{Builder, Class, Message, attr, method},
    turn::{DropReason, TurnLimits},
};
use tokio::net::UdpSocket;

use super::{
    client::{Client, UDP, binding},
    permitted, server,
};
use crate::run::follow;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A burst of five, and no more during a test.
const FIVE: Rate = Rate::new(5, Duration::from_hours(1));

/// The number of error responses before the response to a Binding request.
async fn errors(client: &mut Client) -> usize {
    client.send(&binding()).await;
    let mut errors = 0;
    loop {
        let answer = client.next().await;
        let answer = Message::parse(&answer).unwrap();
        match answer.class {
            Class::Error => errors += 1,
            _ => return errors,
        }
    }
}

#[tokio::test]
async fn error_responses_to_an_address_without_a_login_are_limited() {
    let limits = TurnLimits { unauthenticated_errors: Some(FIVE), ..TurnLimits::default() };
    let server = server(limits).await;
    let address = server.udp_address().unwrap();
    let mut stranger = Client::udp_from(address, HERE).await;
    // Each request causes an error: 401, 400 for a method and for a name, 420, 438.
    let kinds = [
        stranger.unsigned(method::ALLOCATE, &[]).finish(),
        stranger.unsigned(0x0AB, &[]).finish(),
        stranger.unsigned(method::REFRESH, &[]).integrity(b"k").finish(),
        stranger.unsigned(method::BINDING, &[(0x7001, &[])]).finish(),
        stranger.signed(method::ALLOCATE, &[UDP]).finish(),
    ];
    for request in kinds.iter().cycle().take(50) {
        stranger.send(request).await;
    }
    assert_eq!(errors(&mut stranger).await, 5);
    let mut other_port = Client::udp_from(address, HERE).await;
    other_port.send(&kinds[0]).await;
    assert_eq!(errors(&mut other_port).await, 0, "another port of the same address");
    let mut other = Client::udp_from(address, THERE).await;
    other.send(&kinds[0]).await;
    assert_eq!(errors(&mut other).await, 1, "another address");
    assert_eq!(server.stats().errors_withheld, 46);
    // TCP proves that the address is the sender's own.
    let mut by_tcp = Client::tcp(server.tcp_address().unwrap()).await;
    by_tcp.allocate().await;
}

#[tokio::test]
async fn a_client_with_an_allocation_gets_its_errors_despite_a_flood_from_its_address() {
    let limits = TurnLimits { unauthenticated_errors: Some(FIVE), ..TurnLimits::default() };
    let server = server(limits).await;
    let address = server.udp_address().unwrap();
    let mut client = Client::udp(address).await;
    client.allocate().await;
    let mut stranger = Client::udp(address).await;
    for _ in 0..20 {
        let request = stranger.unsigned(method::ALLOCATE, &[]).finish();
        stranger.send(&request).await;
    }
    assert_eq!(errors(&mut stranger).await, 4);
    client.nonce = b"AAAAAAAAAAAA".to_vec();
    assert_eq!(client.refresh(600).await, Err(438));
}

/// Regression test: a request of 20 bytes was answered with 104.
#[tokio::test]
async fn answers_to_strangers_are_short() {
    let server = server(TurnLimits::default()).await;
    let mut stranger = Client::udp(server.udp_address().unwrap()).await;
    let bare = |method| Builder::new(Class::Request, method, [1; 12]).finish();
    for (method, longest) in
        [(method::ALLOCATE, 56), (method::REFRESH, 56), (0x0AB, 28), (method::BINDING, 32)]
    {
        stranger.send(&bare(method)).await;
        let answer = stranger.next().await;
        assert!(answer.len() <= longest, "{method:#x}: {} bytes", answer.len());
        assert!(Message::parse(&answer).is_some());
    }
    // The answer to a real client's request has at most twice its length.
    let request = stranger.unsigned(method::ALLOCATE, &[UDP]).finish();
    stranger.send(&request).await;
    let answer = stranger.next().await;
    assert!(answer.len() <= 2 * request.len(), "{} for {}", answer.len(), request.len());
    let answer = Message::parse(&answer).unwrap();
    assert!(answer.get(attr::REALM).is_some() && answer.get(attr::NONCE).is_some());
}

/// Regression test: 16,000 empty packets per second passed a limit of 100 kbit/s.
#[tokio::test]
async fn headers_count_against_the_bandwidth() {
    const RATE: u64 = 12_500;
    // IPv4, UDP and ChannelData without data.
    const EMPTY: u64 = 20 + 8 + 4;
    let limits = TurnLimits { bytes_per_second: Some(RATE), ..TurnLimits::default() };
    let server = server(limits).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let (mut client, relayed) =
        permitted(Client::udp(server.udp_address().unwrap()).await, HERE).await;
    assert_eq!(client.bind(0x4000, to).await, 0);
    let started = Instant::now();
    for _ in 0..160 {
        for _ in 0..100 {
            client.channel_data(0x4000, b"").await;
            peer.send_to(b"", relayed).await.unwrap();
        }
        // The answer to this is the first message that is not ChannelData.
        client.send(&binding()).await;
        while Message::parse(&client.next().await).is_none() {}
    }
    let most = |elapsed: Duration| (RATE as f64 * (1.0 + elapsed.as_secs_f64())) as u64 / EMPTY + 1;
    let stats = server.stats();
    let most = most(started.elapsed());
    assert!((100..=most).contains(&stats.packets_to_peers), "{} of {most}", stats.packets_to_peers);
    assert!(stats.packets_to_clients <= most, "{} of {most}", stats.packets_to_clients);
    assert!(stats.dropped[&DropReason::Bandwidth] > 1000, "{:?}", stats.dropped);
}

#[tokio::test]
async fn a_relay_cannot_be_used_as_a_port_scanner() {
    let three = Rate::new(3, Duration::from_hours(1));
    let server = server(TurnLimits { new_peers: Some(three), ..TurnLimits::default() }).await;
    let address = server.udp_address().unwrap();
    let mut peers = Vec::new();
    for _ in 0..5 {
        peers.push(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    }
    let at: Vec<SocketAddr> = peers.iter().map(|peer| peer.local_addr().unwrap()).collect();
    let (mut client, _) = permitted(Client::udp(address).await, HERE).await;
    for _ in 0..2 {
        for peer in &at {
            client.indicate(*peer, b"?").await;
        }
    }
    client.hears_nothing().await;
    let stats = server.stats();
    assert_eq!((stats.packets_to_peers, stats.dropped[&DropReason::NewPeers]), (6, 4));
    // Another allocation of the same user, a new one, or a channel does not circumvent the limit.
    let (mut second, _) = permitted(Client::udp(address).await, HERE).await;
    assert_eq!(second.bind(0x4000, at[0]).await, 0);
    second.channel_data(0x4000, b"?").await;
    second.hears_nothing().await;
    assert_eq!(client.refresh(0).await, Ok(0));
    let (mut third, _) = permitted(client, HERE).await;
    third.indicate(at[0], b"?").await;
    third.hears_nothing().await;
    assert_eq!(server.stats().packets_to_peers, 6);
    let mut other = Client::udp(address).await;
    other.login("mac", orion_peer::auth::unix_now() + 600);
    let (mut other, _) = permitted(other, HERE).await;
    other.indicate(at[0], b"?").await;
    other.hears_nothing().await;
    assert_eq!(server.stats().packets_to_peers, 7, "another user has its own limit");
}

/// `serve` counts the open files of TURN, too.
#[test]
fn the_estimate_of_open_files_includes_turn() {
    // 10 sockets, 10 connections, 1024 TURN connections, 700 allocations, 256 others.
    for (turn, needed) in [
        ("--turn-listen 127.0.0.1:0 --turn-max-allocations 700", "needed=2000"),
        ("--no-turn", "needed=276"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let line = format!(
            "ulimit -n 200; exec {} serve --listen 127.0.0.1:0 {turn} --max-sockets 10 \
             --max-connections 10",
            env!("CARGO_BIN_EXE_orion-peer")
        );
        let mut command = Command::new("bash");
        command.args(["-c", &line]).current_dir(dir.path()).env_clear().env("HOME", dir.path());
        command.stdin(Stdio::null());
        let server = follow(line, command);
        let said = server.says("open file limit");
        assert!(said.contains(needed), "{said}");
        server.kill();
    }
}
