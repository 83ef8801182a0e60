//! Who is asking: long-term credentials (RFC 8489 §9.2), and error answers. Anybody can send a request in
//! another's name, so answers to strangers are as short as they may be, and over UDP so many a second.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use super::{
    protocol::{Action, FiveTuple, Now, Protocol, Transport, User},
    requests::lifetime,
    stats::Refusal,
};
use crate::{
    metering::metered,
    stun::message::{Builder, Class, Message, attr, long_term_key, method, reason_phrase},
};

impl<R: Clone> Protocol<R> {
    /// Holds a request against its user's credentials (RFC 8489 §9.2.4).
    pub(super) fn authenticate(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        now: Now,
    ) -> Result<User, Action<R>> {
        if request.get(attr::MESSAGE_INTEGRITY).is_none() {
            return Err(self.challenge(tuple, request, Refusal::Unauthorized, now.instant));
        }
        let (Some(username), Some(realm), Some(nonce)) =
            (request.text(attr::USERNAME), request.text(attr::REALM), request.get(attr::NONCE))
        else {
            return Err(self.refuse(tuple, request, Refusal::BadRequest, None, now.instant));
        };
        if !self.nonces.holds(nonce, tuple.client, now.instant) {
            self.counters.refuse(Refusal::StaleNonce);
            return Err(self.challenge(tuple, request, Refusal::StaleNonce, now.instant));
        }
        let keys = self.keys(tuple, request, username, now);
        let right = |key: &[u8; 16]| realm == self.config.realm && request.verify(key);
        if let Some(key) = keys.into_iter().find(right) {
            return Ok((username.to_owned(), key));
        }
        self.counters.refuse(Refusal::Unauthorized);
        Err(self.challenge(tuple, request, Refusal::Unauthorized, now.instant))
    }

    /// The keys that a request of that name may be signed with. An allocation's own key is good as long as
    /// it lives, but not for a longer life: that takes a name that has not expired.
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

    /// 401 or 438, with what the client needs to try again.
    fn challenge(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        reason: Refusal,
        now: Instant,
    ) -> Action<R> {
        let answer = Builder::answer(Class::Error, request)
            .error(reason.code(), "")
            .attribute(attr::REALM, self.config.realm.as_bytes())
            .attribute(attr::NONCE, self.nonces.issue(tuple.client, now).as_bytes());
        self.answer_stranger(tuple, answer, now)
    }

    /// An error answer, signed when the user is known.
    pub(super) fn refuse(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        reason: Refusal,
        key: Option<&[u8; 16]>,
        now: Instant,
    ) -> Action<R> {
        self.counters.refuse(reason);
        let answer = Builder::answer(Class::Error, request);
        self.error(tuple, answer, (reason, None), key, now)
    }

    /// 420 (RFC 8489 §14.9).
    pub(super) fn unknown_attributes(
        &mut self,
        tuple: FiveTuple,
        request: &Message<'_>,
        unknown: &[u16],
        key: Option<&[u8; 16]>,
        now: Instant,
    ) -> Action<R> {
        self.counters.refuse(Refusal::UnknownAttribute);
        let answer = Builder::answer(Class::Error, request);
        self.error(tuple, answer, (Refusal::UnknownAttribute, Some(unknown)), key, now)
    }

    fn error(
        &mut self,
        tuple: FiveTuple,
        answer: Builder,
        (reason, unknown): (Refusal, Option<&[u16]>),
        key: Option<&[u8; 16]>,
        now: Instant,
    ) -> Action<R> {
        let phrase = if key.is_some() { reason_phrase(reason.code()) } else { "" };
        let mut answer = answer.error(reason.code(), phrase);
        if let Some(unknown) = unknown {
            let list: Vec<u8> = unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
            answer = answer.attribute(attr::UNKNOWN_ATTRIBUTES, &list);
        }
        match key {
            Some(key) => Action::Reply(answer.integrity(key).finish()),
            None => self.answer_stranger(tuple, answer, now),
        }
    }

    /// An answer to somebody who has shown no login. Over TCP the address is the sender's own, and one that
    /// has an allocation has proven its own: those are not limited, so that nobody can keep a client from
    /// its answers by using up its share, whatever is sent in its name.
    fn answer_stranger(&mut self, tuple: FiveTuple, answer: Builder, now: Instant) -> Action<R> {
        let proven = tuple.transport == Transport::Tcp || self.allocations.contains_key(&tuple);
        if let Some(errors) = &mut self.errors
            && !proven
            && !errors.take(&metered(tuple.client.ip()), now)
        {
            self.counters.errors_withheld.fetch_add(1, Relaxed);
            return Action::Drop;
        }
        Action::Reply(answer.finish())
    }
}
