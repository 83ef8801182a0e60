//! Results of gathering from STUN and TURN servers: the embedded server, a silent one, and one whose name cannot
//! be resolved.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use orion_peer::{
    auth::turn_rest::TurnSecrets,
    peer::{
        ConnectionState, GatherOutcome, GatherResult, IcePolicy, Peer, PeerConfig, PeerEvent,
        PeerRole,
    },
    proto::token::IceServer,
    turn::{TurnConfig, TurnLimits, TurnServer},
    types::ConnectionType,
};
use tokio::{net::UdpSocket, sync::mpsc, time::timeout};

use crate::run::HANG;

const SECRET: &str = "north";

async fn turn_server(limits: TurnLimits) -> TurnServer {
    let credentials = TurnSecrets { current: SECRET.into(), previous: None };
    let config = TurnConfig { limits, ..TurnConfig::loopback(0, Arc::new(credentials)) };
    TurnServer::start(config).await.unwrap()
}

/// These URLs with credentials that are valid for ten minutes, created with `secret`.
fn login(secret: &str, urls: &[String]) -> IceServer {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let secrets = TurnSecrets { current: secret.into(), previous: None };
    let made = secrets.mint("phone", now + 600);
    IceServer {
        urls: urls.to_vec(),
        username: Some(made.username),
        credential: Some(made.password),
    }
}

/// A peer that gathers.
struct Gathering {
    peer: Peer,
    events: mpsc::Receiver<PeerEvent>,
}

impl Gathering {
    async fn start(ice_servers: Vec<IceServer>) -> Self {
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let config = PeerConfig { addresses, ice_servers, ..PeerConfig::new(PeerRole::Sender) };
        let (peer, events) = Peer::new(config).await.unwrap();
        peer.create_offer().await.unwrap();
        Self { peer, events }
    }

    /// The next failure of a server: its URL, error code and text.
    async fn failure(&mut self) -> (String, u16, String) {
        let wait = async {
            loop {
                let event = self.events.recv().await.expect("the peer has stopped");
                if let PeerEvent::CandidateError { url, code, text } = event {
                    return (url, code, text);
                }
            }
        };
        timeout(HANG, wait).await.expect("no server failed")
    }

