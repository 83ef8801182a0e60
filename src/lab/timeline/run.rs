//! Plays a time line from start to end.

use std::{collections::VecDeque, future::Future, path::PathBuf, pin::pin, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    file::Timeline,
    outages::{Keyframes, outages},
    schema::{Outage, TimelineResult},
    stage::{Heard, Stage, What, command_of},
};
use crate::{
    netns::{KernelError, Place},
    report::schema::FailureRecord,
    types::Stage as FailureStage,
};

/// Keyframes that have to come before the time line begins.
const AT_FIRST: usize = 3;

/// They have to come by then.
const CONNECT_WITHIN: Duration = Duration::from_secs(40);

/// A peer that is asked to end has so long.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Keyframes that are on their way at the end have so long.
const LAST_ONES: Duration = Duration::from_secs(2);

/// What happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// An event begins.
    Begin(usize),
    /// It is over.
    End(usize),
}

/// How it is played.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `orion-peer` itself, for what runs inside; this program when it is not given.
    pub orion_peer: Option<PathBuf>,
    /// Directory for what the peers say, in much detail: `NAME-send.log` and `NAME-recv.log`.
    pub logs: Option<PathBuf>,
}

/// Plays it; `stop` ends it early, `tell` hears what happens, with the time. What could not be done is in
/// the result, too.
pub async fn run(
    timeline: &Timeline,
    options: Options,
    stop: impl Future<Output = ()>,
    tell: &mut dyn FnMut(Duration, &str),
) -> TimelineResult {
    let mut play = Play::new(timeline);
    let mut stop = pin!(stop);
    let played = tokio::select! {
        played = play.play(options, tell) => played,
        () = &mut stop => Err(FailureRecord {
            stage: FailureStage::Interrupted,
            code: "interrupted".into(),
            message: "stopped before its end".into(),
            remedy: "let it run to its end".into(),
        }),
    };
    play.result(played.err())
}

struct Play<'t> {
    timeline: &'t Timeline,
    keyframes: Keyframes,
    begun: Instant,
    /// When the time line began: with the last of the first keyframes.
    start: Option<Instant>,
    first: Option<Duration>,
    /// How far it came.
    reached: Duration,
}

impl<'t> Play<'t> {
    fn new(timeline: &'t Timeline) -> Self {
        let keyframes = Keyframes::default();
        let (begun, start, first, reached) = (Instant::now(), None, None, Duration::ZERO);
        Self { timeline, keyframes, begun, start, first, reached }
    }

    async fn play(
        &mut self,
        Options { orion_peer, logs }: Options,
        tell: &mut dyn FnMut(Duration, &str),
    ) -> Result<(), FailureRecord> {
        let (sender, mut heard) = mpsc::unbounded_channel();
        let timeline = self.timeline.clone();
        let build = move || Stage::new(&timeline, orion_peer, logs, sender);
        let mut stage = blocking(tokio::task::spawn_blocking(build).await)?;
        self.begun = Instant::now();
        stage.start(Place::B).map_err(|error| lab(&error))?;
        stage.start(Place::A).map_err(|error| lab(&error))?;
        let start = self.connect(&stage, &mut heard).await?;
        let mut steps = steps(self.timeline);
        let end = start + self.timeline.duration;
        loop {
            let next = steps.front().map_or(end, |(at, _)| start + *at);
            tokio::select! {
                Some(one) = heard.recv() => self.hear(&stage, one)?,
                () = sleep_until(next) => {
                    self.reached = start.elapsed().min(self.timeline.duration);
                    let Some((at, step)) = steps.pop_front() else { break };
                    let (Step::Begin(index) | Step::End(index)) = step;
                    let event = &self.timeline.events[index];
                    // It starts programs and waits for them.
                    tokio::task::block_in_place(|| match step {
                        Step::Begin(_) => stage.begin(index, event),
                        Step::End(_) => stage.end(index, event),
                    })
                    .map_err(|error| lab(&error))?;
                    match step {
                        Step::Begin(_) => tell(at, &event.text),
                        Step::End(_) => tell(at, &format!("over: {}", event.text)),
                    }
                }
            }
        }
        self.finish(stage, heard).await
    }

    /// Until the first keyframes have come.
    async fn connect(
        &mut self,
        stage: &Stage,
        heard: &mut mpsc::UnboundedReceiver<Heard>,
    ) -> Result<Instant, FailureRecord> {
        let deadline = self.begun + CONNECT_WITHIN;
        let mut came = 0;
        while came < AT_FIRST {
            let Ok(Some(one)) = timeout_at(deadline, heard.recv()).await else {
                let within = CONNECT_WITHIN.as_secs();
                return Err(FailureRecord {
                    stage: FailureStage::Ice,
                    code: "no-keyframes".into(),
                    message: format!("no keyframes within {within} s, before anything happened"),
                    remedy: "see whether the two networks connect at all: `orion-peer lab --kernel --nat \
                             A,B`"
                        .into(),
                });
            };
            match &one.what {
                What::Keyframe { .. } if one.place == Place::B => {
                    came += 1;
                    self.first.get_or_insert(self.begun.elapsed());
                    if came == AT_FIRST {
                        self.start = Some(one.at.into());
                        self.hear(stage, one)?;
                    }
                }
                What::Keyframe { .. } => {}
                What::Ended { .. } => self.hear(stage, one)?,
            }
        }
        Ok(self.start.unwrap_or(self.begun))
    }

