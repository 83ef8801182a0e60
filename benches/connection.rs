//! Two peers in one process over loopback: setup time by stage, transfer of access units, pings.
//!
//! `cargo bench --bench connection [-- CONNECTIONS KEYFRAMES PINGS]`. Prints percentiles and
//! maximums; asserts nothing.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant, SystemTime},
};

use bytes::{BufMut, BytesMut};
use orion_peer::{
    media::h264::AccessUnit,
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    proto::control::{ControlMessage, Id},
    units::RateSetting,
};
use tokio::sync::mpsc::Receiver;

struct Pair {
    sender: Peer,
    sender_events: Receiver<PeerEvent>,
    receiver: Peer,
    receiver_events: Receiver<PeerEvent>,
    open: Duration,
}

fn config(role: PeerRole) -> PeerConfig {
    let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    // Without pacing, to measure the stack itself; `benches/pacing.rs` measures pacing.
    PeerConfig { addresses, pace: RateSetting::Off, ..PeerConfig::new(role) }
}

async fn connect() -> Pair {
    let started = Instant::now();
    let (sender, mut sender_events) = Peer::new(config(PeerRole::Sender)).await.expect("sender");
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
    Pair { sender, sender_events, receiver, receiver_events, open: started.elapsed() }
}

/// A stand-in for an encoded keyframe: parameter sets and one slice of pseudo-random bytes.
fn access_unit(bytes: usize) -> AccessUnit {
    let mut data = BytesMut::new();
    for (header, size) in [(0x67u8, 18), (0x68, 8), (0x65, bytes - 26 - 12)] {
        data.put_slice(&[0, 0, 0, 1, header, 0x88]);
        data.extend((2..size).map(|i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8 | 1));
    }
    AccessUnit { data: data.freeze(), width: 1280, height: 720, captured_at: SystemTime::now() }
}

fn row(name: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
    println!(
        "{name:<34} n {:>5}  p50 {:>8.3}  p90 {:>8.3}  p99 {:>8.3}  max {:>8.3}  ms",
        values.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

async fn measure_setup(connections: usize) {
    let mut rows: [Vec<f64>; 5] = Default::default();
    for _ in 0..connections {
        let pair = connect().await;
        let timings = pair.sender.timings();
        for (row, value) in rows.iter_mut().zip([
            timings.gathering,
            timings.ice,
            timings.dtls,
            timings.data_channel,
            Some(pair.open),
        ]) {
            row.extend(value.map(ms));
        }
        pair.sender.close().await;
        pair.receiver.close().await;
    }
    let names = [
        "setup: first candidate",
        "setup: ICE connected",
        "setup: DTLS done",
        "setup: sender's channel open",
        "setup: both channels open",
    ];
    for (name, row_values) in names.into_iter().zip(rows) {
        row(name, row_values);
    }
}

async fn measure_keyframes(pair: &mut Pair, keyframes: usize) {
    for bytes in [100_000, 500_000] {
        let unit = access_unit(bytes);
        let (mut total, mut sending, mut spread) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..keyframes {
            let unit = AccessUnit { captured_at: SystemTime::now(), ..unit.clone() };
            let started = Instant::now();
            let sent = pair.sender.send_access_unit(&unit).await.expect("sent");
            loop {
                let event =
                    tokio::time::timeout(Duration::from_secs(5), pair.receiver_events.recv());
                match event.await.expect("keyframe within 5 s").expect("the receiver stopped") {
                    PeerEvent::AccessUnit(got) => {
                        assert_eq!(got.unit.data, unit.data, "byte for byte");
                        total.push(ms(got.unit.completed.duration_since(started)));
                        spread.push(ms(got.unit.completed.duration_since(got.unit.first_packet)));
                        break;
                    }
                    PeerEvent::Broken(broken) => panic!("{broken:?}"),
                    _ => {}
                }
            }
            sending.push(ms(sent.send_time));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        row(&format!("{} KB: handed to the connection", bytes / 1000), sending);
        row(&format!("{} KB: first to last packet", bytes / 1000), spread);
        row(&format!("{} KB: send to complete", bytes / 1000), total);
    }
}

async fn measure_pings(pair: &mut Pair, pings: usize) {
    let mut rtt = Vec::new();
    for number in 0..pings {
        let id = Id::Number(number as i64);
        let ts = serde_json::Number::from_f64(0.0).expect("finite");
        let started = Instant::now();
        pair.sender
            .send_control(&ControlMessage::Ping { id: id.clone(), ts, pad: None })
            .await
            .expect("sent");
        let mut answered = None;
        while answered.is_none() {
            tokio::select! {
                Some(_) = pair.receiver_events.recv() => {}
                Some(event) = pair.sender_events.recv() => {
                    if let PeerEvent::Control(ControlMessage::Pong { .. }, _, read_at) = event {
                        answered = Some(read_at);
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(2)) => panic!("no pong in 2 s"),
            }
        }
        rtt.extend(answered.map(|read_at| ms(read_at - started)));
    }
    row("ping", rtt);
}

#[tokio::main]
async fn main() {
    if let Ok(filter) = std::env::var("ORION_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let mut next = |default: usize| numbers.next().unwrap_or(default);
    let (connections, keyframes, pings) = (next(50), next(100), next(2000));
    connect().await;
    measure_setup(connections).await;
    let mut pair = connect().await;
    measure_keyframes(&mut pair, keyframes).await;
    measure_pings(&mut pair, pings).await;
    pair.sender.close().await;
    pair.receiver.close().await;
}
