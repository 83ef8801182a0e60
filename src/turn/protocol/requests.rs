//! The four TURN requests: Allocate (RFC 8656 §7), Refresh (§8), `CreatePermission` (§10) and `ChannelBind`
//! (§12). Each performs its checks in the order of its section, with that section's error codes.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Duration};

use super::{Protocol, TurnAction, Usage, User, canonical};
use crate::turn::{
    allocation::{
        Allocation, Bandwidth, DEFAULT_LIFETIME, EXPIRY_GRACE, InstallError, MAX_LIFETIME,
    },
    stats::RejectReason,
    tuple::{ClientTransport, FiveTuple, Now},
};
use crate::{
    metering::TokenBucket,
    stun::message::{
        Builder, Class, Message, TransactionId, attr, method, read_xor_address, reason_phrase,
    },
};

/// Protocol number of UDP, for REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// Attributes of the credential mechanism, understood in every request.
const CREDENTIALS: [u16; 5] = [
    attr::USERNAME,
    attr::REALM,
    attr::NONCE,
    attr::MESSAGE_INTEGRITY,
    attr::MESSAGE_INTEGRITY_SHA256,
];

/// A granted Allocate request that waits for its relay socket.
#[derive(Debug)]
pub struct Pending {
    /// The client's 5-tuple.
    pub tuple: FiveTuple,
    /// Whether the port must be even (EVEN-PORT).
    pub even_port: bool,
    user: User,
    transaction: TransactionId,
    lifetime: Duration,
}

impl<R: Clone> Protocol<R> {
    pub(super) fn request(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        now: Now,
    ) -> TurnAction<R> {
        let known: &[u16] = match request.method {
            method::ALLOCATE => &[
                attr::REQUESTED_TRANSPORT,
                attr::LIFETIME,
                attr::EVEN_PORT,
                attr::RESERVATION_TOKEN,
                attr::REQUESTED_ADDRESS_FAMILY,
            ],
            method::REFRESH => &[attr::LIFETIME, attr::REQUESTED_ADDRESS_FAMILY],
            method::CREATE_PERMISSION => &[attr::XOR_PEER_ADDRESS],
            method::CHANNEL_BIND => &[attr::XOR_PEER_ADDRESS, attr::CHANNEL_NUMBER],
            _ => return self.reject(tuple, request, RejectReason::BadRequest, None, now.instant),
        };
        let user = match self.authenticate(tuple, request, now) {
            Ok(user) => user,
            Err(refused) => return refused,
        };
        let unknown = request.unknown(&[known, &CREDENTIALS].concat());
        if request.method == method::ALLOCATE {
            return self.allocate(tuple, request, user, &unknown, now);
        }
        let key = Some(&user.1);
        let credentials = &self.config.credentials;
        let owner = self.allocations.get(&tuple).filter(|a| a.expires > now.instant);
        let same = owner
            .map(|owner| credentials.quota_key(&owner.username) == credentials.quota_key(&user.0));
        match same {
            None => self.reject(tuple, request, RejectReason::AllocationMismatch, key, now.instant),
            Some(false) => {
                self.reject(tuple, request, RejectReason::WrongCredentials, key, now.instant)
            }
            Some(true) if !unknown.is_empty() => {
                self.unknown_attributes(tuple, request, &unknown, key, now.instant)
            }
            Some(true) => match self.change(tuple, request, &user, now) {
                Ok(answer) => TurnAction::Reply(answer.integrity(&user.1).finish()),
                Err(reason) => self.reject(tuple, request, reason, key, now.instant),
            },
        }
    }

    fn allocate(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        user: User,
        unknown: &[u16],
        now: Now,
    ) -> TurnAction<R> {
        if let Some(existing) = self.allocations.get(&tuple).filter(|a| a.expires > now.instant) {
            let credentials = &self.config.credentials;
            let again = tuple.transport == ClientTransport::Udp
                && existing.transaction == request.transaction
                && credentials.quota_key(&existing.username) == credentials.quota_key(&user.0);
            return if again {
                let left = existing.expires - now.instant;
                TurnAction::Reply(granted(
                    tuple,
                    request.transaction,
                    existing.relayed,
                    left,
                    &user.1,
                ))
            } else {
                let reason = RejectReason::AllocationMismatch;
                self.reject(tuple, request, reason, Some(&user.1), now.instant)
            };
        }
        if !unknown.is_empty() {
            return self.unknown_attributes(tuple, request, unknown, Some(&user.1), now.instant);
        }
        if let Err(reason) = self.may_allocate(request, &user.0) {
            return self.reject(tuple, request, reason, Some(&user.1), now.instant);
        }
        let lifetime = self.granted_lifetime(request, &user.0, now);
        TurnAction::Bind(Box::new(Pending {
            tuple,
            even_port: request.get(attr::EVEN_PORT).is_some(),
            user,
            transaction: request.transaction,
            lifetime,
        }))
    }

