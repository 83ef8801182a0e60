//! The live line of a run: redrawn in place on a terminal, otherwise a plain line every 10 s.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    human,
    layout::{self, cut},
};
use crate::{
    lock::locked,
    text::printable::{self, printable},
    types::ConnectionType,
};

/// Time between two plain lines when stderr is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);

/// The line currently on the terminal, so that other code can write above it.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// The state of a run at one moment.
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
    /// Keyframes per second, over the last few.
    pub frame_rate: f64,
    /// Size of the last access unit, bytes.
    pub last_frame_bytes: Option<u64>,
    /// Keyframes that arrived broken.
    pub broken: u64,
    /// Keyframes that could not be written to disk.
    pub unwritten: u64,
}

/// Width of the line, columns: that of a terminal, minus the spinner.
const WIDTH: usize = layout::WIDTH - 2;

impl LiveStats {
    /// The line as text, in at most `WIDTH` columns: parts that do not fit are dropped entirely, the least important
    /// first.
    #[must_use]
    pub fn render(&self) -> String {
        let mut parts = self.parts();
        loop {
            let text = parts.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join(" · ");
            let lowest = parts.iter().map(|(rank, _)| *rank).max().filter(|rank| *rank > 0);
            match lowest {
                Some(lowest) if text.chars().count() > WIDTH => {
                    parts.retain(|(rank, _)| *rank != lowest);
                }
                _ => return cut(&text, WIDTH),
            }
        }
    }

    /// The parts of the line, each with a rank: the higher, the earlier it is dropped.
    fn parts(&self) -> Vec<(u8, String)> {
        let mut parts = vec![(0, self.state.clone())];
        parts.extend(self.connection.map(|connection| (3, connection.to_string())));
        parts.extend(self.rtt_ms.map(|rtt| (6, format!("rtt {}", human::millis(rtt)))));
        parts.push((1, human::counted(self.keyframes, "frame")));
        if self.frame_rate > 0.0 {
            parts.push((5, human::rate(self.frame_rate)));
        }
        if self.broken > 0 {
            parts.push((1, format!("{} broken", self.broken)));
        }
        if self.unwritten > 0 {
            parts.push((1, format!("{} unwritten", self.unwritten)));
        }
        parts.extend(self.last_frame_bytes.map(|size| (8, format!("last {}", human::bytes(size)))));
        parts.extend(traffic("video", self.video_sent, self.video_received).map(|text| (2, text)));
        parts.extend(traffic("data", self.data_sent, self.data_received).map(|text| (7, text)));
        parts
    }
}

/// Bytes in each direction; `None` if there were none.
fn traffic(what: &str, sent: u64, received: u64) -> Option<String> {
    let direction = |arrow, bytes| (bytes > 0).then(|| format!(" {arrow}{}", human::bytes(bytes)));
    let parts: String =
        [direction('↑', sent), direction('↓', received)].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| format!("{what}{parts}"))
}

/// How the live line is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveMode {
    /// One line that redraws itself; the flag enables color.
    Terminal(bool),
    /// A plain line every 10 s and on changes.
    Plain,
    /// No line.
    Quiet,
}

impl LiveMode {
    /// The mode, given whether stderr is a terminal, whether the run is quiet, and whether colors are enabled.
    #[must_use]
    pub fn choose(terminal: bool, quiet: bool, color: bool) -> Self {
        match (quiet, terminal) {
            (true, _) => Self::Quiet,
            (false, true) => Self::Terminal(color),
            (false, false) => Self::Plain,
        }
    }
}

