//! Keyframes over slow links: a small queue drops nothing, the capacity of the path is measured and reported, and
//! transport-wide feedback is negotiated with peers that support it.

use std::sync::Arc;

use orion_peer::{
    nat::{LinkSettings, Queue},
    netsim::{Gateway, GatewayConfig},
    peer::{Peer, PeerConfig, PeerEvent, PeerRole},
    units::RateSetting,
};

use crate::peer::{keyframe, pair_of};

const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";

/// A link of 1 Mbit/s with the queue of a small home router.
fn uplink() -> Arc<Gateway> {
    let queue = Some(Queue::Bytes(32_768));
    let link = LinkSettings { rate: Some(1_000_000), queue, ..LinkSettings::default() };
    Gateway::new(GatewayConfig { link, ..GatewayConfig::default() }).unwrap()
}

/// Sends keyframes of 60 KB over this link, one after another. Returns the number of packets that its queue
/// dropped, and the bitrate reported at the end.
async fn over_uplink(pace: RateSetting, count: usize) -> (u64, Option<u64>) {
    let uplink = uplink();
    let config = |role| {
        let mut config = PeerConfig::new(role);
        config.addresses.retain(std::net::IpAddr::is_loopback);
        config
    };
    let sender =
        PeerConfig { gateway: Some(Arc::clone(&uplink)), pace, ..config(PeerRole::Sender) };
    let (sender, mut receiver) = pair_of(sender, config(PeerRole::Receiver)).await;
    let before = uplink.stats().up.overflowed;
    for _ in 0..count {
        let sent = keyframe(60_000);
        sender.peer.send_access_unit(&sent).await.unwrap();
        let got = receiver.event(|event| match event {
            PeerEvent::AccessUnit(got) => Some(got.unit.data),
            PeerEvent::Broken(broken) => panic!("{broken:?}"),
            _ => None,
        });
        assert_eq!(got.await, sent.data);
    }
    let report = sender.peer.stats().await.report;
    let bitrate = report.values().find_map(|entry| entry["availableOutgoingBitrate"].as_u64());
    let dropped = uplink.stats().up.overflowed - before;
    sender.peer.close().await;
    receiver.peer.close().await;
    (dropped, bitrate)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_queue_drops_no_packets_of_paced_keyframes() {
    let (dropped, bitrate) = over_uplink(RateSetting::Auto, 3).await;
    assert_eq!(dropped, 0);
    let bitrate = bitrate.expect("the capacity of the path was measured");
    assert!((600_000..1_200_000).contains(&bitrate), "{bitrate}");
    let (dropped, bitrate) = over_uplink(RateSetting::Rate(800_000), 1).await;
    assert_eq!((dropped, bitrate), (0, None));
    // Counter-check: without pacing the queue overflows, and repair delivers the rest.
    assert!(over_uplink(RateSetting::Off, 1).await.0 > 0);
}

/// Chromium's video offer, shortened; `extra` adds lines to its m-section.
fn chromium_offer(extra: &str) -> String {
    let fingerprint = ["AB"; 32].join(":");
    format!(
        "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         a=extmap-allow-mixed\r\na=msid-semantic: WMS s\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 109\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
         a=ice-ufrag:4ZcD\r\na=ice-pwd:2/1muCWoOi3uLifh0NuRHlZd\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=mid:0\r\n\
         a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n{extra}\
         a=sendonly\r\na=msid:s v\r\na=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:109 H264/90000\r\n\
         a=rtcp-fb:109 ccm fir\r\na=rtcp-fb:109 nack\r\na=rtcp-fb:109 nack pli\r\n\
         a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
         a=ssrc:1001 cname:c\r\n"
    )
}

async fn answer_to(offer: String) -> String {
    let (peer, _events) = Peer::new(PeerConfig::new(PeerRole::Receiver)).await.unwrap();
    let answer = peer.accept_offer(offer).await.unwrap();
    peer.close().await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transport_wide_feedback_is_accepted_if_offered() {
    let (peer, _events) = Peer::new(PeerConfig::new(PeerRole::Sender)).await.unwrap();
    let offer = peer.create_offer().await.unwrap();
    peer.close().await;
    assert!(offer.contains(TRANSPORT_CC) && offer.contains(" transport-cc\r\n"), "{offer}");

    let extra = format!("a=extmap:5 {TRANSPORT_CC}\r\na=rtcp-fb:109 transport-cc\r\n");
    let answer = answer_to(chromium_offer(&extra)).await;
    assert!(answer.contains(&format!("a=extmap:5 {TRANSPORT_CC}\r\n")), "{answer}");
    assert!(answer.contains("a=rtcp-fb:109 transport-cc"), "{answer}");
    // Send times are useful only for an estimate by the receiver, see `remb`.
    assert!(answer.contains("abs-send-time") && !answer.contains("goog-remb"), "{answer}");

    let answer = answer_to(chromium_offer("")).await;
    assert!(!answer.contains("transport"), "{answer}");
}
