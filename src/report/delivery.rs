//! How keyframes were delivered, what limited that, and what to try: the same words in every report.
//!
//! The remedies are those of an app on libwebrtc. There the receiver's answer may name bitrates as well,
//! and so may `recv`, which writes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::human;
use crate::stats::bottleneck::{Judged, Limit, Overall, PathRate, Seen};

/// A first keyframe later than this after the connection is late: it should take one interval at most.
const LATE: Duration = Duration::from_secs(5);

/// An encoder that uses less of the budget than this share is looked at.
const SMALL_SHARE: f64 = 0.5;

/// Fewer bits a pixel than that of a picture are few; more cannot always be used.
const FEW_BITS_A_PIXEL: f64 = 0.5;

/// Keyframes before anything is concluded of all of them.
const FEWEST: u64 = 3;

/// What is known of the delivery of one keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeDelivery {
    /// Its rate from the first packet to the last that was no retransmission, bits/s of IP packets; null
    /// where it is too short.
    pub bits_per_second: Option<u64>,
    /// What the path carries; null where nothing shows it.
    pub path: Option<PathRate>,
    /// How long its packets take at the path's rate, ms: at most so long where the path may carry more.
    pub least_ms: Option<f64>,
    /// What limits it.
    pub limited_by: Limit,
    /// Whether that is sure, and not only likely.
    pub sure: bool,
}

impl KeyframeDelivery {
    /// What was seen and concluded of a keyframe.
    #[must_use]
    pub fn new(seen: &Seen, judged: &Judged) -> Self {
        Self {
            bits_per_second: seen.delivery.rate,
            path: judged.path,
            least_ms: judged.least(&seen.delivery).map(ms),
            limited_by: judged.limit,
            sure: judged.sure,
        }
    }
}

/// How the keyframes of a run were delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryReport {
    /// Keyframes that were looked at.
    pub of: u64,
    /// What limits the most of those of which it is known.
    pub limited_by: Limit,
    /// How many are limited so; what follows is of them.
    pub count: u64,
    /// Whether that is sure of one of them at least, and not only likely.
    pub sure: bool,
    /// Median from the first packet to the last, ms.
    pub spread_ms: f64,
    /// Median rate, bits/s of IP packets; null where they were too short.
    pub bits_per_second: Option<u64>,
    /// Median of what the path carries; null where nothing shows it.
    pub path: Option<PathRate>,
    /// Median of how long the packets of a keyframe take at the path's rate, ms.
    pub least_ms: Option<f64>,
    /// From the connection to the first keyframe being whole, ms; null where there was none.
    pub first_after_ms: Option<f64>,
    /// What to know of it, and what to try; the most important first.
    pub findings: Vec<Finding>,
}

/// Something to know of the delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What, in kebab case: stable, for programs.
    pub code: String,
    /// Whether it is sure, and not only likely.
    pub sure: bool,
    /// What, in a few words.
    pub brief: String,
    /// What and why, for people.
    pub message: String,
    /// What to try.
    pub remedy: String,
}

impl DeliveryReport {
    /// What is concluded of the keyframes of a run; `budget` is that of each, bytes, and `first_after` the time
    /// from the connection to the first.
    #[must_use]
    pub fn new(overall: &Overall, budget: Option<u64>, first_after: Option<Duration>) -> Self {
        let late = first_after.filter(|after| *after > LATE).map(late);
        let limit = limit(overall).filter(|_| overall.of >= FEWEST);
        let small = budget.filter(|_| overall.of >= FEWEST).and_then(|max| small(overall, max));
        Self {
            of: overall.of,
            limited_by: overall.limit,
            count: overall.count,
            sure: overall.sure,
            spread_ms: ms(overall.spread),
            bits_per_second: overall.rate,
            path: overall.path,
            least_ms: overall.least.map(ms),
            first_after_ms: first_after.map(ms),
            findings: [limit, small, late].into_iter().flatten().collect(),
        }
    }

    /// How long keyframes take, at what rate, and what the path carries, in a few words each.
    #[must_use]
    pub fn figures(&self) -> Vec<String> {
        // Of a single packet, or of packets that were read at the same instant.
        let at_once = self.spread_ms < 0.005;
        let mut figures = vec![if at_once {
            "all packets at once".to_owned()
        } else {
            format!("{} first to last packet", human::millis(self.spread_ms))
        }];
        figures.extend(self.bits_per_second.map(|rate| human::bitrate(rate as f64)));
        figures.extend(self.path.map(|path| format!("path {}", path_words(path))));
        figures
    }
}

