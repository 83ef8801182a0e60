//! The overhead of `bench` in a round trip: its ping/pong compared with a bare data channel of the `webrtc` crate,
//! alternating in one run, at the same pace and message size, over loopback in one process.
//!
//! `cargo bench --bench ping [-- ROUNDS PINGS]`. Prints medians and their ratio; asserts nothing.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use orion_peer::{
    auth::{
        login::{DEV_TOKEN, DEV_USER},
        unix_now,
    },
    bench::{self, BenchConfig, Slot, plan::BenchPlan},
    media::source::SourceSpec,
    pairs::Pair,
    peer::{PeerConfig, PeerRole},
    server::{Server, ServerConfig},
    session::{CallConfig, capture::CaptureConfig},
    signaling::{client::ClientConfig, client::token_client::TokenClient},
    stats::Histogram,
};
use rtc::{
    data_channel::RTCDataChannelInit, ice::mdns::MulticastDnsMode,
    peer_connection::configuration::setting_engine::SettingEngineBuilder,
};
use tokio::sync::mpsc;
use webrtc::{
    data_channel::{DataChannel, DataChannelEvent},
    peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
        RTCPeerConnectionIceEvent,
    },
};

const PACE: Duration = Duration::from_millis(5);
const BYTES: usize = 64;

enum Event {
    Candidate(webrtc::peer_connection::RTCIceCandidateInit),
    Channel(Arc<dyn DataChannel>),
}

struct Handler(mpsc::UnboundedSender<Event>);

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        if let Ok(init) = event.candidate.to_json() {
            let _ = self.0.send(Event::Candidate(init));
        }
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        let _ = self.0.send(Event::Channel(channel));
    }
}

async fn bare_peer() -> (Arc<dyn PeerConnection>, mpsc::UnboundedReceiver<Event>) {
    let (events, events_out) = mpsc::unbounded_channel();
    let settings =
        SettingEngineBuilder::new().with_multicast_dns_mode(MulticastDnsMode::Disabled).build();
    let building = PeerConnectionBuilder::new()
        .with_setting_engine(settings)
        .with_handler(Arc::new(Handler(events)))
        .with_udp_addrs(vec!["127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address")])
        .build();
    (Arc::new(Box::pin(building).await.expect("peer connection")), events_out)
}

/// Round trips of a bare data channel, unordered with a lifetime of 100 ms, like the control channel.
async fn bare(pings: usize) -> Histogram {
    let (offerer, mut offerer_events) = bare_peer().await;
    let (answerer, mut answerer_events) = bare_peer().await;
    let init = RTCDataChannelInit {
        ordered: false,
        max_packet_life_time: Some(100),
        ..RTCDataChannelInit::default()
    };
    let channel = offerer.create_data_channel("bare", Some(init)).await.expect("channel");
    let offer = offerer.create_offer(None).await.expect("offer");
    offerer.set_local_description(offer.clone()).await.expect("offer set");
    answerer.set_remote_description(offer).await.expect("offer accepted");
    let answer = answerer.create_answer(None).await.expect("answer");
    answerer.set_local_description(answer.clone()).await.expect("answer set");
    offerer.set_remote_description(answer).await.expect("answer accepted");
    let signaling = {
        let (offerer, answerer) = (Arc::clone(&offerer), Arc::clone(&answerer));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(event) = offerer_events.recv() => if let Event::Candidate(init) = event {
                        let _ = answerer.add_ice_candidate(init).await;
                    },
                    Some(event) = answerer_events.recv() => match event {
                        Event::Candidate(init) => { let _ = offerer.add_ice_candidate(init).await; }
                        Event::Channel(channel) => { tokio::spawn(echo(channel)); }
                    },
                }
            }
        })
    };
    while !matches!(channel.poll().await, Some(DataChannelEvent::OnOpen)) {}
    let message = "x".repeat(BYTES);
    let mut rtt = Histogram::new();
    let mut pace = tokio::time::interval(PACE);
    for _ in 0..pings {
        pace.tick().await;
        let started = Instant::now();
        channel.send_text(&message).await.expect("sent");
        while !matches!(channel.poll().await, Some(DataChannelEvent::OnMessage(_))) {}
        rtt.record(started.elapsed().as_secs_f64() * 1e3);
    }
    signaling.abort();
    offerer.close().await.expect("closed");
    answerer.close().await.expect("closed");
    rtt
}

async fn echo(channel: Arc<dyn DataChannel>) {
    while let Some(event) = channel.poll().await {
        if let DataChannelEvent::OnMessage(message) = event {
            let text = std::str::from_utf8(&message.data).expect("text").to_owned();
            let _ = channel.send_text(&text).await;
        }
    }
}

/// Round trips as `bench` measures them: server, signaling, both peers.
async fn ours(pings: usize) -> orion_peer::stats::Spread {
    let config = ServerConfig::dev().await.expect("server");
    let pair = Pair::active("p", DEV_USER, "a", "b", unix_now());
    config.store.add(&pair).await.expect("pair");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let server = Server::start(config, listener).await.expect("server");
    let link = |device: &str, role| {
        let signaling = ClientConfig::new(
            server.signal_url(),
            Arc::new(
                TokenClient::new(
                    &server.token_url(),
                    DEV_TOKEN,
                    device.into(),
                    Some(pair.id.clone()),
                )
                .expect("token client"),
            ),
        );
        let peer = PeerConfig {
            addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            ..PeerConfig::new(role)
        };
        CallConfig::new(signaling, peer)
    };
    let config = BenchConfig {
        plan: BenchPlan {
            connections: 1,
            warmup: 0,
            rate: None,
            pings: pings as u64,
            ping_interval: PACE,
            ping_bytes: BYTES,
            ping_life_time: Some(Duration::from_millis(100)),
            keyframes: 0,
            interval: Duration::from_secs(1),
            duration: None,
        },
        slots: vec![Slot {
            measuring: link("a", PeerRole::Sender),
            local_peer: Some(link("b", PeerRole::Receiver)),
        }],
        capture: CaptureConfig {
            source: SourceSpec::Pattern { width: 64, height: 64 },
            size: None,
            max_bytes: 100_000,
        },
        timeout: Duration::from_secs(20),
        stats_interval: Duration::from_secs(2),
        one_way: false,
    };
    let measured = bench::run(config, std::future::pending(), &mut |_| {}).await;
    server.shutdown().await;
    assert_eq!(measured.connections.succeeded, 1, "{:?}", measured.connections.failures);
    measured.rtt.spread
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(5);
    let pings = numbers.get(1).copied().unwrap_or(600);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    let mut ratios = Vec::new();
    println!("round trips of {BYTES} bytes, one every {PACE:?}, {pings} per round; ms");
    for round in 1..=rounds {
        let bare = runtime.block_on(bare(pings)).spread();
        let ours = runtime.block_on(ours(pings));
        let (Some(a), Some(b)) = (bare.p50, ours.p50) else { panic!("no round trips") };
        println!(
            "{round}: bare p50 {a:.3} p99 {:.3}   bench p50 {b:.3} p99 {:.3}   p50 ratio {:.2}",
            bare.p99.unwrap_or_default(),
            ours.p99.unwrap_or_default(),
            b / a
        );
        ratios.push(b / a);
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio of the p50s: {:.2}", ratios[ratios.len() / 2]);
}
