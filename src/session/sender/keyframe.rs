//! Sends one keyframe: announces it on the control channel, transmits it and saves it.

mod saving;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use tokio::{task::JoinHandle, time::Instant};

pub(super) use self::saving::Saving;
use super::{LINGER, REQUEST_GAP, Sender, SenderEnd, SenderEvent, SentKeyframe};
use crate::{
    media::{h264::AccessUnit, sink::FrameRecord},
    peer::{Peer, frames::CodedFrame, video::SentAccessUnit},
    proto::control::{ControlMessage, KeyframeInfo},
    session::{SessionError, capture::CapturedKeyframe, epoch_seconds, millis},
    stats::Stages,
};

/// A keyframe that is sent by its own task. Over a slow link that takes a second, during which control
/// messages are sent and answered.
pub(super) struct Sending {
    task: JoinHandle<Option<SentAccessUnit>>,
    info: KeyframeInfo,
    captured: CapturedKeyframe,
    /// It has been sent before.
    again: bool,
    /// The peer requested a keyframe while this one was being sent.
    pub(super) requested_again: bool,
}

impl Sending {
    pub(super) fn start(
        peer: Arc<Peer>,
        info: KeyframeInfo,
        captured: CapturedKeyframe,
        again: bool,
    ) -> Self {
        let (announced, unit) = (info.clone(), captured.access_unit.clone());
        let task = tokio::spawn(async move { transmit(&peer, &announced, &unit).await });
        Self { task, info, captured, again, requested_again: false }
    }
}

/// The result of sending a keyframe; `sent` is `None` if it failed.
pub(super) struct Done {
    sending: Sending,
    sent: Option<SentAccessUnit>,
}

/// Waits until the keyframe in flight has been sent, or forever when there is none.
pub(super) async fn done(sending: &mut Option<Sending>) -> Done {
    let Some(under_way) = sending else { return std::future::pending().await };
    let sent = (&mut under_way.task).await.ok().flatten();
    match sending.take() {
        Some(sending) => Done { sending, sent },
        None => std::future::pending().await,
    }
}

impl Sender<'_> {
    pub(super) fn send_keyframe(&mut self, captured: CapturedKeyframe) {
        let Some(peer) = self.follower.call.peer().filter(|_| self.follower.connected) else {
            // The connection was lost during the capture.
            if !self.config.live {
                self.held = Some(captured);
            }
            return;
        };
        if let Some((width, height)) = captured.scaled_from {
            let unit = &captured.access_unit;
            self.line(format!(
                "keyframe {}: {width}x{height} does not fit the budget even at QP 51, sent as {}x{}",
                self.seq + 1,
                unit.width,
                unit.height
            ));
        }
        if captured.qp.is_some() {
            peer.count_coded(&coded(&captured));
        }
        self.warn_over_budget(&captured);
        let info = keyframe_info(self.seq + 1, &captured, &peer);
        let now = Instant::now();
        self.last_sent = Some(now);
        // The cadence does not drift with the capture time; a requested keyframe restarts it.
        self.due = Some(match self.due {
            Some(due) if now < due + self.config.interval && now >= due => {
                due + self.config.interval
            }
            _ => now + self.config.interval,
        });
        self.sending = Some(Sending::start(peer, info, captured, false));
    }

    /// Reports once per budget that keyframes of an encoded stream exceed it.
    fn warn_over_budget(&mut self, captured: &CapturedKeyframe) {
        let (bytes, max_bytes) = (captured.access_unit.data.len(), captured.max_bytes);
        if bytes <= max_bytes || self.over_budget == Some(max_bytes) {
            return;
        }
        self.over_budget = Some(max_bytes);
        self.line(format!(
            "keyframe {}: {bytes} bytes are over the budget of {max_bytes}; H.264 from a file or stream \
             is sent unchanged",
            self.seq + 1
        ));
    }

    /// The keyframe in flight has been sent, or failed.
    pub(super) async fn on_sent(&mut self, done: Done) -> Result<(), SessionError> {
        let Done { sending: Sending { info, captured, again, requested_again, .. }, sent } = done;
        let now = Instant::now();
        self.last_sent = Some(now);
        if again {
            self.end = self.end.map(|(end, _)| (end, now + LINGER));
            return Ok(());
        }
        if requested_again {
            self.due = self.due.map(|due| due.min(now + REQUEST_GAP));
        }
        let Some(sent) = sent else {
            self.line(format!("keyframe {} could not be sent: the connection was lost", info.seq));
            if !self.config.live {
                self.held = Some(captured);
            }
            return Ok(());
        };
        self.seq += 1;
        self.awaiting_channel = false;
        self.follower.picture(sent.first_packet + sent.send_time);
        let saved = self.save(&info, &captured).await?;
        // A keyframe that is sent again is not measured again.
        let again = CapturedKeyframe { original: None, ..captured.clone() };
        self.last = Some((info.clone(), again));
        let stages = stages(&captured, &sent);
        let connection_type = self.follower.pair().map(|pair| pair.connection);
        let sent = SentKeyframe { info, captured, sent, stages, connection_type, saved };
        (self.emit)(SenderEvent::Sent(Box::new(sent)));
        if self.config.count.is_some_and(|count| self.seq >= count) {
            self.end = Some((SenderEnd::Count, now + LINGER));
        }
        Ok(())
    }

    /// Saves a sent keyframe; returns its file if it is already written.
    async fn save(
        &mut self,
        info: &KeyframeInfo,
        captured: &CapturedKeyframe,
    ) -> Result<Option<PathBuf>, SessionError> {
        let Some(saving) = &mut self.save else { return Ok(None) };
        let record = FrameRecord {
            width: info.width,
            height: info.height,
            rtp_timestamp: info.rtp_timestamp,
            capture_time: Some(info.capture_time),
            sha256: info.sha256.clone(),
            ..FrameRecord::default()
        };
        let (saved, line) = saving.save(&captured.access_unit.data, record, info.seq).await?;
        if let Some(line) = line {
            self.line(line);
        }
        Ok(saved)
    }

    /// Saves the keyframes that are still pending.
    pub(super) async fn finish_saving(&mut self) -> Result<(), SessionError> {
        match &mut self.save {
            Some(saving) => saving.finish().await,
            None => Ok(()),
        }
    }
}

