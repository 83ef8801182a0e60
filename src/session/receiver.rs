//! The Mac: receives keyframes, verifies them and stores them on disk.

mod delivery;
mod in_flight;
mod joiner;

use std::{collections::VecDeque, fmt, path::PathBuf, time::Duration};

use tokio::time::Instant;

use self::{
    delivery::DeliveryMonitor,
    in_flight::InFlightKeyframe,
    joiner::{KeyframeJoiner, Ready},
};
use super::{
    SessionError, SessionReport, StatsClock,
    call::{Call, CallConfig, CallEvent},
    call_follower::{CallFollower, CallInput},
    command::command,
    epoch_seconds,
    outage::Outage,
    pings,
    store::{self, OnDisk, Received, Store, StoreEvent},
    until,
};
use crate::{
    media::{
        colour::Colour,
        h264,
        sink::{Claim, FrameRecord, PictureFormat, Written},
    },
    peer::{PeerEvent, event::ReceivedAccessUnit, frames::CodedFrame},
    proto::control::ControlMessage,
    stats::{
        Stages,
        bottleneck::{ArrivedKeyframe, Assessment},
    },
    types::Stage,
};

/// Minimum time between two keyframe requests: one loss often breaks several pictures.
const REQUEST_GAP: Duration = Duration::from_millis(500);

/// Configuration of a receiver.
pub struct ReceiverConfig {
    /// Room and peer.
    pub call: CallConfig,
    /// Directory for the keyframes.
    pub out: PathBuf,
    /// Picture formats to write for each keyframe.
    pub formats: Vec<PictureFormat>,
    /// Number of keyframes to receive; `None` for no limit.
    pub count: Option<u64>,
    /// How long to wait for the other device and for each keyframe; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Stop after the first connection instead of waiting for the other device to come back.
    pub once: bool,
}

/// An event of a receiver.
#[derive(Debug, Clone)]
pub enum ReceiverEvent {
    /// A human-readable progress message.
    Line(String),
    /// A keyframe is on disk.
    Keyframe(Box<StoredKeyframe>),
    /// A text message arrived.
    Text(String),
    /// Statistics, once a second and at the end.
    Report(Box<SessionReport>),
}

/// A keyframe on disk.
#[derive(Debug, Clone)]
pub struct StoredKeyframe {
    /// Its files and its record.
    pub written: Written,
    /// Time between receiving its first and its last packet; the stage `network` starts when the first packet
    /// was sent.
    pub receive_time: Duration,
    /// Durations in ms of the receiver's stages, and the total of both peers if the sender's clock is known.
    pub stages: Stages<Option<f64>>,
    /// Why it was not decoded, if it was not.
    pub undecoded: Option<String>,
    /// How it was delivered, and the current limit on delivery.
    pub delivery: Option<(ArrivedKeyframe, Assessment)>,
    /// Maximum keyframe size in bytes: the default, or the value this receiver has set.
    pub budget: u64,
}

/// Why a receiver ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverEnd {
    /// `count` keyframes are on disk.
    Count,
    /// The sender said goodbye, and `once` is set.
    PeerLeft,
    /// The `stop` future completed.
    Stopped,
}

impl fmt::Display for ReceiverEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "received all requested keyframes",
            Self::PeerLeft => "the sender said goodbye",
            Self::Stopped => "stopped",
        })
    }
}

// Independent facts, not one state.
#[allow(clippy::struct_excessive_bools)]
struct Receiver<'a> {
    follower: CallFollower,
    store: Option<Store>,
    claim: Claim,
    emit: &'a mut (dyn FnMut(ReceiverEvent) + Send),
    count: Option<u64>,
    timeout: Option<Duration>,
    once: bool,
    /// The connection has ended, and `once` is set.
    over: bool,
    /// Joins access units with their `keyframe` messages.
    joiner: KeyframeJoiner,
    /// Keyframes handed to the store and not yet written, oldest first.
    in_flight: VecDeque<InFlightKeyframe>,
    delivery: DeliveryMonitor,
    last_request: Option<Instant>,
    /// A keyframe was requested and has not arrived yet.
    wanted: bool,
    /// When the last picture arrived; the timeout counts from here.
    quiet_since: Instant,
    keyframes: u64,
    verified: u64,
    broken: u64,
    /// Keyframes discarded because they could not be written to disk.
    unwritten: u64,
    /// Outage of the disk.
    outage: Outage,
    last_bytes: Option<u64>,
    /// Color description of the last picture's stream.
    colour: Option<Colour>,
    /// Why the stream cannot be decoded, as last reported.
    unsupported: Option<String>,
}

