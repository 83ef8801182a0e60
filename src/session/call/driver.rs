//! Runs a call: passes inputs to the [`CallCore`] and performs its actions on the signaling client and the peer
//! connection.

use std::{
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

use super::{
    CallEvent,
    core::{
        AnswerError, CallAction, CallCore, CallInput, Closing, Now, Outcome, Surroundings,
        peer_error,
    },
    network::{Move, NetworkWatch},
};
use crate::{
    peer::{Peer, PeerConfig, PeerError, PeerEvent, Vitals, abandoned_drivers, no_relay},
    proto::{signaling::Body, token::IceServer},
    session::{
        SessionError,
        negotiation::{NegotiationLog, NegotiationStep, SdpType},
        until,
    },
    signaling::client::{ClientEvent, ClientHandle},
};

/// Poll interval of this machine's addresses and of the liveness of the connection.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// The peer connection of a call and its events.
struct OpenPeer {
    peer: Arc<Peer>,
    events: mpsc::Receiver<PeerEvent>,
}

pub(super) struct CallDriver {
    core: CallCore,
    client: ClientHandle,
    template: PeerConfig,
    events: mpsc::Sender<CallEvent>,
    negotiation_log: NegotiationLog,
    published: watch::Sender<Option<Arc<Peer>>>,
    current: Option<OpenPeer>,
    /// `None` where the addresses of this machine cannot change.
    network: Option<NetworkWatch>,
}

/// The part of the driver that the core may query.
struct Here<'d> {
    current: Option<&'d OpenPeer>,
    network: Option<&'d NetworkWatch>,
}

impl Surroundings for Here<'_> {
    fn vitals(&self) -> Option<Vitals> {
        self.current.map(|current| current.peer.vitals())
    }

    fn can_restart(&self) -> bool {
        self.current.is_some_and(|current| current.peer.can_restart())
    }

    fn no_relay(&self) -> Option<String> {
        no_relay(&self.current?.peer.gathering())
    }

    fn is_offline(&self) -> bool {
        self.network.is_some_and(NetworkWatch::is_offline)
    }

    fn abandoned_drivers(&self) -> usize {
        abandoned_drivers()
    }
}

/// An event for the driver.
enum Wake {
    Poll,
    Client(Option<ClientEvent>),
    Peer(Option<PeerEvent>),
    Deadline,
    Close(String),
}

impl CallDriver {
    pub(super) fn new(
        client: ClientHandle,
        template: PeerConfig,
        negotiation_log: NegotiationLog,
        events: mpsc::Sender<CallEvent>,
        published: watch::Sender<Option<Arc<Peer>>>,
    ) -> Self {
        let network = template.network.clone().filter(|_| template.gateway.is_none());
        Self {
            core: CallCore::new(&template),
            client,
            template,
            events,
            negotiation_log,
            published,
            current: None,
            network: network.map(NetworkWatch::new),
        }
    }

    pub(super) async fn run(
        mut self,
        mut client_events: mpsc::Receiver<ClientEvent>,
        mut close: oneshot::Receiver<String>,
    ) {
        let mut poll = tokio::time::interval(POLL_EVERY);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reason = loop {
            let wake = {
                let deadline = self.core.deadline().map(Into::into);
                let peer_events = self.current.as_mut().map(|current| &mut current.events);
                tokio::select! {
                    reason = &mut close => Wake::Close(closing(reason)),
                    event = client_events.recv() => Wake::Client(event),
                    event = or_never(peer_events) => Wake::Peer(event),
                    () = until(deadline) => Wake::Deadline,
                    _ = poll.tick() => Wake::Poll,
                }
            };
            let flow = match wake {
                Wake::Close(reason) => break Some(reason),
                Wake::Client(None) => ControlFlow::Break(()),
                Wake::Client(Some(event)) => self.on_client(event).await,
                Wake::Peer(event) => {
                    self.on_peer(
                        event.unwrap_or_else(|| PeerEvent::Stopped("its events have ended".into())),
                    )
                    .await
                }
                Wake::Deadline => self.handle(CallInput::Deadline).await,
                Wake::Poll => self.on_poll().await,
            };
            if flow.is_break() {
                // The handle no longer reads events: it is about to close the call, and the reason follows.
                let closed = self.events.is_closed();
                break if closed { Some(closing((&mut close).await)) } else { None };
            }
        };
        if let Some(reason) = reason
            && let Err(error) = self.client.send(Body::Bye { reason: Some(reason) })
        {
            // The lost socket is what ended the call, and has been reported.
            tracing::debug!("bye: {error}");
        }
        let _ = self.close(Closing::Silent).await;
        self.client.close().await;
    }

