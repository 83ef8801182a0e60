//! Fuzz tests of all parsers of external input: no parser panics, and accepted input survives a round trip.
//!
//! Each target has a corpus in `data/corpus`: valid inputs, and inputs that once caused a failure.
//! `ORION_FUZZ_SECONDS=20 cargo nextest run --release -E 'test(/^fuzz::/)'` runs longer than the usual run
//! of all tests.

mod keyframes;
mod mutate;

use std::{
    mem::discriminant,
    net::{IpAddr, Ipv4Addr},
    str,
};

use orion_peer::{
    auth::jwt::{Policy, check_unverified, inspect_unverified},
    lab::matrix::scenario::{Overrides, Scenario},
    media::{
        decoder::Decoder,
        encoder::{EncoderConfig, KeyframeEncoder},
        h264::{self, AccessUnitSplitter},
        source::PatternSource,
    },
    nat::Profile,
    peer::{Peer, PeerConfig, PeerRole, sdp},
    proto::{
        control::ControlMessage,
        signaling::{IceCandidateInit, Message},
        token::TokenAnswer,
    },
    stun::{message, stream},
};

use self::mutate::{fuzz, fuzz_some};

#[test]
fn control_messages() {
    let words = ["\"t\":\"ping\"", "\"id\":", "1e999", "-0", "[[[[[[[[", "\\ud800", "\"ts\":", "{"];
    fuzz("control", &words, |input| {
        let Ok(message) = ControlMessage::parse(input) else { return };
        let again = ControlMessage::parse(message.to_json().as_bytes());
        let same = matches!(&again, Ok(again) if discriminant(again) == discriminant(&message));
        assert!(same || message == ControlMessage::Unknown, "{message:?} became {again:?}");
    });
}

#[test]
fn signaling_messages() {
    let words =
        ["\"t\":\"offer\"", "\"pairId\":", "\"sdp\":", "\\u0000", "[[[[[[", "null", "1e999"];
    fuzz("signaling", &words, |input| {
        let Ok(text) = str::from_utf8(input) else { return };
        let _ = serde_json::from_str::<TokenAnswer>(text);
        let Ok(message) = Message::parse(text) else { return };
        let again = Message::parse(&message.to_json()).expect("its own JSON is read");
        assert_eq!(again, message);
    });
}

#[test]
fn session_descriptions() {
    let words =
        ["m=video 9 ", "m=", "a=rtpmap:", "a=mid:", " H264/90000", "\r\n", "\u{fffd}", "102"];
    fuzz("sdp", &words, |input| {
        let text = String::from_utf8_lossy(input);
        if let Some(media) = sdp::h264_media(&text) {
            assert!(!media.payload_types.is_empty());
            assert!(sdp::video_codecs(&text).iter().any(|c| c.eq_ignore_ascii_case("H264")));
        }
        let _ = sdp::video_codecs(&text);
    });
}

/// Rewritten descriptions for the `rtc` crate contain exactly the accepted candidates, regardless of the form of the
/// original.
#[test]
fn remote_descriptions() {
    let words = [
        "\ra=candidate:1 1 udp 1 192.0.2.1 9 typ host",
        "a= candidate:",
        "candidate",
        "a=fingerprint:SHA-256 ab:CD",
        "a=ssrc:1 ",
        "m=video 9 X 96",
        "\u{a0}",
        "\r\n",
        "\r",
        ":",
    ];
    fuzz("offer", &words, |input| {
        let text = String::from_utf8_lossy(input);
        let mut taken = 0;
        let rewritten = sdp::rewrite(&text, |value| {
            let takes = value.len() % 2 == 0;
            taken += usize::from(takes);
            takes
        });
        let Ok(rewritten) = rewritten else { return };
        let parsed = rtc::sdp::SessionDescription::try_from(rewritten.sdp.clone());
        let parsed = parsed.expect("a rewritten description can be parsed");
        let media = parsed.media_descriptions.iter().flat_map(|media| &media.attributes);
        let found = parsed.attributes.iter().chain(media).filter(|a| a.is_ice_candidate());
        assert_eq!(found.count(), taken);
        let again = sdp::rewrite(&rewritten.sdp, |_| true).expect("it can be rewritten again");
        assert_eq!((again.sdp, again.ssrcs), (rewritten.sdp, rewritten.ssrcs));
    });
}