    /// Waits until the results satisfy a condition.
    async fn results(&self, wanted: impl Fn(&[GatherResult]) -> bool) -> Vec<GatherResult> {
        let wait = async {
            loop {
                let results = self.peer.gathering();
                if wanted(&results) {
                    return results;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(HANG, wait).await.unwrap_or_else(|_| panic!("{:?}", self.peer.gathering()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_port_yields_reflexive_and_relayed_addresses() {
    let server = turn_server(TurnLimits::default()).await;
    let port = server.udp_address().unwrap().port();
    let urls = [
        format!("stun:127.0.0.1:{port}"),
        format!("turn:127.0.0.1:{port}?transport=udp"),
        format!("turn:127.0.0.1:{port}?transport=tcp"),
    ];
    let gathering = Gathering::start(vec![login(SECRET, &urls)]).await;
    let results =
        gathering.results(|results| results.iter().all(|result| result.took.is_some())).await;
    assert_eq!(
        results.iter().map(|result| &result.url).collect::<Vec<_>>(),
        [&urls[0], &urls[1], &urls[2]]
    );
    assert!(
        matches!(results[0].outcome, GatherOutcome::Reflexive(mapped) if mapped.ip().is_loopback()),
        "{results:?}"
    );
    for result in &results[1..] {
        let GatherOutcome::Allocated { relayed, lifetime } = result.outcome else {
            panic!("{results:?}")
        };
        assert!(relayed.ip().is_loopback() && relayed.port() >= 49152, "{relayed}");
        assert_eq!(lifetime, Duration::from_mins(10));
    }
    assert!(results.iter().all(|result| result.failure().is_none() && result.code().is_none()));
    gathering.peer.close().await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_is_reported_with_a_remedy() {
    let server = turn_server(TurnLimits::default()).await;
    let url = format!("turn:{}", server.udp_address().unwrap());
    let mut gathering = Gathering::start(vec![login("south", std::slice::from_ref(&url))]).await;
    let (failed, code, text) = gathering.failure().await;
    assert_eq!((failed, code), (url, 401));
    assert!(!text.is_empty());
    let result = &gathering.peer.gathering()[0];
    assert!(matches!(result.outcome, GatherOutcome::Refused { code: 401, .. }), "{result:?}");
    let remedy = result.remedy(SystemTime::now(), Some(-420.0));
    assert!(remedy.contains("secret") && remedy.contains("7 min behind"), "{remedy}");
    gathering.peer.close().await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_quota_is_reported() {
    let server = turn_server(TurnLimits { allocations_per_user: 0, ..TurnLimits::default() }).await;
    let url = format!("turn:{}", server.udp_address().unwrap());
    let mut gathering = Gathering::start(vec![login(SECRET, &[url])]).await;
    assert_eq!(gathering.failure().await.1, 486);
    assert_eq!(gathering.peer.gathering()[0].code().as_deref(), Some("turn-486"));
    gathering.peer.close().await;
    server.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_and_an_unknown_name_are_distinguished() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("turn:{}", socket.local_addr().unwrap());
    let nowhere = "stun:nothing.invalid:3478".to_owned();
    let mut gathering =
        Gathering::start(vec![login(SECRET, &[silent.clone(), nowhere.clone()])]).await;
    let mut failures = vec![gathering.failure().await, gathering.failure().await];
    failures.sort();
    let [(first, 701, unresolved), (second, 701, unanswered)] = &failures[..] else {
        panic!("{failures:?}")
    };
    assert_eq!((first, second), (&nowhere, &silent));
    assert!(unresolved.contains("cannot be resolved"), "{unresolved}");
    assert!(unanswered.contains("did not answer"), "{unanswered}");
    let results = gathering.peer.gathering();
    let asked = |outcome: &GatherOutcome| matches!(outcome, GatherOutcome::Silent { requests } if *requests > 1);
    assert!(asked(&results[0].outcome), "{results:?}");
    assert!(matches!(results[1].outcome, GatherOutcome::Unresolved(_)), "{results:?}");
    gathering.peer.close().await;
}

/// The peer's relay is a peer-reflexive candidate if its check arrives before the candidate is signaled; once it
/// is signaled, it is recognized as a relay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relayed_candidate_that_is_signaled_late_is_recognized() {
    let server = turn_server(TurnLimits::default()).await;
    let url = format!("turn:{}", server.udp_address().unwrap());
    let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let phone = PeerConfig {
        addresses: addresses.clone(),
        ice_servers: vec![login(SECRET, &[url])],
        ice_policy: IcePolicy::Relay,
        ..PeerConfig::new(PeerRole::Sender)
    };
    let mac = PeerConfig { addresses, ..PeerConfig::new(PeerRole::Receiver) };
    let (phone, mut of_phone) = Peer::new(phone).await.unwrap();
    let (mac, mut of_mac) = Peer::new(mac).await.unwrap();
    let answer = mac.accept_offer(phone.create_offer().await.unwrap()).await.unwrap();
    phone.accept_answer(answer).await.unwrap();
    let mut withheld = Vec::new();
    let connecting = async {
        loop {
            tokio::select! {
                event = of_phone.recv() => {
                    let event = event.expect("the phone has stopped");
                    if let PeerEvent::LocalCandidate(candidate) = event {
                        withheld.push(candidate);
                    }
                }
                event = of_mac.recv() => match event.expect("the mac has stopped") {
                    PeerEvent::LocalCandidate(candidate) => phone.add_candidate(candidate).await,
                    PeerEvent::State(ConnectionState::Connected) => return,
                    _ => {}
                },
            }
        }
    };
    timeout(HANG, connecting).await.expect("no connection through the relay");
    assert!(withheld.iter().flatten().any(|candidate| candidate.candidate.contains("typ relay")));
    for candidate in withheld {
        mac.add_candidate(candidate).await;
    }
    let known = async {
        loop {
            let pair = mac.stats().await.pair;
            if pair.is_some_and(|pair| matches!(pair.connection, ConnectionType::Relay(_))) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(HANG, known).await.unwrap_or_else(|_| panic!("the relay is not recognized"));
    phone.close().await;
    mac.close().await;
    server.close().await;
}
