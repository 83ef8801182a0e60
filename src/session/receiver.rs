//! The Mac: receives keyframes, verifies them, and has them written.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Report, SessionError, Totals, epoch_seconds,
    link::{Link, LinkConfig, LinkEvent},
    pings::{self, Pings},
    sender::{hex, never_came, printable},
    store::{Received, Store, Stored},
};
use crate::{
    media::{
        h264,
        sink::{FrameRecord, PictureFormat, Written},
    },
    peer::{
        PeerEvent, control::ChannelRef, event::Timings, stats::Snapshot, video::ReceivedAccessUnit,
    },
    proto::control::{ControlMessage, Id, KeyframeInfo},
    types::Stage,
};

/// How long a keyframe waits for what the control channel says of it.
const INFO_WITHIN: Duration = Duration::from_millis(200);

/// Keyframes of a connection that wait for it although the sender has not yet said anything: RTP may
/// be faster than the data channel.
const WAIT_ANYWAY: u32 = 2;

/// Keyframe messages kept for access units still on their way.
const MAX_INFOS: usize = 64;

/// Requests for a keyframe are at least this far apart: one loss often breaks several pictures.
const REQUEST_GAP: Duration = Duration::from_millis(500);

/// What a receiver does.
pub struct ReceiverConfig {
    /// Room and peer.
    pub link: LinkConfig,
    /// Directory for the keyframes.
    pub out: PathBuf,
    /// What to write of each.
    pub formats: Vec<PictureFormat>,
    /// Keyframes to receive; none means no end.
    pub count: Option<u64>,
    /// How long to wait for the other device and for each keyframe; none means for ever.
    pub timeout: Option<Duration>,
}

/// What a receiver tells.
#[derive(Debug)]
pub enum ReceiverEvent {
    /// A line worth reading.
    Line(String),
    /// A keyframe is on disk.
    Keyframe(Box<StoredKeyframe>),
    /// A line of text came.
    Text(String),
    /// Once a second, and at the end.
    Report(Box<Report>),
}

/// A keyframe on disk.
#[derive(Debug)]
pub struct StoredKeyframe {
    /// Its files and its line.
    pub written: Written,
    /// Time from its first packet to its last.
    pub network_time: Duration,
    /// Time the decoder took.
    pub decode_time: Duration,
    /// Time writing took, syncing included.
    pub write_time: Duration,
    /// Why there is no picture beside it, when there is none.
    pub undecoded: Option<String>,
}

/// Why a receiver ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiverEnd {
    /// `count` keyframes are on disk.
    Count,
    /// It was told to stop.
    Stopped,
}

/// A keyframe that waits for its message on the control channel.
struct Pending {
    received: ReceivedAccessUnit,
    until: Instant,
    after_loss: bool,
}

#[allow(clippy::struct_excessive_bools)] // four facts that come and go on their own
struct Receiver<'a> {
    link: Link,
    store: Option<Store>,
    tell: &'a mut (dyn FnMut(ReceiverEvent) + Send),
    count: Option<u64>,
    timeout: Option<Duration>,
    pings: Pings,
    state: String,
    channel_open: bool,
    connected: bool,
    infos: HashMap<u32, KeyframeInfo>,
    info_order: VecDeque<u32>,
    /// The sender tells of its keyframes.
    informed: bool,
    /// Keyframes of this connection.
    arrived: u32,
    pending: VecDeque<Pending>,
    after_loss: bool,
    network_times: VecDeque<Duration>,
    last_request: Option<Instant>,
    /// Since when nothing has come, for the time-out.
    quiet_since: Instant,
    keyframes: u64,
    /// Handed to the disk and not yet reported back.
    writing: u64,
    verified: u64,
    broken: u64,
    last_bytes: Option<u64>,
    totals: Totals,
    setup: Timings,
}

/// Receives until the count or `stop` ends it.
///
/// # Errors
/// [`SessionError`] when signaling or the disk fails, or nothing comes in time. What was received
/// before is on disk.
pub async fn run(
    config: ReceiverConfig,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(ReceiverEvent) + Send),
    texts: &mut tokio::sync::mpsc::Receiver<String>,
) -> Result<ReceiverEnd, SessionError> {
    let store = Store::start(&config.out, &config.formats)?;
    let mut receiver = Receiver {
        link: Link::start(config.link),
        store: Some(store),
        tell,
        count: config.count,
        timeout: config.timeout,
        pings: Pings::default(),
        state: "connecting to signaling".into(),
        channel_open: false,
        connected: false,
        infos: HashMap::new(),
        info_order: VecDeque::new(),
        informed: false,
        arrived: 0,
        pending: VecDeque::new(),
        after_loss: false,
        network_times: VecDeque::new(),
        last_request: None,
        quiet_since: Instant::now(),
        keyframes: 0,
        writing: 0,
        verified: 0,
        broken: 0,
        last_bytes: None,
        totals: Totals::default(),
        setup: Timings::default(),
    };
    let mut result = receiver.work(stop, texts).await;
    if let Err(error) = receiver.finish().await
        && result.is_ok()
    {
        result = Err(error);
    }
    receiver.report().await;
    let reason = match &result {
        Ok(ReceiverEnd::Stopped) => "stopped",
        Ok(ReceiverEnd::Count) => "done",
        Err(_) => "failed",
    };
    receiver.link.close(reason).await;
    result
}

