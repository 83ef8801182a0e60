//! Hostile or malformed descriptions and candidates, through real signaling: a peer rejects them with an error, or
//! limits their cost, and connects to a well-behaved peer afterward.

use std::{fmt::Write as _, sync::Arc, time::SystemTime};

use futures_util::{SinkExt, StreamExt};
use orion_peer::{
    media::{
        encoder::{EncoderConfig, KeyframeEncoder},
        frame::Frame,
    },
    peer::{PeerConfig, PeerEvent, PeerRole},
    session::{Call, CallConfig, CallEvent},
    signaling::{client::ClientConfig, client::token_client::TokenClient},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::run::{HANG, Running, serve, start};

/// Maximum memory in bytes that one hostile description, or a flood of candidates, may cost permanently.
const MAX_GROWN: u64 = 32_000_000;

/// A server without rate limits that relays everything, as a third-party server may do.
struct Rig {
    dir: tempfile::TempDir,
    _server: Running,
    address: String,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lax = [
            "--socket-rate",
            "100000:100000/s",
            "--ip-rate",
            "off",
            "--pair-rate",
            "off",
            "--user-rate",
            "off",
            "--token-ip-rate",
            "off",
            "--token-user-rate",
            "off",
        ];
        let (server, address, _) = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0", &lax);
        Self { dir, _server: server, address }
    }

    fn start(&self, words: &[&str]) -> Running {
        let signal = format!("ws://{}", self.address);
        let known = ["--json", "--signal", &signal, "--network", "udp4"];
        start(self.dir.path(), &[&words[..1], &known, &words[1..]].concat())
    }

    fn tokens(&self, device: &str) -> TokenClient {
        TokenClient::new(&format!("http://{}", self.address), "dev", device.into(), None).unwrap()
    }

    /// A plain socket that has joined the room.
    async fn socket(&self, device: &str) -> Socket {
        let jwt = self.tokens(device).fetch().await.unwrap().token;
        let url = format!("ws://{}/api/signal", self.address);
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {jwt}").parse().unwrap());
        let stream = TcpStream::connect(&self.address).await.unwrap();
        Socket(client_async(request, stream).await.unwrap().0)
    }

    /// A well-behaved peer.
    fn link(&self, device: &str, role: PeerRole) -> Call {
        let mut peer = PeerConfig::new(role);
        peer.addresses.retain(std::net::IpAddr::is_loopback);
        let signal = format!("ws://{}", self.address);
        let signaling = ClientConfig::new(&signal, Arc::new(self.tokens(device)));
        Call::start(CallConfig::new(signaling, peer))
    }
}

struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    async fn say(&mut self, mut message: Value) {
        message["pairId"] = "demo".into();
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message with one of these values of `t`.
    async fn receives(&mut self, wanted: &[&str]) -> Value {
        loop {
            let next = timeout(HANG, self.0.next()).await;
            let next = next.unwrap_or_else(|_| panic!("no message of {wanted:?} arrives"));
            let Some(Ok(Message::Text(text))) = next else { panic!("{wanted:?}, not {next:?}") };
            let message: Value = serde_json::from_str(&text).unwrap();
            if wanted.contains(&message["t"].as_str().unwrap()) {
                return message;
            }
        }
    }

    /// Whether the phone sends a new offer; false if it is absent or leaves.
    async fn is_offered(&mut self, seen: &mut Vec<Value>) -> bool {
        loop {
            let heard = self.receives(&["hello", "offer", "bye", "peer-left"]).await;
            match heard["t"].as_str() {
                Some("hello") if heard["peerPresent"] == true => {}
                // The server may hold an offer for the newcomer that was already delivered to another client.
                Some("offer") if seen.contains(&heard["sdp"]) => {}
                Some("offer") => {
                    seen.push(heard["sdp"].clone());
                    return true;
                }
                _ => return false,
            }
        }
    }

    async fn candidate(&mut self, candidate: &str) {
        let candidate = json!({"candidate": candidate, "sdpMid": "0", "sdpMLineIndex": 0});
        self.say(json!({"t": "ice", "candidate": candidate})).await;
    }
}