    async fn on_client(&mut self, event: ClientEvent) -> ControlFlow<()> {
        match event {
            ClientEvent::Renewed { ice_servers, .. } => {
                let relayed = match &self.current {
                    Some(current) => current.peer.may_be_relayed().await,
                    None => false,
                };
                self.handle(CallInput::Renewed { ice_servers, relayed }).await
            }
            event => self.handle(CallInput::Signaling(event)).await,
        }
    }

    async fn on_peer(&mut self, event: PeerEvent) -> ControlFlow<()> {
        match event {
            PeerEvent::CandidateError { url, code, text } => {
                let remedy = self.server_remedy(&url);
                self.emit(CallEvent::CandidateError { url, code, text, remedy }).await
            }
            event => {
                match &event {
                    PeerEvent::State(state) => self.log(|| NegotiationStep::State(*state)),
                    PeerEvent::LocalCandidate(candidate) => {
                        self.log(|| NegotiationStep::LocalCandidate(candidate.clone()));
                    }
                    _ => {}
                }
                self.handle(CallInput::Peer(event)).await
            }
        }
    }

    async fn on_poll(&mut self) -> ControlFlow<()> {
        match self.network.as_mut().and_then(NetworkWatch::poll) {
            Some(Move::To(addresses)) => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                tracing::info!(
                    addresses = addresses.join(", "),
                    "this machine's network has changed"
                );
                self.handle(CallInput::Moved).await?;
            }
            Some(Move::Offline) => self.handle(CallInput::Offline).await?,
            None => {}
        }
        self.handle(CallInput::Poll).await
    }

    /// Passes an input to the core and performs the actions that follow from it.
    async fn handle(&mut self, input: CallInput) -> ControlFlow<()> {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let now = Now { at: Instant::now(), wall: SystemTime::now() };
            let here = Here { current: self.current.as_ref(), network: self.network.as_ref() };
            self.core.handle(now, input, &here);
            while let Some(action) = self.core.next_action() {
                next = self.perform(action).await?.map(CallInput::Done);
            }
        }
        ControlFlow::Continue(())
    }

    async fn perform(&mut self, action: CallAction) -> ControlFlow<(), Option<Outcome>> {
        let outcome = match action {
            CallAction::Emit(event) => return self.emit(event).await.map_continue(|()| None),
            CallAction::Send(body) => {
                let t = body.t();
                if let Err(error) = self.client.send(body) {
                    tracing::warn!("{t}: {error}");
                }
                None
            }
            CallAction::Probe => {
                self.client.probe();
                None
            }
            CallAction::Reconnect => {
                self.client.reconnect();
                None
            }
            CallAction::Offer { ice_servers } => {
                let offered = self.offer(ice_servers).await;
                Some(Outcome::Offered(offered.map_err(|error| peer_error(&error))))
            }
            CallAction::Answer { sdp, ice_servers, renegotiation } => {
                Some(Outcome::Answered(self.answer(sdp, ice_servers, renegotiation).await))
            }
            CallAction::AcceptAnswer(sdp) => self.accept_answer(sdp).await.map(Outcome::Accepted),
            CallAction::RestartIce(ice_servers) => {
                Some(Outcome::Restarted(self.restart_ice(&ice_servers).await))
            }
            CallAction::AddCandidate(candidate) => {
                if let Some(current) = &self.current {
                    self.log(|| NegotiationStep::RemoteCandidate(candidate.clone()));
                    current.peer.add_candidate(candidate).await;
                }
                None
            }
            CallAction::Close(closing) => {
                return self.close(closing).await.map_continue(|()| None);
            }
            CallAction::End => return ControlFlow::Break(()),
        };
        ControlFlow::Continue(outcome)
    }

    fn log(&self, step: impl FnOnce() -> NegotiationStep) {
        self.negotiation_log.step(step);
    }

    /// Passes on an event; breaks if the handle is gone.
    async fn emit(&self, event: CallEvent) -> ControlFlow<()> {
        match self.events.send(event).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    async fn open(&mut self, ice_servers: Vec<IceServer>) -> Result<Arc<Peer>, PeerError> {
        let config = PeerConfig { ice_servers, ..self.template.clone() };
        self.log(|| NegotiationStep::Created {
            ice_servers: config.ice_servers.clone(),
            ice_policy: config.ice_policy,
        });
        let (peer, events) = Peer::new(config).await?;
        let peer = Arc::new(peer);
        self.published.send_replace(Some(Arc::clone(&peer)));
        self.current = Some(OpenPeer { peer: Arc::clone(&peer), events });
        Ok(peer)
    }

    async fn offer(&mut self, ice_servers: Vec<IceServer>) -> Result<String, PeerError> {
        let sdp = self.open(ice_servers).await?.create_offer().await?;
        self.log(|| NegotiationStep::Local(SdpType::Offer, sdp.clone()));
        Ok(sdp)
    }

    async fn answer(
        &mut self,
        sdp: String,
        ice_servers: Vec<IceServer>,
        renegotiation: bool,
    ) -> Result<(String, Instant), AnswerError> {
        let known = self.current.as_ref().filter(|_| renegotiation);
        let peer = if let Some(current) = known {
            let peer = Arc::clone(&current.peer);
            if let Err(error) = peer.set_ice_servers(&ice_servers).await {
                tracing::warn!(%error, "ICE keeps its previous servers");
            }
            peer
        } else {
            let opened = self.open(ice_servers).await;
            opened.map_err(|error| AnswerError::Failed(peer_error(&error)))?
        };
        let described = Instant::now();
        self.log(|| NegotiationStep::Remote(SdpType::Offer, sdp.clone()));
        match peer.accept_offer(sdp).await {
            Ok(answer) => {
                self.log(|| NegotiationStep::Local(SdpType::Answer, answer.clone()));
                Ok((answer, described))
            }
            Err(error) => {
                self.log(|| NegotiationStep::RemoteRefused(error.to_string()));
                Err(AnswerError::Refused(peer_error(&error)))
            }
        }
    }

    async fn accept_answer(&mut self, sdp: String) -> Option<Result<Instant, SessionError>> {
        let peer = Arc::clone(&self.current.as_ref()?.peer);
        let described = Instant::now();
        self.log(|| NegotiationStep::Remote(SdpType::Answer, sdp.clone()));
        let accepted = peer.accept_answer(sdp).await;
        if let Err(error) = &accepted {
            self.log(|| NegotiationStep::RemoteRefused(error.to_string()));
        }
        Some(accepted.map(|()| described).map_err(|error| peer_error(&error)))
    }

    async fn restart_ice(&mut self, ice_servers: &[IceServer]) -> Option<String> {
        let peer = Arc::clone(&self.current.as_ref()?.peer);
        match peer.restart_ice(ice_servers).await {
            Ok(sdp) => {
                self.log(|| NegotiationStep::Local(SdpType::Offer, sdp.clone()));
                Some(sdp)
            }
            Err(error) => {
                tracing::warn!(%error, "ICE restart failed");
                None
            }
        }
    }

    /// Closes the connection, and emits the event with its final statistics. Pending keyframes and control messages
    /// are passed on first: a `bye` over signaling may overtake a keyframe that has already arrived.
    async fn close(&mut self, closing: Closing) -> ControlFlow<()> {
        self.published.send_replace(None);
        let mut counted = None;
        if let Some(mut current) = self.current.take() {
            while let Ok(event) = current.events.try_recv() {
                let pending = matches!(event, PeerEvent::AccessUnit(_) | PeerEvent::Control(..));
                if pending && self.emit(CallEvent::Peer(event)).await.is_break() {
                    break;
                }
            }
            counted = Some(current.peer.stats().await);
            current.peer.close().await;
            self.log(|| NegotiationStep::Closed);
        }
        match closing {
            Closing::Silent => ControlFlow::Continue(()),
            Closing::Lost(why) => self.emit(CallEvent::Lost(why, Box::new(counted))).await,
            Closing::Bye(reason) => self.emit(CallEvent::Bye(reason, Box::new(counted))).await,
        }
    }

    /// The remedy for a STUN or TURN server that failed.
    fn server_remedy(&self, url: &str) -> String {
        let results = self.current.as_ref().map(|current| current.peer.gathering());
        results
            .and_then(|results| results.into_iter().find(|result| result.url == url))
            .map(|result| result.remedy(SystemTime::now(), self.core.clock_skew()))
            .unwrap_or_default()
    }
}

/// The reason for `bye`; a handle that was dropped provides none.
fn closing(reason: Result<String, oneshot::error::RecvError>) -> String {
    reason.unwrap_or_else(|_| "stopped".into())
}

async fn or_never<T>(receiver: Option<&mut mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
