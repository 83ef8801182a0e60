//! The phone: captures and sends a keyframe every interval and whenever one is requested.

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

/// Range of the interval that can be set, inclusive.
pub const INTERVAL_RANGE: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_hours(24));

/// Minimum time between two requested keyframes: libwebrtc sends a request 3 s after every picture, and one loss
/// may cause several requests.
const REQUEST_GAP: Duration = Duration::from_millis(300);

/// Pause before a failed source is retried.
const RETRY_SOURCE: Duration = Duration::from_secs(1);

/// How long the sender stays after the last keyframe, in case it is requested again.
const LINGER: Duration = Duration::from_secs(1);

/// How long the first keyframe of a connection waits for the control channel.
const CHANNEL_WITHIN: Duration = Duration::from_millis(500);

/// Configuration of a sender.
pub struct SenderConfig {
    /// Room and peer.
    pub call: CallConfig,
    /// Source and encoder.
    pub capture: CaptureConfig,
    /// Whether the source is live, so that an old picture is not worth sending.
    pub live: bool,
    /// Time between keyframes.
    pub interval: Duration,
    /// Number of keyframes to send; `None` for no limit.
    pub count: Option<u64>,
    /// How long to send after connecting; `None` for no limit.
    pub duration: Option<Duration>,
    /// Directory to save each sent access unit in.
    pub save: Option<PathBuf>,
    /// How long to wait for the other device; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Stop after the first connection instead of waiting for the other device to come back.
    pub once: bool,
}

/// An event of a sender.
#[derive(Debug)]
pub enum SenderEvent {
    /// A human-readable progress message.
    Line(String),
    /// A keyframe was sent.
    Sent(Box<SentKeyframe>),
    /// A text message arrived.
    Text(String),
    /// Statistics, once a second and at the end.
    Report(Box<SessionReport>),
}

/// A keyframe that was sent.
#[derive(Debug)]
pub struct SentKeyframe {
    /// Its `keyframe` control message.
    pub info: KeyframeInfo,
    /// How it was captured and encoded.
    pub captured: CapturedKeyframe,
    /// How it was packetized and sent.
    pub sent: SentAccessUnit,
    /// Durations of the sender's stages, in ms.
    pub stages: Stages<Option<f64>>,
    /// Type of the connection.
    pub connection_type: Option<ConnectionType>,
    /// The file it was saved to.
    pub saved: Option<PathBuf>,
}

/// Why a sender ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenderEnd {
    /// `count` keyframes were sent.
    Count,
    /// `duration` has elapsed.
    Duration,
    /// The source has ended.
    SourceEnded,
    /// The other device ended the call, and `once` is set.
    PeerLeft,
    /// The `stop` future completed.
    Stopped,
}

struct Sender<'a> {
    follower: CallFollower,
    capture: Capture,
    config: SenderSettings,
    emit: &'a mut (dyn FnMut(SenderEvent) + Send),
    save: Option<Saving>,
    /// When the first connection was established; `duration` counts from this time.
    started: Option<Instant>,
    /// When the next keyframe is due; `None` while nothing can be sent.
    due: Option<Instant>,
    last_sent: Option<Instant>,
    /// A capture is in progress.
    capturing: bool,
    /// The keyframe that is being sent; this may take a second over a slow link.
    sending: Option<Sending>,
    /// The first keyframe of a finite source, held until it can be sent.
    held: Option<CapturedKeyframe>,
    last: Option<(KeyframeInfo, CapturedKeyframe)>,
    seq: u64,
    /// There is currently no working path to the peer, so packets would be lost.
    silent: bool,
    /// The first keyframe of a new connection waits for the control channel.
    awaiting_channel: bool,
    end: Option<(SenderEnd, Instant)>,
    waiting_since: Option<Instant>,
    outage: Outage,
    /// Number of pictures without a keyframe.
    failed: u64,
    /// The budget for which oversized keyframes were already reported.
    over_budget: Option<usize>,
}