    fn hear(&mut self, stage: &Stage, one: Heard) -> Result<(), FailureRecord> {
        let Heard { at, place, what } = one;
        let at = Instant::from(at).saturating_duration_since(self.start.unwrap_or(self.begun));
        match what {
            What::Keyframe { sha256, via } if place == Place::A => {
                self.keyframes.sent(at, &sha256, via.as_deref());
            }
            What::Keyframe { sha256, via } => self.keyframes.came(at, &sha256, via.as_deref()),
            What::Ended { number, words } if stage.expects(place, number) => {
                let who = command_of(place);
                return Err(FailureRecord {
                    stage: FailureStage::Video,
                    code: "peer-ended".into(),
                    message: format!(
                        "`{who}` ended by itself after {:.1} s: {words}",
                        at.as_secs_f64()
                    ),
                    remedy: "play it once more with `--logs DIR`, and see what it says before"
                        .into(),
                });
            }
            What::Ended { .. } => {}
        }
        Ok(())
    }

    /// Ends the sender, waits for what is on its way, and ends the receiver.
    async fn finish(
        &mut self,
        mut stage: Stage,
        mut heard: mpsc::UnboundedReceiver<Heard>,
    ) -> Result<(), FailureRecord> {
        for (place, patience) in [(Place::A, LAST_ONES), (Place::B, Duration::ZERO)] {
            let mut running = stage.stop(place);
            let deadline = Instant::now() + END_WITHIN;
            while running {
                let Ok(Some(one)) = timeout_at(deadline, heard.recv()).await else {
                    let who = command_of(place);
                    return Err(FailureRecord {
                        stage: FailureStage::Video,
                        code: "not-ended".into(),
                        message: format!("`{who}` did not end within {} s", END_WITHIN.as_secs()),
                        remedy: "run it by itself and see what Ctrl-C does".into(),
                    });
                };
                running = one.place != place || !matches!(one.what, What::Ended { .. });
                self.hear(&stage, one)?;
            }
            let deadline = Instant::now() + patience;
            while self.keyframes.count(Duration::ZERO, Duration::MAX).1 > 0
                && let Ok(Some(one)) = timeout_at(deadline, heard.recv()).await
            {
                self.hear(&stage, one)?;
            }
        }
        // Its end takes a moment, in which this thread has better to do.
        let _ = tokio::task::spawn_blocking(move || drop(stage)).await;
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

/// Why the first picture was not in time.
fn late(first: Option<Duration>, limit: Option<Duration>) -> Option<FailureRecord> {
    let limit = limit.filter(|limit| first.is_none_or(|first| first > *limit))?;
    let took = first.map_or("never".to_owned(), |first| format!("{:.2} s", first.as_secs_f64()));
    Some(FailureRecord {
        stage: FailureStage::Video,
        code: "first-picture-late".into(),
        message: format!(
            "first picture: {took}, at most {:.2} s is asked for",
            limit.as_secs_f64()
        ),
        remedy: "play it once more with `--logs DIR`, and see what the peers say before it".into(),
    })
}

/// What is not as asked for, the first of it.
fn disagreement(rows: &[Outage], lost: u64, most_lost: u64) -> Option<FailureRecord> {
    let failure = |stage, code: &str, message| {
        let remedy =
            "play it once more with `--logs DIR`, and see what the peers say around that time"
                .to_owned();
        Some(FailureRecord { stage, code: code.into(), message, remedy })
    };
    if let Some(row) = rows.iter().find(|row| !row.agree) {
        let Outage { event, recovery_s, within_s, .. } = row;
        let message = if row.back {
            format!(
                "`{event}`: keyframes were back {recovery_s:.1} s late, {within_s:.1} s is allowed"
            )
        } else {
            format!("`{event}`: no keyframe came any more")
        };
        return failure(FailureStage::Ice, "outage", message);
    }
    let words = if lost == 1 { "keyframe was" } else { "keyframes were" };
    let message = format!("{lost} {words} lost, {most_lost} may be");
    if lost > most_lost { failure(FailureStage::Video, "lost-keyframes", message) } else { None }
}

/// Begins and ends in the order of time; of those at the same time, ends first.
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

fn lab(error: &KernelError) -> FailureRecord {
    FailureRecord {
        stage: FailureStage::Config,
        code: "no-kernel-lab".into(),
        message: format!("a time line is played in network namespaces: {error}"),
        remedy: error.own_remedy(),
    }
}

fn blocking<T>(
    done: Result<Result<T, KernelError>, tokio::task::JoinError>,
) -> Result<T, FailureRecord> {
    match done {
        Ok(done) => done.map_err(|error| lab(&error)),
        Err(error) => Err(FailureRecord {
            stage: FailureStage::Config,
            code: "no-kernel-lab".into(),
            message: format!("the lab was lost: {error}"),
            remedy: "measure again".into(),
        }),
    }
}