    /// The requested lifetime, within the bounds of the protocol and, regardless of the request, not much
    /// beyond the expiry of the credentials.
    fn granted_lifetime(&self, request: &Message<'_>, username: &str, now: Now) -> Duration {
        let lifetime = lifetime(request).max(DEFAULT_LIFETIME);
        self.config.credentials.expires_at(username).map_or(lifetime, |at| {
            let left = Duration::from_secs(at.saturating_sub(now.unix()));
            lifetime.min(left.saturating_add(EXPIRY_GRACE))
        })
    }

    fn may_allocate(&self, request: &Message<'_>, username: &str) -> Result<(), RejectReason> {
        let first = |kind| request.get(kind).map(|value| value.first().copied().unwrap_or(0));
        match first(attr::REQUESTED_TRANSPORT) {
            None => return Err(RejectReason::BadRequest),
            Some(UDP) => {}
            Some(_) => return Err(RejectReason::Transport),
        }
        let even = first(attr::EVEN_PORT);
        if first(attr::RESERVATION_TOKEN).is_some() {
            // Ports are never reserved here, so no token can be valid.
            return Err(if even.is_some() {
                RejectReason::BadRequest
            } else {
                RejectReason::Capacity
            });
        }
        let family = if self.config.relay_address.is_ipv4() { 1 } else { 2 };
        if first(attr::REQUESTED_ADDRESS_FAMILY).unwrap_or(1) != family {
            return Err(RejectReason::AddressFamily);
        }
        if even.is_some_and(|flags| flags & 0x80 != 0) {
            return Err(RejectReason::Capacity);
        }
        let limits = &self.config.limits;
        let used = self.users.get(self.config.credentials.quota_key(username));
        if used.map_or(0, |user| user.allocations) >= limits.allocations_per_user {
            return Err(RejectReason::Quota);
        }
        if self.allocations.len() >= limits.allocations {
            return Err(RejectReason::Capacity);
        }
        Ok(())
    }

    /// Completes an allocation with its relay socket and that socket's address, or rejects it if none could
    /// be bound. Returns the response to send.
    pub fn allocated(
        &mut self,
        pending: Pending,
        relay: Option<(R, SocketAddr)>,
        now: Now,
    ) -> Vec<u8> {
        let Pending { tuple, user, transaction, lifetime, .. } = pending;
        let Some((relay, relayed)) = relay else {
            self.counters.reject(RejectReason::Capacity);
            let code = RejectReason::Capacity.code();
            let answer = Builder::new(Class::Error, method::ALLOCATE, transaction);
            return answer.error(code, reason_phrase(code)).integrity(&user.1).finish();
        };
        let answer = granted(tuple, transaction, relayed, lifetime, &user.1);
        self.remove(tuple);
        let quota_key = self.config.credentials.quota_key(&user.0).to_owned();
        let limits = &self.config.limits;
        let usage = self.users.entry(quota_key).or_insert_with(|| Usage {
            allocations: 0,
            new_peers: limits.new_peers.map(|rate| TokenBucket::new(rate, now.instant)),
        });
        usage.allocations += 1;
        let expires = now.instant + lifetime;
        let mut allocation = Allocation::new(relay, relayed, user, transaction, expires);
        allocation.bandwidth = Bandwidth::new(limits.bytes_per_second, now.instant);
        self.relayed.insert(relayed);
        self.allocations.insert(tuple, allocation);
        self.counters.allocations_total.fetch_add(1, Relaxed);
        answer
    }

    /// Handles a request on an allocation that the user owns.
    fn change(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        user: &User,
        now: Now,
    ) -> Result<Builder, RejectReason> {
        let answer = Builder::answer(Class::Success, request);
        match request.method {
            method::REFRESH => {
                let lifetime = self.refresh(tuple, request, user, now)?;
                Ok(answer.attribute(attr::LIFETIME, &seconds(lifetime)))
            }
            method::CREATE_PERMISSION => self.permit(tuple, request, now).map(|()| answer),
            _ => self.bind_channel(tuple, request, now).map(|()| answer),
        }
    }