/// An offer of H.264 and a data channel like libwebrtc's; each `number` is a different connection.
fn offer(number: u32) -> String {
    let rest = ":AB".repeat(28);
    let transport = format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:uf{number:02}\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
         a=ice-options:trickle\r\na=fingerprint:sha-256 {:02X}:{:02X}:00:00{rest}\r\na=setup:actpass\r\n",
        number >> 8 & 0xff,
        number & 0xff,
    );
    format!(
        "v=0\r\no=- {number} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 102\r\n{transport}a=mid:0\r\na=sendonly\r\na=rtcp-mux\r\n\
         a=rtpmap:102 H264/90000\r\na=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\n\
         a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n{transport}a=mid:1\r\na=sctp-port:5000\r\n"
    )
}

fn candidate(address: &str, port: u32) -> String {
    format!("candidate:{port} 1 udp 2122260223 {address} {port} typ host generation 0")
}

/// The expected outcome for a description.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// It is answered, and the peer waits for the connection.
    Answered,
    /// The peer exits with 1, and reports the reason.
    Refused,
}
use Fate::{Answered, Refused};

/// Invalid or unusual descriptions, with the expected outcome of each as an offer and as an answer.
fn descriptions() -> Vec<(&'static str, String, [Fate; 2])> {
    let good = offer(1);
    let lines = |name: &str| {
        good.split_inclusive("\r\n").filter(|line| !line.contains(name)).collect::<String>()
    };
    let mut many = String::new();
    for port in 1..=700 {
        write!(many, "a={}\r\n", candidate("198.51.100.7", port)).unwrap();
    }
    let noise = "a=noise:0123456789012345678901234567890123456789\r\n".repeat(1200);
    let swap = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        good.replace(from, to)
    };
    let media = good.find("m=video").unwrap();
    let lines_of_media =
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:9\r\na=rtpmap:111 opus/48000/2\r\n".repeat(600);
    vec![
        ("valid", good.clone(), [Answered; 2]),
        ("60 KB of unknown attributes", format!("{good}{noise}"), [Answered; 2]),
        ("700 candidates", format!("{good}{many}"), [Answered; 2]),
        (
            "an m-line of 60 KB",
            swap("SAVPF 102", &format!("SAVPF 102{}", " 103".repeat(15_000))),
            [Answered; 2],
        ),
        ("600 m-lines", format!("{good}{lines_of_media}"), [Answered; 2]),
        ("line feeds only", good.replace("\r\n", "\n"), [Answered; 2]),
        ("line feeds and carriage returns mixed", swap("a=mid:0\r\n", "a=mid:0\n"), [Answered; 2]),
        ("carriage returns only", good.replace("\r\n", "\r"), [Refused; 2]),
        ("no line end after the last line", good.trim_end().to_owned(), [Answered; 2]),
        ("empty lines between the lines", good.replace("\r\n", "\r\n\r\n"), [Answered; 2]),
        ("a zero byte", swap("a=mid:0", "a=mid:0\0"), [Refused; 2]),
        ("no fingerprint", lines("a=fingerprint"), [Refused; 2]),
        (
            "an invalid fingerprint",
            swap("a=fingerprint:sha-256 ", "a=fingerprint:sha-256 zz"),
            [Refused; 2],
        ),
        ("a fingerprint with an unknown hash function", swap("sha-256", "rot-13"), [Refused; 2]),
        ("no username fragment", lines("a=ice-ufrag"), [Refused; 2]),
        ("no password", lines("a=ice-pwd"), [Refused; 2]),
        (
            "a username fragment of 50 KB",
            swap("a=ice-ufrag:uf01", &format!("a=ice-ufrag:{}", "u".repeat(25_000))),
            [Answered; 2],
        ),
        ("an invalid DTLS role", swap("a=setup:actpass", "a=setup:whatever"), [Answered; 2]),
        ("no DTLS role", lines("a=setup"), [Answered; 2]),
        ("no m-line", good[..media].to_owned(), [Refused; 2]),
        (
            "only m-lines with port 0",
            good.replace("m=video 9", "m=video 0").replace("m=application 9", "m=application 0"),
            [Refused; 2],
        ),
        ("a payload type over 127", good.replace("102", "1020"), [Refused; 2]),
        ("a duplicate mid", swap("a=mid:1", "a=mid:0"), [Answered; 2]),
        ("a BUNDLE group of other mids", swap("BUNDLE 0 1", "BUNDLE 7 8"), [Refused, Answered]),
        ("nothing", String::new(), [Refused; 2]),
        ("not a description", "\u{1}\u{2}garbage".into(), [Refused; 2]),
    ]
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Resident memory of a process, in bytes.
fn memory(peer: &Running) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", peer.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// Checks that the peer exits by itself and reports the reason and a remedy.
fn refused(what: &str, peer: Running) {
    let ended = tokio::task::block_in_place(|| peer.end());
    assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
    assert!(ended.stderr.contains("\n  try: "), "{what}: {}", ended.stderr);
}

