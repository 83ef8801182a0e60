//! The summary of a run: a human-readable block of text, and one JSON object for programs.

use std::{fmt, time::Duration};

use serde::{Serialize, Serializer};

use super::{delivery::DeliveryReport, human, layout::WIDTH};
use crate::{
    stats::{Histogram, StageHistograms, stages::stage_words},
    types::{ConnectionType, Stage, millis},
};

/// Whether this run sent or received the video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sender, like the phone.
    Send,
    /// Receiver, like the Mac.
    Recv,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Send => "send",
            Self::Recv => "recv",
        })
    }
}

/// Traffic of one kind of channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// Keyframe counts by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KeyframeCounts {
    /// Handed to the network.
    pub sent: u64,
    /// Received completely.
    pub received: u64,
    /// Received with the SHA-256 that the sender announced.
    pub verified: u64,
    /// Received incomplete, undecodable, or with another SHA-256.
    pub broken: u64,
    /// Keyframes that should have been written to disk (received ones, or sent ones with `--save`), but were not.
    pub unwritten: u64,
    /// Pictures that could not be captured or encoded.
    pub failed: u64,
}

impl KeyframeCounts {
    /// Non-zero counts of problems, human-readable.
    fn problems(self) -> impl Iterator<Item = String> {
        let count = |count, what| (count > 0).then(|| format!("{count} {what}"));
        [count(self.unwritten, "unwritten"), count(self.failed, "failed")].into_iter().flatten()
    }
}

/// The summary of a run. Filled during the run, then written once.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    kind: &'static str,
    /// Sender or receiver.
    pub role: Role,
    /// Duration of the run; seconds in JSON.
    #[serde(rename = "durationS", serialize_with = "seconds")]
    pub duration: Duration,
    /// Type of the selected candidate pair, with the relay transport; `None` when never connected.
    pub connection_type: Option<ConnectionType>,
    /// Time to the first picture; `None` when there was none.
    #[serde(rename = "firstPictureMs")]
    pub first_picture: Option<TimeToFirstPicture>,
    /// Round-trip times of the pings on the control channel, ms.
    pub rtt_ms: Histogram,
    /// Bytes of video.
    pub video_bytes: Traffic,
    /// Bytes on data channels.
    pub data_bytes: Traffic,
    /// Keyframe counts by outcome.
    pub keyframes: KeyframeCounts,
    /// Sizes of access units, bytes.
    pub frame_bytes: Histogram,
    /// Keyframes per second over the run.
    pub frame_rate: f64,
    /// Durations of the stages of keyframes, ms.
    pub stages_ms: StageHistograms,
    /// Delivery of the last keyframes and its bottleneck; `None` for a sender.
    pub delivery: Option<DeliveryReport>,
    /// Number of `--stats` lines and `--dump` writes that failed.
    pub unwritten_statistics: u64,
    /// Peer connections that were lost.
    pub connections_lost: ConnectionsLost,
}

/// Time until the first keyframe was sent (by a sender, which does not learn when it arrives), or was complete and
/// decoded (by a receiver); ms in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeToFirstPicture {
    /// From the start of the command.
    #[serde(serialize_with = "optional_ms")]
    pub from_start: Option<Duration>,
    /// From joining the room.
    #[serde(serialize_with = "optional_ms")]
    pub from_join: Option<Duration>,
    /// From the peer joining the room, or from joining it if the peer was already there.
    #[serde(serialize_with = "optional_ms")]
    pub from_peer: Option<Duration>,
}

impl TimeToFirstPicture {
    /// The kind of its JSON line.
    #[must_use]
    pub fn kind(&self, role: Role) -> &'static str {
        match role {
            Role::Send => "first-keyframe-sent",
            Role::Recv => "first-picture",
        }
    }

    /// The human-readable line.
    #[must_use]
    pub fn words(&self, role: Role) -> String {
        let what = match role {
            Role::Send => "first keyframe sent",
            Role::Recv => "first picture decoded",
        };
        format!("{what} {}", self.times())
    }

    fn summary_text(&self, role: Role) -> String {
        let times = self.times();
        if role == Role::Recv { format!("first {times}") } else { times }
    }

    fn times(&self) -> String {
        let known = [
            (self.from_start, "after start"),
            (self.from_join, "after join"),
            (self.from_peer, "after peer"),
        ];
        let times = known.into_iter().filter_map(|(time, since)| {
            Some(format!("{} {since}", human::millis(time?.as_secs_f64() * 1e3)))
        });
        times.collect::<Vec<_>>().join(", ")
    }
}

