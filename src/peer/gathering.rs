//! What passes between a peer connection and its ICE servers while candidates are gathered
//! (RFC 8445 §5.1.1): names, STUN Binding requests (RFC 8489 §2), TURN Allocate requests
//! (RFC 8656 §7), and the answers.
//!
//! The `webrtc` crate tells neither that a server refused nor that it kept silent, so our sockets
//! look at the requests and answers themselves. `Watch` is without sockets and clock: times are
//! counted from the building of the peer connection and passed in. `watcher` is what the sockets
//! and the peer share, `result` what comes out and what to try about it.

mod result;
mod watcher;

use std::{borrow::Cow, net::SocketAddr, time::Duration};

pub use result::{GatherOutcome, GatherResult, no_relay, refusal_remedy};
pub(super) use watcher::{WatchedSocket, Watcher};

use super::{config::usable, streams::StreamServers};
use crate::{
    proto::token::IceServer,
    stun::{
        message::{Class, Message, TransactionId, attr, method},
        stream::DialError,
        uri::is_turn,
    },
};

/// A server without an answer by then has failed; it may still answer later.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Code of a failure that is not an answer of the server (W3C `RTCPeerConnectionIceErrorEvent`).
pub const UNREACHABLE: u16 = 701;

/// Transactions remembered; two for each local address and server are usual.
const MAX_TRANSACTIONS: usize = 1024;

/// A server that failed: what `PeerEvent::CandidateError` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerFailure {
    pub(super) url: String,
    pub(super) code: u16,
    pub(super) text: String,
}

/// One configured URL.
#[derive(Debug)]
struct Server {
    url: String,
    username: Option<String>,
    /// Host and port as the crate looks them up, or why the server cannot be used.
    endpoint: Result<String, String>,
    /// The method whose answer gives a candidate: Binding or Allocate.
    needs: u16,
    told: bool,
}

impl Server {
    fn new(url: &str, server: &IceServer, streams: &StreamServers) -> Self {
        let turn = is_turn(url);
        let endpoint =
            usable(url, server).map(|uri| streams.stand_in(url).unwrap_or_else(|| uri.endpoint()));
        let needs = if turn { method::ALLOCATE } else { method::BINDING };
        let username = server.username.clone().filter(|_| turn);
        Self { url: url.to_owned(), username, endpoint, needs, told: false }
    }
}

/// `host:port` with an IPv6 literal in brackets, which the crate's TURN side leaves out.
pub(super) fn bracketed(endpoint: &str) -> Cow<'_, str> {
    match endpoint.rsplit_once(':') {
        Some((host, port)) if host.contains(':') && !host.starts_with('[') => {
            Cow::Owned(format!("[{host}]:{port}"))
        }
        _ => Cow::Borrowed(endpoint),
    }
}

#[derive(Debug)]
struct Lookup {
    endpoint: String,
    begun: Duration,
    found: Option<Result<Vec<SocketAddr>, String>>,
}

/// A connection to a server over TCP or TLS that could not be made, or is gone.
#[derive(Debug)]
struct Unconnected {
    local: SocketAddr,
    server: SocketAddr,
    at: Duration,
    error: DialError,
}

#[derive(Debug)]
struct Transaction {
    id: TransactionId,
    local: SocketAddr,
    server: SocketAddr,
    method: u16,
    username: Option<String>,
    first: Duration,
    requests: u32,
    send_error: Option<String>,
    answer: Option<(Duration, Answer)>,
}

#[derive(Debug)]
enum Answer {
    /// The realm and nonce for the next request (RFC 8489 §9.2.5).
    Challenge,
    Given(GatherOutcome),
}

/// Follows the servers of one peer connection.
#[derive(Debug)]
pub(super) struct Watch {
    servers: Vec<Server>,
    lookups: Vec<Lookup>,
    transactions: Vec<Transaction>,
    unconnected: Vec<Unconnected>,
    /// Connections that are not begun yet, for UDP goes first: what waits for them has not been asked.
    put_off: Vec<(SocketAddr, SocketAddr)>,
}

impl Watch {
    /// A watch over these servers; their credentials are not kept.
    pub(super) fn new(servers: &[IceServer], streams: &StreamServers) -> Self {
        let servers = servers
            .iter()
            .flat_map(|server| server.urls.iter().map(move |url| Server::new(url, server, streams)))
            .collect();
        Self {
            servers,
            lookups: Vec::new(),
            transactions: Vec::new(),
            unconnected: Vec::new(),
            put_off: Vec::new(),
        }
    }

