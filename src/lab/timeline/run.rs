//! Plays a timeline from start to end.

use std::{collections::VecDeque, future::Future, path::PathBuf, pin::pin, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    file::Timeline,
    outages::{KeyframeLog, outages},
    schema::{Outage, TimelineResult},
    testbed::{PeerEvent, PeerReport, Testbed, command_of},
};
use crate::{
    netns::{Location, NetnsError},
    report::schema::FailureRecord,
    types::Stage,
};

/// Keyframes that must arrive before the timeline starts.
const INITIAL_KEYFRAMES: usize = 3;

/// Timeout for these keyframes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(40);

/// Timeout for a peer to exit when asked to.
const EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the last keyframes in transit to arrive.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// The next scheduled step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An event begins.
    Begin(usize),
    /// An event is undone.
    End(usize),
}

/// How to play a timeline.
#[derive(Debug, Clone, Default)]
pub struct PlaybackOptions {
    /// The `orion-peer` executable to run in the lab; this program if `None`.
    pub orion_peer: Option<PathBuf>,
    /// Directory for the verbose logs of the peers: `NAME-send.log` and `NAME-recv.log`.
    pub logs: Option<PathBuf>,
}

/// Plays a timeline. `stop` ends it early; `report` is called with the time and a description of each step.
/// Failures are part of the result.
pub async fn run(
    timeline: &Timeline,
    options: PlaybackOptions,
    stop: impl Future<Output = ()>,
    report: &mut dyn FnMut(Duration, &str),
) -> TimelineResult {
    let mut play = Player::new(timeline);
    let mut stop = pin!(stop);
    let played = tokio::select! {
        played = play.play(options, report) => played,
        () = &mut stop => Err(FailureRecord {
            stage: Stage::Interrupted,
            code: "interrupted".into(),
            message: "the run was stopped early".into(),
            remedy: "let the run finish".into(),
        }),
    };
    play.result(played.err())
}

struct Player<'t> {
    timeline: &'t Timeline,
    keyframes: KeyframeLog,
    started: Instant,
    /// When the timeline started: the arrival of the last initial keyframe.
    start: Option<Instant>,
    first: Option<Duration>,
    /// How far the run got.
    reached: Duration,
}

impl<'t> Player<'t> {
    fn new(timeline: &'t Timeline) -> Self {
        let keyframes = KeyframeLog::default();
        let (started, start, first, reached) = (Instant::now(), None, None, Duration::ZERO);
        Self { timeline, keyframes, started, start, first, reached }
    }

    async fn play(
        &mut self,
        PlaybackOptions { orion_peer, logs }: PlaybackOptions,
        report: &mut dyn FnMut(Duration, &str),
    ) -> Result<(), FailureRecord> {
        let (sender, mut reports) = mpsc::unbounded_channel();
        let timeline = self.timeline.clone();
        let build = move || Testbed::new(&timeline, orion_peer, logs, sender);
        let mut testbed = blocking(tokio::task::spawn_blocking(build).await)?;
        self.started = Instant::now();
        testbed.start(Location::B).map_err(|error| lab(&error))?;
        testbed.start(Location::A).map_err(|error| lab(&error))?;
        let start = self.connect(&testbed, &mut reports).await?;
        let mut steps = steps(self.timeline);
        let end = start + self.timeline.duration;
        loop {
            let next = steps.front().map_or(end, |(at, _)| start + *at);
            tokio::select! {
                Some(report) = reports.recv() => self.handle(&testbed, report)?,
                () = sleep_until(next) => {
                    self.reached = start.elapsed().min(self.timeline.duration);
                    let Some((at, step)) = steps.pop_front() else { break };
                    let (Step::Begin(index) | Step::End(index)) = step;
                    let event = &self.timeline.events[index];
                    // Events start programs and wait for them.
                    tokio::task::block_in_place(|| match step {
                        Step::Begin(_) => testbed.begin(index, event),
                        Step::End(_) => testbed.end(index, event),
                    })
                    .map_err(|error| lab(&error))?;
                    match step {
                        Step::Begin(_) => report(at, &event.text),
                        Step::End(_) => report(at, &format!("over: {}", event.text)),
                    }
                }
            }
        }
        self.finish(testbed, reports).await
    }