/// The label of the time to the first picture in the summary.
fn first_label(role: Role) -> &'static str {
    match role {
        Role::Send => "first sent",
        Role::Recv => "picture",
    }
}

// The signature is serde's.
#[expect(clippy::ref_option)]
fn optional_ms<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(millis).serialize(serializer)
}

/// Peer connections that were lost, not counting regular closes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConnectionsLost {
    /// Number of losses.
    pub count: u64,
    /// Cause of the last one.
    pub last: Option<Loss>,
}

/// Why a peer connection was lost.
#[derive(Debug, Clone, Serialize)]
pub struct Loss {
    /// The layer at fault.
    pub stage: Stage,
    /// The cause in kebab case.
    pub code: String,
    /// The cause in a sentence.
    pub message: String,
}

fn seconds<S: Serializer>(length: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(length.as_secs_f64())
}

impl Summary {
    /// The summary of a run that has just started.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            kind: "summary",
            role,
            duration: Duration::ZERO,
            connection_type: None,
            first_picture: None,
            rtt_ms: Histogram::new(),
            video_bytes: Traffic::default(),
            data_bytes: Traffic::default(),
            keyframes: KeyframeCounts::default(),
            frame_bytes: Histogram::new(),
            frame_rate: 0.0,
            stages_ms: StageHistograms::default(),
            delivery: None,
            unwritten_statistics: 0,
            connections_lost: ConnectionsLost::default(),
        }
    }
}

impl fmt::Display for Summary {
    /// The human-readable block: aligned lines, without a trailing newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = self.connection_type.map_or("none".to_owned(), |c| c.to_string());
        writeln!(f, "{} for {}", self.role, human::duration(self.duration))?;
        writeln!(f, "  connection  {connection}")?;
        let ConnectionsLost { count, last } = &self.connections_lost;
        if let Some(Loss { stage, code, .. }) = last {
            writeln!(f, "  lost        {count}, last at {stage}: {code}")?;
        }
        if let Some(first) = &self.first_picture {
            writeln!(f, "  {:<10}  {}", first_label(self.role), first.summary_text(self.role))?;
        }
        writeln!(f, "  rtt         {}", spread(&self.rtt_ms, SpreadForm::P99, human::millis))?;
        writeln!(f, "  video       {}", traffic(self.video_bytes))?;
        writeln!(f, "  data        {}", traffic(self.data_bytes))?;
        let KeyframeCounts { sent, received, verified, broken, .. } = self.keyframes;
        let mut counts = match self.role {
            Role::Send => vec![format!("{sent} sent")],
            Role::Recv => vec![
                format!("{received} received"),
                format!("{verified} verified"),
                format!("{broken} broken"),
            ],
        };
        counts.extend(self.keyframes.problems());
        for line in in_lines("keyframes", &counts) {
            writeln!(f, "{line}")?;
        }
        let size = |size: f64| human::bytes(size.round() as u64);
        writeln!(f, "  frame size  {}", spread(&self.frame_bytes, SpreadForm::Max, size))?;
        write!(f, "  frame rate  {}", human::rate(self.frame_rate))?;
        write!(f, "{}", stages(&self.stages_ms))?;
        write!(f, "{}", self.delivery.as_ref().map(delivery).unwrap_or_default())
    }
}

/// Lines with the medians of stages; empty when none was measured.
fn stages(times: &StageHistograms) -> String {
    let spreads = times.spreads();
    let known: Vec<String> = spreads
        .named()
        .into_iter()
        .filter(|(name, _)| *name != "send")
        .filter_map(|(name, spread)| {
            Some(format!("{} {}", stage_words(name), human::millis(spread.p50?)))
        })
        .collect();
    in_lines("stages p50", &known).iter().flat_map(|line| ["\n", line]).collect()
}

/// Delivery of keyframes: a line of figures, and a line of findings. The time to the first picture has its own line
/// above.
fn delivery(report: &DeliveryReport) -> String {
    let findings = report.findings.iter().filter(|finding| finding.code != "first-keyframe-late");
    let findings: Vec<String> = findings.map(|finding| finding.brief.clone()).collect();
    let lines = [in_lines("delivery", &report.figures()), in_lines("limited by", &findings)];
    lines.concat().iter().flat_map(|line| ["\n", line]).collect()
}