/// Checks that its memory does not grow much beyond the initial value.
fn bounded(what: &str, peer: &Running, before: &mut Option<u64>) {
    let grown = memory(peer).saturating_sub(*before.get_or_insert_with(|| memory(peer)));
    assert!(grown < MAX_GROWN, "{what}: {grown} bytes more");
}

async fn connected(link: &mut Call) {
    loop {
        match timeout(HANG, link.next()).await.expect("the well-behaved peer does not connect") {
            CallEvent::Peer(PeerEvent::ControlOpen) => return,
            CallEvent::Failed(error) | CallEvent::Refused(error) => panic!("{error}"),
            _ => {}
        }
    }
}

/// A well-behaved phone joins, and its keyframe is stored; then recv exits successfully.
async fn stores_a_keyframe(rig: &Rig, recv: Running) {
    let mut link = rig.link("phone", PeerRole::Sender);
    connected(&mut link).await;
    let pixels = vec![90; 320 * 240 * 3 / 2];
    let frame = Frame::from_i420(320, 240, &pixels, SystemTime::now()).unwrap();
    let unit =
        KeyframeEncoder::new(EncoderConfig::default()).unwrap().encode(&frame).unwrap().access_unit;
    link.peer().unwrap().send_access_unit(&unit).await.unwrap();
    tokio::task::block_in_place(|| recv.event("keyframe", 1));
    link.close("done").await;
    recv.signal(Signal::INT);
    tokio::task::block_in_place(|| recv.end()).well();
}