impl Receiver<'_> {
    async fn work(
        &mut self,
        stop: impl Future<Output = ()> + Send,
        texts: &mut tokio::sync::mpsc::Receiver<String>,
    ) -> Result<ReceiverEnd, SessionError> {
        tokio::pin!(stop);
        let mut second = tokio::time::interval(pings::INTERVAL);
        second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut texts_open = true;
        let mut text_id = 0;
        loop {
            let info_due = self.pending.front().map(|pending| pending.until);
            let quiet = self.timeout.map(|timeout| self.quiet_since + timeout);
            tokio::select! {
                () = &mut stop => return Ok(ReceiverEnd::Stopped),
                event = self.link.next() => self.on_link(event).await?,
                stored = next_stored(&mut self.store) => self.on_stored(stored).await?,
                _ = second.tick() => {
                    self.ping().await;
                    self.report().await;
                }
                text = texts.recv(), if texts_open => match text {
                    Some(text) => {
                        text_id += 1;
                        self.send_text(text_id, text).await;
                    }
                    None => texts_open = false,
                },
                () = at(info_due) => self.flush(false).await,
                () = at(quiet) => return Err(self.quiet()),
            }
            if self.count.is_some_and(|count| self.keyframes >= count) {
                return Ok(ReceiverEnd::Count);
            }
        }
    }

    fn quiet(&self) -> SessionError {
        let timeout = self.timeout.unwrap_or_default();
        if self.connected {
            SessionError::new(
                Stage::Video,
                format!("no keyframe came within {timeout:?}"),
                "look at the sender: its source, its --interval; or give a longer --timeout",
            )
        } else {
            never_came("the sending device", timeout)
        }
    }

    /// Writes what is still held, and waits for the disk.
    async fn finish(&mut self) -> Result<(), SessionError> {
        self.flush(true).await;
        let Some(store) = self.store.take() else { return Ok(()) };
        let mut result = Ok(());
        for stored in store.finish().await {
            if let Err(error) = self.on_stored(Some(stored)).await {
                result = Err(error);
            }
        }
        result
    }

    async fn on_link(&mut self, event: LinkEvent) -> Result<(), SessionError> {
        match event {
            LinkEvent::Joined { peer_present } => {
                if !self.connected {
                    self.state = "waiting for the sender".into();
                }
                if peer_present == Some(false) {
                    self.line("in the room; the sender is not there yet".into());
                }
            }
            LinkEvent::Connected => {
                self.state = "connected".into();
                self.count().await;
                self.connected = true;
                self.quiet_since = Instant::now();
            }
            LinkEvent::Lost(why, counted) => {
                self.line(why);
                self.flush(true).await;
                self.disconnected(*counted);
            }
            LinkEvent::Bye(reason, counted) => {
                self.line(match reason {
                    Some(reason) => format!("the sender said goodbye: {}", printable(&reason)),
                    None => "the sender said goodbye".into(),
                });
                self.flush(true).await;
                self.disconnected(*counted);
            }
            LinkEvent::PeerJoined => self.line("the sender is in the room".into()),
            LinkEvent::PeerLeft(reason) => {
                self.line(format!("the sender left the room ({reason:?})").to_lowercase());
            }
            LinkEvent::SignalingLost(cause) => {
                self.line(format!("signaling: {cause}; trying again"));
            }
            LinkEvent::CandidateError(error) => self.line(format!("ice server {error}")),
            LinkEvent::Refused(error) | LinkEvent::Failed(error) => return Err(error),
            LinkEvent::Peer(event) => self.on_peer(event).await,
        }
        Ok(())
    }

    fn disconnected(&mut self, counted: Option<Snapshot>) {
        self.state = "waiting for the sender".into();
        self.connected = false;
        self.channel_open = false;
        self.informed = false;
        self.arrived = 0;
        self.infos.clear();
        self.info_order.clear();
        self.pings.reset();
        self.totals.connection_ended(counted);
        self.quiet_since = Instant::now();
    }

    async fn on_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::ControlOpen => {
                self.channel_open = true;
                self.ping().await;
            }
            PeerEvent::AccessUnit(received) => self.on_access_unit(received).await,
            PeerEvent::Broken(broken) => {
                self.after_loss = true;
                self.broken += 1;
                self.line(format!(
                    "a picture is broken: {} ({} packets came); asking for a keyframe",
                    broken.reason.as_str(),
                    broken.packets
                ));
                self.request_keyframe("broken").await;
            }
            PeerEvent::Control(message, channel) => self.on_control(message, channel).await,
            PeerEvent::ControlGarbage(error) => tracing::warn!("{error}"),
            PeerEvent::State(state) => {
                tracing::debug!(%state, "peer connection");
                if state == crate::peer::ConnectionState::Disconnected {
                    self.state = "disconnected".into();
                } else if state == crate::peer::ConnectionState::Connected {
                    self.state = "connected".into();
                }
            }
            _ => {}
        }
    }

    async fn on_access_unit(&mut self, received: ReceivedAccessUnit) {
        self.quiet_since = Instant::now();
        let keyframe = h264::is_keyframe(&received.unit.data);
        let known = self.infos.contains_key(&received.unit.timestamp);
        self.arrived += u32::from(keyframe);
        let expected = keyframe && (self.informed || self.arrived <= WAIT_ANYWAY);
        let wait = if expected && !known { INFO_WITHIN } else { Duration::ZERO };
        let after_loss = std::mem::take(&mut self.after_loss);
        self.pending.push_back(Pending { received, until: Instant::now() + wait, after_loss });
        self.flush(false).await;
    }

    /// Hands over what has waited long enough, in order; with `all`, everything.
    async fn flush(&mut self, all: bool) {
        let now = Instant::now();
        while let Some(pending) = self.pending.front() {
            let known = self.infos.contains_key(&pending.received.unit.timestamp);
            if !all && !known && now < pending.until {
                break;
            }
            if let Some(pending) = self.pending.pop_front() {
                self.hand_over(pending).await;
            }
        }
    }

    async fn hand_over(&mut self, Pending { received, after_loss, .. }: Pending) {
        let unit = received.unit;
        let info = self.infos.remove(&unit.timestamp);
        let sha256 = hex(&Sha256::digest(&unit.data));
        let received_at = epoch_seconds(received.received_at);
        let capture_time = info.as_ref().map(|info| info.capture_time);
        let record = FrameRecord {
            rtp_timestamp: unit.timestamp,
            capture_time,
            received_at,
            latency_ms: capture_time.map(|captured| (received_at - captured) * 1e3),
            packets: unit.packets,
            retransmitted: unit.retransmitted,
            verified: info.as_ref().map(|info| info.sha256.eq_ignore_ascii_case(&sha256)),
            sha256,
            candidate_type: self.totals.pair().map(|pair| pair.local.to_string()),
            ..FrameRecord::default()
        };
        if h264::is_keyframe(&unit.data) {
            self.network_times.push_back(unit.completed.duration_since(unit.first_packet));
            self.writing += 1;
        }
        if let Some(store) = &self.store {
            store.put(Received { data: unit.data, record, after_loss }).await;
        }
    }

    async fn on_stored(&mut self, stored: Option<Stored>) -> Result<(), SessionError> {
        match stored {
            Some(Stored::Written { written, decode_time, write_time, undecoded }) => {
                self.writing = self.writing.saturating_sub(1);
                self.keyframes += 1;
                self.last_bytes = Some(written.record.bytes as u64);
                let verified = written.record.verified;
                self.verified += u64::from(verified == Some(true));
                if verified == Some(false) || undecoded.is_some() {
                    self.broken += 1;
                    self.line(format!(
                        "keyframe {}: {}; asking for another",
                        written.record.seq,
                        match &undecoded {
                            Some(error) => error.as_str(),
                            None => "its hash is not the sender's",
                        }
                    ));
                    self.request_keyframe("broken").await;
                }
                (self.tell)(ReceiverEvent::Keyframe(Box::new(StoredKeyframe {
                    written,
                    network_time: self.network_times.pop_front().unwrap_or_default(),
                    decode_time,
                    write_time,
                    undecoded,
                })));
                Ok(())
            }
            Some(Stored::Passed) => Ok(()),
            Some(Stored::Broken(why)) => {
                self.broken += 1;
                tracing::debug!("picture not decoded: {why}");
                self.request_keyframe("broken").await;
                Ok(())
            }
            Some(Stored::Failed(error)) => Err(error),
            None => Err(SessionError::new(
                Stage::Output,
                "the writing thread has stopped",
                "run with -v for the details",
            )),
        }
    }

    /// Asks for a keyframe by RTCP, or by the control channel while the track is not known.
    async fn request_keyframe(&mut self, reason: &str) {
        let now = Instant::now();
        if self.last_request.is_some_and(|last| now < last + REQUEST_GAP) {
            return;
        }
        self.last_request = Some(now);
        let Some(peer) = self.link.peer() else { return };
        if !peer.send_pli().await {
            let request = ControlMessage::KeyframeRequest { reason: Some(reason.to_owned()) };
            if let Err(error) = peer.send_control(&request).await {
                tracing::debug!("keyframe request: {error}");
            }
        }
    }

    async fn on_control(&mut self, message: ControlMessage, channel: ChannelRef) {
        let answer = match message {
            ControlMessage::Ping { id, ts } => ControlMessage::Pong { id, ts },
            ControlMessage::Pong { id, .. } => {
                self.pings.pong(&id, std::time::Instant::now());
                return;
            }
            ControlMessage::Text { id, text } => {
                (self.tell)(ReceiverEvent::Text(printable(&text)));
                ControlMessage::Ack { id: Some(id), error: None }
            }
            ControlMessage::Keyframe(info) => {
                self.on_info(info).await;
                return;
            }
            ControlMessage::Set { id, .. } => ControlMessage::Ack {
                id,
                error: Some("this side receives: it has nothing to set".into()),
            },
            ControlMessage::Ack { error: Some(error), .. } => {
                self.line(format!("the sender refused a message: {}", printable(&error)));
                return;
            }
            _ => return,
        };
        if let Some(peer) = self.link.peer() {
            peer.answer_control(&answer, &channel).await;
        }
    }

    async fn on_info(&mut self, info: KeyframeInfo) {
        self.informed = true;
        self.info_order.push_back(info.rtp_timestamp);
        self.infos.insert(info.rtp_timestamp, info);
        if self.info_order.len() > MAX_INFOS
            && let Some(oldest) = self.info_order.pop_front()
        {
            self.infos.remove(&oldest);
        }
        self.flush(false).await;
    }

    async fn send_text(&mut self, id: i64, line: String) {
        let message = match command(&line) {
            Some(message) => message,
            None => ControlMessage::Text { id: Id::Number(id), text: line },
        };
        let sent = match self.link.peer() {
            Some(peer) => peer.send_control(&message).await.is_ok(),
            None => false,
        };
        if !sent {
            self.line("text not sent: no connection".into());
        }
    }

    async fn ping(&mut self) {
        let Some(peer) = self.link.peer().filter(|_| self.channel_open) else { return };
        let ping = self.pings.ping(std::time::Instant::now(), SystemTime::now());
        if let Err(error) = peer.send_control(&ping).await {
            tracing::debug!("ping: {error}");
        }
    }

    async fn count(&mut self) {
        if let Some(peer) = self.link.peer() {
            self.totals.update(peer.stats().await);
            self.setup = peer.timings();
        }
    }

    async fn report(&mut self) {
        self.count().await;
        let report = Report {
            state: self.state.clone(),
            stats: self.totals.sum(),
            setup: self.setup,
            rtt_ms: self.pings.take_times(),
            pings_lost: self.pings.lost(),
            keyframes: self.keyframes,
            verified: self.verified,
            broken: self.broken,
            last_bytes: self.last_bytes,
        };
        (self.tell)(ReceiverEvent::Report(Box::new(report)));
    }

    fn line(&mut self, text: String) {
        (self.tell)(ReceiverEvent::Line(text));
    }
}