    /// A connection from that local address to that server is to be begun, but not yet.
    pub(super) fn put_off(&mut self, local: SocketAddr, server: SocketAddr) {
        self.put_off.push((local, server));
    }

    /// It is begun now: requests that waited for it count from here on.
    pub(super) fn begun(&mut self, now: Duration, local: SocketAddr, server: SocketAddr) {
        self.put_off.retain(|pair| *pair != (local, server));
        for waited in
            self.transactions.iter_mut().filter(|t| (t.local, t.server) == (local, server))
        {
            waited.first = now;
        }
    }

    /// The name of a server is being looked up.
    pub(super) fn lookup_begun(&mut self, now: Duration, endpoint: &str) {
        self.lookups.retain(|lookup| lookup.endpoint != endpoint);
        self.lookups.push(Lookup { endpoint: endpoint.to_owned(), begun: now, found: None });
    }

    /// The look-up has an end.
    pub(super) fn lookup_ended(&mut self, endpoint: &str, found: Result<Vec<SocketAddr>, String>) {
        let found = found.and_then(|addresses| {
            if addresses.is_empty() { Err("it has no address".into()) } else { Ok(addresses) }
        });
        if let Some(lookup) = self.lookups.iter_mut().find(|lookup| lookup.endpoint == endpoint) {
            lookup.found = Some(found);
        }
    }

    /// A datagram was sent, or could not be. Whether it is news: the first request of a
    /// transaction with a server.
    pub(super) fn sent(
        &mut self,
        now: Duration,
        local: SocketAddr,
        to: SocketAddr,
        datagram: &[u8],
        error: Option<String>,
    ) -> bool {
        let to = canonical(to);
        if !self.lookups.iter().any(|lookup| lookup.addresses().contains(&to)) {
            return false;
        }
        let Some(message) = Message::parse(datagram).filter(|m| m.class == Class::Request) else {
            return false;
        };
        let username = message.text(attr::USERNAME).map(str::to_owned);
        // A Binding request with a user name is a connectivity check (RFC 8445 §7.2.2).
        let asks = match message.method {
            method::BINDING => username.is_none(),
            method::ALLOCATE => true,
            _ => false,
        };
        if !asks {
            return false;
        }
        if let Some(known) = self.transactions.iter_mut().find(|t| t.id == message.transaction) {
            known.requests += 1;
            known.send_error = known.send_error.take().and(error);
            return false;
        }
        if self.transactions.len() < MAX_TRANSACTIONS {
            self.transactions.push(Transaction {
                id: message.transaction,
                local,
                server: to,
                method: message.method,
                username,
                first: now,
                requests: 1,
                send_error: error,
                answer: None,
            });
        }
        true
    }

    /// Whether this request waits for an answer.
    pub(super) fn is_unanswered(&self, request: &[u8]) -> bool {
        let Some(id) = request.get(8..20) else { return false };
        self.transactions.iter().any(|t| t.id == id && t.answer.is_none())
    }

    /// A datagram came. Whether it is news: the answer to a request. Answers are known by their
    /// transaction, as a server with several addresses may answer from another one.
    pub(super) fn received(&mut self, now: Duration, datagram: &[u8]) -> bool {
        let Some(id) = datagram.get(8..20) else { return false };
        let open = |t: &&mut Transaction| t.answer.is_none() && t.id == id;
        let Some(transaction) = self.transactions.iter_mut().find(open) else { return false };
        let Some(message) = Message::parse(datagram) else { return false };
        transaction.answer = read_answer(&message, transaction).map(|answer| (now, answer));
        transaction.answer.is_some()
    }

    /// A server cannot be connected to from that local address, or not any more. Returns what is to
    /// be told now: the loss of an allocation.
    pub(super) fn unconnected(
        &mut self,
        now: Duration,
        local: SocketAddr,
        server: SocketAddr,
        error: DialError,
    ) -> Option<ServerFailure> {
        let allocated = self.transactions.iter().any(|t| {
            (t.local, t.server) == (local, server)
                && matches!(t.answer, Some((_, Answer::Given(GatherOutcome::Allocated { .. }))))
        });
        let lost = self
            .servers
            .iter()
            .filter(|_| allocated)
            .find(|known| self.addresses(known).contains(&server))
            .map(|known| ServerFailure {
                url: known.url.clone(),
                code: UNREACHABLE,
                text: format!("its relayed address is lost: {error}"),
            });
        self.unconnected.push(Unconnected { local, server, at: now, error });
        lost
    }

