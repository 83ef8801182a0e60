//! Outgoing and incoming video: the tasks around the packetizer and the assembler.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use rtc::{
    media_stream::MediaStreamTrack,
    rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication,
    rtp,
    rtp_transceiver::{
        RTCRtpTransceiverDirection, RTCRtpTransceiverInit,
        rtp_sender::{
            RTCRtpCodingParameters, RTCRtpEncodingParameters, RTCRtpRtxParameters, RtpCodecKind,
        },
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use webrtc::{
    media_stream::{
        track_local::{TrackLocal, static_rtp::TrackLocalStaticRTP},
        track_remote::TrackRemote,
    },
    peer_connection::PeerConnection,
};

use super::{
    assembler::{Assembled, BrokenAccessUnit, BrokenReason},
    config::{self, PeerConfig},
    error::PeerError,
    event::{PeerEvent, ReceivedAccessUnit},
    incoming::Incoming,
    pacing::Pacing,
    packetizer,
    repair::PeerRepairs,
    rtp_observer::{InboundRtp, KeyframeRequest},
    sdp::PhonePath,
    shared::PeerState,
    timestamps::Timestamps,
};
use crate::media::h264::{self, AccessUnit};

/// How long an access unit may go without a new packet before it is abandoned: longer than an outage that repair can
/// bridge. This delays nothing: later access units are delivered as soon as they are complete.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// The same without repair: no packet is that late.
pub(super) const PATIENCE_UNREPAIRED: Duration = Duration::from_millis(500);

/// Maximum total size of the received access units in use, until they are on disk, in units of 1 KiB.
const RECEIVED_KIB: usize = 64 << 10;

/// An access unit that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentAccessUnit {
    /// RTP timestamp of its packets.
    pub rtp_timestamp: u32,
    /// Number of RTP packets it was split into.
    pub packets: u32,
    /// When the first packet was handed to the connection.
    pub first_packet: Instant,
    /// Time from when the first packet was handed to the connection until the last one was.
    pub send_time: Duration,
}

/// The sending end of the video track.
pub(super) struct VideoSender {
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    sequence: AtomicU16,
    timestamps: Mutex<Timestamps>,
}

impl VideoSender {
    pub(super) async fn new(
        config: &PeerConfig,
        connection: &dyn PeerConnection,
    ) -> Result<Self, PeerError> {
        let ssrc = rand::random::<u32>().max(1);
        // Used only if the peer agrees; the crate omits it without a negotiated payload type.
        let rtx = RTCRtpRtxParameters { ssrc: ssrc.wrapping_add(1).max(1) };
        let encoding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters {
                ssrc: Some(ssrc),
                rtx: config.repair.then_some(rtx),
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
            // A clear top bit leaves room before the first wrap (RFC 3711 §3.3.1).
            sequence: AtomicU16::new(rand::random::<u16>() & 0x7fff),
            timestamps: Mutex::new(Timestamps::new(rand::random(), Instant::now())),
        })
    }

    /// The timestamp to send the next access unit with, see [`Timestamps`].
    pub(super) fn next_timestamp(&self, captured_at: SystemTime) -> u32 {
        let age = SystemTime::now().duration_since(captured_at).unwrap_or_default();
        let mut timestamps = self.timestamps.lock().expect("no holder of this lock panics");
        timestamps.next(Instant::now(), age)
    }

    /// Sends an access unit as fast as `pacing` allows; `relayed` means that it may go through a relay.
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
        let started = Instant::now();
        pacing.begin(started, packets, relayed);
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
            first_packet: started,
            send_time: started.elapsed(),
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

