//! TURN over TCP and TLS: connections without a login.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use orion_peer::turn::{TlsListener, TurnConfig, TurnLimits, TurnServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    client::{Client, Wire, binding, connect},
    config, server,
};
use crate::{certificates::Certificates, run::HANG};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Whether a Binding request on this connection is answered; if not, the server has closed it.
async fn answers(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 32];
    let asked = async {
        stream.write_all(&binding()).await?;
        stream.read_exact(&mut answer).await
    };
    timeout(HANG, asked).await.expect("the server neither answers nor closes").is_ok()
}

/// Sends `parts` one after the other until the server closes the connection; returns the elapsed time.
async fn held(mut stream: TcpStream, parts: impl IntoIterator<Item = Vec<u8>>) -> Duration {
    let started = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let end = async {
        let mut buffer = [0; 1024];
        while reader.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    };
    let say = async {
        for part in parts {
            // After the server has closed the connection, `end` detects it.
            let _ = writer.write_all(&part).await;
            sleep(Duration::from_millis(100)).await;
        }
        std::future::pending::<()>().await;
    };
    let both = async {
        tokio::select! {
            () = end => {}
            () = say => {}
        }
    };
    timeout(HANG, both).await.expect("the server keeps the connection open");
    started.elapsed()
}

#[tokio::test]
async fn connections_are_limited_per_address() {
    let limits = TurnLimits { tcp_connections_per_address: Some(4), ..TurnLimits::default() };
    let server = server(limits).await;
    let address = server.tcp_address().unwrap();
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(address, HERE).await;
        assert!(answers(&mut stream).await);
        open.push(stream);
    }
    assert!(!answers(&mut connect(address, HERE).await).await, "a fifth connection of one address");
    assert!(answers(&mut connect(address, THERE).await).await, "another address");
    assert_eq!(server.stats().tcp_refused, 1);
    open.pop();
    let freed = async {
        while !answers(&mut connect(address, HERE).await).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, freed).await.expect("a closed connection does not count");
}

/// Regression test: one address held all 1,024 connections, each with an occasional Binding request.
#[tokio::test]
async fn one_address_does_not_hold_all_connections() {
    let limits =
        TurnLimits { unauthenticated_within: Duration::from_secs(1), ..TurnLimits::default() };
    let server = server(limits).await;
    let address = server.tcp_address().unwrap();
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(connect(address, HERE).await);
    }
    let mut held_by_it = 0;
    for stream in &mut open {
        held_by_it += u64::from(answers(stream).await);
    }
    assert!(held_by_it <= 64, "{held_by_it}");
    assert!(answers(&mut connect(address, THERE).await).await);
}

fn hasty() -> TurnLimits {
    TurnLimits { unauthenticated_within: Duration::from_secs(1), ..TurnLimits::default() }
}

#[tokio::test]
async fn binding_requests_do_not_keep_a_connection() {
    let server = server(hasty()).await;
    let stream = connect(server.tcp_address().unwrap(), HERE).await;
    held(stream, std::iter::repeat_with(binding)).await;
    assert_eq!(server.stats().allocations_total, 0);
    assert!(server.stats().bindings >= 3, "Binding requests were answered until then");
}

#[tokio::test]
async fn half_a_header_byte_by_byte_does_not_keep_a_connection() {
    let server = server(hasty()).await;
    let stream = connect(server.tcp_address().unwrap(), HERE).await;
    // A message of 65,532 bytes that is never complete.
    let start = vec![0, 3, 0xff, 0xfc, 0x21, 0x12, 0xa4, 0x42];
    held(stream, std::iter::once(start).chain(std::iter::repeat_with(|| vec![0]))).await;
}

async fn tls_server() -> (TurnServer, SocketAddr, Certificates) {
    let certificates = Certificates::for_names(&["127.0.0.1"]);
    let address = SocketAddr::new(HERE, 0);
    let tls = TlsListener { address, server: Arc::clone(&certificates.config) };
    let config = TurnConfig { tls: Some(tls), ..config(hasty()) };
    let server = TurnServer::start(config).await.unwrap();
    let address = server.tls_address().unwrap();
    (server, address, certificates)
}

#[tokio::test]
async fn half_a_tls_handshake_does_not_keep_a_connection() {
    let (_server, address, _) = tls_server().await;
    let stream = connect(address, HERE).await;
    // The header of a ClientHello of 512 bytes.
    let start = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    held(stream, std::iter::once(start).chain(std::iter::repeat_with(|| vec![0]))).await;
}

#[tokio::test]
async fn a_whole_tls_handshake_does_not_keep_a_connection_either() {
    let (_server, address, certificates) = tls_server().await;
    let stream =
        orion_peer::stun::stream::dial(address, "127.0.0.1", Some(&certificates.trust()), None)
            .await
            .unwrap();
    let (mut reader, _writer) = stream.into_split();
    let end = timeout(HANG, reader.next()).await.expect("the server keeps the connection open");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test]
async fn a_connection_stays_open_only_during_its_allocation() {
    let server = server(hasty()).await;
    let mut client = Client::tcp(server.tcp_address().unwrap()).await;
    client.allocate().await;
    sleep(Duration::from_secs(3)).await;
    client.hears_nothing().await;
    assert_eq!(client.refresh(0).await, Ok(0));
    let Wire::Tcp(stream) = client.wire else { panic!("over TCP") };
    held(stream, std::iter::repeat_with(binding)).await;
}
