//! Keyframes over a lossy path, with and without repair: how many arrive byte for byte, and how long each takes
//! from its first packet to its last. The first keyframe of a pair, which pacing uses to measure the path, is
//! counted separately.
//!
//! `cargo bench --bench loss [-- PAIRS KEYFRAMES]`: concurrent pairs of peers, each behind its own simulated
//! links and with its own seed, and keyframes per pair. Prints a Markdown table; asserts nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use bytes::{BufMut, Bytes, BytesMut};
use orion_peer::{
    media::h264::AccessUnit,
    nat::LinkSettings,
    netsim::{Gateway, GatewayConfig, random::Random},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    stats::Histogram,
};
use tokio::{sync::mpsc::Receiver, task::JoinSet, time::sleep};

const BYTES: usize = 100_000;
const DELAY: Duration = Duration::from_millis(50);
const INTERVAL: Duration = Duration::from_millis(600);
const OUTAGE: Duration = Duration::from_secs(1);

/// From the end of an outage to the next keyframe.
const AFTER_OUTAGE: Duration = Duration::from_secs(2);

/// Wait after the last keyframe with repair, for keyframes that are still incomplete.
const AFTER: Duration = Duration::from_secs(3);

#[derive(Clone, Copy)]
struct Condition {
    name: &'static str,
    loss: f64,
    loss_burst: u32,
    /// Each keyframe meets an outage, which starts between 950 ms before and 50 ms after its first packet.
    outage: bool,
}

const CONDITIONS: [Condition; 6] = [
    Condition { name: "no loss", loss: 0.0, loss_burst: 1, outage: false },
    Condition { name: "2 %", loss: 0.02, loss_burst: 1, outage: false },
    Condition { name: "5 %", loss: 0.05, loss_burst: 1, outage: false },
    Condition { name: "10 %", loss: 0.1, loss_burst: 1, outage: false },
    Condition { name: "5 % in bursts of 10", loss: 0.05, loss_burst: 10, outage: false },
    Condition { name: "an outage of 1 s", loss: 0.0, loss_burst: 1, outage: true },
];

/// Results of the keyframes of one or more pairs.
#[derive(Default)]
struct Outcome {
    sent: usize,
    intact: usize,
    /// Time from the first packet to the last in ms, of keyframes after the first of a pair.
    times: Histogram,
    /// The same for the first keyframe.
    first: Histogram,
    packets: u64,
    retransmitted: u64,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.intact += other.intact;
        self.times.add(&other.times);
        self.first.add(&other.first);
        self.packets += other.packets;
        self.retransmitted += other.retransmitted;
    }

    fn row(&self, condition: &Condition, repair: bool) {
        let ms = |value: Option<f64>| value.map_or("-".into(), |ms| format!("{ms:.0}"));
        let (spread, first) = (self.times.spread(), self.first.spread());
        println!(
            "| {} | {} | {}/{} | {:.1} % | {} | {} | {} | {}, {} | {:.1} % |",
            condition.name,
            if repair { "on" } else { "off" },
            self.intact,
            self.sent,
            self.intact as f64 / self.sent as f64 * 100.0,
            ms(spread.p50),
            ms(spread.p95),
            ms(spread.max),
            ms(first.p50),
            ms(first.max),
            self.retransmitted as f64 / self.packets as f64 * 100.0,
        );
    }
}

/// A stand-in for an encoded keyframe, different from all others in the run.
fn keyframe(random: &mut Random) -> AccessUnit {
    let mut data = BytesMut::new();
    for (header, size) in [(0x67u8, 18), (0x68, 8), (0x65, BYTES - 26 - 12)] {
        data.put_slice(&[0, 0, 0, 1, header, 0x88]);
        data.extend((2..size).map(|_| random.number() as u8 | 1));
    }
    AccessUnit { data: data.freeze(), width: 1280, height: 720, captured_at: SystemTime::now() }
}

async fn peer(role: PeerRole, gateway: &Arc<Gateway>, repair: bool) -> (Peer, Receiver<PeerEvent>) {
    let gateway = Some(Arc::clone(gateway));
    let config = PeerConfig { gateway, repair, ..PeerConfig::new(role) };
    Peer::new(config).await.expect("a peer")
}

/// A sender and a receiver whose control channels are open, and the receiver's subsequent events.
async fn connect(near: &Arc<Gateway>, repair: bool) -> (Peer, Peer, Receiver<PeerEvent>) {
    let far = Gateway::new(GatewayConfig::default()).expect("a gateway");
    let (sender, mut sender_events) = peer(PeerRole::Sender, near, repair).await;
    let (receiver, mut receiver_events) = peer(PeerRole::Receiver, &far, repair).await;
    let offer = sender.create_offer().await.expect("offer");
    let answer = receiver.accept_offer(offer).await.expect("answer");
    sender.accept_answer(answer).await.expect("answer accepted");
    let mut open = [false; 2];
    while open.contains(&false) {
        tokio::select! {
            Some(event) = sender_events.recv() => match event {
                PeerEvent::LocalCandidate(candidate) => receiver.add_candidate(candidate).await,
                PeerEvent::ControlOpen => open[0] = true,
                _ => {}
            },
            Some(event) = receiver_events.recv() => match event {
                PeerEvent::LocalCandidate(candidate) => sender.add_candidate(candidate).await,
                PeerEvent::ControlOpen => open[1] = true,
                _ => {}
            },
            () = sleep(Duration::from_secs(20)) => panic!("no connection in 20 s"),
        }
    }
    tokio::spawn(async move { while sender_events.recv().await.is_some() {} });
    (sender, receiver, receiver_events)
}

