//! Remote descriptions and candidates against a real peer connection on loopback.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::peer::{ConnectionState, PeerConfig, PeerEvent, PeerRole};

/// Candidates of the attack in the issue.
const ADDRESSES: usize = 600;

/// Long enough for every pair to be checked many times: the crate does so each 25 ms.
const WATCHED: Duration = Duration::from_millis(800);

fn config(role: PeerRole) -> PeerConfig {
    PeerConfig { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..PeerConfig::new(role) }
}

fn victims() -> Vec<(UdpSocket, u16)> {
    let victim = |_| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let port = socket.local_addr().unwrap().port();
        (socket, port)
    };
    (0..ADDRESSES).map(victim).collect()
}

/// How many of them got a packet.
fn reached(victims: &[(UdpSocket, u16)]) -> usize {
    let got = |(socket, _): &&(UdpSocket, u16)| socket.recv(&mut [0; 2048]).is_ok();
    victims.iter().filter(got).count()
}

fn offer(number: u32, candidates: &str) -> String {
    let fingerprint = format!("{:02X}{}", number % 256, ":AB".repeat(31));
    format!(
        "v=0\r\no=- {number} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 102\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:uf{number:02}\r\n\
         a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 {fingerprint}\r\n\
         a=setup:actpass\r\na=mid:0\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:102 H264/90000\r\n\
         a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
         {candidates}"
    )
}

/// The ways of the issue past a filter that reads lines, and the straight one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_makes_no_flood_however_its_candidates_are_written() {
    for (number, begin) in (1..).zip(["a=", "\ra=", "a= "]) {
        let victims = victims();
        let mut lines = String::new();
        for (_, port) in &victims {
            write!(lines, "{begin}candidate:1 1 udp 2122260223 127.0.0.1 {port} typ host\r\n")
                .unwrap();
        }
        let (peer, _events) = Peer::new(config(PeerRole::Receiver)).await.unwrap();
        peer.accept_offer(offer(number, &lines)).await.unwrap();
        tokio::time::sleep(WATCHED).await;
        let reached = reached(&victims);
        assert!((1..=64).contains(&reached), "{begin:?}: {reached} addresses were sent to");
        peer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickled_candidates_make_no_flood_either() {
    let victims = victims();
    let (peer, _events) = Peer::new(config(PeerRole::Receiver)).await.unwrap();
    peer.accept_offer(offer(9, "")).await.unwrap();
    for (index, (_, port)) in victims.iter().enumerate() {
        let colon = ["candidate:", "candidate: ", "", "candidate:\r\n"][index % 4];
        let candidate = format!("{colon}1 1 udp\n2122260223 127.0.0.1\t{port} typ host");
        let (sdp_mid, sdp_mline_index) = (Some("0".into()), Some(0));
        let init =
            IceCandidateInit { candidate, sdp_mid, sdp_mline_index, username_fragment: None };
        peer.add_candidate(Some(init)).await;
    }
    tokio::time::sleep(WATCHED).await;
    let reached = reached(&victims);
    assert!((1..=64).contains(&reached), "{reached} addresses were sent to");
    peer.close().await;
}

/// Hands candidates on, and says when the peer is connected.
async fn connects(mut events: mpsc::Receiver<PeerEvent>, other: Arc<Peer>) {
    while let Some(event) = events.recv().await {
        match event {
            PeerEvent::LocalCandidate(candidate) => other.add_candidate(candidate).await,
            PeerEvent::State(ConnectionState::Connected) => return,
            _ => {}
        }
    }
    panic!("the peer has stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fingerprints_in_any_letters_are_taken() {
    let rewritten = |sdp: String, hash: &str| -> String {
        let line = |line: &str| match line.strip_prefix("a=fingerprint:sha-256 ") {
            Some(digits) => format!("a=fingerprint:{hash} {}\r\n", digits.trim().to_lowercase()),
            None => line.to_owned(),
        };
        sdp.split_inclusive('\n').map(line).collect()
    };
    for hash in ["sha-256", "SHA-256"] {
        let (sender, sender_events) = Peer::new(config(PeerRole::Sender)).await.unwrap();
        let (receiver, receiver_events) = Peer::new(config(PeerRole::Receiver)).await.unwrap();
        let (sender, receiver) = (Arc::new(sender), Arc::new(receiver));
        let offer = rewritten(sender.create_offer().await.unwrap(), hash);
        assert!(offer.contains(&format!("a=fingerprint:{hash} ")));
        let answer = receiver.accept_offer(offer).await.unwrap();
        sender.accept_answer(rewritten(answer, hash)).await.unwrap();
        let both = async {
            tokio::join!(
                connects(sender_events, Arc::clone(&receiver)),
                connects(receiver_events, Arc::clone(&sender)),
            )
        };
        timeout(Duration::from_mins(1), both).await.expect(hash);
        sender.close().await;
        receiver.close().await;
    }
}
