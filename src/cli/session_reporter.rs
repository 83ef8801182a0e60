//! Output of a running session, shared by `send`, `recv` and `demo`: live line, `--stats`, `--dump`, summary.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{BufRead, IsTerminal},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::{failure::Failure, output::Output, units};
use crate::{
    peer::event::Timings,
    report::{
        delivery::{DeliveryReport, KeyframeDelivery},
        dump::DumpWriter,
        live::{LiveLine, LiveMode, LiveStats},
        stats::{StatsError, StatsWriter},
        summary::{ConnectionsLost, Loss, Role, Summary, TimeToFirstPicture},
    },
    session::{
        Firsts, SessionError, SessionReport,
        negotiation::{NegotiationLog, NegotiationRecord},
        receiver::StoredKeyframe,
    },
    stats::Stages,
    types::Stage,
};

/// Number of keyframes over which the frame rate is averaged.
const RATE_WINDOW: usize = 8;

/// Flags for the recording of a session.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Statistics")]
pub struct RecordingArgs {
    /// Write getStats reports to DIR/stats.jsonl, and the details of each keyframe to DIR/keyframes.jsonl
    #[arg(long, value_name = "DIR")]
    pub stats: Option<PathBuf>,
    /// Interval between getStats reports
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    pub stats_interval: Duration,
    /// Write a dump for webrtc-internals importers
    #[arg(long, value_name = "FILE")]
    pub dump: Option<PathBuf>,
}

/// Shows and records a running session.
pub struct SessionReporter {
    output: Output,
    live: LiveLine,
    live_stats: LiveStats,
    stats: Option<StatsWriter>,
    keyframes: Option<StatsWriter>,
    stats_interval: Duration,
    /// The latest statistics, until the first ones are written; a run shorter than the interval has no others.
    unrecorded: Option<Map<String, Value>>,
    dump: Option<DumpWriter>,
    negotiated: Option<mpsc::Receiver<NegotiationRecord>>,
    summary: Summary,
    started_at: Instant,
    times: VecDeque<Instant>,
    /// The first failure to write to stdout.
    failed: Option<Failure>,
    /// Outputs that currently cannot be written, with the error.
    unwritten: BTreeMap<&'static str, String>,
    setup: Timings,
    /// Codes of the delivery findings already shown.
    shown_findings: BTreeSet<String>,
}

impl SessionReporter {
    /// Opens the outputs; `name` identifies the program in dumps.
    ///
    /// # Errors
    /// `--stats` or `--dump` is not writable.
    pub fn new(
        args: &RecordingArgs,
        role: Role,
        name: &str,
        output: Output,
    ) -> Result<Self, Failure> {
        let cannot = |error: String| {
            Failure::new(
                Stage::Output,
                error,
                "check the path, its permissions and the free disk space",
            )
        };
        let open = |create: fn(&Path) -> Result<StatsWriter, StatsError>| {
            let file = args.stats.as_deref().map(create).transpose();
            file.map_err(|error| cannot(error.to_string()))
        };
        let (stats, keyframes) = (open(StatsWriter::create)?, open(StatsWriter::of_keyframes)?);
        let dump = args
            .dump
            .as_deref()
            .map(|path| DumpWriter::create(path, name, SystemTime::now()))
            .transpose()
            .map_err(|error| cannot(error.to_string()))?;
        let unrecorded = (stats.is_some() || dump.is_some()).then(Map::new);
        let mode = LiveMode::choose(std::io::stderr().is_terminal(), output.quiet, output.color);
        Ok(Self {
            output,
            live: LiveLine::new(mode),
            live_stats: LiveStats::default(),
            stats,
            keyframes,
            stats_interval: args.stats_interval,
            unrecorded,
            dump,
            negotiated: None,
            summary: Summary::new(role),
            started_at: output.started_at.unwrap_or_else(Instant::now),
            times: VecDeque::new(),
            failed: None,
            unwritten: BTreeMap::new(),
            setup: Timings::default(),
            shown_findings: BTreeSet::new(),
        })
    }

    /// The log in which a call records its negotiations; discarded if there is no dump.
    #[must_use]
    pub fn negotiations(&mut self) -> NegotiationLog {
        if self.dump.is_none() {
            return NegotiationLog::default();
        }
        let (log, negotiated) = NegotiationLog::new();
        self.negotiated = Some(negotiated);
        log
    }

