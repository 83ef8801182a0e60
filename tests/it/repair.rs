//! Keyframes over links that lose packets, and damaged keyframes.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use orion_peer::{
    media::h264::{self, AccessUnit, NalType},
    nat::LinkSettings,
    netsim::{Gateway, GatewayConfig},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    proto::control::{ControlMessage, KeyframeInfo},
    types::epoch_seconds,
};
use tokio::time::timeout;

use crate::{
    peer::{self, End, Stream, keyframe, pair_of, pair_that_offers, unit},
    run::{HANG, sha256},
};

const MS: Duration = Duration::from_millis(1);

fn gateway(link: LinkSettings, seed: u64) -> Arc<Gateway> {
    Gateway::new(GatewayConfig { link, seed, ..GatewayConfig::default() }).unwrap()
}

/// A pair whose sender is behind a link with half this round trip in each direction, initially without
/// loss.
async fn pair(round_trip: Duration, seed: u64, repair: bool) -> (End, End, Arc<Gateway>) {
    let near = gateway(LinkSettings { delay: round_trip / 2, ..LinkSettings::default() }, seed);
    let far = gateway(LinkSettings::default(), seed);
    let config = |role, gateway| PeerConfig { gateway, repair, ..PeerConfig::new(role) };
    let (sender, receiver) = pair_of(
        config(PeerRole::Sender, Some(Arc::clone(&near))),
        config(PeerRole::Receiver, Some(far)),
    )
    .await;
    (sender, receiver, near)
}

/// Waits for the next access unit, which must be this one; returns the number of retransmitted packets.
async fn arrives(receiver: &mut End, sent: &AccessUnit, what: &str) -> u32 {
    receiver
        .event(|event| match event {
            PeerEvent::AccessUnit(came) => {
                assert!(came.unit.data == sent.data, "{what}: different bytes arrived");
                Some(came.unit.retransmitted)
            }
            PeerEvent::Broken(broken) => panic!("{what}: {broken:?}"),
            _ => None,
        })
        .await
}