#[test]
fn hostile_offers_are_answered_or_rejected_and_a_good_one_works() {
    let rig = Rig::new();
    block_on(async {
        let run = || rig.start(&["recv", "--out", "frames"]);
        let mut recv = run();
        let mut phone = rig.socket("phone").await;
        let mut before = None;
        let mut wrong = Vec::new();
        for (what, sdp, [fate, _]) in descriptions() {
            assert!(sdp.len() < 64_000, "{what}: the server would reject it");
            phone.say(json!({"t": "offer", "sdp": sdp})).await;
            let heard = phone.receives(&["answer", "bye"]).await;
            let found = if heard["t"] == "answer" { Answered } else { Refused };
            if found != fate {
                wrong.push(format!("{what}: {found:?}"));
            }
            if found == Refused {
                refused(what, recv);
                // The new `recv` must not receive the offer that the server still holds.
                phone = rig.socket("phone").await;
                recv = run();
                before = None;
            } else {
                bounded(what, &recv, &mut before);
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        drop(phone);
        stores_a_keyframe(&rig, recv).await;
    });
}

/// Unspecified, multicast and private addresses, and unresolvable names.
fn odd_candidates() -> Vec<String> {
    let addresses = [
        "10.255.255.1",
        "192.168.255.1",
        "224.0.0.1",
        "239.255.255.250",
        "255.255.255.255",
        "0.0.0.0",
        "169.254.7.7",
        "::",
        "ff02::1",
        "fe80::1",
        "unassigned-name.local",
        "orion-peer.invalid",
        "1.2.3.4.5",
        "127.0.0.1",
    ];
    let mut odd: Vec<String> = addresses.iter().map(|address| candidate(address, 9)).collect();
    odd.extend([
        candidate("192.0.2.1", 0),
        candidate("192.0.2.1", 70_000),
        "candidate:".into(),
        "garbage".into(),
    ]);
    odd.push(format!("candidate:{}", "x".repeat(20_000)));
    odd
}

#[test]
fn floods_of_candidates_are_bounded_and_a_good_phone_works() {
    let rig = Rig::new();
    block_on(async {
        let recv = rig.start(&["recv", "--out", "frames"]);
        let mut phone = rig.socket("phone").await;
        phone.say(json!({"t": "offer", "sdp": offer(7)})).await;
        phone.receives(&["answer"]).await;
        let before = memory(&recv);
        for one in odd_candidates() {
            phone.candidate(&one).await;
        }
        for number in 1..=5000 {
            phone.candidate(&candidate("127.0.0.1", 20_000 + number)).await;
            if number % 50 == 0 {
                // A repeated offer is answered again, after all earlier messages.
                phone.say(json!({"t": "offer", "sdp": offer(7)})).await;
                phone.receives(&["answer"]).await;
            }
        }
        let grown = memory(&recv).saturating_sub(before);
        assert!(grown < MAX_GROWN, "{grown} bytes more");
        let from = recv.said();
        assert!(from < 100, "each of 5000 candidates is reported");
        recv.says("ignoring a candidate from the peer");
        drop(phone);
        stores_a_keyframe(&rig, recv).await;
    });
}

#[test]
fn hostile_answers_are_accepted_or_rejected_and_a_good_one_works() {
    let rig = Rig::new();
    block_on(async {
        let run = || rig.start(&["send", "--source", "pattern:320x240", "--interval", "0.2s"]);
        let mut send = run();
        let mut seen = Vec::new();
        let mut before = None;
        let mut mac = rig.socket("mac").await;
        while !mac.is_offered(&mut seen).await {}
        for (what, sdp, [_, fate]) in descriptions() {
            let sdp = sdp.replace("actpass", "passive").replace("sendonly", "recvonly");
            mac.say(json!({"t": "answer", "sdp": sdp})).await;
            for one in odd_candidates() {
                mac.candidate(&one).await;
            }
            if fate == Refused {
                mac.receives(&["bye"]).await;
                refused(what, send);
                mac = rig.socket("mac").await;
                send = run();
                while !mac.is_offered(&mut seen).await {}
                before = None;
                continue;
            }
            // The server answers an unknown message after relaying all earlier ones.
            mac.say(json!({"t": "later"})).await;
            mac.receives(&["error"]).await;
            // For another Mac, send makes a new offer.
            mac = rig.socket("mac").await;
            assert!(mac.is_offered(&mut seen).await && !send.said_after(0, "error:"), "{what}");
            bounded(what, &send, &mut before);
        }
        drop(mac);
        let mut link = rig.link("mac", PeerRole::Receiver);
        connected(&mut link).await;
        let keyframe = async {
            while !matches!(link.next().await, CallEvent::Peer(PeerEvent::AccessUnit(_))) {}
        };
        timeout(HANG, keyframe).await.expect("no keyframe arrives");
        link.close("done").await;
        send.signal(Signal::INT);
        tokio::task::block_in_place(|| send.end()).well();
    });
}
