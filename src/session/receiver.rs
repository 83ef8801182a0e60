//! The Mac: receives keyframes, verifies them, and has them written.

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
    peer::{PeerEvent, frames::CodedFrame, video::ReceivedAccessUnit},
    proto::control::ControlMessage,
    stats::{
        Stages,
        bottleneck::{Judged, Seen},
    },
    types::Stage,
};

/// Requests for a keyframe are at least this far apart: one loss often breaks several pictures.
const REQUEST_GAP: Duration = Duration::from_millis(500);

/// What a receiver does.
pub struct ReceiverConfig {
    /// Room and peer.
    pub call: CallConfig,
    /// Directory for the keyframes.
    pub out: PathBuf,
    /// What to write of each.
    pub formats: Vec<PictureFormat>,
    /// Keyframes to receive; none means no end.
    pub count: Option<u64>,
    /// How long to wait for the other device and for each keyframe; none means for ever.
    pub timeout: Option<Duration>,
    /// End with the first connection, instead of waiting for the other device to come back.
    pub once: bool,
}

/// What a receiver tells.
#[derive(Debug, Clone)]
pub enum ReceiverEvent {
    /// A line worth reading.
    Line(String),
    /// A keyframe is on disk.
    Keyframe(Box<StoredKeyframe>),
    /// A line of text came.
    Text(String),
    /// Once a second, and at the end.
    Report(Box<SessionReport>),
}

/// A keyframe on disk.
#[derive(Debug, Clone)]
pub struct StoredKeyframe {
    /// Its files and its line.
    pub written: Written,
    /// Time from its first packet received to its last; `network` of the stages begins when the first was sent.
    pub receive_time: Duration,
    /// The stages on this side, and the sum of both sides when the sender's clock is known, ms.
    pub stages: Stages<Option<f64>>,
    /// Why there is no picture beside it, when there is none.
    pub undecoded: Option<String>,
    /// How it was delivered, and what is known now of what limits that.
    pub delivery: Option<(Seen, Judged)>,
    /// Its budget, bytes: the one that is usual, or that this side has asked for.
    pub budget: u64,
}

/// Why a receiver ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverEnd {
    /// `count` keyframes are on disk.
    Count,
    /// The sender said goodbye, and that was to be the end.
    PeerLeft,
    /// It was told to stop.
    Stopped,
}

impl fmt::Display for ReceiverEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count => "all keyframes that were asked for are here",
            Self::PeerLeft => "the sender said goodbye",
            Self::Stopped => "stopped",
        })
    }
}

// Facts that come and go on their own, not one state.
#[allow(clippy::struct_excessive_bools)]
struct Receiver<'a> {
    follower: CallFollower,
    store: Option<Store>,
    claim: Claim,
    tell: &'a mut (dyn FnMut(ReceiverEvent) + Send),
    count: Option<u64>,
    timeout: Option<Duration>,
    once: bool,
    /// The one connection is over.
    over: bool,
    /// For what the control channel says of them.
    joiner: KeyframeJoiner,
    /// Handed to the disk and not yet reported back, oldest first.
    in_flight: VecDeque<InFlightKeyframe>,
    delivery: DeliveryMonitor,
    last_request: Option<Instant>,
    /// A keyframe was asked for and has not come.
    wanted: bool,
    /// Since when nothing has come, for the time-out.
    quiet_since: Instant,
    keyframes: u64,
    verified: u64,
    broken: u64,
    /// Keyframes that were given up because the disk did not take them.
    unwritten: u64,
    /// With the disk.
    outage: Outage,
    last_bytes: Option<u64>,
    /// What the last picture's stream says of its colors.
    colour: Option<Colour>,
    /// Why the stream cannot be decoded, as it was last said.
    unsupported: Option<String>,
}

