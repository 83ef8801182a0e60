//! Two real peers behind simulated NATs, and the gateway's sockets without any WebRTC: what RFC 4787
//! asks for, seen from outside.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use orion_peer::{
    auth::turn_rest::TurnSecrets,
    lab::{Gateway, GatewayConfig, GatewaySocket, LabError},
    nat::{Link, Path, Profile, expected, profile, theory::Relays},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    proto::token::IceServer,
    turn::{TurnConfig, TurnServer},
    types::CandidateType,
};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet, time::timeout};

use crate::run::HANG;

fn profile(name: &str) -> Profile {
    name.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn gateway(name: &str) -> Arc<Gateway> {
    Gateway::new(GatewayConfig { profile: profile(name), ..GatewayConfig::default() }).unwrap()
}

/// A STUN and TURN server on 127.0.0.1, and what a peer is told of it.
async fn turn() -> (TurnServer, Vec<IceServer>) {
    let secrets = TurnSecrets { current: "lab".into(), previous: None };
    let until = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() + 600;
    let minted = secrets.mint("lab", until);
    let mut config = TurnConfig::loopback(0, Arc::new(secrets));
    config.limits.allocations_per_user = 1000;
    let server = TurnServer::start(config).await.unwrap();
    let address = server.udp_address().unwrap();
    let ice = vec![
        IceServer { urls: vec![format!("stun:{address}")], username: None, credential: None },
        IceServer {
            urls: vec![format!("turn:{address}")],
            username: Some(minted.username),
            credential: Some(minted.password),
        },
    ];
    (server, ice)
}

/// Passes candidates on; says when the control channel is open.
fn pump(mut events: mpsc::Receiver<PeerEvent>, other: Arc<Peer>) -> mpsc::Receiver<()> {
    let (open, opened) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match event {
                PeerEvent::LocalCandidate(candidate) => other.add_candidate(candidate).await,
                PeerEvent::ControlOpen => drop(open.try_send(())),
                _ => {}
            }
        }
    });
    opened
}

/// Connects a peer behind each gateway. Gives how, judged from both ends.
async fn connect(a: Arc<Gateway>, b: Arc<Gateway>, ice: &[IceServer]) -> Path {
    let config = |role, gateway| PeerConfig {
        ice_servers: ice.to_vec(),
        gateway: Some(gateway),
        ..PeerConfig::new(role)
    };
    let (sender, sender_events) = Peer::new(config(PeerRole::Sender, a)).await.unwrap();
    let (receiver, receiver_events) = Peer::new(config(PeerRole::Receiver, b)).await.unwrap();
    let (sender, receiver) = (Arc::new(sender), Arc::new(receiver));
    let offer = sender.create_offer().await.unwrap();
    let mut sender_open = pump(sender_events, Arc::clone(&receiver));
    let answer = receiver.accept_offer(offer).await.unwrap();
    let mut receiver_open = pump(receiver_events, Arc::clone(&sender));
    sender.accept_answer(answer).await.unwrap();
    let both = async { tokio::join!(sender_open.recv(), receiver_open.recv()) };
    let path = match timeout(HANG, both).await {
        Err(_) => Path::None,
        Ok(_) => {
            let mut types = Vec::new();
            for peer in [&sender, &receiver] {
                let pair = peer.stats().await.pair.expect("a connected peer has a pair");
                types.extend([pair.local, pair.remote]);
            }
            if types.contains(&CandidateType::Relay) { Path::Relay } else { Path::Direct }
        }
    };
    sender.close().await;
    receiver.close().await;
    path
}

/// Each cell with gateways of its own; a few at a time, as they share two cores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_of_profiles_connects_as_the_theory_says() {
    const AT_ONCE: usize = 6;
    let (server, ice) = turn().await;
    let names = profile::MATRIX.into_iter().filter(|name| profile(name).passes_udp());
    let names: Vec<_> = names.collect();
    let mut cells: Vec<_> =
        names.iter().flat_map(|&a| names.iter().map(move |&b| (a, b))).collect();
    assert_eq!(cells.len(), 64);
    let mut running = JoinSet::new();
    let mut wrong = Vec::new();
    let mut done = 0;
    while done < 64 {
        while running.len() < AT_ONCE
            && let Some((a, b)) = cells.pop()
        {
            let ice = ice.clone();
            running.spawn(async move { (a, b, connect(gateway(a), gateway(b), &ice).await) });
        }
        let (a, b, measured) = running.join_next().await.unwrap().unwrap();
        done += 1;
        let theory = expected(&profile(a), &profile(b), Relays { udp: true, stream: false });
        if measured != theory {
            wrong.push(format!("{a} and {b}: {theory} expected, {measured} measured"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    server.close().await;
}