    fn addresses(&self, server: &Server) -> &[SocketAddr] {
        let endpoint = server.endpoint.as_ref().ok();
        let lookup = self.lookups.iter().find(|lookup| Some(&lookup.endpoint) == endpoint);
        lookup.map_or(&[], Lookup::addresses)
    }

    /// Whether a TURN server of that kind has answered.
    pub(super) fn relay_answers(&self, is_meant: impl Fn(SocketAddr) -> bool) -> bool {
        let answered = |t: &&Transaction| t.method == method::ALLOCATE && t.answer.is_some();
        self.transactions.iter().filter(answered).any(|t| is_meant(t.server))
    }

    /// What became of each server so far, in the order of the configured URLs.
    pub(super) fn results(&self) -> Vec<GatherResult> {
        self.servers.iter().map(|server| self.result(server)).collect()
    }

    fn result(&self, server: &Server) -> GatherResult {
        let ended = |outcome| GatherResult {
            url: server.url.clone(),
            username: server.username.clone(),
            outcome,
            first_request: None,
            took: None,
        };
        let lookup = match &server.endpoint {
            Ok(endpoint) => self.lookups.iter().find(|lookup| lookup.endpoint == *endpoint),
            Err(reason) => return ended(GatherOutcome::Unusable(reason.clone())),
        };
        match lookup.map(|lookup| &lookup.found) {
            None => ended(GatherOutcome::Unused),
            Some(None) => ended(GatherOutcome::Unresolved("no answer yet".into())),
            Some(Some(Err(reason))) => ended(GatherOutcome::Unresolved(reason.clone())),
            Some(Some(Ok(addresses))) => {
                let (outcome, first_request, took) = self.judge(server, addresses);
                GatherResult { first_request, took, ..ended(outcome) }
            }
        }
    }

    /// Success on any local address counts, else a refusal on any, else silence.
    fn judge(
        &self,
        server: &Server,
        addresses: &[SocketAddr],
    ) -> (GatherOutcome, Option<Duration>, Option<Duration>) {
        let mine = || {
            self.transactions.iter().filter(|t| {
                t.method == server.needs
                    && addresses.contains(&t.server)
                    && !self.put_off.contains(&(t.local, t.server))
                    && (t.username.is_none() || t.username == server.username)
            })
        };
        let first = mine().map(|t| t.first).min();
        let given = |refused: bool| {
            mine()
                .filter_map(|t| match &t.answer {
                    Some((at, Answer::Given(outcome))) => Some((*at, outcome)),
                    _ => None,
                })
                .filter(|(_, outcome)| matches!(outcome, GatherOutcome::Refused { .. }) == refused)
                .min_by_key(|(at, _)| *at)
        };
        if let Some((at, outcome)) = given(false).or_else(|| given(true)) {
            return (outcome.clone(), first, first.map(|first| at.saturating_sub(first)));
        }
        let ended = |t: &Transaction| {
            self.unconnected.iter().find(|gone| (gone.local, gone.server) == (t.local, t.server))
        };
        let mut unanswered: Vec<_> = mine().filter(|t| t.answer.is_none()).collect();
        // A server that cannot be reached from one local address may be from another: the rest counts
        // first, then the reason that says most.
        let gone = unanswered
            .iter()
            .filter_map(|t| ended(t))
            .min_by_key(|gone| (matches!(gone.error, DialError::Unreachable { .. }), gone.at));
        unanswered.retain(|t| ended(t).is_none());
        if let (true, Some(gone)) = (unanswered.is_empty(), gone) {
            let took = first.map(|first| gone.at.saturating_sub(first));
            return (GatherOutcome::NotConnected(gone.error.clone()), first, took);
        }
        let sent = unanswered.iter().filter(|t| t.send_error.is_none());
        let outcome = match (sent.map(|t| t.requests).sum(), unanswered.first()) {
            // Not asked, or asked with another server's user name after the challenge.
            (_, None) => GatherOutcome::Unused,
            (0, Some(first)) => {
                GatherOutcome::Unreachable(first.send_error.clone().unwrap_or_default())
            }
            (requests, Some(_)) => GatherOutcome::Silent { requests },
        };
        (outcome, first, None)
    }

    /// When a server that has not answered has failed; none while it has not been asked.
    fn deadline(&self, server: &Server, result: &GatherResult) -> Option<Duration> {
        let endpoint = server.endpoint.as_ref().ok()?;
        let lookup = self.lookups.iter().find(|lookup| lookup.endpoint == *endpoint)?;
        Some(result.first_request.unwrap_or(lookup.begun) + PATIENCE)
    }

