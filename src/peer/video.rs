//! The tasks around packetizer and assembler: video out, video in.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rtc::{
    media_stream::MediaStreamTrack,
    rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication,
    rtp,
    rtp_transceiver::{
        RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind},
    },
};
use tokio::sync::mpsc;
use webrtc::{
    media_stream::{
        track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
        track_remote::TrackRemote,
    },
    peer_connection::PeerConnection,
};

use super::{
    assembler::{Assembled, WholeAccessUnit},
    config::{self, PeerConfig},
    event::{PeerError, PeerEvent},
    handler::Shared,
    incoming::Incoming,
    pacing::Pacing,
    packetizer,
    tap::{InboundRtp, KeyframeRequest},
};
use crate::media::h264::AccessUnit;

/// How long an access unit may go without a new packet before it is given up: longer than an outage
/// that repair gets over. It holds nothing up: what comes after it is handed out when it is whole.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// The same where nothing is repaired: no packet is so late.
pub(super) const PATIENCE_UNREPAIRED: Duration = Duration::from_millis(500);

/// An access unit on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentAccessUnit {
    /// RTP timestamp of its packets.
    pub rtp_timestamp: u32,
    /// RTP packets it was cut into.
    pub packets: u32,
    /// When the first packet was handed to the connection.
    pub first_packet: Instant,
    /// Time from the first packet handed to the connection to the last.
    pub send_time: Duration,
}

/// An access unit that came whole.
#[derive(Debug, Clone)]
pub struct ReceivedAccessUnit {
    /// The access unit and what is known of its packets.
    pub unit: WholeAccessUnit,
    /// Wall-clock time at which it became whole.
    pub received_at: SystemTime,
}

/// The sender's side of the video track.
pub(super) struct VideoSender {
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    sequence: AtomicU16,
    timestamp_offset: u32,
    last_timestamp: Mutex<Option<u32>>,
}

impl VideoSender {
    pub(super) async fn new(
        config: &PeerConfig,
        connection: &dyn PeerConnection,
    ) -> Result<Self, PeerError> {
        let ssrc = rand::random::<u32>().max(1);
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters {
                ssrc: Some(ssrc),
                ..RTCRtpCodingParameters::default()
            },
            codec: config::h264_codec(config).rtp_codec,
            ..RTCRtpEncodingParameters::default()
        };
        let track = Arc::new(TrackLocalStaticRTP::new(MediaStreamTrack::new(
            "orion".to_owned(),
            "video".to_owned(),
            "video".to_owned(),
            RtpCodecKind::Video,
            vec![encoding.clone()],
        )));
        let init = RTCRtpTransceiverInit {
            direction: RTCRtpTransceiverDirection::Sendonly,
            send_encodings: vec![encoding],
            ..RTCRtpTransceiverInit::default()
        };
        connection
            .add_transceiver_from_track(Arc::clone(&track) as Arc<dyn TrackLocal>, Some(init))
            .await
            .map_err(PeerError::crate_error("add the video track"))?;
        Ok(Self {
            track,
            ssrc,
            // The top bit clear leaves room before the first wrap (RFC 3711 §3.3.1).
            sequence: AtomicU16::new(rand::random::<u16>() & 0x7fff),
            timestamp_offset: rand::random(),
            last_timestamp: Mutex::default(),
        })
    }

    /// Wall-clock time on the track's 90 kHz clock; distances between pictures are true.
    fn timestamp(&self, captured_at: SystemTime) -> u32 {
        let since = captured_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let ticks = since.as_secs().wrapping_mul(90_000) as u32;
        ticks
            .wrapping_add((u64::from(since.subsec_nanos()) * 9 / 100_000) as u32)
            .wrapping_add(self.timestamp_offset)
    }

    /// The timestamp to send the next access unit with. It always goes forward, also when the clock
    /// was set back.
    pub(super) fn next_timestamp(&self, captured_at: SystemTime) -> u32 {
        let mut last = self.last_timestamp.lock().expect("no holder of this lock panics");
        let mut timestamp = self.timestamp(captured_at);
        if let Some(last) = *last
            && timestamp.wrapping_sub(last).wrapping_sub(1) >= 1 << 31
        {
            timestamp = last.wrapping_add(1);
        }
        *last = Some(timestamp);
        timestamp
    }

    /// Sends an access unit, as fast as `pacing` lets it; `relayed` says that it may go through a relay.
    pub(super) async fn send(
        &self,
        unit: &AccessUnit,
        rtp_timestamp: u32,
        pacing: &Pacing,
        relayed: bool,
    ) -> Result<SentAccessUnit, PeerError> {
        let payloads = packetizer::packetize(&unit.data);
        let packets = payloads.len();
        let first = self.sequence.fetch_add(packets as u16, Ordering::Relaxed);
        pacing.begin(packets, relayed);
        let begun = Instant::now();
        for (index, payload) in payloads.into_iter().enumerate() {
            pacing.wait(payload.len()).await;
            let packet = rtp::Packet {
                header: rtp::header::Header {
                    version: 2,
                    marker: index + 1 == packets,
                    payload_type: config::PAYLOAD_TYPE,
                    sequence_number: first.wrapping_add(index as u16),
                    timestamp: rtp_timestamp,
                    ssrc: self.ssrc,
                    ..rtp::header::Header::default()
                },
                payload,
            };
            self.track
                .write_rtp(packet)
                .await
                .map_err(|_| PeerError::NotOpen("the video track"))?;
        }
        Ok(SentAccessUnit {
            rtp_timestamp,
            packets: packets as u32,
            first_packet: begun,
            send_time: begun.elapsed(),
        })
    }
}