    /// Waits for the initial keyframes.
    async fn connect(
        &mut self,
        testbed: &Testbed,
        reports: &mut mpsc::UnboundedReceiver<PeerReport>,
    ) -> Result<Instant, FailureRecord> {
        let deadline = self.started + CONNECT_TIMEOUT;
        let mut received = 0;
        while received < INITIAL_KEYFRAMES {
            let Ok(Some(report)) = timeout_at(deadline, reports.recv()).await else {
                let within = CONNECT_TIMEOUT.as_secs();
                return Err(FailureRecord {
                    stage: Stage::Ice,
                    code: "no-keyframes".into(),
                    message: format!("no keyframes arrived within {within} s, before the first event"),
                    remedy: "check whether the two networks connect at all: `orion-peer lab --kernel --nat \
                             A,B`"
                        .into(),
                });
            };
            match &report.what {
                PeerEvent::Keyframe { .. } if report.location == Location::B => {
                    received += 1;
                    self.first.get_or_insert(self.started.elapsed());
                    if received == INITIAL_KEYFRAMES {
                        self.start = Some(report.at.into());
                        self.handle(testbed, report)?;
                    }
                }
                PeerEvent::Keyframe { .. } => {}
                PeerEvent::Ended { .. } => self.handle(testbed, report)?,
            }
        }
        Ok(self.start.unwrap_or(self.started))
    }

    fn handle(&mut self, testbed: &Testbed, report: PeerReport) -> Result<(), FailureRecord> {
        let PeerReport { at, location, what } = report;
        let at = Instant::from(at).saturating_duration_since(self.start.unwrap_or(self.started));
        match what {
            PeerEvent::Keyframe { sha256, via } if location == Location::A => {
                self.keyframes.sent(at, &sha256, via.as_deref());
            }
            PeerEvent::Keyframe { sha256, via } => {
                self.keyframes.received(at, &sha256, via.as_deref());
            }
            PeerEvent::Ended { number, last_lines } if testbed.expects(location, number) => {
                let who = command_of(location);
                return Err(FailureRecord {
                    stage: Stage::Video,
                    code: "peer-ended".into(),
                    message: format!(
                        "`{who}` exited unexpectedly after {:.1} s: {last_lines}",
                        at.as_secs_f64()
                    ),
                    remedy: "run it again with `--logs DIR` and read the log of the peer".into(),
                });
            }
            PeerEvent::Ended { .. } => {}
        }
        Ok(())
    }

    /// Ends the sender, waits for keyframes in transit, and ends the receiver.
    async fn finish(
        &mut self,
        mut testbed: Testbed,
        mut reports: mpsc::UnboundedReceiver<PeerReport>,
    ) -> Result<(), FailureRecord> {
        for (location, patience) in [(Location::A, DRAIN_TIME), (Location::B, Duration::ZERO)] {
            let mut running = testbed.stop(location);
            let deadline = Instant::now() + EXIT_TIMEOUT;
            while running {
                let Ok(Some(report)) = timeout_at(deadline, reports.recv()).await else {
                    let who = command_of(location);
                    return Err(FailureRecord {
                        stage: Stage::Video,
                        code: "not-ended".into(),
                        message: format!(
                            "`{who}` did not exit within {} s",
                            EXIT_TIMEOUT.as_secs()
                        ),
                        remedy: "run it on its own and check how it responds to Ctrl-C".into(),
                    });
                };
                running =
                    report.location != location || !matches!(report.what, PeerEvent::Ended { .. });
                self.handle(&testbed, report)?;
            }
            let deadline = Instant::now() + patience;
            while self.keyframes.count(Duration::ZERO, Duration::MAX).1 > 0
                && let Ok(Some(report)) = timeout_at(deadline, reports.recv()).await
            {
                self.handle(&testbed, report)?;
            }
        }
        // Tearing the lab down takes a moment; do it off this thread.
        let _ = tokio::task::spawn_blocking(move || drop(testbed)).await;
        Ok(())
    }