    /// Servers that have failed by now, each told once.
    pub(super) fn failures(&mut self, now: Duration) -> Vec<ServerFailure> {
        let mut failures = Vec::new();
        for index in 0..self.servers.len() {
            let server = &self.servers[index];
            let result = self.result(server);
            if server.told || !self.has_failed(server, &result, now) {
                continue;
            }
            if let Some((code, text)) = result.failure() {
                failures.push(ServerFailure { url: result.url, code, text });
                self.servers[index].told = true;
            }
        }
        failures
    }

    fn has_failed(&self, server: &Server, result: &GatherResult, now: Duration) -> bool {
        match &result.outcome {
            GatherOutcome::Unusable(_)
            | GatherOutcome::Refused { .. }
            | GatherOutcome::NotConnected(_) => true,
            GatherOutcome::Unresolved(_) if !self.is_being_looked_up(server) => true,
            GatherOutcome::Unresolved(_)
            | GatherOutcome::Unreachable(_)
            | GatherOutcome::Silent { .. } => {
                self.deadline(server, result).is_some_and(|deadline| now >= deadline)
            }
            _ => false,
        }
    }

    fn is_being_looked_up(&self, server: &Server) -> bool {
        let Ok(endpoint) = &server.endpoint else { return false };
        self.lookups.iter().any(|lookup| lookup.endpoint == *endpoint && lookup.found.is_none())
    }

    /// Whether nothing more is awaited, or when to look again: `Err(None)` means at the next news.
    pub(super) fn settled(&self, now: Duration) -> Result<(), Option<Duration>> {
        let mut next: Option<Duration> = None;
        let mut open = false;
        for server in self.servers.iter().filter(|server| server.endpoint.is_ok() && !server.told) {
            let result = self.result(server);
            if matches!(
                result.outcome,
                GatherOutcome::Reflexive(_) | GatherOutcome::Allocated { .. }
            ) {
                continue;
            }
            match self.deadline(server, &result) {
                Some(deadline) if deadline <= now => {}
                Some(deadline) => {
                    open = true;
                    next = Some(next.map_or(deadline, |next| next.min(deadline)));
                }
                None => open = true,
            }
        }
        if open { Err(next) } else { Ok(()) }
    }

    /// Whether there is a server to look after at all.
    pub(super) fn is_empty(&self) -> bool {
        !self.servers.iter().any(|server| server.endpoint.is_ok())
    }
}

impl Lookup {
    fn addresses(&self) -> &[SocketAddr] {
        match &self.found {
            Some(Ok(addresses)) => addresses,
            _ => &[],
        }
    }
}

/// The address as it was looked up: an IPv4 one may come back mapped into IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn read_answer(message: &Message<'_>, transaction: &Transaction) -> Option<Answer> {
    if message.method != transaction.method {
        return None;
    }
    let unusable = |what: &str| GatherOutcome::Refused {
        code: UNREACHABLE,
        reason: format!("its answer has no {what}"),
    };
    match message.class {
        Class::Success if message.method == method::BINDING => {
            let mapped = message.address(attr::XOR_MAPPED_ADDRESS);
            let outcome = mapped.map(GatherOutcome::Reflexive);
            Some(Answer::Given(outcome.unwrap_or_else(|| unusable("XOR-MAPPED-ADDRESS"))))
        }
        Class::Success => {
            let relayed = message.address(attr::XOR_RELAYED_ADDRESS);
            let lifetime = message.number(attr::LIFETIME).unwrap_or_default();
            let lifetime = Duration::from_secs(lifetime.into());
            let outcome = relayed.map(|relayed| GatherOutcome::Allocated { relayed, lifetime });
            Some(Answer::Given(outcome.unwrap_or_else(|| unusable("XOR-RELAYED-ADDRESS"))))
        }
        Class::Error => {
            let code = message.error_code().unwrap_or_default();
            let asks = [attr::REALM, attr::NONCE].iter().all(|kind| message.get(*kind).is_some());
            if asks && transaction.username.is_none() && matches!(code, 401 | 438) {
                return Some(Answer::Challenge);
            }
            let reason = printable(&message.error_reason());
            Some(Answer::Given(GatherOutcome::Refused { code, reason }))
        }
        Class::Request | Class::Indication => None,
    }
}

/// Words of the server, safe to print.
fn printable(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
#[path = "gathering/tests.rs"]
mod tests;