    /// A Refresh with newer credentials of the same user updates the allocation's credentials, so that a
    /// call outlives the credentials it started with.
    fn refresh(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        user: &User,
        now: Now,
    ) -> Result<Duration, RejectReason> {
        let family = if self.config.relay_address.is_ipv4() { 1 } else { 2 };
        let asked = request.get(attr::REQUESTED_ADDRESS_FAMILY);
        if asked.is_some_and(|value| value.first() != Some(&family)) {
            return Err(RejectReason::PeerFamily);
        }
        if lifetime(request).is_zero() {
            self.remove(tuple);
            return Ok(Duration::ZERO);
        }
        let credentials = &self.config.credentials;
        let end = |name: &str| credentials.expires_at(name).unwrap_or(u64::MAX);
        if let Some(allocation) = self.allocations.get_mut(&tuple)
            && end(&user.0) > end(&allocation.username)
        {
            allocation.username.clone_from(&user.0);
            allocation.key = user.1;
        }
        let username = self.allocations.get(&tuple).map_or(&user.0, |a| &a.username);
        let lifetime = self.granted_lifetime(request, username, now);
        if let Some(allocation) = self.allocations.get_mut(&tuple) {
            allocation.expires = now.instant + lifetime;
        }
        Ok(lifetime)
    }

    fn permit(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        now: Now,
    ) -> Result<(), RejectReason> {
        let mut peers = Vec::new();
        for attribute in request.attributes().filter(|a| a.kind == attr::XOR_PEER_ADDRESS) {
            let peer = read_xor_address(attribute.value, &request.transaction);
            let peer = peer.ok_or(RejectReason::BadRequest)?;
            self.may_reach(peer)?;
            peers.push(peer.ip());
        }
        if peers.is_empty() {
            return Err(RejectReason::BadRequest);
        }
        let limit = self.config.limits.peers_per_allocation;
        let allocation =
            self.allocations.get_mut(&tuple).ok_or(RejectReason::AllocationMismatch)?;
        allocation.permit(&peers, limit, now.instant).map_err(reject_reason)
    }

    fn bind_channel(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        now: Now,
    ) -> Result<(), RejectReason> {
        let number = request.number(attr::CHANNEL_NUMBER).ok_or(RejectReason::BadRequest)? >> 16;
        let peer = request.address(attr::XOR_PEER_ADDRESS).ok_or(RejectReason::BadRequest)?;
        // RFC 8656 ends the range at 0x4FFF; clients of RFC 5766 use all of it.
        if !(0x4000..=0x7FFF).contains(&number) {
            return Err(RejectReason::BadRequest);
        }
        self.may_reach(peer)?;
        let limit = self.config.limits.peers_per_allocation;
        let allocation =
            self.allocations.get_mut(&tuple).ok_or(RejectReason::AllocationMismatch)?;
        allocation.bind(number as u16, peer, limit, now.instant).map_err(reject_reason)
    }

    fn may_reach(&self, peer: SocketAddr) -> Result<(), RejectReason> {
        if peer.is_ipv4() != self.config.relay_address.is_ipv4() {
            return Err(RejectReason::PeerFamily);
        }
        let peers = &self.config.peers;
        // Two clients of this server may reach each other's relays; the data path excludes other ports.
        let at_relays = peer.ip() == self.config.relay_address
            && self.relayed.len() > 1
            && !peers.denies(peer.ip());
        if at_relays || peers.allows(peer.ip()) { Ok(()) } else { Err(RejectReason::Forbidden) }
    }
}

fn reject_reason(refused: InstallError) -> RejectReason {
    match refused {
        InstallError::Taken => RejectReason::BadRequest,
        InstallError::Full => RejectReason::Capacity,
    }
}

/// The requested lifetime, at most [`MAX_LIFETIME`].
pub(super) fn lifetime(request: &Message<'_>) -> Duration {
    request
        .number(attr::LIFETIME)
        .map_or(DEFAULT_LIFETIME, |seconds| Duration::from_secs(seconds.into()))
        .min(MAX_LIFETIME)
}

fn seconds(lifetime: Duration) -> [u8; 4] {
    (lifetime.as_secs() as u32).to_be_bytes()
}

fn granted(
    tuple: FiveTuple,
    transaction: TransactionId,
    relayed: SocketAddr,
    lifetime: Duration,
    key: &[u8; 16],
) -> Vec<u8> {
    Builder::new(Class::Success, method::ALLOCATE, transaction)
        .address(attr::XOR_RELAYED_ADDRESS, relayed)
        .attribute(attr::LIFETIME, &seconds(lifetime))
        .address(attr::XOR_MAPPED_ADDRESS, canonical(tuple.client))
        .integrity(key)
        .finish()
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
