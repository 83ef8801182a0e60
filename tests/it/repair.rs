//! Keyframes over links that lose packets, and packets that are not what they should be.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use orion_peer::{
    lab::{Gateway, GatewayConfig},
    media::h264::AccessUnit,
    nat::Link,
    peer::{PeerConfig, PeerEvent, PeerRole},
};

use crate::peer::{End, keyframe, pair_of};

const MS: Duration = Duration::from_millis(1);

fn gateway(link: Link, seed: u64) -> Arc<Gateway> {
    Gateway::new(GatewayConfig { link, seed, ..GatewayConfig::default() }).unwrap()
}

/// A pair, the sender behind a link with half this round trip each way, which loses nothing yet.
async fn pair(round_trip: Duration, seed: u64, repair: bool) -> (End, End, Arc<Gateway>) {
    let near = gateway(Link { delay: round_trip / 2, ..Link::default() }, seed);
    let far = gateway(Link::default(), seed);
    let config = |role, gateway| PeerConfig { gateway, repair, ..PeerConfig::new(role) };
    let (sender, receiver) = pair_of(
        config(PeerRole::Sender, Some(Arc::clone(&near))),
        config(PeerRole::Receiver, Some(far)),
    )
    .await;
    (sender, receiver, near)
}

/// The next access unit, which must be this one.
async fn comes(receiver: &mut End, sent: &AccessUnit, what: &str) -> u32 {
    receiver
        .event(|event| match event {
            PeerEvent::AccessUnit(came) => {
                assert!(came.unit.data == sent.data, "{what}: other bytes came");
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
async fn every_keyframe_comes_over_links_that_lose() {
    let bursts = Link { loss: 0.05, loss_burst: 10, ..Link::default() };
    for (link, seed) in [(Link { loss: 0.1, ..Link::default() }, 1), (bursts, 2)] {
        let (sender, mut receiver, near) = pair(40 * MS, seed, true).await;
        near.set_link(Link { delay: 20 * MS, ..link });
        let mut repaired = 0;
        for number in 0..20 {
            let sent = keyframe(50_000 + number);
            sender.peer.send_access_unit(&sent).await.unwrap();
            repaired += comes(&mut receiver, &sent, &format!("{link}, {number}")).await;
        }
        assert!(repaired > 10, "{link}: {repaired} packets repaired");
        close((sender, receiver)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyframe_sent_into_an_outage_comes_after_it() {
    let (sender, mut receiver, near) = pair(20 * MS, 1, true).await;
    let clear = near.link();
    let first = keyframe(30_000);
    sender.peer.send_access_unit(&first).await.unwrap();
    comes(&mut receiver, &first, "before").await;
    near.set_link(Link { loss: 1.0, ..clear });
    let sent = keyframe(100_000);
    sender.peer.send_access_unit(&sent).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    near.set_link(clear);
    let repaired = comes(&mut receiver, &sent, "through the outage").await;
    assert!(repaired > 70, "{repaired}: it was lost as a whole");
    close((sender, receiver)).await;
}

/// The very first keyframe is lost from its first packet on: the receiver knows of no stream yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_keyframe_comes_although_all_of_it_was_lost() {
    let (sender, mut receiver, near) = pair(20 * MS, 1, true).await;
    let clear = near.link();
    near.set_link(Link { loss: 1.0, ..clear });
    let sent = keyframe(200_000);
    sender.peer.send_access_unit(&sent).await.unwrap();
    tokio::time::sleep(200 * MS).await;
    near.set_link(clear);
    comes(&mut receiver, &sent, "the first").await;
    close((sender, receiver)).await;
}

/// The comparison of the benchmark is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_repair_a_lost_packet_breaks_its_keyframe() {
    let (sender, mut receiver, near) = pair(20 * MS, 1, false).await;
    near.set_link(Link { loss: 0.2, ..near.link() });
    let begun = Instant::now();
    sender.peer.send_access_unit(&keyframe(200_000)).await.unwrap();
    let packets = receiver
        .event(|event| match event {
            PeerEvent::Broken(broken) => Some(broken.packets),
            PeerEvent::AccessUnit(_) => panic!("170 packets came at 20 % loss"),
            _ => None,
        })
        .await;
    assert!((50..170).contains(&packets), "{packets}");
    let stats = sender.peer.stats().await.report;
    let again = stats.values().find(|entry| entry["type"] == "outbound-rtp");
    assert_eq!(again.unwrap()["retransmittedPacketsSent"], 0, "{:?}", begun.elapsed());
    close((sender, receiver)).await;
}

/// More packets than the replay window of the crate's default (64), and than one NACK's bitmask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_lost_far_behind_the_newest_is_repaired() {
    let (sender, mut receiver, near) = pair(100 * MS, 3, true).await;
    near.set_link(Link { loss: 0.3, ..near.link() });
    let sent = keyframe(1_000_000);
    sender.peer.send_access_unit(&sent).await.unwrap();
    let repaired = comes(&mut receiver, &sent, "a megabyte").await;
    assert!(repaired > 150, "{repaired}");
    close((sender, receiver)).await;
}