async fn close(ends: (End, End)) {
    ends.0.peer.close().await;
    ends.1.peer.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_keyframe_arrives_over_lossy_links() {
    let bursts = LinkSettings { loss: 0.05, loss_burst: 10, ..LinkSettings::default() };
    for (link, seed) in [(LinkSettings { loss: 0.1, ..LinkSettings::default() }, 1), (bursts, 2)] {
        let (sender, mut receiver, near) = pair(40 * MS, seed, true).await;
        near.set_link(LinkSettings { delay: 20 * MS, ..link });
        let mut repaired = 0;
        for number in 0..20 {
            let sent = keyframe(50_000 + number);
            sender.peer.send_access_unit(&sent).await.unwrap();
            repaired += arrives(&mut receiver, &sent, &format!("{link}, {number}")).await;
        }
        assert!(repaired > 10, "{link}: {repaired} packets repaired");
        close((sender, receiver)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyframe_sent_during_an_outage_arrives_after_it() {
    let (sender, mut receiver, near) = pair(20 * MS, 1, true).await;
    let clear = near.link();
    let first = keyframe(30_000);
    sender.peer.send_access_unit(&first).await.unwrap();
    arrives(&mut receiver, &first, "before").await;
    near.set_link(LinkSettings { loss: 1.0, ..clear });
    let sent = keyframe(100_000);
    sender.peer.send_access_unit(&sent).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    near.set_link(clear);
    let repaired = arrives(&mut receiver, &sent, "through the outage").await;
    assert!(repaired > 70, "only {repaired} packets were retransmitted");
    close((sender, receiver)).await;
}

/// The very first keyframe is lost completely, so the receiver does not know the stream yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_keyframe_arrives_even_if_all_of_it_was_lost() {
    let (sender, mut receiver, near) = pair(20 * MS, 1, true).await;
    let clear = near.link();
    near.set_link(LinkSettings { loss: 1.0, ..clear });
    let sent = keyframe(200_000);
    sender.peer.send_access_unit(&sent).await.unwrap();
    tokio::time::sleep(200 * MS).await;
    near.set_link(clear);
    arrives(&mut receiver, &sent, "the first").await;
    close((sender, receiver)).await;
}

/// Shows that the setting that `benches/loss.rs` compares has an effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_repair_a_lost_packet_breaks_its_keyframe() {
    let (sender, mut receiver, near) = pair(20 * MS, 1, false).await;
    near.set_link(LinkSettings { loss: 0.2, ..near.link() });
    let start = Instant::now();
    sender.peer.send_access_unit(&keyframe(200_000)).await.unwrap();
    let packets = receiver
        .event(|event| match event {
            PeerEvent::Broken(broken) => Some(broken.packets),
            PeerEvent::AccessUnit(_) => panic!("170 packets arrived at 20 % loss"),
            _ => None,
        })
        .await;
    assert!((50..170).contains(&packets), "{packets}");
    let stats = sender.peer.stats().await.report;
    let again = stats.values().find(|entry| entry["type"] == "outbound-rtp");
    assert_eq!(again.unwrap()["retransmittedPacketsSent"], 0, "{:?}", start.elapsed());
    close((sender, receiver)).await;
}

/// The keyframe has more packets than the crate's default replay window (64) and than the bitmask of
/// one NACK.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_lost_far_behind_the_newest_is_repaired() {
    let (sender, mut receiver, near) = pair(100 * MS, 3, true).await;
    near.set_link(LinkSettings { loss: 0.3, ..near.link() });
    let sent = keyframe(1_000_000);
    sender.peer.send_access_unit(&sent).await.unwrap();
    let repaired = arrives(&mut receiver, &sent, "a megabyte").await;
    assert!(repaired > 150, "{repaired}");
    close((sender, receiver)).await;
}

/// The description of a peer without RTX (RFC 4588).
fn without_rtx(sdp: &str) -> String {
    let rtx = sdp
        .lines()
        .find_map(|line| line.strip_prefix("a=ssrc-group:FID ")?.split(' ').nth(1))
        .expect("an RTX stream");
    let of_rtx = [
        "a=rtpmap:103 ".to_owned(),
        "a=fmtp:103 ".to_owned(),
        "a=ssrc-group:".to_owned(),
        format!("a=ssrc:{rtx} "),
    ];
    let lines = sdp.lines().filter(|line| !of_rtx.iter().any(|begin| line.starts_with(begin)));
    let lines = lines.map(|line| match line.strip_suffix(" 102 103") {
        Some(media) if line.starts_with("m=video") => format!("{media} 102\r\n"),
        _ => format!("{line}\r\n"),
    });
    lines.collect()
}

/// Sends keyframes over a lossy link; returns the `getStats` objects of the stream at both peers.
async fn repaired_over(change: impl FnOnce(String) -> String) -> [serde_json::Value; 2] {
    let near = gateway(LinkSettings { delay: 10 * MS, ..LinkSettings::default() }, 4);
    let config = |role, gateway| PeerConfig { gateway, ..PeerConfig::new(role) };
    let (sender, mut receiver) = pair_that_offers(
        config(PeerRole::Sender, Some(Arc::clone(&near))),
        config(PeerRole::Receiver, Some(gateway(LinkSettings::default(), 4))),
        change,
    )
    .await;
    near.set_link(LinkSettings { loss: 0.1, ..near.link() });
    let mut repaired = 0;
    for number in 0..6 {
        let sent = keyframe(100_000 + number);
        sender.peer.send_access_unit(&sent).await.unwrap();
        repaired += arrives(&mut receiver, &sent, &format!("{number}")).await;
    }
    assert!(repaired > 20, "{repaired} packets repaired");
    let stats = async |end: &End, kind: &str| {
        let report = end.peer.stats().await.report;
        report.values().find(|entry| entry["type"] == kind).unwrap().clone()
    };
    let found = [stats(&sender, "outbound-rtp").await, stats(&receiver, "inbound-rtp").await];
    close((sender, receiver)).await;
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retransmissions_use_a_separate_stream_if_both_peers_agree() {
    let [sent, received] = repaired_over(|offer| offer).await;
    for stats in [&sent, &received] {
        assert!(stats["rtxSsrc"].as_u64() > Some(0), "{stats}");
        assert_ne!(stats["rtxSsrc"], stats["ssrc"]);
    }
    let count = |stats: &serde_json::Value, key: &str| stats[key].as_u64().unwrap_or_default();
    assert!(count(&sent, "retransmittedPacketsSent") > 20, "{sent}");
    assert!(count(&received, "retransmittedPacketsReceived") > 20, "{received}");
    // 85 packets per keyframe, plus retransmissions.
    let again = count(&sent, "retransmittedPacketsSent");
    assert!(count(&sent, "packetsSent") >= 6 * 85 + again, "{sent}");
    assert!(count(&sent, "bytesSent") > 600_000 + 20 * 1000, "{sent}");
}

/// Without RTX, retransmissions use the stream itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_rtx_gets_unchanged_packets() {
    for stats in repaired_over(|offer| without_rtx(&offer)).await {
        assert_eq!(stats["rtxSsrc"], serde_json::Value::Null, "{stats}");
        assert_eq!(stats["retransmittedPacketsReceived"], serde_json::Value::Null, "{stats}");
    }
}

/// An offer like that of libwebrtc, which has retransmissions for other codecs as well.
fn as_libwebrtc(offer: &str) -> String {
    let more = "a=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n";
    let at = offer.find("a=rtpmap:102").unwrap();
    let (head, tail) = offer.split_at(at);
    let numbers = |text: &str, h264: &str, rtx: &str| {
        text.replace(" 102 103", &format!(" 96 97 {h264} {rtx}"))
            .replace(":102 ", &format!(":{h264} "))
            .replace(":103 ", &format!(":{rtx} "))
            .replace("apt=102", &format!("apt={h264};rtx-time=3000"))
    };
    numbers(&format!("{head}{more}{tail}"), "127", "121")
}

#[tokio::test]
async fn rtx_is_offered_and_answered_with_repair() {
    let (sender, _sent) = Peer::new(PeerConfig::new(PeerRole::Sender)).await.unwrap();
    let (receiver, _received) = Peer::new(PeerConfig::new(PeerRole::Receiver)).await.unwrap();
    let offer = sender.create_offer().await.unwrap();
    for line in ["a=rtcp-fb:102 nack\r\n", "a=rtpmap:103 rtx/90000\r\n", "a=fmtp:103 apt=102\r\n"] {
        assert!(offer.contains(line), "{line} {offer}");
    }
    assert!(offer.contains("a=ssrc-group:FID "), "{offer}");
    let answer = receiver.accept_offer(as_libwebrtc(&offer)).await.unwrap();
    let media = answer.lines().find(|line| line.starts_with("m=video")).unwrap();
    assert!(media.ends_with(" 127 121"), "{media}");
    for line in ["a=rtcp-fb:127 nack\r\n", "a=rtpmap:121 rtx/90000\r\n", "a=fmtp:121 apt=127"] {
        assert!(answer.contains(line), "{line} {answer}");
    }
    assert!(!answer.contains(":97 ") && !answer.contains("VP8"), "{answer}");
    // Without repair, neither is negotiated.
    let config = PeerConfig { repair: false, ..PeerConfig::new(PeerRole::Receiver) };
    let (unrepaired, _events) = Peer::new(config).await.unwrap();
    let answer = unrepaired.accept_offer(offer).await.unwrap();
    assert!(!answer.contains("rtx") && !answer.contains("a=rtcp-fb:102 nack\r\n"), "{answer}");
    assert!(answer.contains("a=rtcp-fb:102 nack pli\r\n"), "{answer}");
    for peer in [sender, receiver, unrepaired] {
        peer.close().await;
    }
}

/// The selected NAL units of an access unit.
fn only(data: &[u8], wanted: impl Fn(NalType) -> bool) -> Vec<u8> {
    let mut left = Vec::new();
    for nal in h264::nal_units(data).filter(|nal| wanted(h264::nal_type(nal))) {
        h264::append_nal(&mut left, nal);
    }
    left
}

fn is_set(kind: NalType) -> bool {
    matches!(kind, NalType::Sps | NalType::Pps)
}

/// Damaged keyframes whose packets all arrive.
fn damaged(clean: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = clean.to_vec();
    for at in (clean.len() / 3..clean.len()).step_by(97) {
        flipped[at] ^= 0x10;
    }
    let mut zeroed = clean.to_vec();
    let slice = clean.len() - only(clean, |kind| kind == NalType::Idr).len();
    zeroed[slice + 5..slice + 40].fill(0x80);
    let sets_of_another = only(&Stream::new(64, 48).next(true), is_set);
    let picture = only(clean, |kind| !is_set(kind));
    vec![
        ("bits flipped", flipped),
        ("slice header overwritten", zeroed),
        ("cut in half", clean[..clean.len() / 2].to_vec()),
        ("parameter sets of another size", [sets_of_another, picture].concat()),
        ("parameter sets only", only(clean, is_set)),
    ]
}

/// Sends an access unit, but announces the hash of `announced`.
async fn send_as(peer: &Peer, seq: u64, data: &[u8], announced: &[u8]) {
    let unit = unit(data.to_vec());
    let rtp_timestamp = peer.next_rtp_timestamp(&unit).unwrap();
    let info = KeyframeInfo {
        seq,
        rtp_timestamp,
        capture_time: epoch_seconds(SystemTime::now()),
        bytes: announced.len() as u64,
        sha256: sha256(announced),
        width: unit.width,
        height: unit.height,
        sent_at: None,
    };
    peer.send_control(&ControlMessage::Keyframe(info)).await.unwrap();
    peer.send_access_unit_at(&unit, rtp_timestamp).await.unwrap();
    tokio::time::sleep(50 * MS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_intact_keyframe_after_a_damaged_one_is_verified() {
    let dir = tempfile::tempdir().unwrap();
    let server = peer::server().await;
    let (mut small, mut large) = (Stream::new(320, 240), Stream::new(640, 480));
    let first = small.next(true);
    let bad = damaged(&first);
    // Only keyframes are written; the size changes with each intact keyframe.
    let keyframes = bad.iter().filter(|(_, data)| h264::is_keyframe(data)).count();
    let clean: Vec<Vec<u8>> = std::iter::once(first.clone())
        .chain((0..bad.len()).map(|n| if n % 2 == 0 { large.next(true) } else { small.next(true) }))
        .collect();
    // The last one has no parameter sets; the receiver has them from the previous one.
    let bare = only(clean.last().unwrap(), |kind| !is_set(kind));
    let count = (clean.len() + keyframes + 1) as u64;
    let (received, ()) =
        tokio::join!(timeout(HANG, peer::receive(&server, dir.path(), count)), async {
            let (link, peer) = peer::sending(&server).await;
            send_as(&peer, 1, &clean[0], &clean[0]).await;
            for ((_, bad), clean) in bad.iter().zip(&clean[1..]) {
                send_as(&peer, 2, bad, &first).await;
                send_as(&peer, 3, clean, clean).await;
            }
            send_as(&peer, 4, &bare, &bare).await;
            tokio::time::sleep(500 * MS).await;
            link.close("done").await;
        });
    let received = received.expect("an intact keyframe never arrived");
    let verified: Vec<&Vec<u8>> = clean.iter().chain([&bare]).collect();
    let good: Vec<_> =
        received.keyframes.iter().filter(|one| one.written.record.verified == Some(true)).collect();
    assert_eq!(good.len(), verified.len());
    for (keyframe, sent) in good.iter().zip(&verified) {
        assert_eq!(keyframe.undecoded, None);
        assert!(std::fs::read(dir.path().join(&keyframe.written.record.file)).unwrap() == **sent);
    }
    let sizes: Vec<_> = good.iter().map(|one| one.written.record.width).collect();
    assert!(sizes.contains(&640) && sizes.contains(&320), "{sizes:?}");
    for keyframe in &received.keyframes {
        assert!(keyframe.written.record.verified.is_some());
    }
    assert_eq!(received.broken, bad.len() as u64, "each damaged keyframe is counted");
    server.shutdown().await;
}