    /// Interval at which statistics are written; `None` if never.
    #[must_use]
    pub fn stats_every(&self) -> Option<Duration> {
        (self.stats.is_some() || self.dump.is_some()).then_some(self.stats_interval)
    }

    /// Adds new negotiation steps to the dump.
    fn dump_negotiations(&mut self) {
        if let (Some(dump), Some(negotiated)) = (&mut self.dump, &mut self.negotiated) {
            while let Ok(step) = negotiated.try_recv() {
                dump.negotiated(&step);
            }
        }
    }

    /// Shows a human-readable line.
    pub fn line(&mut self, text: &str) {
        self.output.line(text);
        self.dump_negotiations();
        if let Some(dump) = &mut self.dump {
            dump.line(SystemTime::now(), text);
        }
    }

    /// Shows a text message from the peer, prefixed by `who`.
    pub fn text(&mut self, who: &str, text: &str) {
        self.line(&format!("{who}text: {text}"));
        self.event(&serde_json::json!({"kind": "text", "text": text}));
    }

    /// Reports how many events were omitted because stdout or stderr was not read.
    pub fn omitted(&mut self, count: u64) {
        let text = format!(
            "{count} events omitted here because stdout or stderr was not read; the call continued"
        );
        self.line(&text);
        self.event(&serde_json::json!({"kind": "left-out", "count": count}));
    }

    /// Writes a JSON line.
    pub fn event(&mut self, value: &impl serde::Serialize) {
        if let Err(failure) = self.output.event(value) {
            self.failed.get_or_insert(failure);
        }
    }

    /// Counts a keyframe sent or received, and writes its details, a JSON object, as a JSON line.
    pub fn keyframe(&mut self, bytes: u64, stages: &Stages<Option<f64>>, known: &Value) {
        self.event(known);
        self.stages(stages, known);
        self.summary.frame_bytes.record(bytes as f64);
        self.times.push_back(Instant::now());
        if self.times.len() > RATE_WINDOW {
            self.times.pop_front();
        }
    }

    /// The values on the live line.
    #[must_use]
    pub fn live_stats(&self) -> &LiveStats {
        &self.live_stats
    }

    /// Whether `--stats` was given, which records more details of keyframes than a session needs.
    #[must_use]
    pub fn has_stats(&self) -> bool {
        self.keyframes.is_some()
    }

    /// Records the stages of a keyframe, and writes its details to `--stats`.
    pub fn stages(&mut self, stages: &Stages<Option<f64>>, known: &Value) {
        self.summary.stages_ms.record(stages);
        let written = self.keyframes.as_mut().map(|file| file.keyframe(SystemTime::now(), known));
        if let Some(written) = written {
            self.wrote("keyframes of --stats", written.map_err(|error| error.to_string()));
        }
    }

