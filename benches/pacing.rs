//! Keyframes of 100 KB over slow and fast simulated links, with and without pacing: how long they take
//! relative to the minimum, how many packets a small queue drops, and how long concurrent pings take.
//!
//! `cargo bench --bench pacing [-- KEYFRAMES [MBIT...]]`. Prints a Markdown table; asserts nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use bytes::{BufMut, BytesMut};
use orion_peer::{
    media::h264::AccessUnit,
    nat::{LinkSettings, Queue},
    netsim::{Gateway, GatewayConfig},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    proto::control::{ControlMessage, Id},
    stats::Histogram,
    units::RateSetting,
};
use tokio::{sync::mpsc, time::timeout};

const BYTES: usize = 100_000;

/// Delay of the link in each direction.
const DELAY: Duration = Duration::from_millis(20);

/// Queue in bytes of small home routers in front of a slow uplink; faster links have a queue of 20 ms.
const QUEUE: u64 = 32_768;

/// Interval between pings. Each takes 270 bytes including its answer and acknowledgments: 4 % of 1
/// Mbit/s.
const PING_INTERVAL: Duration = Duration::from_millis(50);

/// From the start of a keyframe to the next one.
const INTERVAL: Duration = Duration::from_millis(2500);

/// A stand-in for an encoded keyframe: parameter sets and one slice of pseudo-random bytes.
fn access_unit() -> AccessUnit {
    let mut data = BytesMut::new();
    for (header, size) in [(0x67u8, 18), (0x68, 8), (0x65, BYTES - 26 - 12)] {
        data.put_slice(&[0, 0, 0, 1, header, 0x88]);
        data.extend((2..size).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8 | 1));
    }
    AccessUnit { data: data.freeze(), width: 1280, height: 720, captured_at: SystemTime::now() }
}

struct Pair {
    sender: Arc<Peer>,
    receiver: Peer,
    /// When access units were complete.
    completed: mpsc::UnboundedReceiver<Instant>,
    pings: Arc<Pings>,
}

/// Pings in flight, and the round trips of answered pings.
#[derive(Default)]
struct Pings {
    waiting: Mutex<HashMap<i64, Instant>>,
    done: Mutex<Vec<(Instant, Duration)>>,
}

impl Pings {
    fn answered(&self, number: i64, read: Instant) {
        let sent = self.waiting.lock().expect("no panic").remove(&number);
        if let Some(sent) = sent {
            self.done.lock().expect("no panic").push((sent, read - sent));
        }
    }

    /// Round trips in ms of the pings sent within one of these periods.
    fn within(&self, times: &[(Instant, Instant)]) -> Histogram {
        let mut histogram = Histogram::new();
        for (sent, rtt) in self.done.lock().expect("no panic").iter() {
            if times.iter().any(|(begin, end)| begin <= sent && sent <= end) {
                histogram.record(ms(*rtt));
            }
        }
        histogram
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

async fn connect(gateway: &Arc<Gateway>, pace: RateSetting) -> Pair {
    let config = |role| {
        let mut config = PeerConfig::new(role);
        config.addresses.retain(IpAddr::is_loopback);
        config
    };
    let phone = PeerConfig { gateway: Some(Arc::clone(gateway)), pace, ..config(PeerRole::Sender) };
    let (sender, mut sender_events) = Peer::new(phone).await.expect("sender");
    let (receiver, mut receiver_events) =
        Peer::new(config(PeerRole::Receiver)).await.expect("receiver");
    let offer = sender.create_offer().await.expect("offer");
    let answer = receiver.accept_offer(offer).await.expect("answer");
    sender.accept_answer(answer).await.expect("answer accepted");
    let (mut a_open, mut b_open) = (false, false);
    while !(a_open && b_open) {
        tokio::select! {
            Some(event) = sender_events.recv() => match event {
                PeerEvent::LocalCandidate(candidate) => receiver.add_candidate(candidate).await,
                PeerEvent::ControlOpen => a_open = true,
                _ => {}
            },
            Some(event) = receiver_events.recv() => match event {
                PeerEvent::LocalCandidate(candidate) => sender.add_candidate(candidate).await,
                PeerEvent::ControlOpen => b_open = true,
                _ => {}
            },
            () = tokio::time::sleep(Duration::from_secs(20)) => panic!("no connection in 20 s"),
        }
    }
    let (whole, completed) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = receiver_events.recv().await {
            if let PeerEvent::AccessUnit(got) = event {
                let _ = whole.send(got.unit.completed);
            }
        }
    });
    let pings = Arc::new(Pings::default());
    let answers = Arc::clone(&pings);
    tokio::spawn(async move {
        while let Some(event) = sender_events.recv().await {
            if let PeerEvent::Control(ControlMessage::Pong { id: Id::Number(id), .. }, _, read) =
                event
            {
                answers.answered(id, read);
            }
        }
    });
    Pair { sender: Arc::new(sender), receiver, completed, pings }
}

