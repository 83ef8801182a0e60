//! The decisions of a call, without I/O: when to offer, answer, restart ICE, replace the connection, or end.
//!
//! [`CallCore::handle`] takes an input and the time; [`CallCore::next_action`] returns the actions to perform, in
//! order. An action with an [`Outcome`] is always the last one of an input; the driver passes its outcome on before
//! any other input. So nothing here waits, and a simulation can run days of calls in seconds.

mod connection;
mod credentials;
mod descriptions;
mod ice_restart;
mod interface;
mod recovery;
mod rejoin;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub(super) use self::interface::{
    AnswerError, CallAction, CallInput, Closing, Now, Outcome, Surroundings,
};
use self::{connection::Connection, recovery::Recovery, rejoin::Newcomer};
use super::CallEvent;
use crate::{
    peer::{IcePolicy, PeerConfig, PeerError, PeerRole},
    proto::{
        signaling::{Body, IceCandidateInit, Message},
        token::IceServer,
    },
    session::{
        SessionError,
        liveness::{Health, judge, without_channel},
    },
    signaling::client::{ClientEvent, DialTimings},
    types::{ConnId, Stage},
};

/// An unanswered offer is sent again after this time, because some servers do not hold offers.
const RESEND_OFFER: Duration = Duration::from_secs(4);

/// The same when the server reports that the peer is present: the offer was delivered, and some peers take
/// seconds to answer.
const RESEND_OFFER_DELIVERED: Duration = Duration::from_secs(10);

/// A connection that is not established within this time is closed, and the sender replaces it.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// An offer older than this is replaced instead of being sent again.
const OFFER_LIFE: Duration = Duration::from_mins(10);

/// An ICE restart that does not succeed within this time is abandoned for a new connection.
const RESTART_WITHIN: Duration = Duration::from_secs(10);

/// A longer time between two polls shows that this process was suspended; it gets the same time to catch up.
const SUSPENDED: Duration = Duration::from_secs(5);

/// Maximum number of remote candidates kept while there is no peer connection to add them to.
const MAX_EARLY: usize = 256;

/// The state of a call between signaling and one peer connection.
#[derive(Debug)]
pub(super) struct CallCore {
    role: PeerRole,
    ice_policy: IcePolicy,
    /// ICE servers from the flags, which take precedence.
    configured: Vec<IceServer>,
    /// ICE servers from the last token response.
    ice_servers: Vec<IceServer>,
    /// How far this machine's clock is ahead of the server's, in seconds, if known.
    clock_skew: Option<f64>,
    connection: Option<Connection>,
    early: Vec<Option<IceCandidateInit>>,
    got_hello: bool,
    /// Socket of the other device, if it joined after this one.
    remote_conn: Option<ConnId>,
    /// Whether the other device is in the room, if the server reports it.
    remote_present: Option<bool>,
    /// The server relays `state`.
    relays_state: bool,
    /// A new socket of the other device that may belong to a new peer or to the current one.
    newcomer: Option<Newcomer>,
    /// Recovery from a lost connection.
    recovery: Recovery,
    polled: Option<Instant>,
    /// When this process resumed after a suspension. Until it has caught up, traffic may be unread rather than
    /// missing.
    resumed: Option<Instant>,
    /// There is a signaling socket; without it, offers would only pile up.
    in_room: bool,
    /// Why ICE has to be restarted once an offer can reach the peer.
    restart_due: Option<String>,
    /// Why ICE is being restarted, until the offer is there.
    restarting_for: String,
    actions: VecDeque<CallAction>,
}

impl CallCore {
    pub(super) fn new(config: &PeerConfig) -> Self {
        Self {
            role: config.role,
            ice_policy: config.ice_policy,
            configured: config.ice_servers.clone(),
            ice_servers: Vec::new(),
            clock_skew: None,
            connection: None,
            early: Vec::new(),
            got_hello: false,
            remote_conn: None,
            remote_present: None,
            relays_state: false,
            newcomer: None,
            recovery: Recovery::default(),
            polled: None,
            resumed: None,
            in_room: false,
            restart_due: None,
            restarting_for: String::new(),
            actions: VecDeque::new(),
        }
    }