/// An offer passes the parser and the state machine of the `rtc` crate: the peer accepts it or returns an
/// error, but does not panic.
#[test]
fn offers() {
    let words = [
        "m=video 9 ",
        "a=rtpmap:",
        "a=fmtp:",
        "a=candidate:",
        "\r\n",
        "a=ssrc:1 ",
        "\ra= ",
        "a=mid:",
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = PeerConfig {
        addresses: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        ..PeerConfig::new(PeerRole::Receiver)
    };
    fuzz_some("offer", 100, &words, |input| {
        let offer = String::from_utf8_lossy(input).into_owned();
        runtime.block_on(async {
            let (peer, _events) = Peer::new(config.clone()).await.unwrap();
            let candidate = offer.lines().find_map(|line| line.strip_prefix("a=candidate:"));
            let candidate = candidate.map(|rest| IceCandidateInit {
                candidate: format!("candidate:{rest}"),
                sdp_mid: Some("0".into()),
                sdp_mline_index: Some(0),
                username_fragment: None,
            });
            let _ = peer.accept_offer(offer).await;
            peer.add_candidate(candidate).await;
            peer.close().await;
        });
    });
}

#[test]
fn tokens() {
    let words = ["eyJhbGciOiJub25lIn0", ".", "..", "=", "eyJhbGciOiJIUzI1NiIsImNyaXQiOltdfQ"];
    let policy = Policy::default();
    fuzz("token", &words, |input| {
        let text = String::from_utf8_lossy(input);
        let _ = inspect_unverified(&text);
        let _ = check_unverified(&text, &policy, 1_700_000_000);
    });
}

#[test]
fn stun_messages() {
    fuzz("stun", &[], |input| {
        if let Ok(Some((length, padding))) = stream::frame(input) {
            assert!(length + padding <= input.len());
        }
        let Some(message) = message::Message::parse(input) else { return };
        let bytes: usize = message.attributes().map(|attribute| attribute.value.len()).sum();
        assert!(bytes <= input.len());
        for attribute in message.attributes() {
            let _ = (message.get(attribute.kind), message.text(attribute.kind));
            let _ = (message.number(attribute.kind), message.address(attribute.kind));
            let _ = message.plain_address(attribute.kind);
        }
        let _ = (message.mapped_address(), message.change_request(), message.error_code());
        let _ = (message.unknown(&[0x0020]), message.verify(b"key"));
    });
}

#[test]
fn h264_streams() {
    fuzz("h264", &[], |input| {
        let again = h264::normalize(input);
        assert_eq!(h264::normalize(&again), again);
        if let Some((width, height)) = h264::dimensions(input) {
            // The maximum of level 6.2.
            assert!((1..=16_888).contains(&width) && (1..=16_888).contains(&height));
        }
        let _ = (h264::is_keyframe(input), h264::idr_pic_id(input));
        for nal in h264::nal_units(input) {
            let _ = (h264::profile_level_id(nal), h264::sps_colour(nal));
        }
        // The access units do not depend on how the stream is split.
        let split = |piece: usize| {
            let mut splitter = AccessUnitSplitter::default();
            input.chunks(piece).for_each(|data| splitter.push(data));
            splitter.finish();
            std::iter::from_fn(|| splitter.pop()).collect::<Vec<_>>()
        };
        assert_eq!(split(1), split(7_919));
    });
}

/// The decoder is written in C++: after any broken picture, the same `Decoder` decodes the next clean one.
#[test]
fn pictures() {
    let frame = PatternSource::new(64, 48).unwrap().render(1, std::time::SystemTime::UNIX_EPOCH);
    let config = EncoderConfig { max_bytes: 3_000, ..EncoderConfig::default() };
    let clean = KeyframeEncoder::new(config).unwrap().encode(&frame).unwrap().access_unit.data;
    let decoder = std::cell::RefCell::new(Decoder::new().unwrap());
    fuzz("picture", &[], |input| {
        let mut decoder = decoder.borrow_mut();
        let _ = decoder.decode(input);
        let decoded = decoder.decode(&clean).expect("a clean keyframe after a broken one");
        assert_eq!((decoded.width, decoded.height), (64, 48));
    });
}

/// Bits of a parameter set.
#[derive(Default)]
struct Fields(Vec<bool>);

impl Fields {
    fn bits(mut self, value: u64, count: u32) -> Self {
        self.0.extend((0..count).rev().map(|i| value >> i & 1 == 1));
        self
    }

    fn ue(self, value: u64) -> Self {
        let length = 64 - (value + 1).leading_zeros();
        self.bits(0, length - 1).bits(value + 1, length)
    }

    fn nal(self, header: u8) -> Vec<u8> {
        let (mut nal, mut zeros) = (vec![0, 0, 0, 1, header], 0);
        for chunk in self.bits(1, 1).0.chunks(8) {
            let byte = chunk.iter().enumerate().fold(0, |b, (i, on)| b | u8::from(*on) << (7 - i));
            if zeros >= 2 && byte <= 3 {
                nal.push(3);
                zeros = 0;
            }
            zeros = if byte == 0 { zeros + 1 } else { 0 };
            nal.push(byte);
        }
        nal
    }
}

/// Parameter sets with valid syntax and unusual values, like those of h26forge (USENIX Security 2023):
/// nothing crashes, memory stays bounded, and the next keyframe is decoded.
#[cfg(target_os = "linux")]
#[test]
fn parameter_sets_with_any_values() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let frame = PatternSource::new(64, 48).unwrap().render(1, std::time::SystemTime::UNIX_EPOCH);
    let config = EncoderConfig { max_bytes: 3_000, ..EncoderConfig::default() };
    let clean = KeyframeEncoder::new(config).unwrap().encode(&frame).unwrap().access_unit.data;
    let rest: Vec<u8> = h264::nal_units(&clean)
        .filter(|nal| h264::nal_type(nal) != h264::NalType::Sps)
        .flat_map(|nal| [&h264::START_CODE[..], nal].concat())
        .collect();
    let mut random = StdRng::seed_from_u64(16);
    let mut decoder = Decoder::new().unwrap();
    let (mut decoded, mut refused) = (0, 0);
    for _ in 0..1_500 {
        let mut any = |usual: &[u64]| match random.random_range(0..4) {
            0 => random.random_range(0..40_000),
            _ => usual[random.random_range(0..usual.len())],
        };
        let profile = [66, 77, 88, 100, 110, 244][(any(&[0, 0, 0, 3]) % 6) as usize];
        let mut sps = Fields::default().bits(profile, 8).bits(0xc0, 8).bits(any(&[30, 52, 255]), 8);
        sps = sps.ue(any(&[0, 0, 31]));
        if profile >= 100 {
            sps = sps.ue(any(&[1, 3])).ue(any(&[0, 6])).ue(any(&[0])).bits(0, 2);
        }
        sps = sps.ue(any(&[0, 12])).ue(2).ue(any(&[1, 4, 16])).bits(any(&[0, 1]), 1);
        // 1,023 and 1,023 mean 16k x 16k.
        sps = sps.ue(any(&[3, 255, 1_023, 4_095])).ue(any(&[2, 143, 1_023, 4_095]));
        sps = sps.bits(0b11, 2);
        sps = match any(&[0, 1]) % 2 {
            0 => sps.bits(0, 1),
            // A small picture cropped from a large one.
            _ => {
                sps.bits(1, 1).ue(any(&[0])).ue(any(&[0, 8_000])).ue(any(&[0])).ue(any(&[0, 8_000]))
            }
        };
        let header = if any(&[0, 0, 1]) == 1 { 0x6f } else { 0x67 };
        let unit = [sps.bits(0, 1).nal(header), rest.clone()].concat();
        match decoder.decode(&unit) {
            Ok(_) => decoded += 1,
            Err(_) => refused += 1,
        }
        let good = decoder.decode(&clean).expect("a clean keyframe after a malicious one");
        assert_eq!((good.width, good.height), (64, 48));
    }
    assert!(refused > 500, "{decoded} decoded, {refused} refused");
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 400_000, "{peak} KB");
}

#[test]
fn scenarios() {
    let words = ["[", "]", "=", "\"", "nat = ", "delay = \"", "1e99", "-1", "ms", "loss = ", "\n"];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("scenario.toml");
    fuzz("scenario", &words, |input| {
        let _ = String::from_utf8_lossy(input).trim().parse::<Profile>();
        std::fs::write(&path, input).unwrap();
        if let Err(error) = Scenario::read(&path, &Overrides::default()) {
            assert!(!error.to_string().is_empty());
        }
    });
}
