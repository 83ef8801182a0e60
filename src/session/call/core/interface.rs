//! Inputs, actions and outcomes of the core, and the facts that it may query.

use std::time::{Instant, SystemTime};

use crate::{
    peer::{PeerEvent, Vitals},
    proto::{
        signaling::{Body, IceCandidateInit},
        token::IceServer,
    },
    session::{SessionError, call::CallEvent},
    signaling::client::ClientEvent,
};

/// The time by both clocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::session::call) struct Now {
    /// Monotonic time, for deadlines.
    pub(in crate::session::call) at: Instant,
    /// This machine's wall clock, for the expiry of credentials.
    pub(in crate::session::call) wall: SystemTime,
}

/// Facts about this machine and its current peer connection, queried while an input is handled.
pub(in crate::session::call) trait Surroundings {
    /// Signs of life of the peer connection; `None` without one.
    fn vitals(&self) -> Option<Vitals>;
    /// Whether ICE can restart on the peer connection.
    fn can_restart(&self) -> bool;
    /// Why no server returned a relayed candidate; `None` if one did, or if it is not known yet.
    fn no_relay(&self) -> Option<String>;
    /// Whether this machine has no address but loopback.
    fn is_offline(&self) -> bool;
    /// Number of abandoned threads of closed peer connections; each keeps a core busy.
    fn abandoned_drivers(&self) -> usize;
}

/// An input of the core.
#[derive(Debug)]
pub(in crate::session::call) enum CallInput {
    /// An event of the signaling client, except for `Renewed`.
    Signaling(ClientEvent),
    /// A new token arrived, with new ICE servers.
    Renewed {
        /// The servers.
        ice_servers: Vec<IceServer>,
        /// Whether the selected pair may be relayed.
        relayed: bool,
    },
    /// An event of the current peer connection.
    Peer(PeerEvent),
    /// The addresses of this machine changed.
    Moved,
    /// This machine has no address but loopback any more.
    Offline,
    /// Time to check the liveness of the connection.
    Poll,
    /// The time of [`CallCore::deadline`] has come.
    Deadline,
    /// The outcome of an action.
    Done(Outcome),
}

/// The outcome of an action.
#[derive(Debug)]
pub(in crate::session::call) enum Outcome {
    /// Of [`CallAction::Offer`]: the offer.
    Offered(Result<String, SessionError>),
    /// Of [`CallAction::Answer`]: the answer, and when the offer was applied.
    Answered(Result<(String, Instant), AnswerError>),
    /// Of [`CallAction::AcceptAnswer`]: when the answer was applied.
    Accepted(Result<Instant, SessionError>),
    /// Of [`CallAction::RestartIce`]: the offer. The error is logged by the driver.
    Restarted(Option<String>),
}

/// Why there is no answer to an offer.
#[derive(Debug)]
pub(in crate::session::call) enum AnswerError {
    /// No peer connection can be created.
    Failed(SessionError),
    /// The offer is not usable.
    Refused(SessionError),
}

/// An action for the driver.
#[derive(Debug)]
pub(in crate::session::call) enum CallAction {
    /// Pass an event on to the handle of the call.
    Emit(CallEvent),
    /// Send a message to the other device.
    Send(Body),
    /// Check whether the signaling socket is alive.
    Probe,
    /// Open a new signaling socket.
    Reconnect,
    /// Create a peer connection and an offer.
    Offer {
        /// STUN and TURN servers to gather with.
        ice_servers: Vec<IceServer>,
    },
    /// Answer an offer.
    Answer {
        /// The offer.
        sdp: String,
        /// STUN and TURN servers to gather with.
        ice_servers: Vec<IceServer>,
        /// On the current peer connection instead of a new one.
        renegotiation: bool,
    },
    /// Apply the peer's answer.
    AcceptAnswer(String),
    /// Restart ICE on the current peer connection, with these servers.
    RestartIce(Vec<IceServer>),
    /// Add a remote candidate to the current peer connection.
    AddCandidate(Option<IceCandidateInit>),
    /// Close the current peer connection, and emit the event that carries its final statistics.
    Close(Closing),
    /// The call has ended.
    End,
}

/// The event that follows the end of a peer connection.
#[derive(Debug)]
pub(in crate::session::call) enum Closing {
    /// None.
    Silent,
    /// [`CallEvent::Lost`]
    Lost(SessionError),
    /// [`CallEvent::Bye`]
    Bye(Option<String>),
}

impl CallAction {
    /// Whether the driver has to report an [`Outcome`].
    pub(in crate::session::call) fn has_outcome(&self) -> bool {
        matches!(
            self,
            Self::Offer { .. } | Self::Answer { .. } | Self::AcceptAnswer(_) | Self::RestartIce(_)
        )
    }
}