    /// The next action to perform.
    pub(super) fn next_action(&mut self) -> Option<CallAction> {
        self.actions.pop_front()
    }

    /// The earliest deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let connection = self.connection.as_ref().and_then(|connection| connection.deadline);
        let newcomer = self.newcomer.as_ref().map(|newcomer| newcomer.due);
        [connection, newcomer, self.recovery.due()].into_iter().flatten().min()
    }

    /// How far this machine's clock is ahead of the server's, in seconds, if known.
    pub(super) fn clock_skew(&self) -> Option<f64> {
        self.clock_skew
    }

    /// Handles an input.
    pub(super) fn handle(&mut self, now: Now, input: CallInput, here: &dyn Surroundings) {
        match input {
            CallInput::Signaling(event) => self.on_client(now, event, here),
            CallInput::Renewed { ice_servers, relayed } => {
                self.ice_servers = ice_servers;
                self.on_renewed(now, relayed, here);
            }
            CallInput::Peer(event) => self.on_peer(now, event, here),
            CallInput::Moved => self.on_moved(now, here),
            CallInput::Offline => self.on_offline(),
            CallInput::Poll => self.on_poll(now, here),
            CallInput::Deadline => self.on_deadlines(now, here),
            CallInput::Done(Outcome::Offered(result)) => self.on_offered(now, result),
            CallInput::Done(Outcome::Answered(result)) => self.on_answered(result),
            CallInput::Done(Outcome::Accepted(result)) => self.on_accepted(now, result),
            CallInput::Done(Outcome::Restarted(offer)) => self.on_restarted(now, offer, here),
        }
    }

    fn push(&mut self, action: CallAction) {
        debug_assert!(
            !self.actions.back().is_some_and(CallAction::has_outcome),
            "an action after one with an outcome: {action:?}"
        );
        self.actions.push_back(action);
    }

    fn emit(&mut self, event: CallEvent) {
        self.push(CallAction::Emit(event));
    }

    fn send(&mut self, body: Body) {
        self.push(CallAction::Send(body));
    }

    /// Ends the call with a failure.
    fn fail(&mut self, why: SessionError) {
        self.emit(CallEvent::Failed(why));
        self.push(CallAction::End);
    }

    fn on_deadlines(&mut self, now: Now, here: &dyn Surroundings) {
        if self.newcomer.as_ref().is_some_and(|newcomer| now.at >= newcomer.due) {
            self.on_newcomer_due(now, here);
        } else if self.recovery.due().is_some_and(|due| now.at >= due) {
            self.recover(now, here);
        } else if self.connection.as_ref().is_some_and(|one| one.is_due(now.at)) {
            self.on_deadline(now, here);
        }
    }

    /// When to send an offer again that was just sent.
    fn resend_offer_at(&self, now: Now) -> Instant {
        let delivered = self.got_hello && self.remote_present == Some(true);
        now.at + if delivered { RESEND_OFFER_DELIVERED } else { RESEND_OFFER }
    }

    /// Checks the liveness of the peer.
    fn on_poll(&mut self, now: Now, here: &dyn Surroundings) {
        let last = self.polled.replace(now.at);
        if last.is_some_and(|last| now.at.saturating_duration_since(last) > SUSPENDED) {
            self.resumed = Some(now.at);
        }
        let resuming =
            self.resumed.is_some_and(|at| now.at.saturating_duration_since(at) < SUSPENDED);
        match self.health(here) {
            Some(Health::Dead(cause)) if !resuming => {
                let words = format!("the peer connection is dead: {}", cause.describe());
                self.lose(now, lost(cause.stage(), cause.code(), words), here);
            }
            _ => self.on_channel(here),
        }
    }

    /// Reports, once per connection, that its data channel does not open.
    fn on_channel(&mut self, here: &dyn Surroundings) {
        let Some(connection) = self.connection.as_mut().filter(|one| !one.channel_missed) else {
            return;
        };
        let Some(words) = here.vitals().as_ref().and_then(without_channel) else { return };
        connection.channel_missed = true;
        self.emit(CallEvent::ChannelMissing(words));
    }

    /// Health of the current connection.
    fn health(&self, here: &dyn Surroundings) -> Option<Health> {
        self.connection.as_ref().and(here.vitals()).as_ref().map(judge)
    }

    fn on_client(&mut self, now: Now, event: ClientEvent, here: &dyn Surroundings) {
        match event {
            ClientEvent::Connected { ice_servers, timings, clock_skew, .. } => {
                self.ice_servers = ice_servers;
                self.clock_skew = clock_skew;
                self.on_joined(now, timings, here);
            }
            ClientEvent::Renewed { ice_servers, .. } => self.ice_servers = ice_servers,
            ClientEvent::Message(message) => self.on_message(now, message, here),
            ClientEvent::Disconnected { reason, .. } => {
                self.in_room = false;
                self.emit(CallEvent::SignalingLost(reason));
            }
            ClientEvent::Closed { reason, error, .. } => self.fail(match error {
                Some(error) => SessionError::new(
                    error.stage(),
                    error.code(),
                    error.to_string(),
                    error.remedy(),
                ),
                None => SessionError::new(Stage::Signaling, "closed", reason, "start again"),
            }),
        }
    }

    /// A new signaling socket is open.
    fn on_joined(&mut self, now: Now, timings: DialTimings, here: &dyn Surroundings) {
        // The information from the previous socket no longer describes the room.
        self.remote_conn = None;
        self.remote_present = None;
        self.relays_state = false;
        self.newcomer = None;
        self.in_room = true;
        let connected = self.connection.as_ref().is_some_and(Connection::is_established);
        if let Some(why) = self.restart_due.take().filter(|_| connected) {
            self.restart(now, why, here);
            return;
        }
        match &self.connection {
            Some(connection) if connection.is_unanswered(now.at) => {
                // The offer may have been written to the lost socket, or may still be queued. A
                // second offer would receive the answer to the first.
                self.resend_description();
                self.joined(None, Some(timings));
            }
            Some(connection) if connection.is_established() => {}
            _ => {
                self.joined(None, Some(timings));
                // The sender offers, the receiver waits.
                if self.role == PeerRole::Sender {
                    self.offer(now, here);
                }
            }
        }
    }

    fn joined(&mut self, peer_present: Option<bool>, timings: Option<DialTimings>) {
        let clock_skew = self.clock_skew;
        self.emit(CallEvent::Joined { peer_present, timings, clock_skew });
    }

    fn on_message(&mut self, now: Now, message: Message, here: &dyn Surroundings) {
        match message.body {
            Body::Hello { peer_present, relays, .. } => {
                self.got_hello = true;
                self.remote_present = Some(peer_present);
                self.relays_state = relays.iter().any(|relayed| relayed == "state");
                self.send_state();
                self.joined(Some(peer_present), None);
            }
            Body::PeerJoined { conn_id, .. } => self.on_peer_joined(now, conn_id, here),
            Body::PeerLeft { reason, .. } => {
                self.remote_present = Some(false);
                self.newcomer = None;
                self.emit(CallEvent::PeerLeft(reason));
            }
            Body::State { connection, fingerprint } => {
                self.on_state(now, connection, fingerprint.as_deref(), here);
            }
            Body::Offer { sdp } => self.on_offer(now, sdp, here),
            Body::Answer { sdp, offer } => self.on_answer(now, sdp, offer.as_deref(), here),
            Body::Ice { candidate } => self.on_candidate(candidate),
            Body::Bye { reason } => {
                self.recovery = Recovery::default();
                self.connection = None;
                self.push(CallAction::Close(Closing::Bye(reason)));
            }
            Body::Error { code, message, .. } => {
                tracing::warn!("signaling server: {code}: {message}");
            }
            Body::Auth { .. } | Body::AuthOk { .. } => {}
        }
    }
}

/// The error of a lost connection.
fn lost(stage: Stage, code: &str, why: impl Into<String>) -> SessionError {
    SessionError::new(stage, code, why, "without --once, orion-peer reconnects")
}

/// The error of a connection that stopped on this machine.
fn stopped(why: &str) -> SessionError {
    lost(
        Stage::Datachannel,
        "connection-stopped",
        format!("the peer connection has stopped: {why}"),
    )
}

/// The error of a call whose peer connection reports an error.
pub(super) fn peer_error(error: &PeerError) -> SessionError {
    SessionError::new(error.stage(), error.code(), error.to_string(), error.remedy())
}
