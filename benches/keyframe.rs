//! The stages of a keyframe from the picture to the disk, over loopback in one process: server, sender
//! and receiver as in `demo`. Prints the duration of each stage and the memory allocated in it, as
//! Markdown tables.
//!
//! `cargo bench --bench keyframe [-- KEYFRAMES WIDTHxHEIGHT]`; asserts nothing.

// A global allocator is an unsafe trait; this one only counts and forwards.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use orion_peer::{
    auth::{
        login::{DEV_TOKEN, DEV_USER},
        unix_now,
    },
    media::{
        encoder::{EncoderConfig, KeyframeEncoder},
        h264::AccessUnit,
        sink::PictureFormat,
        source::{PatternSource, SourceSpec},
    },
    pairs::Pair,
    peer::{
        Peer, PeerConfig, PeerEvent, PeerRole,
        assembler::{Assembler, RtpPacket},
        packetizer::packetize,
    },
    server::{Server, ServerConfig},
    session::{
        CallConfig,
        capture::CaptureConfig,
        receiver::{self, ReceiverConfig, ReceiverEvent},
        sender::{self, SenderConfig, SenderEvent},
    },
    signaling::{client::ClientConfig, client::token_client::TokenClient},
    stats::{StageHistograms, stages::stage_words},
};
use tokio::sync::mpsc;

/// Time between keyframes.
const INTERVAL: Duration = Duration::from_millis(250);