/// Receives until the count or `stop` ends it.
///
/// # Errors
/// [`SessionError`] when signaling fails, the disk cannot be used at the start or does not take everything
/// before the end, or nothing comes in time. What was received before is on disk.
pub async fn run(
    config: ReceiverConfig,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(ReceiverEvent) + Send),
    texts: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<ReceiverEnd, SessionError> {
    let store = Store::start(&config.out, &config.formats).await?;
    let stats = StatsClock::new(config.call.stats_every);
    let mut receiver = Receiver {
        follower: CallFollower::new(Call::start(config.call), "sender"),
        store: Some(store),
        claim: Claim::new(&config.out),
        tell,
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
                        // The request, or the keyframe it brought, was lost.
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

    /// What it means that the sender said goodbye: it may have come before its time.
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
                format!("no keyframe came within {timeout:?}"),
                "look at the sender: its source, its --interval; or give a longer --timeout",
            )
        } else {
            self.follower.nobody(timeout)
        }
    }

    /// Writes what is still held, and waits for the disk.
    async fn finish(&mut self) -> Result<(), SessionError> {
        self.flush(true).await;
        let Some(store) = self.store.take() else { return Ok(()) };
        let mut result = Ok(());
        for stored in store.finish().await {
            if let StoreEvent::Waiting(error) = &stored {
                // There is no other try.
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
            CallInput::Text(text) => (self.tell)(ReceiverEvent::Text(text)),
            CallInput::Control(ControlMessage::Keyframe(info), _) => {
                self.joiner.info(info);
                self.flush(false).await;
            }
            CallInput::Control(ControlMessage::Set { id, .. }, channel) => {
                let error = Some("this side receives: it has nothing to set".into());
                let ack = ControlMessage::Ack { id, error, width: None, height: None };
                self.follower.answer(&ack, &channel).await;
            }
            CallInput::Peer(PeerEvent::AccessUnit(received)) => self.on_access_unit(received).await,
            CallInput::Peer(PeerEvent::Broken(broken)) => {
                self.joiner.broken();
                self.broken += 1;
                self.line(format!(
                    "a picture is broken: {} ({} packets came); asking for a keyframe",
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

    /// Hands over what has waited long enough, in order; with `all`, everything.
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
            // As many as were asked for are on their way to the disk.
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
                    let why = undecoded.as_deref().unwrap_or("its hash is not the sender's");
                    let unsupported = unsupported && verified != Some(false);
                    self.on_broken(written.record.seq, why, unsupported).await;
                }
                let delivery = underway.seen.and_then(|seen| {
                    Some((seen, self.delivery.keyframe(seen, self.follower.round_trips())?))
                });
                (self.tell)(ReceiverEvent::Keyframe(Box::new(StoredKeyframe {
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

    /// Says why a keyframe cannot be used, and asks for another. Of a stream that cannot be decoded at all
    /// that is said once, and others are not asked for.
    async fn on_broken(&mut self, seq: u64, why: &str, unsupported: bool) {
        if !unsupported {
            self.line(format!("keyframe {seq}: {why}; asking for another"));
            return self.request_keyframe("broken").await;
        }
        if self.unsupported.as_deref() != Some(why) {
            self.unsupported = Some(why.to_owned());
            self.line(format!(
                "keyframe {seq}: {why}; the keyframes of this stream are saved without pictures"
            ));
        }
    }

    /// Asks for a keyframe by RTCP, or by the control channel while the track is not known.
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

    /// Sends a typed line: as a command when it is one, else as text.
    async fn send_text(&mut self, line: String) {
        let sent = match command(&line) {
            Some(message @ ControlMessage::KeyframeRequest { .. }) => {
                // By RTCP, too: a sender need not know the message.
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

    /// `due`: it is one of the statistics that were asked for.
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
        (self.tell)(ReceiverEvent::Report(Box::new(report)));
    }

    fn line(&mut self, text: String) {
        (self.tell)(ReceiverEvent::Line(text));
    }
}

async fn next_stored(store: &mut Option<Store>) -> Option<StoreEvent> {
    match store {
        Some(store) => store.next().await,
        None => std::future::pending().await,
    }
}

/// Seconds as milliseconds, to the microsecond: the rest is noise of the clocks.
fn millis(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e3
}