/// The settings that remain once call and capture have started.
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
/// [`SessionError`] when there is no first picture, the source fails permanently, signaling fails, not
/// everything can be written to `save`, or the other device does not join in time.
pub async fn run(
    mut config: SenderConfig,
    stop: impl Future<Output = ()> + Send,
    emit: &mut (dyn FnMut(SenderEvent) + Send),
    texts: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<SenderEnd, SessionError> {
    let save = match config.save.take() {
        Some(dir) => Some(Saving::start(dir).await?),
        None => None,
    };
    tokio::pin!(stop);
    // A camera may take seconds to start, and standard input may stay silent forever.
    let (capture, first) = tokio::select! {
        () = &mut stop => return Ok(SenderEnd::Stopped),
        started = Capture::start(config.capture) => started?,
    };
    emit(SenderEvent::Line(format!("source: {}", capture.description)));
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
        emit,
        save,
        started: None,
        due: None,
        last_sent: None,
        capturing: false,
        sending: None,
        held: (!config.live).then_some(first),
        last: None,
        seq: 0,
        silent: false,
        awaiting_channel: false,
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
                result = self.capture.result(), if self.capturing => self.on_capture(result)?,
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
        let duration = self.started.zip(self.config.duration).map(|(at, d)| at + d);
        let busy = self.capturing || self.sending.is_some() || self.silent;
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
            return Err(self.follower.no_connection(timeout));
        }
        if let (Some(at), Some(duration)) = (self.started, self.config.duration)
            && now >= at + duration
        {
            self.end = Some((SenderEnd::Duration, now + LINGER));
            return Ok(());
        }
        let busy = self.capturing || self.sending.is_some() || self.silent;
        if self.due.is_some_and(|due| now >= due) && !busy {
            self.start_keyframe();
        }
        Ok(())
    }

    /// Captures a keyframe, or sends the one that is held.
    fn start_keyframe(&mut self) {
        if let Some(mut held) = self.held.take() {
            held.waited();
            return self.send_keyframe(held);
        }
        self.capturing = true;
        self.capture.request(CaptureRequest::Keyframe);
    }

    fn on_capture(&mut self, result: CaptureResult) -> Result<(), SessionError> {
        self.capturing = false;
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
                self.started.get_or_insert(now);
                self.waiting_since = None;
                self.silent = false;
                self.awaiting_channel = true;
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
            CallInput::ControlOpen if self.awaiting_channel => {
                let now = Instant::now();
                self.due = self.due.map(|due| due.min(now));
            }
            CallInput::Text(text) => (self.emit)(SenderEvent::Text(text)),
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
        let busy = self.capturing || self.sending.is_some();
        if !self.config.live && self.held.is_none() && !busy && self.end.is_none() {
            // A receiver that has everything leaves; only the next capture shows whether there is more to send
            // to the next receiver.
            self.capturing = true;
            self.capture.request(CaptureRequest::Keyframe);
        }
    }

    /// The peer requests a keyframe, which is sent as soon as [`REQUEST_GAP`] allows.
    fn on_request(&mut self) {
        let now = Instant::now();
        if let Some(sending) = &mut self.sending {
            // The request may refer to this very keyframe, or to a loss within it.
            sending.requested_again = true;
            return;
        }
        let earliest = self.last_sent.map_or(now, |sent| now.max(sent + REQUEST_GAP));
        if self.end.is_some() {
            if earliest > now {
                return;
            }
            // Everything was sent; repeat the last keyframe for a receiver that missed it.
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

    /// `due`: whether this report is one of those due every [`CallConfig::stats_every`].
    async fn report(&mut self, due: bool) {
        let report = SessionReport {
            due,
            keyframes: self.seq,
            last_bytes: self.last.as_ref().map(|(info, _)| info.bytes),
            unwritten: self.save.as_ref().map_or(0, Saving::dropped),
            failed: self.failed,
            ..self.follower.report().await
        };
        (self.emit)(SenderEvent::Report(Box::new(report)));
    }

    fn line(&mut self, text: String) {
        (self.emit)(SenderEvent::Line(text));
    }
}