impl Finding {
    fn new(code: &str, sure: bool, brief: &str, message: String, remedy: &str) -> Self {
        let likely = if sure { "" } else { " (likely)" };
        let message = if sure { message } else { format!("{message} (likely)") };
        let brief = format!("{brief}{likely}");
        Self { code: code.into(), sure, brief, message, remedy: remedy.into() }
    }
}

/// What a path carries: `at least 20.0 Mbit/s`, `about 2.0 Mbit/s`.
#[must_use]
pub fn path_words(path: PathRate) -> String {
    let bound = if path.at_least { "at least" } else { "about" };
    format!("{bound} {}", human::bitrate(path.bits_per_second as f64))
}

/// What a limit is called.
#[must_use]
pub fn limit_words(limit: Limit) -> &'static str {
    match limit {
        Limit::None => "nothing",
        Limit::Sender => "sender",
        Limit::Path => "path",
        Limit::Loss => "loss",
        Limit::Unknown => "unknown",
    }
}

const RAISE_START: &str = "raise the start bitrate towards what the path carries: in the app by currentBitrateBps \
    of RTCPeerConnection.setBweMinBitrateBps:currentBitrateBps:maxBitrateBps: (iOS) and by \
    RTCRtpEncodingParameters.maxBitrateBps, or in the receiver's answer by recv --phone-bitrate. A minimum above \
    what the path carries floods it";

const RAISE_PACE: &str = "raise the sender's pace towards what the path carries: send --pace; a libwebrtc app by \
    setBweMinBitrateBps:currentBitrateBps:maxBitrateBps: and RTCRtpEncodingParameters.maxBitrateBps, or in the \
    receiver's answer by recv --phone-bitrate";

/// What the most of the keyframes are limited by; nothing of those that are fast.
fn limit(overall: &Overall) -> Option<Finding> {
    let rate = overall.rate.map(|rate| human::bitrate(rate as f64));
    let path = overall.path.map(|path| format!("the path carries {}", path_words(path)));
    let (rate, path) = (rate.unwrap_or_default(), path.unwrap_or_default());
    let (spread, sure) = (human::millis(ms(overall.spread)), overall.sure);
    let finding = match overall.limit {
        Limit::None => return None,
        Limit::Sender => sender(overall, &rate, path),
        Limit::Path => {
            let least = overall.least.map(|least| human::millis(ms(least))).unwrap_or_default();
            let message =
                format!("{path}, at which a keyframe takes {least}; here it takes {spread}");
            let remedy = "send smaller keyframes, or take a faster path; a higher bitrate of the \
                          sender would only make a queue";
            Finding::new("path-limited", sure, "the path", message, remedy)
        }
        Limit::Loss => {
            let repair = human::millis(ms(overall.repair));
            let message = format!("retransmissions take {repair} of the {spread} of a keyframe");
            let remedy = "take a path with less loss or a shorter round trip; doctor and --stats \
                          say how much is lost";
            Finding::new("loss-limited", sure, "loss", message, remedy)
        }
        Limit::Unknown => {
            let message = format!(
                "keyframes take {spread}, at {rate}; whether the sender or the path limits them was not seen"
            );
            let remedy = "let it run longer: pings among the packets of keyframes show it";
            Finding::new("limit-unknown", true, "unknown", message, remedy)
        }
    };
    Some(finding)
}

fn sender(overall: &Overall, rate: &str, path: String) -> Finding {
    let (what, remedy) = if overall.libwebrtc {
        ("the phone's bandwidth estimate", RAISE_START)
    } else {
        ("the sender's pace", RAISE_PACE)
    };
    let path = if more_was_seen(overall) {
        path
    } else {
        "how much more the path carries was not seen".into()
    };
    let message = format!("{what} limits keyframes to {rate}; {path}");
    Finding::new("sender-limited", overall.sure, what, message, remedy)
}

/// Whether more than the rate of the keyframes themselves was seen of the path.
fn more_was_seen(overall: &Overall) -> bool {
    let path = overall.path.zip(overall.rate);
    path.is_some_and(|(path, rate)| path.bits_per_second as f64 > rate as f64 * 1.1)
}

/// The encoder uses little of the budget, and gives its pictures few bits.
fn small(overall: &Overall, budget: u64) -> Option<Finding> {
    let bits_a_pixel = overall.bytes as f64 * 8.0 / overall.pixels? as f64;
    let share = overall.bytes as f64 / budget as f64;
    if share >= SMALL_SHARE || bits_a_pixel >= FEW_BITS_A_PIXEL {
        return None;
    }
    let (size, of) = (human::bytes(overall.bytes), human::bytes(budget));
    let message = format!("the encoder makes {size} keyframes of a budget of {of}");
    let remedy = "raise RTCRtpEncodingParameters.maxBitrateBps (and minBitrateBps where the path is known to \
                  carry it) and the start bitrate, which bounds the encoder as well; a plain picture needs no more";
    let brief = format!("encoder makes {size} of {of}");
    Some(Finding::new("encoder-small", true, &brief, message, remedy))
}

