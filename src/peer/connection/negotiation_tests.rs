//! Tests remote descriptions and candidates with a real peer connection on loopback.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::{
    media::h264::AccessUnit,
    peer::{ConnectionState, PeerConfig, PeerEvent, PeerRole, remb::ABS_SEND_TIME_URI},
    stats::delivery::Delivery,
    units::RateSetting,
};

/// Number of candidates in the attack.
const ADDRESSES: usize = 600;

/// Long enough for every pair to be checked many times: the crate sends a check every 25 ms.
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

/// Number of victims that received a packet.
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

/// The H.264 format in a receiver's answer to this offer.
async fn answered(config: PeerConfig, offer: String) -> String {
    let (peer, _events) = Peer::new(config).await.unwrap();
    let answer = peer.accept_offer(offer).await.unwrap();
    peer.close().await;
    let format = answer.lines().find(|line| line.starts_with("a=fmtp:102 "));
    format.unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_hints_the_phones_estimate() {
    let receiver = config(PeerRole::Receiver);
    let plain = "profile-level-id=42e01f";
    let hinted =
        |start: u64| format!("{plain};x-google-start-bitrate={start};x-google-max-bitrate=13000");
    let off = PeerConfig { phone_bitrate: RateSetting::Off, ..receiver.clone() };
    let format = answered(off, offer(21, "")).await;
    assert!(format.ends_with(plain), "{format}");
    let format = answered(receiver.clone(), offer(22, "")).await;
    assert!(format.ends_with(&hinted(3000)), "{format}");
    let rate = PeerConfig { phone_bitrate: RateSetting::Rate(7_000_000), ..receiver.clone() };
    let format = answered(rate, offer(23, "")).await;
    assert!(format.ends_with(&hinted(7000)), "{format}");
    // The next connection starts at the rate that the last one measured.
    receiver.phone_path.arrived(85, &at_5_mbit());
    let format = answered(receiver.clone(), offer(24, "")).await;
    let start = receiver.phone_path.rate().unwrap() / 3000;
    assert!(format.ends_with(&hinted(start)), "{format}");
}

/// REMB and the send times that it needs are accepted if the phone offers them, but not with `--phone-bitrate off`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_accepts_estimates_of_the_path() {
    let lines = format!("a=rtcp-fb:102 goog-remb\r\na=extmap:2 {ABS_SEND_TIME_URI}\r\n");
    for (setting, accepted) in [(RateSetting::Auto, true), (RateSetting::Off, false)] {
        let receiver = PeerConfig { phone_bitrate: setting, ..config(PeerRole::Receiver) };
        let (peer, _events) = Peer::new(receiver).await.unwrap();
        let answer = peer.accept_offer(offer(26, &lines)).await.unwrap();
        assert_eq!(answer.contains("goog-remb"), accepted, "{answer}");
        assert_eq!(answer.contains(ABS_SEND_TIME_URI), accepted, "{answer}");
        peer.close().await;
    }
}

/// A keyframe at 5 Mbit/s.
fn at_5_mbit() -> Delivery {
    Delivery { rate: Some(5_000_000), ..Delivery::default() }
}

/// A renegotiation does not make the phone restart its estimate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hints_of_a_connection_do_not_change() {
    let receiver = config(PeerRole::Receiver);
    let (peer, _events) = Peer::new(receiver.clone()).await.unwrap();
    let first = peer.accept_offer(offer(25, "")).await.unwrap();
    receiver.phone_path.arrived(85, &at_5_mbit());
    let again = peer.accept_offer(offer(25, "")).await.unwrap();
    let hints = |answer: &str| answer.lines().find(|l| l.contains("x-google")).map(str::to_owned);
    assert!(hints(&first).is_some() && hints(&first) == hints(&again), "{first}\n{again}");
    peer.close().await;
}

/// Notations that evade a line-based filter, and the regular one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_notation_of_candidates_causes_a_flood() {
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
        assert!((1..=64).contains(&reached), "{begin:?}: packets were sent to {reached} addresses");
        peer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickled_candidates_cause_no_flood() {
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
    assert!((1..=64).contains(&reached), "packets were sent to {reached} addresses");
    peer.close().await;
}

/// Forwards candidates until the peer is connected.
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