fn keyframe_info(seq: u64, captured: &CapturedKeyframe, peer: &Peer) -> KeyframeInfo {
    let unit = &captured.access_unit;
    KeyframeInfo {
        seq,
        rtp_timestamp: peer.next_rtp_timestamp(unit).unwrap_or_default(),
        capture_time: epoch_seconds(unit.captured_at),
        bytes: unit.data.len() as u64,
        sha256: captured.sha256.clone(),
        width: unit.width,
        height: unit.height,
        sent_at: None,
    }
}

/// The `getStats` counters of a keyframe that was encoded here.
fn coded(captured: &CapturedKeyframe) -> CodedFrame {
    let AccessUnit { width, height, .. } = captured.access_unit;
    let (qp, took) = (captured.qp, captured.encode_time);
    CodedFrame { width, height, keyframe: true, qp, took }
}

/// Durations of the sender's stages.
fn stages(captured: &CapturedKeyframe, sent: &SentAccessUnit) -> Stages<Option<f64>> {
    let packetize = sent.first_packet.saturating_duration_since(captured.encoded_at);
    Stages {
        packetize: Some(millis(packetize)),
        send: Some(millis(sent.send_time)),
        ..captured.stages
    }
}

/// Announces a keyframe on the control channel and sends it.
pub(crate) async fn transmit(
    peer: &Peer,
    info: &KeyframeInfo,
    unit: &AccessUnit,
) -> Option<SentAccessUnit> {
    peer.wait_for_remote_keys().await;
    let sent_at = Some(epoch_seconds(SystemTime::now()));
    let message = ControlMessage::Keyframe(KeyframeInfo { sent_at, ..info.clone() });
    let announced = peer.send_control(&message).await;
    let sent = match peer.send_access_unit_at(unit, info.rtp_timestamp).await {
        Ok(sent) => sent,
        Err(error) => {
            tracing::debug!("keyframe: {error}");
            return None;
        }
    };
    // On a lossy path the channel may open after the video.
    if announced.is_err()
        && let Err(error) = peer.send_control(&message).await
    {
        tracing::debug!("keyframe message: {error}");
    }
    Some(sent)
}
