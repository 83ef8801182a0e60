//! Data paths of a relay: each requires a permission, no data of other clients leaks, and no length field
//! overflows.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use orion_peer::{
    stun::{
        self,
        client::{ClientError, Login, Server},
        message::{Builder, Class, Message, attr, method},
        uri::Transport,
    },
    tls::Trust,
    turn::{DropReason, IpNet, PeerFilter, RejectReason, TurnConfig, TurnLimits, TurnServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    time::timeout,
};

use super::{
    client::{Client, Wire},
    config, ipv6_server, permitted, server,
};
use crate::run::HANG;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn received(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (length, from) = timeout(HANG, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
    buffer.truncate(length);
    (buffer, from)
}

/// IPv6 addresses that embed private IPv4 addresses are rejected by default and even when all of IPv6 is
/// allowed (ASVS 17.1.1).
#[tokio::test]
async fn special_addresses_and_their_embeddings_are_refused() {
    let here: SocketAddr = "[::1]:0".parse().unwrap();
    let all: IpNet = "::/0".parse().unwrap();
    for allow in [Vec::new(), vec![all]] {
        let config = TurnConfig {
            udp: Some(here),
            tcp: Some(here),
            relay_address: here.ip(),
            peers: PeerFilter { allow: allow.clone(), ..PeerFilter::default() },
            ..config(TurnLimits::default())
        };
        let server = TurnServer::start(config).await.unwrap();
        let mut client = Client::udp(server.udp_address().unwrap()).await;
        client.allocate().await;
        let embedded = [
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.1.2.3",
            "64:ff9b:1::10.1.2.3",
            "64:ff9b:1:a01:2:300::",
            "64:ff9b:1::169.254.169.254",
            "::10.1.2.3",
            "::127.0.0.1",
            "2002:a01:203::1",
            "2001:0:a01:203::",
            "2606:4700::5efe:10.1.2.3",
        ];
        let own = ["::", "::1", "fe80::1", "fc00::1", "ff02::1"];
        let special = own.iter().filter(|_| allow.is_empty());
        let mut count = 0;
        for peer in embedded.iter().chain(special) {
            let peer = SocketAddr::new(peer.parse().unwrap(), 80);
            assert_eq!(client.permit(peer).await, 403, "{peer}");
            assert_eq!(client.bind(0x4000, peer).await, 403, "{peer}");
            count += 2;
        }
        assert_eq!(server.stats().refused[&RejectReason::Forbidden], count);
    }
}

/// The same for IPv4 (ASVS 17.1.1).
#[tokio::test]
async fn special_addresses_of_ipv4_are_refused() {
    let config = TurnConfig { peers: PeerFilter::default(), ..config(TurnLimits::default()) };
    let server = TurnServer::start(config).await.unwrap();
    let mut client = Client::udp(server.udp_address().unwrap()).await;
    client.allocate().await;
    for peer in [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.0.1",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let peer = SocketAddr::new(peer.parse().unwrap(), 80);
        assert_eq!(client.permit(peer).await, 403, "{peer}");
        assert_eq!(client.bind(0x4000, peer).await, 403, "{peer}");
    }
}

async fn without_permission(mut client: Client, server: &TurnServer) {
    let relayed = client.allocate().await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    let elsewhere = other.local_addr().unwrap();
    client.indicate(to, b"by Send").await;
    client.channel_data(0x4000, b"by a channel that is not bound").await;
    peer.send_to(b"to the client", relayed).await.unwrap();
    client.hears_nothing().await;
    assert_eq!(client.bind(0x4000, to).await, 0);
    for (channel, at) in [(0x4000, elsewhere), (0x4001, to)] {
        assert_eq!(
            client.bind(channel, at).await,
            400,
            "a channel keeps its peer, a peer its channel"
        );
    }
    client.channel_data(0x4000, b"now").await;
    client.indicate(elsewhere, b"by Send to an address without a permission").await;
    other.send_to(b"from there", relayed).await.unwrap();
    let (data, from) = received(&peer).await;
    assert_eq!((&data[..], from), (&b"now"[..], relayed), "the first datagram that arrives");
    client.hears_nothing().await;
    let stats = server.stats();
    assert_eq!((stats.packets_to_peers, stats.packets_to_clients), (1, 0));
    assert_eq!(stats.dropped[&DropReason::NoPermission], 4);
}

#[tokio::test]
async fn every_path_requires_a_permission_over_udp() {
    let server = server(TurnLimits::default()).await;
    without_permission(Client::udp(server.udp_address().unwrap()).await, &server).await;
}

#[tokio::test]
async fn every_path_requires_a_permission_over_tcp() {
    let server = server(TurnLimits::default()).await;
    without_permission(Client::tcp(server.tcp_address().unwrap()).await, &server).await;
}

/// Short data after long data: previous buffer contents do not leak, not even as padding.
#[tokio::test]
async fn padding_contains_no_data_of_others() {
    let server = server(TurnLimits::default()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let secret = [0xAA; 1200];
    for client in [
        Client::udp(server.udp_address().unwrap()).await,
        Client::tcp(server.tcp_address().unwrap()).await,
    ] {
        let (mut client, relayed) = permitted(client, HERE).await;
        for data in [&secret[..], b"odd", b"", b"12345"] {
            client.indicate(to, data).await;
            assert_eq!(received(&peer).await.0, data);
            peer.send_to(data, relayed).await.unwrap();
            let raw = client.next().await;
            let message = Message::parse(&raw).unwrap();
            assert_eq!((message.class, message.method), (Class::Indication, method::DATA));
            let attribute = message.attributes().find(|a| a.kind == attr::DATA).unwrap();
            assert_eq!(attribute.value, data);
            let padding = &raw[attribute.offset + 4 + data.len()..];
            assert!(padding.len() < 4 && padding.iter().all(|byte| *byte == 0), "{padding:?}");
        }
        assert_eq!(client.bind(0x4000, to).await, 0);
        for data in [&secret[..], b"odd", b"", b"12345"] {
            client.channel_data(0x4000, data).await;
            assert_eq!(received(&peer).await.0, data);
            peer.send_to(data, relayed).await.unwrap();
            let raw = client.next().await;
            let padded = matches!(client.wire, Wire::Tcp(_));
            let end = if padded { (4 + data.len() + 3) & !3 } else { 4 + data.len() };
            assert_eq!((raw.len(), &raw[4..4 + data.len()]), (end, data));
            assert!(raw[4 + data.len()..].iter().all(|byte| *byte == 0), "{raw:?}");
        }
    }
}

/// Regression test: a Data indication of 65,507 bytes over IPv6 had the length 0, so the client parsed the
/// bytes of a peer as messages from the server.
#[tokio::test]
async fn a_datagram_too_large_for_a_message_is_dropped_and_counted() {
    let server = ipv6_server().await;
    let peer = UdpSocket::bind("[::1]:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let client = Client::tcp(server.tcp_address().unwrap()).await;
    let (mut client, relayed) = permitted(client, to.ip()).await;
    // 65,504 bytes is the maximum next to an IPv6 address: 24 + 4 + 65,504 = 65,532.
    for (length, fits) in [(65_504, true), (65_505, false), (65_507, false), (65_527, false)] {
        peer.send_to(&vec![0x01; length], relayed).await.unwrap();
        peer.send_to(b"after", relayed).await.unwrap();
        let raw = client.next().await;
        let message = Message::parse(&raw).expect("a whole message");
        assert_eq!((message.class, message.method), (Class::Indication, method::DATA));
        if fits {
            assert_eq!(message.get(attr::DATA).map(<[u8]>::len), Some(length));
            let raw = client.next().await;
            assert_eq!(Message::parse(&raw).unwrap().get(attr::DATA), Some(&b"after"[..]));
        } else {
            assert_eq!(message.get(attr::DATA), Some(&b"after"[..]), "{length}");
        }
    }
    assert_eq!(server.stats().dropped[&DropReason::TooLarge], 3);
    // ChannelData has room for the largest datagram.
    assert_eq!(client.bind(0x4000, to).await, 0);
    peer.send_to(&vec![0x01; 65_527], relayed).await.unwrap();
    let raw = client.next().await;
    assert_eq!((raw.len(), &raw[..4]), (4 + 65_528, &b"\x40\x00\xff\xf7"[..]));
    client.hears_nothing().await;
}

#[tokio::test]
async fn a_datagram_too_large_for_another_datagram_is_dropped_and_counted() {
    let server = server(TurnLimits::default()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let client = Client::udp(server.udp_address().unwrap()).await;
    let (mut client, relayed) = permitted(client, HERE).await;
    // With 36 bytes of framing and padding to four, 65,504 bytes fit into a datagram of at most 65,507.
    for (length, fits) in [(65_468, true), (65_469, false), (65_507, false)] {
        peer.send_to(&vec![0x01; length], relayed).await.unwrap();
        peer.send_to(b"after", relayed).await.unwrap();
        let raw = client.next().await;
        let message = Message::parse(&raw).expect("a whole message");
        let data = message.get(attr::DATA).unwrap();
        assert_eq!(data.len(), if fits { length } else { 5 });
        if fits {
            client.next().await;
        }
    }
    let stats = server.stats();
    assert_eq!(stats.dropped[&DropReason::TooLarge], 2);
    assert_eq!(stats.dropped[&DropReason::SlowClient], 0);
}

/// Attributes after MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 are ignored.
#[tokio::test]
async fn attributes_after_an_integrity_are_ignored() {
    let server = server(TurnLimits::default()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = peer.local_addr().unwrap();
    let mut client = Client::udp(server.udp_address().unwrap()).await;
    client.allocate().await;
    let after = client.signed(method::CREATE_PERMISSION, &[]).address(attr::XOR_PEER_ADDRESS, to);
    client.send(&after.finish()).await;
    let answer = client.next().await;
    assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(400), "it names no peer");
    let sha256: (u16, &[u8]) = (attr::MESSAGE_INTEGRITY_SHA256, &[7; 32]);
    let (username, nonce) = (client.username.clone(), client.nonce.clone());
    let login: [(u16, &[u8]); 3] =
        [(attr::USERNAME, username.as_bytes()), (attr::REALM, b"orion"), (attr::NONCE, &nonce)];
    let [name, realm, nonce] = login;
    // The server does not support SHA256 alone; a MESSAGE-INTEGRITY after it is ignored.
    let alone = client.unsigned(method::REFRESH, &[name, realm, nonce, sha256]).finish();
    let key = client.key();
    let behind = client.unsigned(method::REFRESH, &[name, realm, nonce, sha256]).integrity(&key);
    for request in [alone, behind.finish()] {
        client.send(&request).await;
        let answer = client.next().await;
        assert_eq!(Message::parse(&answer).unwrap().error_code(), Some(401));
    }
    // In an indication, attributes after it are ignored, too.
    let send = Builder::new(Class::Indication, method::SEND, [9; 12])
        .address(attr::XOR_PEER_ADDRESS, to)
        .attribute(sha256.0, sha256.1)
        .attribute(attr::DATA, b"after");
    assert_eq!(client.permit(to).await, 0);
    client.send(&send.finish()).await;
    client.hears_nothing().await;
    assert_eq!(server.stats().packets_to_peers, 0);
}

/// Another client cannot refresh or end an allocation, neither with the owner's nonce nor with its own.
#[tokio::test]
async fn an_allocation_is_bound_to_its_five_tuple() {
    let server = server(TurnLimits::default()).await;
    let address = server.udp_address().unwrap();
    let mut owner = Client::udp(address).await;
    owner.allocate().await;
    for mut other in [Client::udp(address).await, Client::tcp(server.tcp_address().unwrap()).await]
    {
        other.nonce = owner.nonce.clone();
        assert_eq!(other.refresh(0).await, Err(438), "a nonce is bound to its address");
        other.challenge().await;
        assert_eq!(other.refresh(0).await, Err(437));
        assert_eq!(other.permit("127.0.0.1:9".parse().unwrap()).await, 437);
    }
    let mut same_place = owner;
    same_place.login("mac", orion_peer::auth::unix_now() + 600);
    assert_eq!(same_place.refresh(0).await, Err(441), "another user on the same 5-tuple");
    assert_eq!(server.stats().allocations_active, 1);
}

/// When a server's realm and nonce are too long to be repeated in a request, our client reports an error
/// instead of sending a request with a wrong length.
#[tokio::test]
async fn a_server_cannot_make_a_length_of_our_client_overflow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 20];
        stream.read_exact(&mut head).await.unwrap();
        let answer = Builder::new(Class::Error, method::ALLOCATE, head[8..].try_into().unwrap())
            .error(401, "")
            .attribute(attr::REALM, &vec![b'r'; 60_000])
            .attribute(attr::NONCE, &[b'n'; 5400]);
        stream.write_all(&answer.whole().unwrap()).await.unwrap();
        let mut more = Vec::new();
        stream.read_to_end(&mut more).await.unwrap();
        more.len()
    });
    let login = Login { username: "u".repeat(100), password: "p".into() };
    let mut client = stun::client::Client::connect(&Server {
        address,
        host: "127.0.0.1".into(),
        transport: Transport::Tcp,
        bind: None,
        trust: Trust::web(),
        login: Some(login),
    })
    .await
    .unwrap();
    let error = client.allocate().await.unwrap_err();
    assert!(matches!(error, ClientError::TooLong), "{error}");
    drop(client);
    let rest = timeout(HANG, server).await.unwrap().unwrap();
    assert!(rest < 100, "only the rest of the first request, not a second one: {rest} bytes");
}