    fn result(self, failed: Option<FailureRecord>) -> TimelineResult {
        let Self { timeline, keyframes, reached, .. } = self;
        let happened = timeline.events.iter().take_while(|event| event.at < reached).cloned();
        let happened: Vec<_> = happened.collect();
        let rows = outages(&happened, &keyframes, timeline.interval, timeline.within, reached);
        let (sent, lost) = keyframes.count(Duration::ZERO, Duration::MAX);
        let reason = failed
            .or_else(|| late(self.first, timeline.max_first_picture))
            .or_else(|| disagreement(&rows, lost, timeline.lost));
        TimelineResult {
            name: timeline.name.clone(),
            description: timeline.description.clone(),
            a: timeline.home_names[0].clone(),
            b: timeline.home_names[1].clone(),
            interval_s: timeline.interval.as_secs_f64(),
            duration_s: reached.as_secs_f64(),
            first_keyframe_s: self.first.map(|first| first.as_secs_f64()),
            max_first_picture_s: timeline.max_first_picture.map(|most| most.as_secs_f64()),
            agree: reason.is_none(),
            outages: rows,
            sent,
            came: sent - lost,
            lost,
            most_lost: timeline.lost,
            reason,
        }
    }
}

/// The failure for a first picture that was too late.
fn late(first: Option<Duration>, limit: Option<Duration>) -> Option<FailureRecord> {
    let limit = limit.filter(|limit| first.is_none_or(|first| first > *limit))?;
    let took = first.map_or("never".to_owned(), |first| format!("{:.2} s", first.as_secs_f64()));
    Some(FailureRecord {
        stage: Stage::Video,
        code: "first-picture-late".into(),
        message: format!("first picture: {took}, maximum {:.2} s", limit.as_secs_f64()),
        remedy: "run it again with `--logs DIR` and read the logs of the peers".into(),
    })
}

/// The first deviation from what was expected.
fn disagreement(rows: &[Outage], lost: u64, most_lost: u64) -> Option<FailureRecord> {
    let failure = |stage, code: &str, message| {
        let remedy =
            "run it again with `--logs DIR` and read the logs of the peers around that time"
                .to_owned();
        Some(FailureRecord { stage, code: code.into(), message, remedy })
    };
    if let Some(row) = rows.iter().find(|row| !row.agree) {
        let Outage { event, recovery_s, within_s, .. } = row;
        let message = if row.back {
            format!("`{event}`: keyframes resumed after {recovery_s:.1} s, maximum {within_s:.1} s")
        } else {
            format!("`{event}`: keyframes never resumed")
        };
        return failure(Stage::Ice, "outage", message);
    }
    let last_lines = if lost == 1 { "keyframe was" } else { "keyframes were" };
    let message = format!("{lost} {last_lines} lost, maximum {most_lost}");
    if lost > most_lost { failure(Stage::Video, "lost-keyframes", message) } else { None }
}

/// All starts and ends of events in order of time; at the same time, ends precede starts.
fn steps(timeline: &Timeline) -> VecDeque<(Duration, Step)> {
    let mut steps = Vec::new();
    for (index, event) in timeline.events.iter().enumerate() {
        steps.push((event.at, Step::Begin(index)));
        if event.lasting.is_some() {
            steps.push((event.end(), Step::End(index)));
        }
    }
    steps.sort_by_key(|(at, step)| (*at, matches!(step, Step::Begin(_))));
    steps.into()
}

fn lab(error: &NetnsError) -> FailureRecord {
    FailureRecord {
        stage: Stage::Config,
        code: "no-kernel-lab".into(),
        message: format!("timelines require network namespaces: {error}"),
        remedy: error.kernel_only_remedy(),
    }
}

fn blocking<T>(
    done: Result<Result<T, NetnsError>, tokio::task::JoinError>,
) -> Result<T, FailureRecord> {
    match done {
        Ok(done) => done.map_err(|error| lab(&error)),
        Err(error) => Err(FailureRecord {
            stage: Stage::Config,
            code: "no-kernel-lab".into(),
            message: format!("the lab failed: {error}"),
            remedy: "run it again".into(),
        }),
    }
}
