//! The remote peer of a connection, when it runs in this process: joins the room, answers, and reports what arrived
//! to the measuring peer. Pings are answered by the peer itself.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::matching::hash;
use crate::{
    peer::{
        Peer, PeerEvent,
        stats::{SelectedPair, Snapshot},
    },
    session::{Call, CallConfig, CallEvent, SessionError},
    stats::bottleneck::ArrivedKeyframe,
    types::{CandidateType, Stage},
};

/// Number and interval of the polls for candidates that may turn a peer-reflexive candidate into a host candidate.
const SETTLE_TRIES: u32 = 15;
const SETTLE_EACH: Duration = Duration::from_millis(20);

/// An event of the local peer.
#[derive(Debug)]
pub(super) enum LocalPeerEvent {
    /// A complete access unit arrived.
    Arrived(Arrived),
    /// An incomplete access unit arrived.
    Broken(String),
    /// The peer failed.
    Failed(SessionError),
}

/// A complete access unit.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    /// RTP timestamp, by which the sender identifies it.
    pub(super) rtp_timestamp: u32,
    /// SHA-256, hex.
    pub(super) sha256: String,
    /// Number of RTP packets.
    pub(super) packets: u64,
    /// Arrival of the last packet.
    pub(super) completed: Instant,
    /// When it was reassembled and its hash computed.
    pub(super) verified: Instant,
    /// How its packets arrived.
    pub(super) arrival: ArrivedKeyframe,
}

/// The measuring peer's handle to the local peer.
pub(super) struct LocalPeer {
    events: mpsc::UnboundedReceiver<LocalPeerEvent>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Option<SelectedPair>>,
}

impl LocalPeer {
    /// Joins the room, and returns once it has joined.
    pub(super) async fn join(config: CallConfig, within: Duration) -> Result<Self, SessionError> {
        let mut call = Call::start(config);
        let joined = async {
            loop {
                match call.next().await {
                    CallEvent::Joined { .. } => return Ok(()),
                    CallEvent::Failed(error) => return Err(error),
                    _ => {}
                }
            }
        };
        let timed_out = || {
            SessionError::new(
                Stage::Signaling,
                "timeout",
                format!("the remote peer did not join the room within {within:?}"),
                "check whether the signaling server is overloaded: see its log",
            )
        };
        match tokio::time::timeout(within, joined).await.unwrap_or_else(|_| Err(timed_out())) {
            Ok(()) => {}
            Err(error) => {
                call.close("failed").await;
                return Err(error);
            }
        }
        let (sender, events) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(call, sender, stopped));
        Ok(Self { events, stop: Some(stop), task })
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> LocalPeerEvent {
        match self.events.recv().await {
            Some(event) => event,
            // The last event was a failure.
            None => std::future::pending().await,
        }
    }

    /// Leaves the room and closes the connection; returns the selected candidate pair. At the end, all candidates are
    /// known; earlier, one may look peer-reflexive.
    pub(super) async fn leave(mut self) -> Option<SelectedPair> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.task.await.ok().flatten()
    }
}

async fn run(
    mut call: Call,
    events: mpsc::UnboundedSender<LocalPeerEvent>,
    mut stop: oneshot::Receiver<()>,
) -> Option<SelectedPair> {
    let mut pair = None;
    loop {
        let event = tokio::select! {
            event = call.next() => event,
            _ = &mut stop => break,
        };
        let event = match event {
            CallEvent::Peer(PeerEvent::ControlOpen) => {
                // Reading the statistics also sets the number of extra passes of the driver.
                pair = selected(&call).await.or(pair);
                continue;
            }
            CallEvent::Peer(PeerEvent::AccessUnit(received)) => {
                let unit = received.unit;
                LocalPeerEvent::Arrived(Arrived {
                    arrival: unit.arrival_summary(),
                    rtp_timestamp: unit.timestamp,
                    sha256: hash(unit.data).await,
                    packets: unit.packets.into(),
                    completed: unit.completed,
                    verified: Instant::now(),
                })
            }
            CallEvent::Peer(PeerEvent::Broken(broken)) => LocalPeerEvent::Broken(format!(
                "{}, {} packets arrived",
                broken.reason.as_str(),
                broken.packets
            )),
            CallEvent::Lost(_, counted) | CallEvent::Bye(_, counted) => {
                pair = counted.and_then(|counted| counted.pair).or(pair);
                continue;
            }
            CallEvent::Refused(error) | CallEvent::Failed(error) => LocalPeerEvent::Failed(error),
            _ => continue,
        };
        let over = matches!(event, LocalPeerEvent::Failed(_));
        if events.send(event).is_err() || over {
            break;
        }
    }
    if let Some(peer) = call.peer() {
        pair = settled(&peer).await.pair.or(pair);
    }
    call.close("done").await;
    pair
}

async fn selected(call: &Call) -> Option<SelectedPair> {
    call.peer()?.stats().await.pair
}

/// The statistics once the types of the selected candidates are known. A peer-reflexive one may be a host candidate
/// whose signaling message has not arrived yet, because a connection may be established before that.
pub(super) async fn settled(peer: &Peer) -> Snapshot {
    let mut snapshot = peer.stats().await;
    for _ in 0..SETTLE_TRIES {
        let open = |pair: &SelectedPair| [pair.local, pair.remote].contains(&CandidateType::Prflx);
        if !snapshot.pair.as_ref().is_some_and(open) {
            break;
        }
        tokio::time::sleep(SETTLE_EACH).await;
        snapshot = peer.stats().await;
    }
    snapshot
}