/// A typed line that is a command: `/keyframe` asks for a keyframe now, `/set KEY=VALUE …` changes
/// the sender (`interval` in ms, `max-bytes`, `width`, `height`).
fn command(line: &str) -> Option<ControlMessage> {
    let mut words = line.split_whitespace();
    match words.next()? {
        "/keyframe" => Some(ControlMessage::KeyframeRequest { reason: Some("asked for".into()) }),
        "/set" => {
            let mut settings = crate::proto::control::Settings::default();
            for word in words {
                let (key, value) = word.split_once('=')?;
                match key {
                    "interval" => settings.interval_ms = Some(value.parse().ok()?),
                    "max-bytes" => settings.max_bytes = Some(value.parse().ok()?),
                    "width" => settings.width = Some(value.parse().ok()?),
                    "height" => settings.height = Some(value.parse().ok()?),
                    _ => return None,
                }
            }
            let id =
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
            Some(ControlMessage::Set { id: Some(Id::Number(id)), settings })
        }
        _ => None,
    }
}

async fn next_stored(store: &mut Option<Store>) -> Option<Stored> {
    match store {
        Some(store) => store.next().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_text() {
        assert!(matches!(command("/keyframe"), Some(ControlMessage::KeyframeRequest { .. })));
        let Some(ControlMessage::Set { settings, .. }) =
            command("/set interval=500 max-bytes=60000")
        else {
            panic!()
        };
        assert_eq!((settings.interval_ms, settings.max_bytes), (Some(500), Some(60_000)));
        for text in ["hello", "/set interval=soon", "/set colour=1", ""] {
            assert!(command(text).is_none(), "{text}");
        }
    }
}