/// Parts after a label, in lines of at most [`WIDTH`] columns; empty when there are no parts.
fn in_lines(label: &str, parts: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + part.chars().count() <= WIDTH => {
                line.push_str(", ");
                line.push_str(part);
            }
            Some(_) => lines.push(format!("{:14}{part}", "")),
            None => lines.push(format!("  {label:<12}{part}")),
        }
    }
    lines
}

fn traffic(traffic: Traffic) -> String {
    format!("{} out, {} in", human::bytes(traffic.sent), human::bytes(traffic.received))
}

/// Which values of a spread are shown.
#[derive(Clone, Copy)]
enum SpreadForm {
    /// Minimum, median and 99th percentile.
    P99,
    /// Minimum, mean and maximum.
    Max,
}

fn spread(histogram: &Histogram, form: SpreadForm, text: impl Fn(f64) -> String) -> String {
    let spread = histogram.spread();
    let values = match form {
        SpreadForm::P99 => [spread.min, spread.p50, spread.p99],
        SpreadForm::Max => [spread.min, spread.mean, spread.max],
    };
    let [Some(a), Some(b), Some(c)] = values else { return "none".to_owned() };
    let (b, c) = (text(b), text(c));
    match form {
        SpreadForm::P99 => format!("min {}, p50 {b}, p99 {c}", text(a)),
        SpreadForm::Max => format!("min {}, mean {b}, max {c}", text(a)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        stats::{
            Stages,
            bottleneck::{Limit, Overall, PathRate},
        },
        types::RelayTransport,
    };

    fn delivery() -> DeliveryReport {
        let overall = Overall {
            of: 20,
            limit: Limit::Sender,
            count: 19,
            sure: true,
            spread: Duration::from_millis(818),
            rate: Some(980_000),
            path: Some(PathRate { bits_per_second: 20_000_000, at_least: true }),
            least: Some(Duration::from_millis(42)),
            repair: Duration::ZERO,
            libwebrtc: true,
            bytes: 4_000,
            pixels: Some(1280 * 720),
        };
        DeliveryReport::new(&overall, Some(100_000), Some(Duration::from_secs(16)))
    }

    fn summary(role: Role) -> Summary {
        let mut summary = Summary::new(role);
        summary.duration = Duration::from_secs(70);
        let ms = |ms| Some(Duration::from_millis(ms));
        summary.first_picture =
            Some(TimeToFirstPicture { from_start: ms(1520), from_join: ms(420), from_peer: None });
        summary.connection_type = Some(ConnectionType::Relay(Some(RelayTransport::Udp)));
        for rtt in [1.5, 2.0, 30.0] {
            summary.rtt_ms.record(rtt);
        }
        summary.video_bytes = Traffic { sent: 0, received: 1_974_000 };
        summary.data_bytes = Traffic { sent: 3_000, received: 2_900 };
        summary.keyframes =
            KeyframeCounts { received: 20, verified: 19, broken: 1, ..KeyframeCounts::default() };
        for size in [98_000.0, 98_700.0, 99_400.0] {
            summary.frame_bytes.record(size);
        }
        summary.frame_rate = 0.2857;
        summary.stages_ms.record(&Stages {
            network: Some(1.6),
            reassemble: Some(0.4),
            decode: Some(6.6),
            write: Some(9.0),
            total: Some(48.0),
            ..Stages::default()
        });
        summary
    }

    #[test]
    fn the_human_readable_block() {
        let expected = "\
recv for 1 min 10 s
  connection  relay/udp
  picture     first 1.52 s after start, 420 ms after join
  rtt         min 1.50 ms, p50 2.00 ms, p99 30.0 ms
  video       0 B out, 2.0 MB in
  data        3.0 KB out, 2.9 KB in
  keyframes   20 received, 19 verified, 1 broken
  frame size  min 98.0 KB, mean 98.7 KB, max 99.4 KB
  frame rate  0.29/s
  stages p50  network 1.60 ms, reassemble 0.40 ms, decode 6.60 ms, write 9.00 ms
              capture to disk 48.0 ms";
        assert_eq!(summary(Role::Recv).to_string(), expected);
        let mut limited = summary(Role::Recv);
        limited.delivery = Some(delivery());
        let expected = format!(
            "{expected}
  delivery    818 ms first to last packet, 980 kbit/s, path at least 20.0 Mbit/s
  limited by  the phone's bandwidth estimate, encoder uses 4.0 KB of 100.0 KB"
        );
        assert_eq!(limited.to_string(), expected);
        let mut troubled = summary(Role::Recv);
        (troubled.keyframes.unwritten, troubled.keyframes.failed) = (2, 3);
        assert!(troubled.to_string().contains("1 broken, 2 unwritten, 3 failed\n"), "{troubled}");
        let last = Loss {
            stage: Stage::Datachannel,
            code: "pings-unanswered".into(),
            message: "8 pings in 10 s were not answered".into(),
        };
        troubled.connections_lost = ConnectionsLost { count: 2, last: Some(last) };
        let line = "  lost        2, last at datachannel: pings-unanswered\n";
        assert!(troubled.to_string().contains(line), "{troubled}");
        let json = serde_json::to_value(&troubled).unwrap();
        assert_eq!(json["connectionsLost"]["last"]["stage"], "datachannel");
    }

    #[test]
    fn the_block_fits_a_terminal_whatever_the_numbers() {
        let mut large = summary(Role::Recv);
        large.connection_type = Some(ConnectionType::Relay(Some(RelayTransport::Tcp)));
        let many = 1_234_567;
        large.keyframes = KeyframeCounts {
            sent: many,
            received: many,
            verified: many,
            broken: many,
            unwritten: many,
            failed: many,
        };
        large.video_bytes = Traffic { sent: 999_900_000_000, received: 999_900_000_000 };
        large.data_bytes = large.video_bytes;
        large.rtt_ms.record(123_456.7);
        large.delivery = Some(DeliveryReport {
            spread_ms: 123_456.7,
            bits_per_second: Some(u64::MAX),
            path: Some(PathRate { bits_per_second: u64::MAX, at_least: true }),
            ..delivery()
        });
        for _ in 0..9 {
            large.stages_ms.record(&Stages {
                capture_age: Some(1_234.5),
                convert: Some(1_234.5),
                encode: Some(1_234.5),
                network: Some(12_345.6),
                reassemble: Some(12_345.6),
                decode: Some(12_345.6),
                write: Some(12_345.6),
                total: Some(123_456.7),
                ..Stages::default()
            });
        }
        let last = Loss {
            stage: Stage::Datachannel,
            code: "remote-description-refused".into(),
            message: String::new(),
        };
        large.connections_lost = ConnectionsLost { count: many, last: Some(last) };
        let text = large.to_string();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?}");
        }
        for whole in ["1234567 received", "1234567 unwritten", "write 12.35 s"] {
            assert!(text.contains(whole), "no {whole:?} in\n{text}");
        }
    }

    #[test]
    fn a_run_that_never_connected_has_a_summary_too() {
        let text = Summary::new(Role::Send).to_string();
        assert!(text.contains("connection  none") && text.contains("rtt         none"), "{text}");
        assert!(text.contains("0 sent"), "{text}");
    }

    #[test]
    fn the_json_object() {
        let json = serde_json::to_value(summary(Role::Recv)).unwrap();
        assert_eq!(json["kind"], "summary");
        assert_eq!(json["role"], "recv");
        assert_eq!(json["durationS"], 70.0);
        assert_eq!(json["connectionType"], "relay/udp");
        assert_eq!(json["firstPictureMs"]["fromStart"], 1520.0);
        assert!(json["firstPictureMs"]["fromPeer"].is_null());
        assert_eq!(json["rttMs"]["count"], 3);
        assert_eq!(json["rttMs"]["max"], 30.0);
        assert_eq!(json["videoBytes"]["received"], 1_974_000);
        assert_eq!(json["dataBytes"]["sent"], 3_000);
        assert_eq!(json["keyframes"]["verified"], 19);
        assert_eq!(json["keyframes"]["unwritten"], 0);
        assert_eq!(json["keyframes"]["failed"], 0);
        assert_eq!(json["unwrittenStatistics"], 0);
        assert_eq!(json["frameBytes"]["min"], 98_000.0);
        assert_eq!(json["frameRate"], 0.2857);
        assert_eq!(json["stagesMs"]["decode"]["p50"], 6.6);
    }
}
