//! How keyframes were delivered, what limited the delivery, and what to try: the same words in every report.
//!
//! The remedies are for an app built on libwebrtc, where bitrates can also be set in the receiver's answer, as `recv`
//! does.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::human;
use crate::stats::bottleneck::{ArrivedKeyframe, Assessment, Limit, Overall, PathRate};

/// A first keyframe later than this after the connection counts as late: it should take at most one interval.
const LATE: Duration = Duration::from_secs(5);

/// An encoder that uses less than this share of the budget is examined further.
const SMALL_SHARE: f64 = 0.5;

/// A picture with fewer bits per pixel than this is encoded small; not every picture can use more.
const LOW_BITS_PER_PIXEL: f64 = 0.5;

/// Minimum number of keyframes before a conclusion about all of them.
const MIN_KEYFRAMES: u64 = 3;

/// The delivery of one keyframe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyframeDelivery {
    /// Rate from the first packet to the last that was not a retransmission, bits/s of IP packets; null if the time
    /// is too short.
    pub bits_per_second: Option<u64>,
    /// Rate of the path; null if unknown.
    pub path: Option<PathRate>,
    /// Time its packets take at the rate of the path, ms: an upper bound if the path may be faster.
    pub least_ms: Option<f64>,
    /// The bottleneck.
    pub limited_by: Limit,
    /// Whether the bottleneck is certain, not only likely.
    pub sure: bool,
}

impl KeyframeDelivery {
    /// Combines the observation of a keyframe with its assessment.
    #[must_use]
    pub fn new(keyframe: &ArrivedKeyframe, assessment: &Assessment) -> Self {
        Self {
            bits_per_second: keyframe.delivery.rate,
            path: assessment.path,
            least_ms: assessment.least(&keyframe.delivery).map(ms),
            limited_by: assessment.limit,
            sure: assessment.sure,
        }
    }
}

/// How the keyframes of a run were delivered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryReport {
    /// Keyframes examined.
    pub of: u64,
    /// The most frequent bottleneck among keyframes with a known one.
    pub limited_by: Limit,
    /// Number of keyframes with that bottleneck; the values below are those of these keyframes.
    pub count: u64,
    /// Whether the bottleneck is certain for at least one of them, not only likely.
    pub sure: bool,
    /// Median from the first packet to the last, ms.
    pub spread_ms: f64,
    /// Median rate, bits/s of IP packets; null if they were too short.
    pub bits_per_second: Option<u64>,
    /// Median rate of the path; null if unknown.
    pub path: Option<PathRate>,
    /// Median time the packets of a keyframe take at the rate of the path, ms.
    pub least_ms: Option<f64>,
    /// From the connection to the first complete keyframe, ms; null if there was none.
    pub first_after_ms: Option<f64>,
    /// Findings with remedies, the most important first.
    pub findings: Vec<Finding>,
}

/// A finding about the delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Kebab-case code, stable across versions.
    pub code: String,
    /// Whether it is certain, not only likely.
    pub sure: bool,
    /// The finding in a few words.
    pub brief: String,
    /// The finding with its cause in a sentence.
    pub message: String,
    /// What to try.
    pub remedy: String,
}

