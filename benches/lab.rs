//! The delay that a simulated NAT adds to a packet, and the accuracy of a configured delay. Echoes over two
//! UDP sockets are measured alternately without and behind a gateway in one run.
//!
//! `cargo bench --bench lab [-- ROUNDS ECHOES]`. Prints medians; asserts nothing.

use std::{
    future::poll_fn,
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use orion_peer::{
    nat::LinkSettings,
    netsim::{Gateway, GatewayConfig},
    stats::{Histogram, Spread},
};
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Runtime, TokioRuntime, Transmit};

const BYTES: usize = 1200;
const PACE: Duration = Duration::from_micros(500);

type Socket = Arc<dyn AsyncUdpSocket>;

async fn send(socket: &Socket, contents: &[u8], destination: SocketAddr) {
    let transmit = Transmit { destination, ecn: None, contents, segment_size: None, src_ip: None };
    poll_fn(|cx| socket.poll_send(cx, &transmit)).await.expect("sent");
}

async fn receive(socket: &Socket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let mut meta = [RecvMeta::default()];
    poll_fn(|cx| socket.poll_recv(cx, &mut [IoSliceMut::new(buffer)], &mut meta))
        .await
        .expect("received");
    (meta[0].len, meta[0].addr)
}

fn bound() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a socket")
}

/// Echoes everything it receives.
fn echo() -> SocketAddr {
    let socket = bound();
    let address = socket.local_addr().expect("bound");
    let socket = TokioRuntime.wrap_udp_socket(socket).expect("wrapped");
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let (length, from) = receive(&socket, &mut buffer).await;
            send(&socket, &buffer[..length], from).await;
        }
    });
    address
}

/// Round trips in microseconds.
async fn round_trips(socket: &Socket, to: SocketAddr, count: usize, pace: Duration) -> Spread {
    let mut spread = Histogram::new();
    let mut buffer = vec![0; 65_536];
    for _ in 0..count {
        tokio::time::sleep(pace).await;
        let started = Instant::now();
        send(socket, &[1; BYTES], to).await;
        receive(socket, &mut buffer).await;
        spread.record(started.elapsed().as_secs_f64() * 1e6);
    }
    spread.spread()
}

fn behind(profile: &str, link: LinkSettings) -> Socket {
    let profile = profile.parse().expect("a profile");
    let config = GatewayConfig { profile, link, ..GatewayConfig::default() };
    let gateway = Gateway::new(config).expect("a gateway");
    // Like a peer, with a socket that it has bound itself.
    let socket = UdpSocket::bind((gateway.inside(), 0)).expect("a socket");
    gateway.wrap(socket).expect("behind the gateway")
}

async fn added(rounds: usize, echoes: usize) {
    println!(
        "zero delay: round trips of {BYTES} bytes, one every {PACE:?}, {echoes} per round; us"
    );
    println!("profile      bare p50     p99   behind p50     p99   added p50, each way");
    let to = echo();
    for profile in ["none", "firewall", "port", "sym", "port+sym"] {
        let mut differences = Vec::new();
        let mut last = None;
        for _ in 0..rounds {
            let bare = TokioRuntime.wrap_udp_socket(bound()).expect("wrapped");
            let bare = round_trips(&bare, to, echoes, PACE).await;
            let behind =
                round_trips(&behind(profile, LinkSettings::default()), to, echoes, PACE).await;
            let (Some(a), Some(b)) = (bare.p50, behind.p50) else { continue };
            differences.push((b - a) / 2.0);
            last = Some((a, bare.p99, b, behind.p99));
        }
        differences.sort_by(f64::total_cmp);
        let Some((a, a99, b, b99)) = last else { continue };
        println!(
            "{profile:10} {a:10.1} {:7.1} {b:12.1} {:7.1} {:12.1}",
            a99.unwrap_or_default(),
            b99.unwrap_or_default(),
            differences[differences.len() / 2]
        );
    }
}

async fn delayed(echoes: usize) {
    println!(
        "\nconfigured and measured delay, each way (half a round trip minus half a bare one); ms"
    );
    println!("configured      p50     p90     p99     max");
    let to = echo();
    for ms in [1, 5, 25, 80] {
        // The longer a thread has slept, the later it wakes, so the bare echoes sleep for the same time.
        let delay = Duration::from_millis(ms);
        let bare = TokioRuntime.wrap_udp_socket(bound()).expect("wrapped");
        let count = echoes.min(200);
        let bare = round_trips(&bare, to, count, delay).await.p50.unwrap_or_default();
        let link = LinkSettings { delay, ..LinkSettings::default() };
        let measured = round_trips(&behind("port", link), to, count, PACE).await;
        let one_way = |us: Option<f64>| (us.unwrap_or_default() - bare) / 2e3;
        println!(
            "{ms:10} {:8.3} {:7.3} {:7.3} {:7.3}",
            one_way(measured.p50),
            one_way(measured.p90),
            one_way(measured.p99),
            one_way(measured.max)
        );
    }
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let rounds = numbers.first().copied().unwrap_or(5);
    let echoes = numbers.get(1).copied().unwrap_or(1000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("runtime");
    runtime.block_on(async {
        added(rounds, echoes).await;
        delayed(echoes).await;
    });
}
