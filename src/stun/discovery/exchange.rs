//! One request, its retransmissions (RFC 8489 §6.2.1, with a shorter timeout) and its answer.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    Transmit,
    judge::{Observed, Round},
};
use crate::stun::message::{Builder, ChangeRequest, Class, Message, TransactionId, method};

/// When a request is sent and retransmitted, relative to its first transmission.
const SENT_AT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(1800),
];

/// How long to wait for an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// The purpose of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Shows the mapping toward a configured server.
    Mapping,
    /// Shows the mapping toward the other address of a server.
    MappingOther,
    /// Opens the socket of the filtering test.
    FilteringFirst,
    /// Requests an answer from another address and port.
    FilteringBoth,
    /// Requests an answer from another port.
    FilteringPort,
    /// Shows the external address of one of the two hairpinning sockets.
    HairpinMapping(usize),
    /// Goes from one of our sockets to the external address of the other.
    Hairpin,
    /// Shows the external port of a new socket.
    Port(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Awaiting an answer after this many transmissions.
    Open(usize),
    Answered {
        mapped: SocketAddr,
        from: SocketAddr,
        took: Duration,
    },
    Refused,
    Silent,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) id: TransactionId,
    pub(super) purpose: Purpose,
    pub(super) socket: usize,
    pub(super) to: SocketAddr,
    change: Option<ChangeRequest>,
    started: Instant,
    state: State,
}

impl Exchange {
    pub(super) fn new(
        id: TransactionId,
        purpose: Purpose,
        socket: usize,
        to: SocketAddr,
        change: Option<ChangeRequest>,
        now: Instant,
    ) -> Self {
        Self { id, purpose, socket, to, change, started: now, state: State::Open(0) }
    }

    pub(super) fn transmit(&mut self, now: Instant) -> Option<Transmit> {
        let State::Open(sent) = self.state else { return None };
        if self.started + *SENT_AT.get(sent)? > now {
            return None;
        }
        self.state = State::Open(sent + 1);
        let mut request = Builder::new(Class::Request, method::BINDING, self.id);
        if let Some(change) = self.change {
            request = request.change_request(change);
        }
        let datagram = request.fingerprint().finish();
        Some(Transmit { socket: self.socket, to: self.to, datagram })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let State::Open(sent) = self.state else { return None };
        Some(self.started + SENT_AT.get(sent).copied().unwrap_or(PATIENCE))
    }

    /// Times out if it is due; returns whether it did.
    pub(super) fn give_up(&mut self, now: Instant) -> bool {
        let over = matches!(self.state, State::Open(_)) && now >= self.started + PATIENCE;
        if over {
            self.state = State::Silent;
        }
        over
    }

    pub(super) fn end(&mut self) {
        if matches!(self.state, State::Open(_)) {
            self.state = State::Silent;
        }
    }

    /// Handles an answer; returns whether it is the first valid one.
    pub(super) fn answer(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> bool {
        if !matches!(self.state, State::Open(_)) {
            return false;
        }
        // An answer may come from elsewhere only if that was requested.
        if self.change.is_none() && from != self.to {
            return false;
        }
        self.state = match (message.class, message.mapped_address()) {
            (Class::Success, Some(mapped)) => {
                State::Answered { mapped, from, took: now.saturating_duration_since(self.started) }
            }
            (Class::Success | Class::Error, _) => State::Refused,
            _ => return false,
        };
        true
    }

    pub(super) fn mapped(&self) -> Option<SocketAddr> {
        match self.state {
            State::Answered { mapped, .. } => Some(mapped),
            _ => None,
        }
    }

    pub(super) fn observed(&self) -> Option<Observed> {
        match self.state {
            State::Answered { mapped, took, .. } => {
                Some(Observed { server: self.to, mapped, took: Some(took) })
            }
            _ => None,
        }
    }

    /// The outcome of a request to answer from elsewhere.
    pub(super) fn round(&self) -> Round {
        let change = self.change.unwrap_or_default();
        match self.state {
            State::Open(_) => Round::NotMade,
            State::Silent => Round::Silent,
            State::Answered { from, .. }
                if (from.ip() != self.to.ip()) == change.ip
                    && (from.port() != self.to.port()) == change.port =>
            {
                Round::Arrived
            }
            // Rejected or answered from the usual address: the server does not support the request.
            State::Answered { .. } | State::Refused => Round::Ignored,
        }
    }
}
