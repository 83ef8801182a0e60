//! Authentication with long-term credentials (RFC 8489 §9.2), and error responses. Requests with a spoofed
//! source address are easy to send, so responses to unauthenticated clients are as short as possible and,
//! over UDP, rate-limited.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{Protocol, TurnAction, User, requests::lifetime};
use crate::turn::{
    stats::RejectReason,
    tuple::{ClientTransport, FiveTuple, Now},
};
use crate::{
    metering::metered,
    stun::message::{Builder, Class, Message, attr, long_term_key, method, reason_phrase},
};

impl<R: Clone> Protocol<R> {
    /// Verifies a request with its user's credentials (RFC 8489 §9.2.4).
    pub(super) fn authenticate(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        now: Now,
    ) -> Result<User, TurnAction<R>> {
        if request.get(attr::MESSAGE_INTEGRITY).is_none() {
            return Err(self.challenge(tuple, request, RejectReason::Unauthorized, now.instant));
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (request.text(attr::USERNAME), request.text(attr::REALM), request.get(attr::NONCE))
        else {
            return Err(self.reject(tuple, request, RejectReason::BadRequest, None, now.instant));
        };
        if !self.nonces.is_valid(nonce, tuple.client, now.instant) {
            self.counters.reject(RejectReason::StaleNonce);
            return Err(self.challenge(tuple, request, RejectReason::StaleNonce, now.instant));
        }
        let keys = self.keys(tuple, request, username, now);
        let right = |key: &[u8; 16]| realm == self.config.realm && request.verify(key);
        if let Some(key) = keys.into_iter().find(right) {
            return Ok((username.to_owned(), key));
        }
        self.counters.reject(RejectReason::Unauthorized);
        Err(self.challenge(tuple, request, RejectReason::Unauthorized, now.instant))
    }

    /// Keys that may sign a request with this username. An allocation's own key remains valid for the
    /// lifetime of the allocation, but not to extend it: that requires a username that has not expired.
    fn keys(
        &self,
        tuple: FiveTuple,
        request: &Message<'_>,
        username: &str,
        now: Now,
    ) -> Vec<[u8; 16]> {
        let credentials = &self.config.credentials;
        let before = credentials.pair(username).zip(credentials.expires_at(username));
        if before.is_some_and(|(pair, expires_at)| self.revoked.covers(pair, expires_at)) {
            return Vec::new();
        }
        let lengthens = request.method == method::REFRESH && !lifetime(request).is_zero();
        let own = self.allocations.get(&tuple).filter(|a| a.username == username && !lengthens);
        let passwords = credentials.passwords(username, now.wall);
        let made = passwords.iter().map(|word| long_term_key(username, &self.config.realm, word));
        own.map(|allocation| allocation.key).into_iter().chain(made).collect()
    }

    /// The response 401 or 438, with the realm and nonce that the client needs to retry.
    fn challenge(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        reason: RejectReason,
        now: Instant,
    ) -> TurnAction<R> {
        let answer = Builder::answer(Class::Error, request)
            .error(reason.code(), "")
            .attribute(attr::REALM, self.config.realm.as_bytes())
            .attribute(attr::NONCE, self.nonces.issue(tuple.client, now).as_bytes());
        self.answer_unauthenticated(tuple, answer, now)
    }

    /// An error response, signed if the user is known.
    pub(super) fn reject(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        reason: RejectReason,
        key: Option<&[u8; 16]>,
        now: Instant,
    ) -> TurnAction<R> {
        self.counters.reject(reason);
        let answer = Builder::answer(Class::Error, request);
        self.error(tuple, answer, (reason, None), key, now)
    }

    /// The response 420 with UNKNOWN-ATTRIBUTES (RFC 8489 §14.13).
    pub(super) fn unknown_attributes(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        unknown: &[u16],
        key: Option<&[u8; 16]>,
        now: Instant,
    ) -> TurnAction<R> {
        self.counters.reject(RejectReason::UnknownAttribute);
        let answer = Builder::answer(Class::Error, request);
        self.error(tuple, answer, (RejectReason::UnknownAttribute, Some(unknown)), key, now)
    }

    fn error(
        &mut self,
        tuple: FiveTuple,
        answer: Builder,
        (reason, unknown): (RejectReason, Option<&[u16]>),
        key: Option<&[u8; 16]>,
        now: Instant,
    ) -> TurnAction<R> {
        let phrase = if key.is_some() { reason_phrase(reason.code()) } else { "" };
        let mut answer = answer.error(reason.code(), phrase);
        if let Some(unknown) = unknown {
            let list: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
            answer = answer.attribute(attr::UNKNOWN_ATTRIBUTES, &list);
        }
        match key {
            Some(key) => TurnAction::Reply(answer.integrity(key).finish()),
            None => self.answer_unauthenticated(tuple, answer, now),
        }
    }

    /// Responds to a client that has not authenticated. Over TCP the address is genuine, and a client with
    /// an allocation has proven its address: such clients are not limited, so that an attacker cannot use
    /// up a client's share of responses by spoofing its address.
    fn answer_unauthenticated(
        &mut self,
        tuple: FiveTuple,
        answer: Builder,
        now: Instant,
    ) -> TurnAction<R> {
        let proven =
            tuple.transport == ClientTransport::Tcp || self.allocations.contains_key(&tuple);
        if let Some(errors) = &mut self.errors
            && !proven
            && !errors.take(&metered(tuple.client.ip()), now)
        {
            self.counters.errors_withheld.fetch_add(1, Relaxed);
            return TurnAction::Drop;
        }
        TurnAction::Reply(answer.finish())
    }
}