/// The live line. Dropping it removes it from the terminal.
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
        let plain = (mode == LiveMode::Plain).then(|| PlainLines::new(Instant::now()));
        Self { bar, plain }
    }

    /// Shows the state at `now`.
    pub fn update(&mut self, now: Instant, stats: &LiveStats) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(&stats.render()));
            bar.tick();
        }
        if let Some(line) = self.plain.as_mut().and_then(|plain| plain.due(now, stats)) {
            use std::io::Write;
            // A closed stderr cannot be reported anywhere.
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

/// Progress of a run of many similar steps: a bar on a terminal, nothing elsewhere.
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

    /// Shows that `done` steps are finished; `text` is the result of the last one.
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

/// Decides when a plain line is due: once there is a connection, on later changes of the state or the connection, and
/// every 10 s. A run that fails immediately shows only its error.
#[derive(Debug)]
struct PlainLines {
    start: Instant,
    last: Option<(Instant, String, Option<ConnectionType>)>,
}

impl PlainLines {
    fn new(start: Instant) -> Self {
        Self { start, last: None }
    }

    fn due(&mut self, now: Instant, stats: &LiveStats) -> Option<String> {
        let due = match &self.last {
            None => stats.connection.is_some() || now.duration_since(self.start) >= PLAIN_INTERVAL,
            Some((at, state, connection)) => {
                now.duration_since(*at) >= PLAIN_INTERVAL
                    || *state != stats.state
                    || *connection != stats.connection
            }
        };
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
    // A bar is consistent at every moment, so one left by a panicking thread is usable.
    locked(&SHOWN)
}

/// Runs `write` while the live line is removed from the terminal, so that its output ends up above the line. Every
/// write to stderr, and to a stdout that may be the same terminal, goes through here.
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
    fn the_line_shows_the_parts_that_fit() {
        assert_eq!(
            stats().render(),
            "connected · relay/tcp · rtt 12.3 ms · 12 frames · 0.29/s · video ↑1.2 MB"
        );
        let direct = LiveStats {
            connection: Some(ConnectionType::Host),
            data_received: 0,
            data_sent: 0,
            ..stats()
        };
        assert_eq!(
            direct.render(),
            "connected · host · rtt 12.3 ms · 12 frames · 0.29/s · video ↑1.2 MB"
        );
        let new = LiveStats { state: "new".into(), broken: 2, ..LiveStats::default() };
        assert_eq!(new.render(), "new · 0 frames · 2 broken");
        let one = LiveStats { keyframes: 1, frame_rate: 0.0, ..new };
        assert_eq!(one.render(), "new · 1 frame · 2 broken");
    }

    #[test]
    fn the_line_fits_a_terminal_whatever_the_numbers() {
        let large = LiveStats {
            state: "waiting for the phone".into(),
            rtt_ms: Some(12_345.6),
            video_sent: 999_900_000_000,
            video_received: 999_900_000_000,
            data_sent: 999_900_000_000,
            data_received: 999_900_000_000,
            keyframes: 1_234_567,
            frame_rate: 29.97,
            broken: 123_456,
            unwritten: 123_456,
            ..stats()
        };
        let line = large.render();
        assert!(line.chars().count() <= WIDTH, "{line}");
        for whole in ["waiting for the phone", "1234567 frames", "123456 broken"] {
            assert!(line.contains(whole), "{line}");
        }
        let endless = LiveStats { state: "x".repeat(200), ..large };
        assert!(endless.render().chars().count() <= WIDTH);
    }

    #[test]
    fn a_run_that_never_connects_shows_no_plain_line_at_first() {
        let start = Instant::now();
        let mut plain = PlainLines::new(start);
        let new = LiveStats { state: "connecting to signaling".into(), ..LiveStats::default() };
        assert_eq!(plain.due(start, &new), None);
        assert_eq!(plain.due(start + Duration::from_secs(9), &new), None);
        assert!(plain.due(start + Duration::from_secs(10), &new).is_some());
    }

    #[test]
    fn plain_lines_are_shown_every_ten_seconds_and_on_changes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut plain = PlainLines::new(start);
        assert!(plain.due(after(0), &stats()).is_some());
        assert!(plain.due(after(9), &stats()).is_none());
        assert!(plain.due(after(10), &stats()).is_some());
        assert!(plain.due(after(19), &stats()).is_none());
        let lost = LiveStats { state: "disconnected".into(), ..stats() };
        assert!(plain.due(after(19), &lost).is_some());
        assert!(plain.due(after(28), &lost).is_none());
    }

    #[test]
    fn quiet_takes_precedence() {
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