pub(super) async fn send_pli(track: &dyn TrackRemote) -> bool {
    let Some(&media_ssrc) = track.ssrcs().await.first() else { return false };
    let pli = PictureLossIndication { sender_ssrc: 0, media_ssrc };
    track.write_rtcp(vec![Box::new(pli)]).await.is_ok()
}

pub(super) async fn forward_requests(
    mut requests: mpsc::Receiver<KeyframeRequest>,
    events: mpsc::Sender<PeerEvent>,
) {
    while let Some(request) = requests.recv().await {
        if events.send(PeerEvent::KeyframeRequested(request)).await.is_err() {
            break;
        }
    }
}

/// Assembles what the tap hands over.
pub(super) async fn receive(
    mut packets: mpsc::Receiver<InboundRtp>,
    shared: Arc<Shared>,
    patience: Duration,
) {
    let mut incoming = Incoming::new(patience);
    loop {
        let expiry = incoming.next_expiry();
        let wait = async {
            match expiry {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let made: Vec<Assembled> = tokio::select! {
            inbound = packets.recv() => {
                let Some(inbound) = inbound else { return };
                if !is_ours(&shared, inbound.payload_type) {
                    continue;
                }
                incoming.push(inbound)
            }
            () = wait => incoming.expire(Instant::now()),
        };
        for one in made {
            let event = match one {
                Assembled::Whole(unit) => PeerEvent::AccessUnit(ReceivedAccessUnit {
                    received_at: SystemTime::now() - unit.completed.elapsed(),
                    unit,
                }),
                Assembled::Broken(broken) => PeerEvent::Broken(broken),
            };
            if shared.events.send(event).await.is_err() {
                return;
            }
        }
    }
}

fn is_ours(shared: &Shared, payload_type: u8) -> bool {
    shared.payload_types.lock().expect("no holder of this lock panics").contains(&payload_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_go_forward_although_the_clock_does_not() {
        let track = MediaStreamTrack::new(
            "s".to_owned(),
            "t".to_owned(),
            "l".to_owned(),
            RtpCodecKind::Video,
            Vec::new(),
        );
        let sender = VideoSender {
            track: Arc::new(TrackLocalStaticRTP::new(track)),
            ssrc: 1,
            sequence: AtomicU16::new(0),
            timestamp_offset: u32::MAX - 5,
            last_timestamp: Mutex::default(),
        };
        let noon = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let first = sender.next_timestamp(noon);
        assert_eq!(sender.next_timestamp(noon), first.wrapping_add(1));
        assert_eq!(sender.next_timestamp(noon - Duration::from_hours(1)), first.wrapping_add(2));
        let later = sender.next_timestamp(noon + Duration::from_millis(3500));
        assert_eq!(later.wrapping_sub(first), 315_000);
    }
}
