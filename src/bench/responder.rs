//! `bench --respond`: the remote peer of a bench that runs on another machine. It answers offers and pings, verifies
//! each keyframe against its announcement, and reports what arrived on request. It handles any number of
//! connections.

use std::future::Future;

use super::matching::{Matching, Verified};
use crate::{
    peer::PeerEvent,
    proto::control::{BenchReport, ControlMessage, ReportedKeyframe},
    session::{Call, CallConfig, CallEvent, SessionError, epoch_seconds},
};

/// Maximum number of keyframes in one report, the newest ones: more would not fit into a control message.
const MAX_REPORTED: usize = 400;

/// An event of a responder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponderEvent {
    /// The room was joined.
    Joined,
    /// A connection of this type was established.
    Connected(String),
    /// A connection has ended.
    Ended {
        /// Keyframes received completely.
        keyframes: u64,
        /// Keyframes with the announced SHA-256.
        intact: u64,
    },
    /// Any other notable event.
    Line(String),
}

/// Responds until `stop` completes.
///
/// # Errors
/// The signaling server cannot be reached, or rejects this device.
pub async fn run(
    config: CallConfig,
    stop: impl Future<Output = ()> + Send,
    on_event: &mut (dyn FnMut(ResponderEvent) + Send),
) -> Result<(), SessionError> {
    tokio::pin!(stop);
    let mut call = Call::start(config);
    let mut current = CurrentConnection::default();
    let result = loop {
        let event = tokio::select! {
            event = call.next() => event,
            () = &mut stop => break Ok(()),
        };
        match event {
            CallEvent::Failed(error) => break Err(error),
            CallEvent::Joined { peer_present: Some(_), .. } => on_event(ResponderEvent::Joined),
            CallEvent::Connected => {
                current = CurrentConnection { connected: true, ..CurrentConnection::default() };
                current.read_connection_type(&call).await;
                let kind = current.kind.clone().unwrap_or_else(|| "connected".into());
                on_event(ResponderEvent::Connected(kind));
            }
            CallEvent::Lost(..) | CallEvent::Bye(..) if current.connected => {
                on_event(current.ended());
                current = CurrentConnection::default();
            }
            CallEvent::Peer(event) => current.on_peer(event, &call).await,
            CallEvent::SignalingLost(why) => {
                on_event(ResponderEvent::Line(format!("signaling: {why}")));
            }
            CallEvent::Refused(error) => on_event(ResponderEvent::Line(error.to_string())),
            CallEvent::CandidateError { url, code, text, .. } => {
                on_event(ResponderEvent::Line(format!("ICE server {url}: {code} {text}")));
            }
            _ => {}
        }
    };
    if current.connected {
        on_event(current.ended());
    }
    call.close("stopped").await;
    result
}

/// The current connection.
#[derive(Debug, Default)]
struct CurrentConnection {
    connected: bool,
    kind: Option<String>,
    matching: Matching,
    keyframes: Vec<ReportedKeyframe>,
    count: u64,
    intact: u64,
}

impl CurrentConnection {
    async fn read_connection_type(&mut self, call: &Call) {
        if let Some(peer) = call.peer() {
            self.kind = peer.stats().await.pair.map(|pair| pair.connection.to_string());
        }
    }

    fn ended(&self) -> ResponderEvent {
        ResponderEvent::Ended { keyframes: self.count, intact: self.intact }
    }

    async fn on_peer(&mut self, event: PeerEvent, call: &Call) {
        let verified = match event {
            PeerEvent::ControlOpen => {
                self.read_connection_type(call).await;
                None
            }
            PeerEvent::AccessUnit(received) => self.matching.unit(received).await,
            PeerEvent::Control(ControlMessage::Keyframe(info), ..) => {
                self.matching.info(info).await
            }
            PeerEvent::Control(ControlMessage::BenchReportRequest, channel, _) => {
                if let Some(peer) = call.peer() {
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
            if self.keyframes.len() > MAX_REPORTED {
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
