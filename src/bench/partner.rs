//! The other side of a connection when it is in this process: joins the room, answers, and tells the
//! measuring side what arrived. Pings are answered by the peer itself.

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
    stats::bottleneck::Seen,
    types::{CandidateType, Stage},
};

/// How long and how often candidates are waited for that would make a peer reflexive one a host one.
const SETTLE_TRIES: u32 = 15;
const SETTLE_EACH: Duration = Duration::from_millis(20);

/// What the other side tells.
#[derive(Debug)]
pub(super) enum Told {
    /// An access unit came whole.
    Arrived(Arrived),
    /// An access unit came in pieces.
    Broken(String),
    /// It cannot go on.
    Failed(SessionError),
}

/// An access unit that came whole.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    /// RTP timestamp, by which the sender knows it.
    pub(super) rtp_timestamp: u32,
    /// SHA-256, hex.
    pub(super) sha256: String,
    /// RTP packets.
    pub(super) packets: u64,
    /// When the last of them came.
    pub(super) completed: Instant,
    /// When it was joined, and its hash computed.
    pub(super) verified: Instant,
    /// How its packets arrived.
    pub(super) seen: Seen,
}

/// The measuring side's end of it.
pub(super) struct Partner {
    told: mpsc::UnboundedReceiver<Told>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Option<SelectedPair>>,
}

impl Partner {
    /// Joins the room, and gives the partner when it is in.
    pub(super) async fn join(config: CallConfig, within: Duration) -> Result<Self, SessionError> {
        let mut link = Call::start(config);
        let joined = async {
            loop {
                match link.next().await {
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
                format!("the other side was not in the room within {within:?}"),
                "is the signaling server overloaded? look at its log",
            )
        };
        match tokio::time::timeout(within, joined).await.unwrap_or_else(|_| Err(timed_out())) {
            Ok(()) => {}
            Err(error) => {
                link.close("failed").await;
                return Err(error);
            }
        }
        let (tell, told) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(link, tell, stopped));
        Ok(Self { told, stop: Some(stop), task })
    }

    /// The next thing it tells. Cancel safe.
    pub(super) async fn next(&mut self) -> Told {
        match self.told.recv().await {
            Some(told) => told,
            // Its last word was a failure.
            None => std::future::pending().await,
        }
    }

    /// Leaves the room and closes its connection; gives the pair it was connected by. At the end all
    /// candidates are known: an early look may take one for peer reflexive.
    pub(super) async fn leave(mut self) -> Option<SelectedPair> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        self.task.await.ok().flatten()
    }
}

async fn run(
    mut link: Call,
    tell: mpsc::UnboundedSender<Told>,
    mut stop: oneshot::Receiver<()>,
) -> Option<SelectedPair> {
    let mut pair = None;
    loop {
        let event = tokio::select! {
            event = link.next() => event,
            _ = &mut stop => break,
        };
        let told = match event {
            CallEvent::Peer(PeerEvent::ControlOpen) => {
                // A look at the pair also tells the driver how many passes it needs from now on.
                pair = selected(&link).await.or(pair);
                continue;
            }
            CallEvent::Peer(PeerEvent::AccessUnit(received)) => {
                let unit = received.unit;
                Told::Arrived(Arrived {
                    seen: unit.seen(),
                    rtp_timestamp: unit.timestamp,
                    sha256: hash(unit.data).await,
                    packets: unit.packets.into(),
                    completed: unit.completed,
                    verified: Instant::now(),
                })
            }
            CallEvent::Peer(PeerEvent::Broken(broken)) => {
                Told::Broken(format!("{}, {} packets came", broken.reason.as_str(), broken.packets))
            }
            CallEvent::Lost(_, counted) | CallEvent::Bye(_, counted) => {
                pair = counted.and_then(|counted| counted.pair).or(pair);
                continue;
            }
            CallEvent::Refused(error) | CallEvent::Failed(error) => Told::Failed(error),
            _ => continue,
        };
        let over = matches!(told, Told::Failed(_));
        if tell.send(told).is_err() || over {
            break;
        }
    }
    if let Some(peer) = link.peer() {
        pair = settled(&peer).await.pair.or(pair);
    }
    link.close("done").await;
    pair
}

async fn selected(link: &Call) -> Option<SelectedPair> {
    link.peer()?.stats().await.pair
}

/// getStats once it is known what kind of candidates were selected. A peer reflexive one may be a host
/// candidate whose signaling message has not come yet: a connection may be quicker than that.
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
