//! `bench --respond`: the other side of a bench that runs on another machine. It answers offers and
//! pings, checks each keyframe against what its sender said of it, and reports what arrived when
//! asked. It stays for any number of connections.

use std::future::Future;

use super::matching::{Matching, Verified};
use crate::{
    peer::PeerEvent,
    proto::control::{BenchReport, ControlMessage, ReportedKeyframe},
    session::{Call, CallConfig, CallEvent, SessionError, epoch_seconds},
};

/// Keyframes told in one report, the newest: more would not fit a control message.
const MOST_REPORTED: usize = 400;

/// What a responder tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RespondEvent {
    /// In the room.
    Joined,
    /// A connection is up, of this type.
    Connected(String),
    /// A connection has ended, after so many keyframes, and so many of them intact.
    Ended {
        /// Keyframes that came whole.
        keyframes: u64,
        /// Those whose SHA-256 was the sender's.
        intact: u64,
    },
    /// Anything else worth a line.
    Line(String),
}

/// Answers until `stop`.
///
/// # Errors
/// Signaling cannot be reached, or refuses this device.
pub async fn run(
    config: CallConfig,
    stop: impl Future<Output = ()> + Send,
    tell: &mut (dyn FnMut(RespondEvent) + Send),
) -> Result<(), SessionError> {
    tokio::pin!(stop);
    let mut link = Call::start(config);
    let mut current = Current::default();
    let result = loop {
        let event = tokio::select! {
            event = link.next() => event,
            () = &mut stop => break Ok(()),
        };
        match event {
            CallEvent::Failed(error) => break Err(error),
            CallEvent::Joined { peer_present: Some(_), .. } => tell(RespondEvent::Joined),
            CallEvent::Connected => {
                current = Current { connected: true, ..Current::default() };
                current.look(&link).await;
                let kind = current.kind.clone().unwrap_or_else(|| "connected".into());
                tell(RespondEvent::Connected(kind));
            }
            CallEvent::Lost(..) | CallEvent::Bye(..) if current.connected => {
                tell(current.ended());
                current = Current::default();
            }
            CallEvent::Peer(event) => current.on_peer(event, &link).await,
            CallEvent::SignalingLost(why) => tell(RespondEvent::Line(format!("signaling: {why}"))),
            CallEvent::Refused(error) => tell(RespondEvent::Line(error.to_string())),
            CallEvent::CandidateError { url, code, text, .. } => {
                tell(RespondEvent::Line(format!("ice server {url}: {code} {text}")));
            }
            _ => {}
        }
    };
    if current.connected {
        tell(current.ended());
    }
    link.close("stopped").await;
    result
}

/// The connection there is.
#[derive(Debug, Default)]
struct Current {
    connected: bool,
    kind: Option<String>,
    matching: Matching,
    keyframes: Vec<ReportedKeyframe>,
    count: u64,
    intact: u64,
}

impl Current {
    async fn look(&mut self, link: &Call) {
        if let Some(peer) = link.peer() {
            self.kind = peer.stats().await.pair.map(|pair| pair.connection.to_string());
        }
    }

    fn ended(&self) -> RespondEvent {
        RespondEvent::Ended { keyframes: self.count, intact: self.intact }
    }

    async fn on_peer(&mut self, event: PeerEvent, link: &Call) {
        let verified = match event {
            PeerEvent::ControlOpen => {
                self.look(link).await;
                None
            }
            PeerEvent::AccessUnit(received) => self.matching.unit(received).await,
            PeerEvent::Control(ControlMessage::Keyframe(info), ..) => {
                self.matching.info(info).await
            }
            PeerEvent::Control(ControlMessage::BenchReportRequest, channel, _) => {
                if let Some(peer) = link.peer() {
                    let report = ControlMessage::BenchReport(self.report());
                    peer.answer_control(&report, &channel).await;
                }
                None
            }
            _ => None,
        };
        if let Some(Verified { info, received, intact }) = verified {
            self.count += 1;
            self.intact += u64::from(intact);
            self.keyframes.push(ReportedKeyframe {
                seq: info.seq,
                packets: received.unit.packets.into(),
                intact,
                received_at: epoch_seconds(received.received_at),
            });
            if self.keyframes.len() > MOST_REPORTED {
                self.keyframes.remove(0);
            }
        }
    }

    fn report(&self) -> BenchReport {
        BenchReport {
            connection_type: self.kind.clone(),
            keyframes: self.keyframes.clone(),
            count: self.count,
        }
    }
}