async fn ping_forever(peer: Arc<Peer>, pings: Arc<Pings>) {
    let mut ticks = tokio::time::interval(PING_INTERVAL);
    for number in 0.. {
        ticks.tick().await;
        let ts = serde_json::Number::from_f64(0.0).expect("finite");
        let ping = ControlMessage::Ping { id: Id::Number(number), ts, pad: None };
        pings.waiting.lock().expect("no panic").insert(number, Instant::now());
        let _ = peer.send_control(&ping).await;
    }
}

/// Sends a keyframe. Returns when it started and when it was complete.
async fn keyframe(pair: &mut Pair) -> Option<(Instant, Instant)> {
    let unit = access_unit();
    let started = Instant::now();
    pair.sender.send_access_unit(&unit).await.expect("sent");
    let whole = timeout(Duration::from_secs(8), pair.completed.recv()).await.ok()??;
    tokio::time::sleep_until((started + INTERVAL).into()).await;
    Some((started, whole))
}

fn pair_of_numbers(histogram: &Histogram) -> String {
    let spread = histogram.spread();
    match (spread.p50, spread.p95) {
        (Some(p50), Some(p95)) => format!("{p50:.0} / {p95:.0}"),
        _ => "-".to_owned(),
    }
}

async fn row(mbit: f64, pace: RateSetting, keyframes: usize) {
    let queue = Some(Queue::Bytes(QUEUE.max((mbit * 2500.0) as u64)));
    let rate = Some((mbit * 1e6) as u64);
    let link = LinkSettings { rate, delay: DELAY, queue, ..LinkSettings::default() };
    let config = GatewayConfig { link, ..GatewayConfig::default() };
    let gateway = Gateway::new(config).expect("a gateway");
    let mut pair = connect(&gateway, pace).await;
    let pinging = tokio::spawn(ping_forever(Arc::clone(&pair.sender), Arc::clone(&pair.pings)));
    let idle = Instant::now();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let until = Instant::now();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let idle = pair.pings.within(&[(idle, until)]);
    let before = gateway.stats().up.overflowed;
    let first = keyframe(&mut pair).await;
    let first_dropped = gateway.stats().up.overflowed - before;
    let before = gateway.stats().up.overflowed;
    let (mut times, mut lost) = (Vec::new(), 0);
    for _ in 0..keyframes {
        match keyframe(&mut pair).await {
            Some(time) => times.push(time),
            None => lost += 1,
        }
    }
    let dropped = gateway.stats().up.overflowed - before;
    pinging.abort();
    let mut took = Histogram::new();
    for (started, whole) in &times {
        took.record(ms(*whole - *started));
    }
    let least = BYTES as f64 * 8.0 / (mbit * 1e3) + ms(DELAY);
    let spread = took.spread();
    println!(
        "| {mbit} Mbit/s | {pace} | {least:.0} | {} ({first_dropped}) | {} | {:.2} | {dropped} | {lost} | {} | {} |",
        first.map_or("lost".to_owned(), |(started, whole)| format!("{:.0}", ms(whole - started))),
        pair_of_numbers(&took),
        spread.p50.unwrap_or_default() / least,
        pair_of_numbers(&idle),
        pair_of_numbers(&pair.pings.within(&times)),
    );
    pair.sender.close().await;
    pair.receiver.close().await;
}

fn main() {
    if let Ok(filter) = std::env::var("ORION_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let numbers: Vec<f64> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let keyframes = numbers.first().map_or(20, |number| *number as usize);
    let links = if numbers.len() > 1 { &numbers[1..] } else { &[1.0, 2.0, 5.0, 50.0] };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    println!(
        "Keyframes of {} KB, one every {} s, {keyframes} after the first; {} ms each way, a queue of \
         {QUEUE} bytes, or 20 ms; ms, p50 / p95.\n",
        BYTES / 1000,
        INTERVAL.as_secs_f64(),
        DELAY.as_millis()
    );
    println!(
        "| link | pace | minimum | first keyframe (packets dropped) | others | ratio to minimum | \
         dropped | lost | ping idle | ping busy |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    for &mbit in links {
        for pace in [RateSetting::Auto, RateSetting::Off] {
            runtime.block_on(row(mbit, pace, keyframes));
        }
    }
}
