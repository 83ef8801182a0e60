//! Descriptions from other stacks are processed by a real peer connection. The files in `data/descriptions` are
//! modeled on descriptions in public issue trackers, with invented names, addresses and digests.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
};

use orion_peer::peer::{Peer, PeerConfig, PeerError, PeerRole};

/// The descriptions that cannot be used, each with its error code and a part of the message.
const REFUSED: [(&str, &str, &str); 5] = [
    ("android-vp8-only.offer", "no-h264", "VP8"),
    ("gstreamer-default-policy.offer", "video-not-taken", "BUNDLE"),
    ("polycom-without-ice.offer", "video-not-taken", "a=ice-ufrag"),
    ("mediasoup-sha-512.offer", "no-fingerprint", "sha-512"),
    ("mediasoup-sha-224.answer", "no-fingerprint", "sha-224"),
];

/// Name and text of each description, with CRLF line ends as on the wire.
fn descriptions(kind: &str) -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/descriptions");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_stem().unwrap().to_str().unwrap().ends_with(kind))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), text.replace('\n', "\r\n"))
        })
        .collect();
    found.sort();
    found
}

async fn peer(role: PeerRole) -> Peer {
    let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    Peer::new(PeerConfig { addresses, ..PeerConfig::new(role) }).await.unwrap().0
}

fn refused(name: &str, error: Option<&PeerError>) -> bool {
    let wanted = REFUSED.iter().find(|(refused, ..)| *refused == name);
    match (wanted, error) {
        (None, None) => false,
        (Some((_, code, words)), Some(error)) => {
            assert_eq!(error.code(), *code, "{name}: {error}");
            assert!(error.to_string().contains(words), "{name}: {error}");
            true
        }
        (None, Some(error)) => panic!("{name}: {error}"),
        (Some(_), None) => panic!("{name} was accepted"),
    }
}

/// The m-lines of a description, each as the text after `m=` followed by its attributes.
fn lines(sdp: &str) -> Vec<Vec<&str>> {
    let mut lines: Vec<Vec<&str>> = Vec::new();
    for line in sdp.lines().map(str::trim_end) {
        if let Some(media) = line.strip_prefix("m=") {
            lines.push(vec![media]);
        } else if let (Some(last), Some(attribute)) = (lines.last_mut(), line.strip_prefix("a=")) {
            last.push(attribute);
        }
    }
    lines
}

fn value<'a>(line: &[&'a str], key: &str) -> Option<&'a str> {
    line.iter().find_map(|attribute| attribute.strip_prefix(key)?.strip_prefix(':'))
}

/// Checks that an answer has the m-lines of the offer in the same order (RFC 3264 §6), accepts H.264 video and a data
/// channel, and rejects the rest.
fn check(name: &str, offer: &str, answer: &str) {
    let (offered, answered) = (lines(offer), lines(answer));
    assert_eq!(offered.len(), answered.len(), "{name}: {answer}");
    let passive = offer.contains("a=setup:passive");
    let mut members = Vec::new();
    for (theirs, ours) in offered.iter().zip(&answered) {
        let words = |line: &[&str]| line[0].split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (their_words, our_words) = (words(theirs), words(ours));
        assert_eq!((&their_words[0], &their_words[2]), (&our_words[0], &our_words[2]), "{name}");
        let mid = value(ours, "mid").unwrap();
        assert!(value(theirs, "mid").is_none_or(|theirs| theirs == mid), "{name}: {mid}");
        let data = their_words[3..] == ["webrtc-datachannel"];
        let taken = data || their_words[0] == "video";
        assert_eq!(our_words[1] != "0", taken, "{name}: {ours:?}");
        if !taken {
            continue;
        }
        members.push(mid);
        let setup = if passive { "active" } else { "passive" };
        assert_eq!(value(ours, "setup"), Some(setup), "{name}");
        assert!(value(ours, "ice-ufrag").is_some(), "{name}");
        if !data {
            assert!(ours.contains(&"recvonly"), "{name}: {ours:?}");
            let h264 = |attribute: &&&str| {
                attribute.starts_with("rtpmap:") && attribute.ends_with("H264/90000")
            };
            assert!(ours.iter().any(|attribute| h264(&attribute)), "{name}: {ours:?}");
            let pli = |line: &[&str]| line.iter().any(|attribute| attribute.ends_with(" nack pli"));
            assert_eq!(pli(ours), pli(theirs), "{name}: {ours:?}");
        }
    }
    let group = answer.lines().find_map(|line| line.trim_end().strip_prefix("a=group:BUNDLE "));
    let mut found: Vec<_> = group.unwrap_or_default().split_whitespace().collect();
    found.sort_unstable();
    members.sort_unstable();
    if offer.contains("a=group:BUNDLE") {
        assert_eq!(found, members, "{name}: {answer}");
    } else {
        assert_eq!(group, None, "{name}: the offer has no group");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offers_from_other_stacks_are_answered() {
    let offers = descriptions(".offer");
    assert!(offers.len() >= 37, "{}", offers.len());
    for (name, offer) in offers {
        let peer = peer(PeerRole::Receiver).await;
        let answer = peer.accept_offer(offer.clone()).await;
        if !refused(&name, answer.as_ref().err()) {
            check(&name, &offer, &answer.unwrap());
        }
        peer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_from_other_stacks_are_accepted() {
    let answers = descriptions(".answer");
    assert!(answers.len() >= 15, "{}", answers.len());
    for (name, answer) in answers {
        let peer = peer(PeerRole::Sender).await;
        let offer = peer.create_offer().await.unwrap();
        assert!(offer.contains("a=group:BUNDLE 0 1"), "the answers in the files are to this group");
        refused(&name, peer.accept_answer(answer).await.as_ref().err());
        peer.close().await;
    }
}