/// The sent keyframes by RTP timestamp, each with whether it was the first; and the times of the received ones.
type Seen = (HashMap<u32, (Bytes, bool)>, [Histogram; 2]);

/// Sends and receives the keyframes of one pair.
async fn run(condition: Condition, repair: bool, keyframes: usize, seed: u64) -> Outcome {
    let link = LinkSettings { delay: DELAY, ..LinkSettings::default() };
    let config = GatewayConfig { link, seed, ..GatewayConfig::default() };
    let gateway = Gateway::new(config).expect("a gateway");
    let (sender, receiver, mut events) = connect(&gateway, repair).await;
    let lossy = LinkSettings { loss: condition.loss, loss_burst: condition.loss_burst, ..link };
    gateway.set_link(lossy);

    let seen: Arc<Mutex<Seen>> = Arc::default();
    let collecting = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Some(event) = events.recv().await {
                let PeerEvent::AccessUnit(came) = event else { continue };
                let (expected, times) = &mut *seen.lock().expect("no panic");
                let Some((data, first)) = expected.remove(&came.unit.timestamp) else { continue };
                if data == came.unit.data {
                    let time = came.unit.completed.duration_since(came.unit.first_packet);
                    times[usize::from(first)].record(time.as_secs_f64() * 1e3);
                }
            }
        }
    });

    let mut random = Random::new(seed, "keyframes");
    let mut outcome = Outcome { sent: keyframes, ..Outcome::default() };
    for number in 0..keyframes {
        let unit = keyframe(&mut random);
        let timestamp = sender.next_rtp_timestamp(&unit).expect("a sender");
        seen.lock().expect("no panic").0.insert(timestamp, (unit.data.clone(), number == 0));
        // From 950 ms before the first packet to 50 ms after it.
        let offset = Duration::from_secs_f64(random.share());
        let send = async {
            if condition.outage {
                sleep(Duration::from_millis(950).saturating_sub(offset)).await;
            }
            sender.send_access_unit_at(&unit, timestamp).await.expect("sent")
        };
        let dark = async {
            if condition.outage {
                sleep(offset.saturating_sub(Duration::from_millis(950))).await;
                gateway.set_link(LinkSettings { loss: 1.0, ..link });
                sleep(OUTAGE).await;
                gateway.set_link(lossy);
            }
        };
        let (sent, ()) = tokio::join!(send, dark);
        outcome.packets += u64::from(sent.packets);
        sleep(if condition.outage { AFTER_OUTAGE } else { INTERVAL }).await;
    }
    if repair {
        sleep(AFTER).await;
    }
    outcome.retransmitted = retransmitted(&sender).await;
    sender.close().await;
    receiver.close().await;
    collecting.abort();
    let [times, first] = &seen.lock().expect("no panic").1;
    outcome.times.add(times);
    outcome.first.add(first);
    outcome.intact = (times.count() + first.count()) as usize;
    outcome
}

async fn retransmitted(sender: &Peer) -> u64 {
    let report = sender.stats().await.report;
    let stats = report.values().find(|entry| entry["type"] == "outbound-rtp");
    stats.and_then(|stats| stats["retransmittedPacketsSent"].as_u64()).unwrap_or_default()
}

async fn pairs(condition: Condition, repair: bool, count: usize, keyframes: usize) -> Outcome {
    let mut running = JoinSet::new();
    for pair in 0..count {
        let seed = 1 + pair as u64;
        running.spawn(async move {
            // Staggered, because the machine has few cores.
            sleep(INTERVAL.mul_f64(pair as f64 / count as f64)).await;
            run(condition, repair, keyframes, seed).await
        });
    }
    let mut sum = Outcome::default();
    while let Some(outcome) = running.join_next().await {
        sum.add(&outcome.expect("a pair"));
    }
    sum
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let count = numbers.first().copied().unwrap_or(20);
    let keyframes = numbers.get(1).copied().unwrap_or(10);
    println!(
        "{} keyframes of {BYTES} bytes each, round trip {} ms, {count} concurrent pairs\n",
        count * keyframes,
        2 * DELAY.as_millis()
    );
    println!(
        "| loss, each way | repair | intact | | p50 ms | p95 ms | max ms | first: p50, max ms | retransmitted |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        for condition in CONDITIONS {
            for repair in [false, true] {
                pairs(condition, repair, count, keyframes).await.row(&condition, repair);
            }
        }
    });
}
