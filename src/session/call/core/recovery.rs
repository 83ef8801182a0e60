//! Recovery from a lost connection: the sender offers a new one, the receiver asks for it.

use std::time::{Duration, Instant};

use super::{CallAction, CallCore, Closing, Now, Surroundings};
use crate::{
    peer::PeerRole,
    session::{SessionError, liveness::Pauses},
};

/// A sender that was asked for an offer and sends none within this time does not support `state`; a new socket
/// triggers its offer.
const OFFERED_WITHIN: Duration = Duration::from_secs(5);

/// When at least this many abandoned threads are still running, the next attempt waits longer: each thread
/// keeps a core busy.
const MANY_ABANDONED: usize = 3;
const PAUSE_WHILE_ABANDONED: Duration = Duration::from_secs(30);

/// The next recovery step and its time.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    pub(super) pauses: Pauses,
    next: Option<(Instant, RecoveryStep)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecoveryStep {
    /// The sender offers.
    Offer,
    /// The receiver reports that it has no connection.
    Ask,
    /// The receiver opens a new signaling socket.
    Rejoin,
}

impl Recovery {
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// A new connection makes the pending step unnecessary.
    pub(super) fn cancel(&mut self) {
        self.next = None;
    }
}

impl CallCore {
    /// The connection is lost: the sender creates another one, and the receiver asks for it. There is a pause
    /// first if the previous connections were short-lived.
    pub(super) fn lose(&mut self, now: Now, why: SessionError, here: &dyn Surroundings) {
        self.connection = None;
        self.early.clear();
        self.newcomer = None;
        self.push(CallAction::Close(Closing::Lost(why)));
        let mut pause = self.recovery.pauses.died(now.at);
        if here.abandoned_drivers() >= MANY_ABANDONED {
            pause = pause.max(PAUSE_WHILE_ABANDONED);
        }
        let step = match self.role {
            PeerRole::Sender => RecoveryStep::Offer,
            PeerRole::Receiver => RecoveryStep::Ask,
        };
        self.recovery.next = Some((now.at + pause, step));
        if pause.is_zero() {
            self.recover(now, here);
        }
    }

    /// Takes the pending step.
    pub(super) fn recover(&mut self, now: Now, here: &dyn Surroundings) {
        let Some((_, step)) = self.recovery.next.take() else { return };
        match step {
            RecoveryStep::Offer => self.offer(now, here),
            RecoveryStep::Ask => {
                self.send_state();
                self.recovery.next = Some((now.at + OFFERED_WITHIN, RecoveryStep::Rejoin));
            }
            RecoveryStep::Rejoin if self.in_room && self.remote_present != Some(false) => {
                self.in_room = false;
                self.push(CallAction::Reconnect);
            }
            RecoveryStep::Rejoin => {}
        }
    }
}
