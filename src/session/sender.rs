//! The phone: captures and sends a keyframe every interval and whenever one is asked for.

mod keyframe;
mod settings;

use std::{path::PathBuf, time::Duration};

use tokio::time::Instant;

pub(crate) use self::keyframe::transmit;
use self::keyframe::{Saving, Sending, done};

use super::{
    SessionError, SessionReport, StatsClock,
    call::{Call, CallConfig, CallEvent},
    call_follower::{CallFollower, CallInput},
    capture::{Capture, CaptureConfig, CaptureRequest, CaptureResult, CapturedKeyframe},
    outage::Outage,
    pings, until,
};
use crate::{
    peer::{PeerEvent, video::SentAccessUnit},
    proto::control::{ControlMessage, KeyframeInfo},
    stats::Stages,
    types::ConnectionType,
};

/// Shortest and longest interval that can be set.
pub const INTERVAL_RANGE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_hours(24));

/// Two keyframes asked for by the other side are at least this far apart: libwebrtc asks 3 s after
/// every picture, and several requests may be one loss.
const REQUEST_GAP: Duration = Duration::from_millis(300);

/// Wait before a source that failed is asked again.
const RETRY_SOURCE: Duration = Duration::from_secs(1);

/// How long the last keyframe may still be asked for again before the sender leaves.
const LINGER: Duration = Duration::from_secs(1);

/// How long a new connection waits for its control channel before the first keyframe.
const CHANNEL_WITHIN: Duration = Duration::from_millis(500);

/// What a sender does.
pub struct SenderConfig {
    /// Room and peer.
    pub call: CallConfig,
    /// Source and encoder.
    pub capture: CaptureConfig,
    /// Whether the source shows what is there now, so that an old picture is not worth sending.
    pub live: bool,
    /// Time between keyframes.
    pub interval: Duration,
    /// Keyframes to send; none means no end.
    pub count: Option<u64>,
    /// How long to send once connected; none means no end.
    pub duration: Option<Duration>,
    /// Directory to save each sent access unit in.
    pub save: Option<PathBuf>,
    /// How long to wait for the other device; none means for ever.
    pub timeout: Option<Duration>,
    /// End with the first connection, instead of waiting for the other device to come back.
    pub once: bool,
}

/// What a sender tells.
#[derive(Debug)]
pub enum SenderEvent {
    /// A line worth reading.
    Line(String),
    /// A keyframe was sent.
    Sent(Box<SentKeyframe>),
    /// A line of text came.
    Text(String),
    /// Once a second, and at the end.
    Report(Box<SessionReport>),
}

/// A keyframe that was sent.
#[derive(Debug)]
pub struct SentKeyframe {
    /// What the control channel said of it.
    pub info: KeyframeInfo,
    /// How it was captured and encoded.
    pub captured: CapturedKeyframe,
    /// How it was cut and handed over.
    pub sent: SentAccessUnit,
    /// The stages on this side, ms.
    pub stages: Stages<Option<f64>>,
    /// How this side is connected.
    pub connection_type: Option<ConnectionType>,
    /// Where it was saved.
    pub saved: Option<PathBuf>,
}

/// Why a sender ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderEnd {
    /// `count` keyframes were sent.
    Count,
    /// `duration` is over.
    Duration,
    /// The source has ended.
    SourceEnded,
    /// The other device said goodbye, and that was to be the end.
    PeerLeft,
    /// It was told to stop.
    Stopped,
}

struct Sender<'a> {
    follower: CallFollower,
    capture: Capture,
    config: SenderSettings,
    tell: &'a mut (dyn FnMut(SenderEvent) + Send),
    save: Option<Saving>,
    /// When the first connection was up: `duration` counts from there.
    begun: Option<Instant>,
    /// When the next keyframe is due; none while nothing can be sent.
    due: Option<Instant>,
    last_sent: Option<Instant>,
    /// A capture is under way.
    asked: bool,
    /// A keyframe is leaving, which may take a second over a slow link.
    sending: Option<Sending>,
    /// Kept for when it can be sent: the first keyframe of a source that ends.
    held: Option<CapturedKeyframe>,
    last: Option<(KeyframeInfo, CapturedKeyframe)>,
    seq: u64,
    /// There is no way to the other side for now: what leaves would be lost.
    silent: bool,
    /// The connection is new: its first keyframe waits for the control channel.
    greeting: bool,
    end: Option<(SenderEnd, Instant)>,
    waiting_since: Option<Instant>,
    outage: Outage,
    /// Pictures that gave no keyframe.
    failed: u64,
    /// The budget that keyframes were reported to be over.
    over_budget: Option<usize>,
}

/// What is left of the configuration once link and capture have begun.
struct SenderSettings {
    live: bool,
    interval: Duration,
    count: Option<u64>,
    duration: Option<Duration>,
    timeout: Option<Duration>,
    once: bool,
}