fn late(after: Duration) -> Finding {
    let after = human::millis(ms(after));
    let message = format!(
        "the first keyframe came {after} after the connection: libwebrtc drops its first pictures while its \
         bandwidth estimate is low"
    );
    let brief = format!("first keyframe after {after}");
    Finding::new("first-keyframe-late", false, &brief, message, RAISE_START)
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Chromium's defaults over 20 Mbit/s, its own encoder.
    fn phone() -> Overall {
        Overall {
            of: 8,
            limit: Limit::Sender,
            count: 7,
            sure: true,
            spread: 818 * MS,
            rate: Some(980_000),
            path: Some(PathRate { bits_per_second: 20_000_000, at_least: true }),
            least: Some(42 * MS),
            repair: Duration::ZERO,
            libwebrtc: true,
            bytes: 4_000,
            pixels: Some(1280 * 720),
        }
    }

    fn messages(overall: &Overall, first_after: Option<Duration>) -> Vec<String> {
        let report = DeliveryReport::new(overall, Some(100_000), first_after);
        report.findings.into_iter().map(|finding| finding.message).collect()
    }

    #[test]
    fn a_phone_with_its_defaults() {
        let said = messages(&phone(), Some(15_500 * MS));
        let expected = [
            "the phone's bandwidth estimate limits keyframes to 980 kbit/s; the path carries at least 20.0 Mbit/s",
            "the encoder makes 4.0 KB keyframes of a budget of 100.0 KB",
            "the first keyframe came 15.50 s after the connection: libwebrtc drops its first pictures while its \
             bandwidth estimate is low (likely)",
        ];
        assert_eq!(said, expected);
        let report = DeliveryReport::new(&phone(), None, None);
        assert_eq!(
            report.figures(),
            ["818 ms first to last packet", "980 kbit/s", "path at least 20.0 Mbit/s"]
        );
        let small =
            DeliveryReport { spread_ms: 0.0, bits_per_second: None, path: None, ..report.clone() };
        assert_eq!(small.figures(), ["all packets at once"]);
        let remedy = &report.findings[0].remedy;
        for named in ["currentBitrateBps", "RTCRtpEncodingParameters", "--phone-bitrate"] {
            assert!(remedy.contains(named), "{remedy}");
        }
    }

    #[test]
    fn what_is_only_likely_is_said_so() {
        let even = Overall { sure: false, libwebrtc: false, bytes: 90_000, ..phone() };
        let said = messages(&even, None);
        assert_eq!(
            said,
            [
                "the sender's pace limits keyframes to 980 kbit/s; the path carries at least 20.0 Mbit/s (likely)"
            ]
        );
        let bound = PathRate { bits_per_second: 990_000, at_least: true };
        let unseen = Overall { path: Some(bound), sure: true, ..even };
        assert_eq!(
            messages(&unseen, None),
            [
                "the sender's pace limits keyframes to 980 kbit/s; how much more the path carries was not seen"
            ]
        );
        let queued = PathRate { bits_per_second: 2_000_000, at_least: false };
        let path = Overall {
            limit: Limit::Path,
            path: Some(queued),
            spread: 421 * MS,
            least: Some(420 * MS),
            ..Overall { sure: true, ..even }
        };
        assert_eq!(
            messages(&path, None),
            [
                "the path carries about 2.0 Mbit/s, at which a keyframe takes 420 ms; here it takes 421 ms"
            ]
        );
        let unknown = Overall { limit: Limit::Unknown, ..path };
        assert!(messages(&unknown, None)[0].contains("was not seen"));
    }

    #[test]
    fn what_is_well_is_not_found_fault_with() {
        let fast = Overall { limit: Limit::None, bytes: 60_000, ..phone() };
        assert!(messages(&fast, Some(1_500 * MS)).is_empty());
        // A small picture needs few bytes, and two keyframes say little.
        let small = Overall { bytes: 6_000, pixels: Some(320 * 240), ..fast };
        assert!(messages(&small, None).is_empty());
        assert!(messages(&Overall { of: 2, ..phone() }, None).is_empty());
        assert!(messages(&Overall { pixels: None, ..fast }, None).is_empty());
    }

    #[test]
    fn the_json_comes_back() {
        let report = DeliveryReport::new(&phone(), Some(100_000), Some(MS));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["limitedBy"], "sender");
        assert_eq!(json["path"]["bitsPerSecond"], 20_000_000);
        assert_eq!(json["findings"][0]["code"], "sender-limited");
        assert_eq!(serde_json::from_value::<DeliveryReport>(json).unwrap(), report);
    }
}