/// Receives until the count or `stop` ends it.
///
/// # Errors
/// [`SessionError`] when signaling fails, the directory is not usable at startup, not everything can be
/// written, or nothing arrives in time. Everything received before is on disk.
pub async fn run(
    config: ReceiverConfig,
    stop: impl Future<Output = ()> + Send,
    emit: &mut (dyn FnMut(ReceiverEvent) + Send),
    texts: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<ReceiverEnd, SessionError> {
    let store = Store::start(&config.out, &config.formats).await?;
    let stats = StatsClock::new(config.call.stats_every);
    let mut receiver = Receiver {
        follower: CallFollower::new(Call::start(config.call), "sender"),
        store: Some(store),
        claim: Claim::new(&config.out),
        emit,
        count: config.count,
        timeout: config.timeout,
        once: config.once,
        over: false,
        joiner: KeyframeJoiner::default(),
        in_flight: VecDeque::new(),
        delivery: DeliveryMonitor::new(),
        last_request: None,
        wanted: false,
        quiet_since: Instant::now(),
        keyframes: 0,
        verified: 0,
        broken: 0,
        unwritten: 0,
        outage: Outage::default(),
        last_bytes: None,
        colour: None,
        unsupported: None,
    };
    let mut result = receiver.work(stop, stats, texts).await;
    if let Err(error) = receiver.finish().await
        && result.is_ok()
    {
        result = Err(error);
    }
    if result == Ok(ReceiverEnd::PeerLeft) {
        result = receiver.left();
    }
    receiver.report(false).await;
    let reason = match &result {
        Ok(ReceiverEnd::Stopped) => "stopped",
        Ok(ReceiverEnd::Count | ReceiverEnd::PeerLeft) => "done",
        Err(_) => "failed",
    };
    receiver.follower.call.close(reason).await;
    result
}

impl Receiver<'_> {
    async fn work(
        &mut self,
        stop: impl Future<Output = ()> + Send,
        mut stats: StatsClock,
        texts: &mut tokio::sync::mpsc::Receiver<String>,
    ) -> Result<ReceiverEnd, SessionError> {
        tokio::pin!(stop);
        let mut second = tokio::time::interval(pings::INTERVAL);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut texts_open = true;
        loop {
            let info_due = self.joiner.due();
            let quiet = self.timeout.map(|timeout| self.quiet_since + timeout);
            tokio::select! {
                () = &mut stop => return Ok(ReceiverEnd::Stopped),
                event = self.follower.call.next() => self.on_call(event).await?,
                stored = next_stored(&mut self.store) => self.on_stored(stored).await?,
                _ = second.tick() => {
                    self.follower.ping().await;
                    if self.wanted {
                        // The request, or the requested keyframe, was lost.
                        self.request_keyframe("still missing").await;
                    }
                    self.report(false).await;
                }
                () = stats.tick() => self.report(true).await,
                text = texts.recv(), if texts_open => match text {
                    Some(text) => {
                        self.send_text(text).await;
                    }
                    None => texts_open = false,
                },
                () = until(info_due) => self.flush(false).await,
                () = until(quiet) => return Err(self.quiet()),
            }
            if self.count.is_some_and(|count| self.keyframes >= count) {
                return Ok(ReceiverEnd::Count);
            }
            if self.over {
                return Ok(ReceiverEnd::PeerLeft);
            }
        }
    }

    /// The result after the sender said goodbye, possibly too early.
    fn left(&self) -> Result<ReceiverEnd, SessionError> {
        match self.count {
            Some(count) if self.keyframes < count => {
                Err(self.follower.left_early(self.keyframes, count))
            }
            Some(_) => Ok(ReceiverEnd::Count),
            None => Ok(ReceiverEnd::PeerLeft),
        }
    }

    fn quiet(&self) -> SessionError {
        let timeout = self.timeout.unwrap_or_default();
        if self.follower.connected {
            SessionError::new(
                Stage::Video,
                "no-keyframe",
                format!("no keyframe arrived within {timeout:?}"),
                "check the sender: its source and its --interval; or use a longer --timeout",
            )
        } else {
            self.follower.no_connection(timeout)
        }
    }

    /// Writes everything that is still pending and waits for the disk.
    async fn finish(&mut self) -> Result<(), SessionError> {
        self.flush(true).await;
        let Some(store) = self.store.take() else { return Ok(()) };
        let mut result = Ok(());
        for stored in store.finish().await {
            if let StoreEvent::Waiting(error) = &stored {
                // There is no further attempt.
                result = Err(error.clone());
            }
            self.on_stored(Some(stored)).await?;
        }
        result
    }

    async fn on_call(&mut self, event: CallEvent) -> Result<(), SessionError> {
        if matches!(event, CallEvent::Joined { .. }) {
            store::claim(&mut self.claim)?;
        }
        let (line, said) = self.follower.on_call(event).await?;
        if let Some(line) = line {
            self.line(line);
        }
        match said {
            CallInput::Connected => {
                self.quiet_since = Instant::now();
                self.delivery.connected(self.quiet_since.into());
            }
            CallInput::Disconnected(lost) => {
                self.disconnected().await;
                if self.once {
                    self.follower.once(lost)?;
                    self.over = true;
                }
            }
            CallInput::Text(text) => (self.emit)(ReceiverEvent::Text(text)),
            CallInput::Control(ControlMessage::Keyframe(info), _) => {
                self.joiner.info(info);
                self.flush(false).await;
            }
            CallInput::Control(ControlMessage::Set { id, .. }, channel) => {
                let error = Some("this peer is the receiver: it has no settings".into());
                let ack = ControlMessage::Ack { id, error, width: None, height: None };
                self.follower.answer(&ack, &channel).await;
            }
            CallInput::Peer(PeerEvent::AccessUnit(received)) => self.on_access_unit(received).await,
            CallInput::Peer(PeerEvent::Broken(broken)) => {
                self.joiner.broken();
                self.broken += 1;
                self.line(format!(
                    "broken picture: {} ({} packets received); requesting a keyframe",
                    broken.reason.as_str(),
                    broken.packets
                ));
                self.request_keyframe("broken").await;
            }
            _ => {}
        }
        Ok(())
    }

    async fn disconnected(&mut self) {
        self.flush(true).await;
        self.joiner.reset();
        self.wanted = false;
        self.quiet_since = Instant::now();
    }

    async fn on_access_unit(&mut self, received: ReceivedAccessUnit) {
        let now = Instant::now();
        self.quiet_since = now;
        let keyframe = self.joiner.unit(received, now);
        self.wanted &= !keyframe;
        self.flush(false).await;
    }

    /// Hands over the access units that need not wait any longer, in order; with `all`, hands over all of them.
    async fn flush(&mut self, all: bool) {
        let now = Instant::now();
        while let Some(ready) = self.joiner.next(now, all) {
            self.hand_over(ready).await;
        }
    }

    async fn hand_over(&mut self, Ready { received, info, after_loss }: Ready) {
        let unit = received.unit;
        let taken = self.keyframes + self.in_flight.len() as u64;
        if self.count.is_some_and(|count| taken >= count) {
            // The requested number of keyframes is already being written.
            return;
        }
        let received_at = epoch_seconds(received.received_at);
        let capture_time = info.as_ref().map(|info| info.capture_time);
        let offset = self.follower.clock_offset();
        let record = FrameRecord {
            rtp_timestamp: unit.timestamp,
            capture_time,
            received_at,
            latency_ms: capture_time
                .map(|captured| millis(received_at - captured + offset.unwrap_or_default())),
            clock_offset_ms: offset.map(millis),
            packets: unit.packets,
            retransmitted: unit.retransmitted,
            candidate_type: self.follower.pair().map(|pair| pair.local.to_string()),
            connection_type: self.follower.pair().map(|pair| pair.connection.to_string()),
            ..FrameRecord::default()
        };
        if h264::is_keyframe(&unit.data) {
            self.in_flight.push_back(InFlightKeyframe::new(&unit, info.as_ref()));
        }
        let announced_sha256 = info.map(|info| info.sha256);
        let completed = unit.completed;
        if let Some(store) = &self.store {
            let received =
                Received { data: unit.data, record, announced_sha256, completed, after_loss };
            store.put(received).await;
        }
    }

    async fn on_stored(&mut self, stored: Option<StoreEvent>) -> Result<(), SessionError> {
        match stored {
            Some(StoreEvent::Written(stored)) => {
                let OnDisk { written, decoded_at, decode_time, stages, written_at, .. } = *stored;
                let OnDisk { undecoded, unsupported, .. } = *stored;
                let underway = self.in_flight.pop_front().unwrap_or_default();
                let offset = self.follower.clock_offset();
                let stages = underway.complete(stages, &written.record, written_at, offset);
                self.keyframes += 1;
                if undecoded.is_none() {
                    self.follower.picture(decoded_at);
                    let size = (written.record.width, written.record.height);
                    self.count_decoded(size, true, decode_time);
                }
                self.last_bytes = Some(written.record.bytes as u64);
                if let Some(colour) = written.colour
                    && self.colour.replace(colour) != Some(colour)
                {
                    self.line(format!("colors: {colour}"));
                }
                let verified = written.record.verified;
                self.verified += u64::from(verified == Some(true));
                if verified == Some(false) || undecoded.is_some() {
                    self.broken += 1;
                    let why =
                        undecoded.as_deref().unwrap_or("its hash does not match the sender's");
                    let unsupported = unsupported && verified != Some(false);
                    self.on_broken(written.record.seq, why, unsupported).await;
                }
                let delivery = underway.seen.and_then(|seen| {
                    Some((seen, self.delivery.keyframe(seen, self.follower.round_trips())?))
                });
                (self.emit)(ReceiverEvent::Keyframe(Box::new(StoredKeyframe {
                    delivery,
                    budget: self.delivery.budget(),
                    written,
                    receive_time: underway.receive_time,
                    stages,
                    undecoded,
                })));
                Ok(())
            }
            Some(StoreEvent::Passed(size, took)) => {
                self.count_decoded(size, false, took);
                Ok(())
            }
            Some(StoreEvent::Skipped) => Ok(()),
            Some(StoreEvent::Broken(why)) => {
                self.broken += 1;
                tracing::debug!("picture not decoded: {why}");
                self.request_keyframe("broken").await;
                Ok(())
            }
            Some(StoreEvent::Waiting(error)) => {
                if let Some(line) = self.outage.failed(&error, Instant::now()) {
                    self.line(line);
                }
                Ok(())
            }
            Some(StoreEvent::Recovered) => {
                if let Some(line) = self.outage.over(Instant::now()) {
                    self.line(line);
                }
                Ok(())
            }
            Some(StoreEvent::Dropped) => {
                self.in_flight.pop_front();
                self.unwritten += 1;
                Ok(())
            }
            None => Err(store::stopped()),
        }
    }

    /// Counts a frame for getStats.
    fn count_decoded(&self, (width, height): (u32, u32), keyframe: bool, took: Duration) {
        if let Some(peer) = self.follower.call.peer() {
            peer.count_coded(&CodedFrame { width, height, keyframe, qp: None, took });
        }
    }

    /// Reports why a keyframe is not usable and requests another one. A stream that cannot be decoded at all is
    /// reported once, and no other keyframe is requested.
    async fn on_broken(&mut self, seq: u64, why: &str, unsupported: bool) {
        if !unsupported {
            self.line(format!("keyframe {seq}: {why}; requesting another"));
            return self.request_keyframe("broken").await;
        }
        if self.unsupported.as_deref() != Some(why) {
            self.unsupported = Some(why.to_owned());
            self.line(format!(
                "keyframe {seq}: {why}; the keyframes of this stream are saved without pictures"
            ));
        }
    }

    /// Requests a keyframe by RTCP, or on the control channel while the track is unknown.
    async fn request_keyframe(&mut self, reason: &str) {
        let now = Instant::now();
        if self.last_request.is_some_and(|last| now < last + REQUEST_GAP) {
            return;
        }
        self.last_request = Some(now);
        self.wanted = true;
        let Some(peer) = self.follower.call.peer() else { return };
        if !peer.send_pli().await {
            let request = ControlMessage::KeyframeRequest { reason: Some(reason.to_owned()) };
            if let Err(error) = peer.send_control(&request).await {
                tracing::debug!("keyframe request: {error}");
            }
        }
    }

    /// Sends a typed line: as a command if it is one, otherwise as text.
    async fn send_text(&mut self, line: String) {
        let sent = match command(&line) {
            Some(message @ ControlMessage::KeyframeRequest { .. }) => {
                // Also by RTCP, because the sender may not know the message.
                let pli = match self.follower.call.peer() {
                    Some(peer) => peer.send_pli().await,
                    None => false,
                };
                self.follower.send(&message).await || pli
            }
            Some(message) => {
                let sent = self.follower.send(&message).await;
                if let ControlMessage::Set { settings, .. } = message
                    && let Some(bytes) = settings.max_bytes.filter(|_| sent)
                {
                    self.delivery.set_budget(bytes);
                }
                sent
            }
            None => self.follower.send_text(line).await,
        };
        if !sent {
            self.line("text not sent: no connection".into());
        }
    }

    /// `due`: whether this report is one of those due every [`CallConfig::stats_every`].
    async fn report(&mut self, due: bool) {
        let report = SessionReport {
            due,
            keyframes: self.keyframes,
            verified: self.verified,
            broken: self.broken,
            unwritten: self.unwritten,
            last_bytes: self.last_bytes,
            delivery: self.delivery.delivered(self.follower.round_trips()),
            ..self.follower.report().await
        };
        (self.emit)(ReceiverEvent::Report(Box::new(report)));
    }

    fn line(&mut self, text: String) {
        (self.emit)(ReceiverEvent::Line(text));
    }
}

async fn next_stored(store: &mut Option<Store>) -> Option<StoreEvent> {
    match store {
        Some(store) => store.next().await,
        None => std::future::pending().await,
    }
}

/// Converts seconds to milliseconds, rounded to the microsecond: finer digits are clock noise.
fn millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}