/// Sends until the count, the duration, the source or `stop` ends it.
///
/// # Errors
/// [`SessionError`] when there is no first picture, the source fails for good, signaling fails, the disk
/// of `save` does not take everything before the end, or the other device does not come in time.
pub async fn run(
    mut config: SenderConfig,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(SenderEvent) + Send),
    texts: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<SenderEnd, SessionError> {
    let save = match config.save.take() {
        Some(dir) => Some(Saving::start(dir).await?),
        None => None,
    };
    tokio::pin!(stop);
    // A camera may take seconds to wake, and standard input may stay silent for ever.
    let (capture, first) = tokio::select! {
        () = &mut stop => return Ok(SenderEnd::Stopped),
        started = Capture::start(config.capture) => started?,
    };
    tell(SenderEvent::Line(format!("source: {}", capture.description)));
    config.call.peer.picture_size = capture.picture_size;
    let stats = StatsClock::new(config.call.stats_every);
    let mut sender = Sender {
        follower: CallFollower::new(Call::start(config.call), "receiver"),
        capture,
        config: SenderSettings {
            live: config.live,
            interval: config.interval,
            count: config.count,
            duration: config.duration,
            timeout: config.timeout,
            once: config.once,
        },
        tell,
        save,
        begun: None,
        due: None,
        last_sent: None,
        asked: false,
        sending: None,
        held: (!config.live).then_some(first),
        last: None,
        seq: 0,
        silent: false,
        greeting: false,
        end: None,
        waiting_since: Some(Instant::now()),
        outage: Outage::default(),
        failed: 0,
        over_budget: None,
    };
    let mut result = sender.work(stop, stats, texts).await;
    if let Err(error) = sender.finish_saving().await
        && result.is_ok()
    {
        result = Err(error);
    }
    if let (Ok(SenderEnd::PeerLeft), Some(count)) = (&result, sender.config.count)
        && sender.seq < count
    {
        result = Err(sender.follower.left_early(sender.seq, count));
    }
    sender.report(false).await;
    let reason = match &result {
        Ok(SenderEnd::Stopped) => "stopped",
        Ok(_) => "done",
        Err(_) => "failed",
    };
    sender.follower.call.close(reason).await;
    result
}