impl DeliveryReport {
    /// Summarizes the keyframes of a run; `budget` is the size budget of each, bytes, and `first_after` the time from
    /// the connection to the first one.
    #[must_use]
    pub fn new(overall: &Overall, budget: Option<u64>, first_after: Option<Duration>) -> Self {
        let late = first_after.filter(|after| *after > LATE).map(late);
        let limit = limit(overall).filter(|_| overall.of >= MIN_KEYFRAMES);
        let small =
            budget.filter(|_| overall.of >= MIN_KEYFRAMES).and_then(|max| small(overall, max));
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

    /// Duration and rate of keyframes and the rate of the path, in a few words each.
    #[must_use]
    pub fn figures(&self) -> Vec<String> {
        // A single packet, or packets that were read at the same instant.
        let instantaneous = self.spread_ms < 0.005;
        let mut figures = vec![if instantaneous {
            "all packets in one burst".to_owned()
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

/// The rate of a path: `at least 20.0 Mbit/s`, `about 2.0 Mbit/s`.
#[must_use]
pub fn path_words(path: PathRate) -> String {
    let bound = if path.at_least { "at least" } else { "about" };
    format!("{bound} {}", human::bitrate(path.bits_per_second as f64))
}

/// The name of a bottleneck.
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

const RAISE_START: &str = "raise the start bitrate toward the path's rate: in the app with \
    currentBitrateBps of RTCPeerConnection.setBweMinBitrateBps:currentBitrateBps:maxBitrateBps: \
    (iOS) and RTCRtpEncodingParameters.maxBitrateBps, or in the receiver's answer with recv \
    --phone-bitrate. Do not set a minimum above the path's rate, which would flood it";

const RAISE_PACE: &str = "raise the sender's pace toward the path's rate: with send --pace, or in \
    a libwebrtc app with setBweMinBitrateBps:currentBitrateBps:maxBitrateBps: and \
    RTCRtpEncodingParameters.maxBitrateBps, or in the receiver's answer with recv --phone-bitrate";

/// The finding about the most frequent bottleneck; `None` if keyframes are fast.
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
            let message = format!("{path}, enough to send a keyframe in {least}; it took {spread}");
            let remedy = "send smaller keyframes, or use a faster path; a higher sender bitrate \
                          would only build up a queue";
            Finding::new("path-limited", sure, "the path", message, remedy)
        }
        Limit::Loss => {
            let repair = human::millis(ms(overall.repair));
            let message = format!("retransmissions take {repair} of the {spread} of a keyframe");
            let remedy = "use a path with less loss or a shorter round trip; doctor and --stats \
                          show the loss";
            Finding::new("loss-limited", sure, "loss", message, remedy)
        }
        Limit::Unknown => {
            let message = format!(
                "keyframes take {spread}, at {rate}; it is unknown whether the sender or the path \
                 limits them"
            );
            let remedy = "run longer: pings between the packets of keyframes reveal the bottleneck";
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
    let path = if path_is_faster(overall) {
        path
    } else {
        "it is unknown how much more the path carries".into()
    };
    let message = format!("{what} limits keyframes to {rate}; {path}");
    Finding::new("sender-limited", overall.sure, what, message, remedy)
}

/// Whether the path was observed to be faster than the keyframes.
fn path_is_faster(overall: &Overall) -> bool {
    let path = overall.path.zip(overall.rate);
    path.is_some_and(|(path, rate)| path.bits_per_second as f64 > rate as f64 * 1.1)
}

/// The finding that the encoder uses little of the budget and few bits per pixel.
fn small(overall: &Overall, budget: u64) -> Option<Finding> {
    let bits_per_pixel = overall.bytes as f64 * 8.0 / overall.pixels? as f64;
    let share = overall.bytes as f64 / budget as f64;
    if share >= SMALL_SHARE || bits_per_pixel >= LOW_BITS_PER_PIXEL {
        return None;
    }
    let (size, of) = (human::bytes(overall.bytes), human::bytes(budget));
    let message = format!("the encoder produces keyframes of {size} although the budget is {of}");
    let remedy = "raise RTCRtpEncodingParameters.maxBitrateBps (and minBitrateBps if the path is \
                  known to carry it) and the start bitrate, which also bounds the encoder; a \
                  simple picture may not need more";
    let brief = format!("encoder uses {size} of {of}");
    Some(Finding::new("encoder-small", true, &brief, message, remedy))
}

fn late(after: Duration) -> Finding {
    let after = human::millis(ms(after));
    let message = format!(
        "the first keyframe arrived {after} after the connection: libwebrtc drops its first \
         pictures while its \
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
        let found = messages(&phone(), Some(15_500 * MS));
        let expected = [
            "the phone's bandwidth estimate limits keyframes to 980 kbit/s; the path carries at \
             least 20.0 Mbit/s",
            "the encoder produces keyframes of 4.0 KB although the budget is 100.0 KB",
            "the first keyframe arrived 15.50 s after the connection: libwebrtc drops its first \
             pictures while its \
             bandwidth estimate is low (likely)",
        ];
        assert_eq!(found, expected);
        let report = DeliveryReport::new(&phone(), None, None);
        assert_eq!(
            report.figures(),
            ["818 ms first to last packet", "980 kbit/s", "path at least 20.0 Mbit/s"]
        );
        let small =
            DeliveryReport { spread_ms: 0.0, bits_per_second: None, path: None, ..report.clone() };
        assert_eq!(small.figures(), ["all packets in one burst"]);
        let remedy = &report.findings[0].remedy;
        for named in ["currentBitrateBps", "RTCRtpEncodingParameters", "--phone-bitrate"] {
            assert!(remedy.contains(named), "{remedy}");
        }
    }

    #[test]
    fn likely_findings_are_marked() {
        let even = Overall { sure: false, libwebrtc: false, bytes: 90_000, ..phone() };
        let found = messages(&even, None);
        assert_eq!(
            found,
            ["the sender's pace limits keyframes to 980 kbit/s; the path carries at least 20.0 \
                 Mbit/s (likely)"]
        );
        let bound = PathRate { bits_per_second: 990_000, at_least: true };
        let unseen = Overall { path: Some(bound), sure: true, ..even };
        assert_eq!(
            messages(&unseen, None),
            ["the sender's pace limits keyframes to 980 kbit/s; it is unknown how much more \
                 the path carries"]
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
            ["the path carries about 2.0 Mbit/s, enough to send a keyframe in 420 ms; it took \
                 421 ms"]
        );
        let unknown = Overall { limit: Limit::Unknown, ..path };
        assert!(messages(&unknown, None)[0].contains("it is unknown whether"));
    }

    #[test]
    fn good_delivery_has_no_findings() {
        let fast = Overall { limit: Limit::None, bytes: 60_000, ..phone() };
        assert!(messages(&fast, Some(1_500 * MS)).is_empty());
        // A small picture needs few bytes, and two keyframes prove little.
        let small = Overall { bytes: 6_000, pixels: Some(320 * 240), ..fast };
        assert!(messages(&small, None).is_empty());
        assert!(messages(&Overall { of: 2, ..phone() }, None).is_empty());
        assert!(messages(&Overall { pixels: None, ..fast }, None).is_empty());
    }

    #[test]
    fn the_json_round_trips() {
        let report = DeliveryReport::new(&phone(), Some(100_000), Some(MS));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["limitedBy"], "sender");
        assert_eq!(json["path"]["bitsPerSecond"], 20_000_000);
        assert_eq!(json["findings"][0]["code"], "sender-limited");
        assert_eq!(serde_json::from_value::<DeliveryReport>(json).unwrap(), report);
    }
}
