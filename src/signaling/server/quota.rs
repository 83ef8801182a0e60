//! Limits on handshake rates and concurrent sockets, per address, pair and user.
//!
//! IPv6 addresses are counted per /64 ([`metered`]).

use std::{net::IpAddr, time::Duration};

use axum::http::StatusCode;

use super::{
    limits::{KeyedRate, Limits, metered},
    refusal::Refusal,
    request::ClientAddr,
};
use crate::metering::slots::{Slot, Slots};
use crate::types::PairId;

/// `Retry-After` for a client that has too many sockets.
const SOCKETS_LATER: Duration = Duration::from_secs(10);

/// The rates and slots that limit handshakes.
#[derive(Debug)]
pub(super) struct HandshakeQuota {
    addresses: Option<KeyedRate<IpAddr>>,
    pairs: Option<KeyedRate<PairId>>,
    users: Option<KeyedRate<String>>,
    sockets_of_address: Option<Slots<IpAddr>>,
    sockets_of_user: Option<Slots<String>>,
}

/// The slots of one socket, released on drop.
#[derive(Debug)]
pub(super) struct SocketSlots {
    _address: Option<Slot<IpAddr>>,
    _user: Option<Slot<String>>,
}

impl HandshakeQuota {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            addresses: limits.handshakes.map(KeyedRate::new),
            pairs: limits.pair_handshakes.map(KeyedRate::new),
            users: limits.user_handshakes.map(KeyedRate::new),
            sockets_of_address: limits.sockets_per_address.map(Slots::new),
            sockets_of_user: limits.sockets_per_user.map(Slots::new),
        }
    }

    /// Counts a handshake against its address.
    pub(super) fn address(&self, client: Option<&ClientAddr>) -> Result<(), Refusal> {
        let (Some(rate), Some(ClientAddr(address))) = (&self.addresses, client) else {
            return Ok(());
        };
        rate.take(&metered(address.ip())).map_err(|wait| too_often("from this address", wait))
    }

    /// Counts a handshake against its pair.
    pub(super) fn pair(&self, pair: &PairId) -> Result<(), Refusal> {
        let Some(rate) = &self.pairs else { return Ok(()) };
        rate.take(pair).map_err(|wait| too_often("for this pair", wait))
    }

    /// Counts a handshake against its user.
    pub(super) fn user(&self, user: &str) -> Result<(), Refusal> {
        let Some(rate) = &self.users else { return Ok(()) };
        rate.take(&user.to_owned()).map_err(|wait| too_often("of this user", wait))
    }

    /// Takes the slots of a socket.
    pub(super) fn socket_slots(
        &self,
        client: Option<&ClientAddr>,
        user: &str,
    ) -> Result<SocketSlots, Refusal> {
        let address = match (&self.sockets_of_address, client) {
            (Some(slots), Some(ClientAddr(address))) => {
                let slot = slots.take(metered(address.ip()));
                Some(slot.ok_or_else(|| too_many("from this address"))?)
            }
            _ => None,
        };
        let user = match &self.sockets_of_user {
            Some(slots) => {
                Some(slots.take(user.to_owned()).ok_or_else(|| too_many("of this user"))?)
            }
            None => None,
        };
        Ok(SocketSlots { _address: address, _user: user })
    }

    /// Removes idle addresses, pairs and users.
    pub(super) fn forget_idle(&self) {
        if let Some(rate) = &self.addresses {
            rate.forget_idle();
        }
        if let Some(rate) = &self.pairs {
            rate.forget_idle();
        }
        if let Some(rate) = &self.users {
            rate.forget_idle();
        }
    }
}

fn too_often(whose: &str, wait: Duration) -> Refusal {
    let message = format!("too many handshakes {whose}");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", message).later(wait)
}

fn too_many(whose: &str) -> Refusal {
    let message = format!("too many open sockets {whose}: close one, or try again later");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too-many-sockets", message).later(SOCKETS_LATER)
}