impl Sender<'_> {
    async fn work(
        &mut self,
        stop: impl Future<Output = ()> + Send,
        mut stats: StatsClock,
        texts: &mut tokio::sync::mpsc::Receiver<String>,
    ) -> Result<SenderEnd, SessionError> {
        tokio::pin!(stop);
        let mut second = tokio::time::interval(pings::INTERVAL);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut texts_open = true;
        loop {
            let wake = self.next_wake();
            tokio::select! {
                () = &mut stop => return Ok(SenderEnd::Stopped),
                event = self.follower.call.next() => self.on_call(event).await?,
                result = self.capture.result(), if self.asked => self.on_capture(result)?,
                sent = done(&mut self.sending) => self.on_sent(sent).await?,
                _ = second.tick() => self.on_second().await,
                () = stats.tick() => self.report(true).await,
                text = texts.recv(), if texts_open => match text {
                    Some(text) => {
                        if !self.follower.send_text(text).await {
                            self.line("text not sent: no connection".into());
                        }
                    }
                    None => texts_open = false,
                },
                () = until(wake) => self.on_wake()?,
            }
            if let Some((end, at)) = self.end
                && (Instant::now() >= at || self.follower.call.peer().is_none())
                && self.sending.is_none()
            {
                return Ok(end);
            }
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let timeout = self.waiting_since.zip(self.config.timeout).map(|(since, t)| since + t);
        let duration = self.begun.zip(self.config.duration).map(|(at, d)| at + d);
        let busy = self.asked || self.sending.is_some() || self.silent;
        let due = if busy || self.end.is_some() { None } else { self.due };
        let end = self.end.filter(|_| self.sending.is_none()).map(|(_, at)| at);
        let over = if self.end.is_some() { None } else { duration };
        [timeout, over, due, end].into_iter().flatten().min()
    }

    fn on_wake(&mut self) -> Result<(), SessionError> {
        let now = Instant::now();
        if self.end.is_some() {
            return Ok(());
        }
        if let (Some(since), Some(timeout)) = (self.waiting_since, self.config.timeout)
            && now >= since + timeout
        {
            return Err(self.follower.nobody(timeout));
        }
        if let (Some(at), Some(duration)) = (self.begun, self.config.duration)
            && now >= at + duration
        {
            self.end = Some((SenderEnd::Duration, now + LINGER));
            return Ok(());
        }
        let busy = self.asked || self.sending.is_some() || self.silent;
        if self.due.is_some_and(|due| now >= due) && !busy {
            self.begin_keyframe();
        }
        Ok(())
    }

    /// Asks for a picture, or sends the one that waits.
    fn begin_keyframe(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.waited();
            return self.send_keyframe(held);
        }
        self.asked = true;
        self.capture.ask(CaptureRequest::Keyframe);
    }

    fn on_capture(&mut self, result: CaptureResult) -> Result<(), SessionError> {
        self.asked = false;
        match result {
            CaptureResult::Keyframe(keyframe) => {
                if let Some(line) = self.outage.over(Instant::now()) {
                    self.line(line);
                }
                self.send_keyframe(*keyframe);
                Ok(())
            }
            CaptureResult::Retry(error) => {
                self.failed += 1;
                if let Some(line) = self.outage.failed(&error, Instant::now()) {
                    self.line(line);
                }
                self.due = Some(Instant::now() + RETRY_SOURCE);
                Ok(())
            }
            CaptureResult::Ended => {
                self.end = Some((SenderEnd::SourceEnded, Instant::now() + LINGER));
                Ok(())
            }
            CaptureResult::Failed(error) => Err(error),
        }
    }

    async fn on_call(&mut self, event: CallEvent) -> Result<(), SessionError> {
        if let (CallEvent::Joined { .. }, Some(save)) = (&event, &mut self.save) {
            save.claim()?;
        }
        let (line, said) = self.follower.on_call(event).await?;
        if let Some(line) = line {
            self.line(line);
        }
        match said {
            CallInput::Connected => {
                let now = Instant::now();
                self.begun.get_or_insert(now);
                self.waiting_since = None;
                self.silent = false;
                self.greeting = true;
                let wait = if self.follower.channel_open { Duration::ZERO } else { CHANNEL_WITHIN };
                self.due = Some(now + wait);
            }
            CallInput::Disconnected(lost) if self.config.once => {
                self.follower.once(lost)?;
                self.end = Some((SenderEnd::PeerLeft, Instant::now()));
            }
            CallInput::Disconnected(_) => self.disconnected(),
            CallInput::Silent => self.silent = true,
            CallInput::Back if self.silent => {
                self.silent = false;
                self.due = Some(Instant::now());
            }
            CallInput::ControlOpen if self.greeting => {
                let now = Instant::now();
                self.due = self.due.map(|due| due.min(now));
            }
            CallInput::Text(text) => (self.tell)(SenderEvent::Text(text)),
            CallInput::Control(ControlMessage::KeyframeRequest { .. }, _)
            | CallInput::Peer(PeerEvent::KeyframeRequested(_)) => self.on_request(),
            CallInput::Control(ControlMessage::Set { id, settings }, channel) => {
                let answer = self.answer_set(id, &settings);
                self.follower.answer(&answer, &channel).await;
            }
            _ => {}
        }
        Ok(())
    }

    fn disconnected(&mut self) {
        self.due = None;
        self.waiting_since = Some(Instant::now());
        let busy = self.asked || self.sending.is_some();
        if !self.config.live && self.held.is_none() && !busy && self.end.is_none() {
            // A receiver that has got everything leaves: only a look at the source tells whether
            // there is a reason to wait for the next one.
            self.asked = true;
            self.capture.ask(CaptureRequest::Keyframe);
        }
    }

    /// The other side wants a keyframe: now, but not more often than makes sense.
    fn on_request(&mut self) {
        let now = Instant::now();
        if let Some(sending) = &mut self.sending {
            // Perhaps it is the answer already, perhaps it is what got lost.
            sending.requested_again = true;
            return;
        }
        let earliest = self.last_sent.map_or(now, |sent| now.max(sent + REQUEST_GAP));
        if self.end.is_some() {
            if earliest > now {
                return;
            }
            // Everything was sent: the last one once more, for a receiver that missed it.
            if let (Some((info, mut captured)), Some(peer)) =
                (self.last.clone(), self.follower.call.peer())
            {
                self.last_sent = Some(now);
                captured.waited();
                let rtp_timestamp = peer.next_rtp_timestamp(&captured.access_unit);
                let info = KeyframeInfo {
                    rtp_timestamp: rtp_timestamp.unwrap_or(info.rtp_timestamp),
                    ..info
                };
                self.sending = Some(Sending::start(peer, info, captured, true));
            }
        } else if self.follower.connected {
            self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
        }
    }

    async fn on_second(&mut self) {
        self.follower.ping().await;
        self.report(false).await;
    }

    /// `due`: it is one of the statistics that were asked for.
    async fn report(&mut self, due: bool) {
        let report = SessionReport {
            due,
            keyframes: self.seq,
            last_bytes: self.last.as_ref().map(|(info, _)| info.bytes),
            unwritten: self.save.as_ref().map_or(0, Saving::dropped),
            failed: self.failed,
            ..self.follower.report().await
        };
        (self.tell)(SenderEvent::Report(Box::new(report)));
    }

    fn line(&mut self, text: String) {
        (self.tell)(SenderEvent::Line(text));
    }
}