/// Assembles packets from the RTP observer, and records in `path` what keyframes reveal about the path.
pub(super) async fn receive(
    mut packets: mpsc::Receiver<InboundRtp>,
    shared: Arc<PeerState>,
    patience: Duration,
    peer_repairs: PeerRepairs,
    path: PhonePath,
) {
    let mut incoming = Incoming::new(patience);
    let budget = Arc::new(Semaphore::new(RECEIVED_KIB));
    loop {
        incoming.set_repaired(peer_repairs.get());
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
                incoming.set_bare(!parameter_sets(&shared).is_empty());
                incoming.push(inbound)
            }
            () = wait => incoming.expire(Instant::now()),
        };
        for one in made {
            let event = match one.with(&parameter_sets(&shared)).within(&budget) {
                Assembled::Whole(unit) => {
                    shared.frames.transferred(None);
                    path.arrived(unit.packets, &unit.delivery);
                    PeerEvent::AccessUnit(ReceivedAccessUnit {
                        received_at: wall_time(unit.completed),
                        unit,
                    })
                }
                Assembled::Broken(broken) => PeerEvent::Broken(broken),
            };
            if shared.events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Wall-clock time of a moment that has just passed.
fn wall_time(moment: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}

fn parameter_sets(shared: &PeerState) -> Bytes {
    shared.parameter_sets.lock().expect("no holder of this lock panics").clone()
}

impl Assembled {
    /// Prefixes an IDR picture that has no parameter sets with those of the description.
    fn with(self, parameter_sets: &Bytes) -> Self {
        let Self::Whole(mut unit) = self else { return self };
        if !parameter_sets.is_empty() && lacks_parameter_sets(&unit.data) {
            unit.data = [parameter_sets.clone(), unit.data].concat().into();
        }
        Self::Whole(unit)
    }

    /// Charges the access unit's bytes to the budget until their last reader drops them; an access unit that does not
    /// fit is abandoned.
    fn within(self, budget: &Arc<Semaphore>) -> Self {
        let Self::Whole(mut unit) = self else { return self };
        let kib = unit.data.len().div_ceil(1024) as u32;
        match Arc::clone(budget).try_acquire_many_owned(kib) {
            Ok(permit) => {
                unit.data = Bytes::from_owner(BudgetedBytes { data: unit.data, _permit: permit });
                Self::Whole(unit)
            }
            Err(_) => Self::Broken(BrokenAccessUnit {
                timestamp: unit.timestamp,
                packets: unit.packets,
                reason: BrokenReason::Overflow,
            }),
        }
    }
}

fn lacks_parameter_sets(annex_b: &[u8]) -> bool {
    let types: Vec<u8> =
        h264::nal_units(annex_b).filter_map(|unit| Some(unit.first()? & 0x1f)).collect();
    types.contains(&5) && !types.contains(&7)
}

/// Bytes that are charged to a budget while they are in use.
struct BudgetedBytes {
    data: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for BudgetedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

fn is_ours(shared: &PeerState, payload_type: u8) -> bool {
    shared.payload_types.lock().expect("no holder of this lock panics").contains(&payload_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{peer::assembler::WholeAccessUnit, stats::delivery::Delivery};

    fn whole(data: Bytes) -> Assembled {
        let (timestamp, packets, retransmitted) = (1, 1, 0);
        let (first_packet, completed) = (Instant::now(), Instant::now());
        Assembled::Whole(WholeAccessUnit {
            data,
            timestamp,
            packets,
            retransmitted,
            first_packet,
            completed,
            delivery: Delivery::default(),
        })
    }

    #[test]
    fn a_bare_idr_picture_gets_the_parameter_sets_of_the_description() {
        let made = |data: &[u8], sets: &[u8]| match whole(Bytes::copy_from_slice(data))
            .with(&Bytes::copy_from_slice(sets))
        {
            Assembled::Whole(unit) => unit.data.to_vec(),
            Assembled::Broken(_) => panic!(),
        };
        let sets = [0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2];
        let (idr, delta) = ([0, 0, 0, 1, 0x65, 3], [0, 0, 0, 1, 0x41, 3]);
        let whole = [&sets[..], &idr].concat();
        assert_eq!(made(&idr, &sets), whole);
        assert_eq!(made(&whole, &sets), whole, "the stream's parameter sets are newer");
        assert_eq!(made(&delta, &sets), delta);
        assert_eq!(made(&idr, &[]), idr);
    }

    #[test]
    fn access_units_in_use_are_bounded_and_release_their_budget() {
        let budget = Arc::new(Semaphore::new(RECEIVED_KIB));
        let unit = || whole(Bytes::from(vec![7; 1 << 20]));
        let mut used: Vec<_> = (0..70).map(|_| unit().within(&budget)).collect();
        let whole = used.iter().filter(|one| matches!(one, Assembled::Whole(_))).count();
        assert_eq!(whole, 64);
        assert!(
            matches!(used.pop(), Some(Assembled::Broken(b)) if b.reason == BrokenReason::Overflow)
        );
        used.clear();
        let Assembled::Whole(again) = unit().within(&budget) else {
            panic!("the budget was not released")
        };
        assert!(again.data.iter().all(|byte| *byte == 7) && again.data.len() == 1 << 20);
    }
}
