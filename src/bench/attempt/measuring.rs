//! The measured part of a connection: once the data channel is open, pings and keyframes are sent at
//! their configured pace.

use std::time::{Duration, Instant, SystemTime};

use super::{
    super::{matching::Verified, setup_timeline::ms, video},
    Connection,
};
use crate::{
    peer::{PeerRole, event::ReceivedAccessUnit},
    proto::control::{ControlMessage, KeyframeInfo},
    report::bench::schema::KeyframeRecord,
    session::{epoch_seconds, next_due, sender::transmit},
    stats::Stages,
};

impl Connection<'_> {
    /// The data channel is open: the measurement starts.
    pub(super) async fn opened(&mut self) {
        let Some(peer) = self.peer.clone().filter(|_| self.open.is_none()) else { return };
        self.open = Some(self.run.meter.opened());
        let snapshot = peer.stats().await;
        self.pair = snapshot.pair;
        let now = Instant::now();
        // A warm-up connection has only its own small share of the work.
        let duration = self.run.config.plan.duration.filter(|_| self.index > 0);
        self.measured_until = duration.map(|duration| now + duration);
        self.stats_due = Some(now + self.run.config.stats_interval);
        self.pinging.start(now);
        self.video.start(now);
    }

    /// A keyframe arrived from the peer.
    pub(super) fn keyframe(&mut self, Verified { info, received, intact }: Verified) {
        // The clock offset is removed at the end, when its estimate is most accurate.
        let since = |theirs: f64| (epoch_seconds(received.received_at) - theirs) * 1e3;
        let network = info.sent_at.map(since);
        self.record_received(&received, Some(intact), Some(since(info.capture_time)), network);
    }

    fn record_received(
        &mut self,
        received: &ReceivedAccessUnit,
        intact: Option<bool>,
        latency_ms: Option<f64>,
        network_ms: Option<f64>,
    ) {
        let record = KeyframeRecord {
            bytes: received.unit.data.len() as u64,
            packets: Some(received.unit.packets.into()),
            received: Some(true),
            intact,
            latency_ms,
            stages_ms: Stages {
                network: network_ms,
                reassemble: Some(ms(received.unit.completed.elapsed())),
                ..Stages::default()
            },
            ..KeyframeRecord::default()
        };
        self.video.received(received.unit.completed, record, received.unit.arrival_summary());
    }

    fn send_keyframe(&mut self) {
        let (Some(peer), Some(keyframes)) = (self.peer.clone(), &self.run.prepared) else { return };
        let mut keyframe = match keyframes.next() {
            Ok(keyframe) => keyframe,
            Err(error) => return self.fail(error),
        };
        // It was encoded in advance: give it the age of a picture captured just for this send.
        let now = SystemTime::now();
        keyframe.access_unit.captured_at = now.checked_sub(keyframe.prepared).unwrap_or(now);
        let Some(rtp_timestamp) = peer.next_rtp_timestamp(&keyframe.access_unit) else { return };
        let unit = keyframe.access_unit.clone();
        let info = KeyframeInfo {
            seq: self.video.entries().len() as u64 + 1,
            rtp_timestamp,
            capture_time: epoch_seconds(unit.captured_at),
            bytes: unit.data.len() as u64,
            sha256: keyframe.sha256.clone(),
            width: unit.width,
            height: unit.height,
            sent_at: None,
        };
        self.video.sent(&keyframe, rtp_timestamp, Instant::now(), self.peer_is_local);
        // On a separate task, so that pings keep their pace.
        self.sending = Some(tokio::spawn(async move { transmit(&peer, &info, &unit).await }));
    }

    /// Performs the actions that are due.
    pub(super) async fn on_time(&mut self) {
        let now = Instant::now();
        if self.open.is_none() {
            self.over |= now >= self.timeline.start + self.run.config.timeout;
            return;
        }
        while let Some(ping) = self.pinging.ping(now, SystemTime::now()) {
            let Some(peer) = &self.peer else { continue };
            match peer.send_ping(ping).await {
                Ok(sent) => self.pinging.was_sent(sent),
                Err(error) => tracing::debug!("ping: {error}"),
            }
        }
        self.video.expire(now);
        if let Some(due) = self.stats_due.filter(|due| now >= *due) {
            self.stats_due = Some(next_due(due, self.run.config.stats_interval, now));
            self.emit_stats().await;
        }
        if self.measured_until.is_some_and(|until| now >= until) {
            self.measured_until = None;
            self.pinging.stop();
            self.video.stop();
        }
        match self.role {
            PeerRole::Receiver => {
                while let Some(received) = self.matching.overdue(now) {
                    self.record_received(&received, None, None, None);
                }
                self.request_keyframe(now).await;
            }
            PeerRole::Sender if self.sending.is_none() && self.video.is_due(now) => {
                self.send_keyframe();
                self.request_periodically().await;
            }
            PeerRole::Sender => {}
        }
        let measured = self.pinging.is_done(now)
            && self.video.is_done()
            && self.measured_until.is_none()
            && self.sending.is_none();
        if measured && !self.over {
            self.over = self.reported(now).await;
        }
    }

    /// As a receiver, bench takes keyframes at the sender's pace, or requests them at its own.
    async fn request_keyframe(&mut self, now: Instant) {
        if !self.video.is_due(now) {
            return;
        }
        let open_since = self.timeline.open().unwrap_or(now);
        let got = self.video.entries().len() as u32;
        if now >= open_since + video::WITHIN + self.run.config.plan.interval * got {
            // No keyframe has arrived for too long: expect no more.
            self.video.stop();
        } else if got > 0
            && let Some(peer) = &self.peer
        {
            if !peer.send_pli().await {
                let reason = Some("bench".to_owned());
                let _ = peer.send_control(&ControlMessage::KeyframeRequest { reason }).await;
            }
            self.video.postpone(now + Duration::from_millis(500));
        } else {
            self.video.postpone(now + Duration::from_millis(50));
        }
    }
}
