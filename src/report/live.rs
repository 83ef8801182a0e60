//! The live line of a run: one line that redraws itself on a terminal, else a plain line every 10 s.

use std::{
    fmt::Write,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human;
use crate::types::{
    ConnectionType,
    printable::{self, printable},
};

/// Time between two plain lines when stderr is no terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The line on the terminal now, for those who want to write above it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// What is known about a run at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LiveStats {
    /// State of the connection in a word or two, as in W3C `RTCPeerConnectionState`.
    pub state: String,
    /// Type of the selected candidate pair, with the relay transport.
    pub connection: Option<ConnectionType>,
    /// Last round trip time, ms.
    pub rtt_ms: Option<f64>,
    /// Video bytes sent.
    pub video_sent: u64,
    /// Video bytes received.
    pub video_received: u64,
    /// Data channel bytes sent.
    pub data_sent: u64,
    /// Data channel bytes received.
    pub data_received: u64,
    /// Keyframes sent or received.
    pub keyframes: u64,
    /// Keyframes a second, over the last few.
    pub frame_rate: f64,
    /// Size of the last access unit, bytes.
    pub last_frame_bytes: Option<u64>,
    /// Keyframes that arrived broken.
    pub broken: u64,
    /// Keyframes that the disk did not take.
    pub unwritten: u64,
}

impl LiveStats {
    /// The line as text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut line = self.state.clone();
        let mut part = |text: std::fmt::Arguments<'_>| {
            // Writing to a String does not fail.
            let _ = write!(line, " · {text}");
        };
        if let Some(connection) = self.connection {
            part(format_args!("{connection}"));
        }
        if let Some(rtt) = self.rtt_ms {
            part(format_args!("rtt {}", human::millis(rtt)));
        }
        part(format_args!("{} frames {}", self.keyframes, human::rate(self.frame_rate)));
        if let Some(size) = self.last_frame_bytes {
            part(format_args!("last {}", human::bytes(size)));
        }
        part(format_args!(
            "video ↑{} ↓{}",
            human::bytes(self.video_sent),
            human::bytes(self.video_received)
        ));
        part(format_args!(
            "data ↑{} ↓{}",
            human::bytes(self.data_sent),
            human::bytes(self.data_received)
        ));
        if self.broken > 0 {
            part(format_args!("{} broken", self.broken));
        }
        if self.unwritten > 0 {
            part(format_args!("{} unwritten", self.unwritten));
        }
        line
    }
}

/// How the live line is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveMode {
    /// One line that redraws itself; the flag says whether in color.
    Terminal(bool),
    /// A plain line now and then.
    Plain,
    /// Not at all.
    Quiet,
}

impl LiveMode {
    /// The mode for a stderr that is a terminal or not, for a quiet run or not, with colors or not.
    #[must_use]
    pub fn choose(terminal: bool, quiet: bool, color: bool) -> Self {
        match (quiet, terminal) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Terminal(color),
            (false, false) => Self::Plain,
        }
    }
}

/// The live line. Dropping it takes it off the terminal.
#[derive(Debug)]
pub struct LiveLine {
    bar: Option<ProgressBar>,
    plain: Option<PlainLines>,
}

impl LiveLine {
    /// A line on stderr; nothing is drawn before the first update.
    #[must_use]
    pub fn new(mode: LiveMode) -> Self {
        let bar = match mode {
            LiveMode::Terminal(color) => Some(start_bar(color)),
            LiveMode::Plain | LiveMode::Quiet => None,
        };
        Self { bar, plain: (mode == LiveMode::Plain).then(PlainLines::default) }
    }

    /// Shows how things stand at `now`.
    pub fn update(&mut self, now: Instant, stats: &LiveStats) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(&stats.render()));
            bar.tick();
        }
        if let Some(line) = self.plain.as_mut().and_then(|plain| plain.due(now, stats)) {
            use std::io::Write;
            // Nobody reads stderr any more: nothing to be done about it.
            let _ = writeln!(std::io::stderr().lock(), "{}", printable::line(&line));
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            *shown() = None;
        }
    }
}