    /// Handles the result of a write: counts failures and shows a line when the state changes. The next write is
    /// attempted regardless.
    fn wrote(&mut self, what: &'static str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                if self.unwritten.remove(what).is_some() {
                    self.line(&format!("output: {what} can be written again"));
                }
            }
            Err(error) => {
                self.summary.unwritten_statistics += 1;
                if self.unwritten.insert(what, error.clone()).as_ref() != Some(&error) {
                    self.line(&format!("output: {error}; retrying on the next write"));
                }
            }
        }
    }

    /// Handles a session report, which arrives every second and whenever statistics are due.
    pub fn report(&mut self, report: &SessionReport) {
        let stats = &report.stats;
        let connection = stats.pair.as_ref().map(|pair| pair.connection);
        self.dump_negotiations();
        for rtt in &report.rtt_ms {
            self.summary.rtt_ms.record(*rtt);
        }
        let rtt_ms = report.rtt_ms.last().copied().or(self.live_stats.rtt_ms);
        self.live_stats = LiveStats {
            state: report.state.clone(),
            // The values of a peer that has left are meaningless.
            connection: connection.filter(|_| report.connected),
            rtt_ms: rtt_ms.filter(|_| report.connected),
            video_sent: stats.video_bytes_sent,
            video_received: stats.video_bytes_received,
            data_sent: stats.data_bytes_sent,
            data_received: stats.data_bytes_received,
            keyframes: report.keyframes,
            frame_rate: self.frame_rate(),
            last_frame_bytes: report.last_bytes,
            broken: report.broken,
            unwritten: report.unwritten,
        };
        self.live.update(Instant::now(), &self.live_stats);
        self.connected(report);
        self.first_picture(report.first);
        self.lost(report);
        self.delivery(report);
        self.summarize(report, connection);
        self.record(report);
    }

    /// Shows once how long the first picture took.
    fn first_picture(&mut self, first: Firsts) {
        let (None, Some(at)) = (self.summary.first_picture, first.picture) else { return };
        let since = |from: Option<Instant>| from.map(|from| at.saturating_duration_since(from));
        let took = TimeToFirstPicture {
            from_start: since(Some(self.started_at)),
            from_join: since(first.joined),
            from_peer: since(first.met),
        };
        self.summary.first_picture = Some(took);
        let role = self.summary.role;
        self.line(&took.words(role));
        self.event(&serde_json::json!({"kind": took.kind(role), "role": role, "ms": took}));
    }

    /// Reports the setup times of each connection once.
    fn connected(&mut self, report: &SessionReport) {
        let setup = report.setup;
        let Some(open) = setup.data_channel.filter(|_| setup != self.setup) else { return };
        self.setup = setup;
        let ms = |step: Option<Duration>| step.map(millis);
        let between = |one: Option<Duration>, next: Option<Duration>| {
            Some(next?.saturating_sub(one.unwrap_or_default()))
        };
        self.event(&serde_json::json!({
            "kind": "connected",
            "connectionType": report.stats.pair.as_ref().map(|pair| pair.connection),
            // Duration of each step, as in every `setupMs`.
            "setupMs": {
                "gathering": ms(setup.gathering),
                "ice": ms(between(setup.gathering, setup.ice)),
                "dtls": ms(between(setup.ice, setup.dtls)),
                "dataChannel": ms(between(setup.dtls, setup.data_channel)),
            },
            // Time from the creation of the peer connection to the completion of each step.
            "reachedMs": {
                "gathering": ms(setup.gathering),
                "ice": ms(setup.ice),
                "dtls": ms(setup.dtls),
                "dataChannel": ms(setup.data_channel),
            },
        }));
        tracing::info!(
            gathering = ?setup.gathering, ice = ?setup.ice, dtls = ?setup.dtls, data_channel = ?open,
            "connected"
        );
    }

    /// Reports each lost connection once, with the reason.
    fn lost(&mut self, report: &SessionReport) {
        let (count, Some(reason)) = &report.lost else { return };
        if *count == self.summary.connections_lost.count {
            return;
        }
        let loss = Loss {
            stage: reason.stage,
            code: reason.code.clone(),
            message: reason.message.clone(),
        };
        self.event(&serde_json::json!({
            "kind": "lost",
            "stage": loss.stage,
            "code": loss.code,
            "message": loss.message,
        }));
        self.summary.connections_lost = ConnectionsLost { count: *count, last: Some(loss) };
    }

    /// Shows new findings about the delivery of keyframes.
    fn delivery(&mut self, report: &SessionReport) {
        let Some(delivered) = report.delivery else { return };
        let found =
            DeliveryReport::new(&delivered.overall, Some(delivered.budget), delivered.first_after);
        for finding in &found.findings {
            // An unknown limit may still become known; the summary reports it.
            if finding.code != "limit-unknown" && self.shown_findings.insert(finding.code.clone()) {
                self.line(&format!("delivery: {}", finding.message));
                self.line(&format!("  try: {}", finding.remedy));
                self.event(&serde_json::json!({"kind": "delivery", "finding": finding}));
            }
        }
        self.summary.delivery = Some(found);
    }

    /// How the last keyframes were delivered, if known.
    #[must_use]
    pub fn delivered(&self) -> Option<&DeliveryReport> {
        self.summary.delivery.as_ref()
    }

    fn frame_rate(&self) -> f64 {
        match (self.times.front(), self.times.back()) {
            (Some(first), Some(last)) if last > first => {
                (self.times.len() - 1) as f64 / last.duration_since(*first).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    fn summarize(
        &mut self,
        report: &SessionReport,
        connection: Option<crate::types::ConnectionType>,
    ) {
        let stats = &report.stats;
        let frame_rate = self.frame_rate();
        let summary = &mut self.summary;
        summary.duration = self.started_at.elapsed();
        summary.connection_type = connection.or(summary.connection_type);
        summary.video_bytes.sent = stats.video_bytes_sent;
        summary.video_bytes.received = stats.video_bytes_received;
        summary.data_bytes.sent = stats.data_bytes_sent;
        summary.data_bytes.received = stats.data_bytes_received;
        match summary.role {
            Role::Send => summary.keyframes.sent = report.keyframes,
            Role::Recv => summary.keyframes.received = report.keyframes,
        }
        summary.keyframes.verified = report.verified;
        summary.keyframes.broken = report.broken;
        summary.keyframes.unwritten = report.unwritten;
        summary.keyframes.failed = report.failed;
        summary.frame_rate = frame_rate;
    }

    fn record(&mut self, report: &SessionReport) {
        let stats = &report.stats.report;
        if stats.is_empty() {
            return;
        }
        if report.due {
            self.unrecorded = None;
            self.write_stats(stats);
        } else if let Some(unrecorded) = &mut self.unrecorded {
            unrecorded.clone_from(stats);
        }
    }

    fn write_stats(&mut self, report: &Map<String, Value>) {
        let wall = SystemTime::now();
        let written = self.stats.as_mut().map(|stats| stats.write(wall, report));
        if let Some(written) = written {
            self.wrote("--stats", written.map_err(|error| error.to_string()));
        }
        let written = self.dump.as_mut().and_then(|dump| {
            dump.stats(wall, report);
            dump.write_if_due(wall).transpose()
        });
        if let Some(written) = written {
            self.wrote("--dump", written.map_err(|error| error.to_string()));
        }
    }

    /// Shows the summary and completes the outputs.
    ///
    /// # Errors
    /// The error in `result`, or else a write error that persisted to the end.
    pub fn finish(mut self, result: Result<(), SessionError>) -> Result<(), Failure> {
        self.dump_negotiations();
        if let Some(stats) = self.unrecorded.take().filter(|stats| !stats.is_empty()) {
            self.write_stats(&stats);
        }
        drop(self.live);
        // A run that failed before a connection was established has nothing to summarize.
        let shown = if result.is_ok() || self.summary.connection_type.is_some() {
            self.output.lines(self.summary.to_string());
            self.output.event(&self.summary)
        } else {
            self.output.event(&without_nulls(&self.summary))
        };
        let dumped = match self.dump {
            Some(dump) => dump.finish(SystemTime::now()).map_err(|error| {
                Failure::new(Stage::Output, error.to_string(), "free some disk space for --dump")
            }),
            None => Ok(()),
        };
        result.map_err(failure)?;
        let unwritten = self.unwritten.into_iter().find(|(what, _)| *what != "--dump");
        let failed = self.failed.or(unwritten.map(|(_, error)| unwritable(error)));
        shown.and(dumped).and(failed.map_or(Ok(()), Err))
    }
}

/// The summary of a run without a connection: only the values that exist.
fn without_nulls(summary: &Summary) -> Value {
    let mut summary = serde_json::to_value(summary).unwrap_or_default();
    if let Some(fields) = summary.as_object_mut() {
        fields.retain(|_, value| match value {
            Value::Null => false,
            Value::Object(object) => {
                object.get("count").is_none_or(|count| *count != 0)
                    && !object.values().all(|one| one.get("count").is_some_and(|count| *count == 0))
            }
            _ => true,
        });
    }
    summary
}

fn unwritable(error: String) -> Failure {
    let remedy = "free some disk space, or omit --stats and --dump";
    Failure::new(Stage::Output, error, remedy)
}

/// The measured stages as a JSON object, in milliseconds.
#[must_use]
pub fn stages_json(stages: &Stages<Option<f64>>) -> Value {
    let measured = stages.named().into_iter().filter_map(|(name, time)| Some((name, (*time)?)));
    measured.map(|(name, time)| (name.to_owned(), Value::from(time))).collect::<Map<_, _>>().into()
}

/// How a keyframe was delivered, if known.
#[must_use]
pub fn delivery(keyframe: &StoredKeyframe) -> Option<KeyframeDelivery> {
    keyframe.delivery.as_ref().map(|(observed, judged)| KeyframeDelivery::new(observed, judged))
}

/// A duration for JSON and messages, in milliseconds rounded to 0.01.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}

/// Converts a session error to the failure of a command.
#[must_use]
pub fn failure(error: SessionError) -> Failure {
    Failure { code: Some(error.code), ..Failure::new(error.stage, error.message, error.remedy) }
}

/// Lines read from stdin until it ends, and a channel for adding others.
#[must_use]
pub fn stdin_lines() -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
    let (others, receiver) = mpsc::channel(16);
    let lines = others.clone();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if !line.is_empty() && lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    (others, receiver)
}

/// Input that has already ended.
#[must_use]
pub fn empty_input() -> mpsc::Receiver<String> {
    mpsc::channel(1).1
}