/// Two peers connect even though each description reaches the other in a different form; returns the answer as it
/// was written.
async fn connect(
    what: &str,
    offer_as: impl Fn(&str) -> String,
    answer_as: impl Fn(&str) -> String,
) -> String {
    let (sender, sender_events) = Peer::new(config(PeerRole::Sender)).await.unwrap();
    let (receiver, receiver_events) = Peer::new(config(PeerRole::Receiver)).await.unwrap();
    let (sender, receiver) = (Arc::new(sender), Arc::new(receiver));
    let offer = sender.create_offer().await.unwrap();
    let changed = offer_as(&offer);
    assert!(what == "unchanged" || changed != offer, "{what}: the offer was not changed");
    let answer = receiver.accept_offer(changed).await.unwrap();
    sender.accept_answer(answer_as(&answer)).await.unwrap();
    let both = async {
        tokio::join!(
            connects(sender_events, Arc::clone(&receiver)),
            connects(receiver_events, Arc::clone(&sender)),
        )
    };
    timeout(Duration::from_mins(1), both).await.expect(what);
    // Without a data channel, a pair with a peer-reflexive candidate is known only after the first media packet.
    let unit = AccessUnit {
        data: Bytes::from_static(&[0, 0, 0, 1, 0x65, 0x88, 0x84]),
        width: 16,
        height: 16,
        captured_at: std::time::SystemTime::now(),
    };
    let reported = async {
        for peer in [&sender, &receiver] {
            while peer.stats().await.pair.is_none() {
                let _ = sender.send_access_unit(&unit).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(Duration::from_mins(1), reported).await.expect("the pair is reported");
    sender.close().await;
    receiver.close().await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fingerprints_in_any_case_are_accepted() {
    let rewritten = |sdp: &str, hash: &str| -> String {
        let line = |line: &str| match line.strip_prefix("a=fingerprint:sha-256 ") {
            Some(digits) => format!("a=fingerprint:{hash} {}\r\n", digits.trim().to_lowercase()),
            None => line.to_owned(),
        };
        sdp.split_inclusive('\n').map(line).collect()
    };
    for hash in ["sha-256", "SHA-256"] {
        connect(hash, |offer| rewritten(offer, hash), |answer| rewritten(answer, hash)).await;
    }
    let first =
        format!("a=fingerprint:sha-512 {}\r\na=fingerprint:sha-256", "AB:".repeat(63) + "AB");
    let several = |sdp: &str| sdp.replace("a=fingerprint:sha-256", &first);
    connect("several fingerprints", several, several).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_states_the_dtls_role() {
    let same = |sdp: &str| sdp.to_owned();
    for (offered, answered) in
        [("active", "passive"), ("passive", "active"), ("actpass", "passive")]
    {
        let what = if offered == "actpass" { "unchanged" } else { offered };
        let offer = |sdp: &str| sdp.replace("a=setup:actpass", &format!("a=setup:{offered}"));
        let answer = connect(what, offer, same).await;
        let setups: Vec<_> =
            answer.lines().filter_map(|line| line.trim_end().strip_prefix("a=setup:")).collect();
        assert_eq!(setups, [answered; 2], "{offered}");
    }
}

/// Each form occurs in an issue report or in a description in `tests/it/data/descriptions`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_forms_of_an_offer_connect() {
    let without = |sdp: &str, names: &[&str]| -> String {
        let kept = |line: &&str| !names.iter().any(|name| line.starts_with(name));
        sdp.split_inclusive('\n').filter(kept).collect()
    };
    let data = |sdp: &str| sdp.find("m=application").unwrap();
    let same = |sdp: &str| sdp.to_owned();
    let no_direction = |sdp: &str| without(sdp, &["a=sendrecv", "a=sendonly"]);
    connect("no direction", no_direction, no_direction).await;
    let bundle_only = |sdp: &str| {
        let (video, data) = sdp.split_at(data(sdp));
        let data = data.replace("m=application 9", "m=application 0");
        format!("{video}{}a=bundle-only\r\n", without(&data, &["a=ice-"]))
    };
    let answer = connect("port 0 and bundle-only", bundle_only, same).await;
    assert!(answer.contains("m=application 9"), "{answer}");
    let own = |sdp: &str| {
        let (video, data) = sdp.split_at(data(sdp));
        let data = without(data, &["a=ice-"]);
        format!("{video}{data}a=ice-ufrag:own1\r\na=ice-pwd:own-password-of-24-characters\r\n")
    };
    connect("credentials of each line", own, same).await;
    let audio_first = |sdp: &str| {
        let group = sdp.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE a 0 1");
        group.replace("m=video", "m=audio 9 UDP/TLS/RTP/SAVPF 8 101\r\na=mid:a\r\nm=video")
    };
    // The sender's own connection has no audio.
    let no_audio = |sdp: &str| {
        let (head, rest) = sdp.split_once("m=audio").unwrap();
        format!("{head}{}", &rest[rest.find("m=video").unwrap()..])
    };
    let answer = connect("audio first", audio_first, no_audio).await;
    assert!(answer.contains("m=audio 0 UDP/TLS/RTP/SAVPF 8 101"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_data_channel_reports_its_pair() {
    let video_alone = |sdp: &str| {
        let sdp = sdp.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0");
        sdp[..sdp.find("m=application").unwrap()].to_owned()
    };
    let data_rejected = |sdp: &str| {
        assert!(!sdp.contains("m=application"), "{sdp}");
        format!(
            "{sdp}m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\n"
        )
    };
    connect("video alone", video_alone, data_rejected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_descriptions_are_named_in_the_error() {
    let sha_512 = format!("a=fingerprint:sha-512 {}\r\n", "AB:".repeat(63) + "AB");
    let other = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:1\r\na=ice-ufrag:own1\r\n\
                 a=ice-pwd:own-password-of-24-characters\r\n";
    let good = offer(11, "");
    let fingerprint = good.lines().find(|line| line.starts_with("a=fingerprint")).unwrap();
    for (sdp, code, mentioned) in [
        (good.replace(&format!("{fingerprint}\r\n"), &sha_512), "no-fingerprint", "sha-512"),
        (good.replace("a=group:BUNDLE 0\r\n", "") + other, "video-not-taken", "BUNDLE"),
        (good.replace("H264", "VP8"), "no-h264", "VP8"),
    ] {
        let (peer, _events) = Peer::new(config(PeerRole::Receiver)).await.unwrap();
        let error = peer.accept_offer(sdp).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(error.to_string().contains(mentioned), "{error}");
        peer.close().await;
    }
}