/// How far a run of many like steps has come: a bar on a terminal, nothing elsewhere.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar on stderr for `total` steps.
    #[must_use]
    pub fn new(mode: LiveMode, total: u64) -> Self {
        let LiveMode::Terminal(color) = mode else { return Self { bar: None } };
        let bar = if color { "{bar:30.green}" } else { "{bar:30}" };
        let style = ProgressStyle::with_template(&format!("{bar} {{pos}}/{{len}} {{wide_msg}}"))
            .expect("the template is a constant");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
            .with_style(style);
        *shown() = Some(bar.clone());
        bar.tick();
        Self { bar: Some(bar) }
    }

    /// So many steps are done, the last one with this result.
    pub fn update(&self, done: u64, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(text));
            bar.set_position(done);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            *shown() = None;
        }
    }
}

/// When a plain line is due: the first time, when the state or the connection changed, and every 10 s.
#[derive(Debug, Default)]
struct PlainLines {
    last: Option<(Instant, String, Option<ConnectionType>)>,
}

impl PlainLines {
    fn due(&mut self, now: Instant, stats: &LiveStats) -> Option<String> {
        let due = self.last.as_ref().is_none_or(|(at, state, connection)| {
            now.duration_since(*at) >= PLAIN_INTERVAL
                || *state != stats.state
                || *connection != stats.connection
        });
        due.then(|| {
            self.last = Some((now, stats.state.clone(), stats.connection));
            stats.render()
        })
    }
}

fn start_bar(color: bool) -> ProgressBar {
    let template = if color { "{spinner:.green} {wide_msg}" } else { "{spinner} {wide_msg}" };
    let style = ProgressStyle::with_template(template).expect("the template is a constant");
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style);
    *shown() = Some(bar.clone());
    bar
}

fn shown() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    // A bar is whole at every moment, so one left by a panicking thread is good.
    SHOWN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs `write` with the live line taken off the terminal meanwhile, so that what it writes stands
/// above the line. Every write to stderr, and to a stdout that may be the same terminal, goes through.
pub fn above<R>(write: impl FnOnce() -> R) -> R {
    let bar = shown().clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RelayTransport;

    fn stats() -> LiveStats {
        LiveStats {
            state: "connected".into(),
            connection: Some(ConnectionType::Relay(Some(RelayTransport::Tcp))),
            rtt_ms: Some(12.34),
            video_sent: 1_200_000,
            data_sent: 3_400,
            data_received: 310,
            keyframes: 12,
            frame_rate: 0.2857,
            last_frame_bytes: Some(98_700),
            ..LiveStats::default()
        }
    }

    #[test]
    fn the_line_names_everything_that_is_known() {
        assert_eq!(
            stats().render(),
            "connected · relay/tcp · rtt 12.3 ms · 12 frames 0.29/s · last 98.7 KB \
             · video ↑1.2 MB ↓0 B · data ↑3.4 KB ↓310 B"
        );
        let new = LiveStats { state: "new".into(), broken: 2, ..LiveStats::default() };
        assert_eq!(
            new.render(),
            "new · 0 frames 0.00/s · video ↑0 B ↓0 B · data ↑0 B ↓0 B · 2 broken"
        );
    }

    #[test]
    fn plain_lines_come_every_ten_seconds_and_on_changes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut plain = PlainLines::default();
        assert!(plain.due(after(0), &stats()).is_some());
        assert!(plain.due(after(9), &stats()).is_none());
        assert!(plain.due(after(10), &stats()).is_some());
        assert!(plain.due(after(19), &stats()).is_none());
        let lost = LiveStats { state: "disconnected".into(), ..stats() };
        assert!(plain.due(after(19), &lost).is_some());
        assert!(plain.due(after(28), &lost).is_none());
    }

    #[test]
    fn quiet_goes_before_everything() {
        assert_eq!(LiveMode::choose(true, true, true), LiveMode::Quiet);
        assert_eq!(LiveMode::choose(true, false, true), LiveMode::Terminal(true));
        assert_eq!(LiveMode::choose(false, false, true), LiveMode::Plain);
    }

    #[test]
    fn writing_above_works_with_and_without_a_line() {
        assert_eq!(above(|| 1), 1);
        let line = LiveLine::new(LiveMode::Terminal(false));
        assert_eq!(above(|| 2), 2);
        drop(line);
        assert!(shown().is_none());
    }
}