/// Maximum keyframe size, in bytes.
const MAX_BYTES: usize = 100_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static ALLOCATED_BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is forwarded unchanged to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller upholds the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller upholds the contract of `realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    ALLOCATED_BYTES.fetch_add(bytes as u64, Relaxed);
}

/// Number of allocations so far, and their total size in bytes.
fn counted() -> (u64, u64) {
    (ALLOCATIONS.load(Relaxed), ALLOCATED_BYTES.load(Relaxed))
}

fn loopback(role: PeerRole) -> PeerConfig {
    PeerConfig { addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], ..PeerConfig::new(role) }
}

/// Sends and receives like the commands; returns the stages of both peers.
async fn run(keyframes: u64, (width, height): (u32, u32)) -> StageHistograms {
    let config = ServerConfig::dev().await.expect("server");
    let pair = Pair::active("p", DEV_USER, "a", "b", unix_now());
    config.store.add(&pair).await.expect("pair");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let server = Server::start(config, listener).await.expect("server");
    let link = |device: &str, role| {
        let url = server.token_url();
        let tokens = TokenClient::new(&url, DEV_TOKEN, device.into(), Some(pair.id.clone()));
        let tokens = Arc::new(tokens.expect("token client"));
        let signaling = ClientConfig::new(server.signal_url(), tokens);
        CallConfig::new(signaling, loopback(role))
    };
    let dir = tempfile::tempdir().expect("directory");
    let sending = SenderConfig {
        call: link("a", PeerRole::Sender),
        capture: CaptureConfig {
            source: SourceSpec::Pattern { width, height },
            size: None,
            max_bytes: MAX_BYTES,
        },
        live: true,
        interval: INTERVAL,
        count: Some(keyframes),
        duration: None,
        save: None,
        timeout: Some(Duration::from_secs(20)),
        once: false,
    };
    let receiving = ReceiverConfig {
        call: link("b", PeerRole::Receiver),
        out: dir.path().to_owned(),
        formats: vec![PictureFormat::H264],
        count: Some(keyframes),
        timeout: Some(Duration::from_secs(20)),
        once: false,
    };
    let (reports, mut stages) = mpsc::unbounded_channel();
    let sender = tokio::spawn({
        let reports = reports.clone();
        async move {
            let mut report = |event| {
                if let SenderEvent::Sent(sent) = event {
                    let _ = reports.send((sent.info.seq, sent.stages));
                }
            };
            let mut silence = mpsc::channel(1).1;
            sender::run(sending, std::future::pending(), &mut report, &mut silence).await
        }
    });
    let mut report = |event| {
        if let ReceiverEvent::Keyframe(stored) = event {
            let _ = reports.send((stored.written.record.seq, stored.stages));
        }
    };
    let mut silence = mpsc::channel(1).1;
    receiver::run(receiving, std::future::pending(), &mut report, &mut silence)
        .await
        .expect("keyframes received");
    sender.await.expect("no panic").expect("keyframes sent");
    server.shutdown().await;
    let mut times = StageHistograms::default();
    while let Ok((seq, stages)) = stages.try_recv() {
        // The first keyframes warm up the encoder and the connection.
        if seq > 2 {
            times.record(&stages);
        }
    }
    times
}

fn print_stages(times: &StageHistograms, size: (u32, u32)) {
    let spreads = times.spreads();
    println!("| stage at {}x{} | count | p50 ms | p95 ms | max ms |", size.0, size.1);
    println!("|---|--:|--:|--:|--:|");
    for (name, spread) in spreads.named() {
        let [p50, p95, max] =
            [spread.p50, spread.p95, spread.max].map(|time| time.unwrap_or(f64::NAN));
        let name = if name == "send" { "send (in network)" } else { stage_words(name) };
        println!("| {name} | {} | {p50:.2} | {p95:.2} | {max:.2} |", spread.count);
    }
    println!();
}

fn print_allocations(what: &str, (count, bytes): (u64, u64), keyframes: u64, packets: u64) {
    let each = count as f64 / keyframes as f64;
    let of_packet = count as f64 / packets as f64;
    println!(
        "| {what} | {each:.1} | {of_packet:.2} | {:.0} |",
        bytes as f64 / keyframes as f64 / 1e3
    );
}

fn since(before: (u64, u64)) -> (u64, u64) {
    let now = counted();
    (now.0 - before.0, now.1 - before.1)
}

/// Packetizer and assembler without a connection.
fn allocations_alone(unit: &Bytes, keyframes: u64) {
    let (mut cut, mut joined, mut packets) = ((0, 0), (0, 0), 0);
    let mut assembler = Assembler::new(Duration::from_millis(500));
    let mut sequence = 0u16;
    for keyframe in 0..keyframes {
        let before = counted();
        let payloads = packetize(unit);
        cut = (cut.0 + since(before).0, cut.1 + since(before).1);
        packets += payloads.len() as u64;
        let before = counted();
        let (last, arrived) = (payloads.len() - 1, Instant::now());
        for (index, payload) in payloads.into_iter().enumerate() {
            let marker = index == last;
            let timestamp = keyframe as u32 * 9_000;
            let packet =
                RtpPacket { sequence, timestamp, marker, payload, arrived, retransmitted: false };
            assembler.push(packet);
            sequence = sequence.wrapping_add(1);
        }
        joined = (joined.0 + since(before).0, joined.1 + since(before).1);
    }
    print_allocations("splitting it into packets", cut, keyframes, packets);
    print_allocations("joining the packets", joined, keyframes, packets);
}

/// A complete connection: both peers, including the crates they use.
async fn allocations_connected(unit: &AccessUnit, keyframes: u64) {
    let (sender, mut sent_events) = Peer::new(loopback(PeerRole::Sender)).await.expect("sender");
    let (receiver, mut events) = Peer::new(loopback(PeerRole::Receiver)).await.expect("receiver");
    let offer = sender.create_offer().await.expect("offer");
    let answer = receiver.accept_offer(offer).await.expect("answer");
    sender.accept_answer(answer).await.expect("answer accepted");
    let mut open = 0;
    while open < 2 {
        tokio::select! {
            Some(event) = sent_events.recv() => match event {
                PeerEvent::LocalCandidate(candidate) => receiver.add_candidate(candidate).await,
                PeerEvent::ControlOpen => open += 1,
                _ => {}
            },
            Some(event) = events.recv() => match event {
                PeerEvent::LocalCandidate(candidate) => sender.add_candidate(candidate).await,
                PeerEvent::ControlOpen => open += 1,
                _ => {}
            },
        }
    }
    let (mut all, mut idle, mut packets) = ((0, 0), (0, 0), 0);
    for number in 0..keyframes + 5 {
        let unit = AccessUnit { captured_at: SystemTime::now(), ..unit.clone() };
        let before = counted();
        let sent = sender.send_access_unit(&unit).await.expect("sent");
        while !matches!(
            events.recv().await.expect("the receiver stopped"),
            PeerEvent::AccessUnit(_)
        ) {}
        let in_transit = since(before);
        let before = counted();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // The first keyframes fill the buffers that are reused.
        if number >= 5 {
            all = (all.0 + in_transit.0, all.1 + in_transit.1);
            idle = (idle.0 + since(before).0, idle.1 + since(before).1);
            packets += u64::from(sent.packets);
        }
    }
    print_allocations("a complete connection", all, keyframes, packets);
    print_allocations("50 ms of the same connection idle", idle, keyframes, packets);
    sender.close().await;
    receiver.close().await;
}

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with("--"));
    let keyframes = words.next().and_then(|word| word.parse().ok()).unwrap_or(40);
    let size = words.next().and_then(|word| {
        let (width, height) = word.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    });
    let size = size.unwrap_or((1280, 720));
    print_stages(&run(keyframes, size).await, size);

    let frame = PatternSource::new(size.0, size.1).expect("size").render(1, SystemTime::now());
    let config = EncoderConfig { max_bytes: MAX_BYTES, ..EncoderConfig::default() };
    let mut encoder = KeyframeEncoder::new(config).expect("budget");
    let unit = encoder.encode(&frame).expect("encoded").access_unit;
    println!(
        "| allocations of a keyframe of {} bytes | per keyframe | per packet | KB per keyframe |",
        unit.data.len()
    );
    println!("|---|--:|--:|--:|");
    allocations_alone(&unit.data, keyframes);
    allocations_connected(&unit, keyframes).await;
}
