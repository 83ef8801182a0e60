//! The exchange between a peer connection and its ICE servers while candidates are gathered (RFC 8445 §5.1.1): name
//! lookups, STUN Binding requests (RFC 8489 §2), TURN Allocate requests (RFC 8656 §7), and the answers.
//!
//! The `webrtc` crate reports neither that a server rejected a request nor that it stayed silent, so our sockets
//! inspect the requests and answers themselves. `ServerLog` has no sockets and no clock: times are passed in,
//! relative to the construction of the peer connection. `monitor` is shared by the sockets and the peer; `result` is
//! the outcome and its remedy.

mod monitor;
mod result;

use std::{borrow::Cow, net::SocketAddr, time::Duration};

pub(super) use monitor::{GatheringMonitor, MonitoredSocket};
pub use result::{GatherOutcome, GatherResult, no_relay, refusal_remedy};

use super::{config::usable, streams::StreamServers};
use crate::{
    proto::token::IceServer,
    stun::{
        message::{Class, Message, TransactionId, attr, method},
        stream::DialError,
        uri::is_turn,
    },
};

/// A server that has not answered within this time counts as failed; it may still answer later.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Code of a failure that is not an answer from the server (W3C `RTCPeerConnectionIceErrorEvent`).
pub const UNREACHABLE: u16 = 701;

/// Maximum number of transactions remembered; two for each local address and server are typical.
const MAX_TRANSACTIONS: usize = 1024;

/// A server that failed, for `PeerEvent::CandidateError`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerFailure {
    pub(super) url: String,
    pub(super) code: u16,
    pub(super) text: String,
}

/// One configured URL.
#[derive(Debug)]
struct ConfiguredServer {
    url: String,
    username: Option<String>,
    /// Host and port as the crate resolves them, or why the server cannot be used.
    endpoint: Result<String, String>,
    /// The method whose answer yields a candidate: Binding or Allocate.
    needs: u16,
    reported: bool,
}

impl ConfiguredServer {
    fn new(url: &str, server: &IceServer, streams: &StreamServers) -> Self {
        let turn = is_turn(url);
        let endpoint =
            usable(url, server).map(|uri| streams.stand_in(url).unwrap_or_else(|| uri.endpoint()));
        let needs = if turn { method::ALLOCATE } else { method::BINDING };
        let username = server.username.clone().filter(|_| turn);
        Self { url: url.to_owned(), username, endpoint, needs, reported: false }
    }
}

/// `host:port` with an IPv6 literal in brackets, which the crate's TURN client omits.
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
    started: Duration,
    found: Option<Result<Vec<SocketAddr>, String>>,
}

/// A connection to a server over TCP or TLS that could not be established, or has closed.
#[derive(Debug)]
struct FailedConnection {
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

/// Tracks the servers of one peer connection.
#[derive(Debug)]
pub(super) struct ServerLog {
    servers: Vec<ConfiguredServer>,
    lookups: Vec<Lookup>,
    transactions: Vec<Transaction>,
    failed_connections: Vec<FailedConnection>,
    /// Connections that have not been started yet, to give UDP a head start: the requests that wait for them have not
    /// been sent.
    deferred: Vec<(SocketAddr, SocketAddr)>,
}

impl ServerLog {
    /// A log for these servers; their credentials are not kept.
    pub(super) fn new(servers: &[IceServer], streams: &StreamServers) -> Self {
        let servers = servers
            .iter()
            .flat_map(|server| {
                server.urls.iter().map(move |url| ConfiguredServer::new(url, server, streams))
            })
            .collect();
        Self {
            servers,
            lookups: Vec::new(),
            transactions: Vec::new(),
            failed_connections: Vec::new(),
            deferred: Vec::new(),
        }
    }

    /// Records that a connection from this local address to this server will be started later.
    pub(super) fn connection_deferred(&mut self, local: SocketAddr, server: SocketAddr) {
        self.deferred.push((local, server));
    }

    /// Records that the deferred connection starts now: requests that waited for it are timed from here.
    pub(super) fn connection_started(
        &mut self,
        now: Duration,
        local: SocketAddr,
        server: SocketAddr,
    ) {
        self.deferred.retain(|pair| *pair != (local, server));
        for waited in
            self.transactions.iter_mut().filter(|t| (t.local, t.server) == (local, server))
        {
            waited.first = now;
        }
    }

    /// Records that the name of a server is being resolved.
    pub(super) fn lookup_started(&mut self, now: Duration, endpoint: &str) {
        self.lookups.retain(|lookup| lookup.endpoint != endpoint);
        self.lookups.push(Lookup { endpoint: endpoint.to_owned(), started: now, found: None });
    }

    /// Records the result of a lookup.
    pub(super) fn lookup_ended(&mut self, endpoint: &str, found: Result<Vec<SocketAddr>, String>) {
        let found = found.and_then(|addresses| {
            if addresses.is_empty() { Err("it has no address".into()) } else { Ok(addresses) }
        });
        if let Some(lookup) = self.lookups.iter_mut().find(|lookup| lookup.endpoint == endpoint) {
            lookup.found = Some(found);
        }
    }

    /// Records a datagram that was sent, or could not be. Returns whether it is the first request of a transaction
    /// with a server.
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
        // A Binding request with a username is a connectivity check (RFC 8445 §7.2.2).
        let is_request = match message.method {
            method::BINDING => username.is_none(),
            method::ALLOCATE => true,
            _ => false,
        };
        if !is_request {
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

    /// Whether this request is still waiting for an answer.
    pub(super) fn is_unanswered(&self, request: &[u8]) -> bool {
        let Some(id) = request.get(8..20) else { return false };
        self.transactions.iter().any(|t| t.id == id && t.answer.is_none())
    }

    /// Records a datagram that arrived. Returns whether it answers a request. Answers are matched by transaction,
    /// because a server with several addresses may answer from another one.
    pub(super) fn received(&mut self, now: Duration, datagram: &[u8]) -> bool {
        let Some(id) = datagram.get(8..20) else { return false };
        let open = |t: &&mut Transaction| t.answer.is_none() && t.id == id;
        let Some(transaction) = self.transactions.iter_mut().find(open) else { return false };
        let Some(message) = Message::parse(datagram) else { return false };
        transaction.answer = read_answer(&message, transaction).map(|answer| (now, answer));
        transaction.answer.is_some()
    }

    /// Records that the connection from this local address to a server failed or has closed. Returns the failure to
    /// report immediately: the loss of an allocation.
    pub(super) fn connection_failed(
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
        self.failed_connections.push(FailedConnection { local, server, at: now, error });
        lost
    }

    fn addresses(&self, server: &ConfiguredServer) -> &[SocketAddr] {
        let endpoint = server.endpoint.as_ref().ok();
        let lookup = self.lookups.iter().find(|lookup| Some(&lookup.endpoint) == endpoint);
        lookup.map_or(&[], Lookup::addresses)
    }

    /// Whether a matching TURN server has answered.
    pub(super) fn relay_answers(&self, matches: impl Fn(SocketAddr) -> bool) -> bool {
        let answered = |t: &&Transaction| t.method == method::ALLOCATE && t.answer.is_some();
        self.transactions.iter().filter(answered).any(|t| matches(t.server))
    }

    /// The outcome for each server so far, in the order of the configured URLs.
    pub(super) fn results(&self) -> Vec<GatherResult> {
        self.servers.iter().map(|server| self.result(server)).collect()
    }

    fn result(&self, server: &ConfiguredServer) -> GatherResult {
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

    /// The outcome for a server: success from any local address, otherwise a rejection from any, otherwise silence.
    fn judge(
        &self,
        server: &ConfiguredServer,
        addresses: &[SocketAddr],
    ) -> (GatherOutcome, Option<Duration>, Option<Duration>) {
        let matching = || {
            self.transactions.iter().filter(|t| {
                t.method == server.needs
                    && addresses.contains(&t.server)
                    && !self.deferred.contains(&(t.local, t.server))
                    && (t.username.is_none() || t.username == server.username)
            })
        };
        let first = matching().map(|t| t.first).min();
        let given = |refused: bool| {
            matching()
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
            self.failed_connections
                .iter()
                .find(|gone| (gone.local, gone.server) == (t.local, t.server))
        };
        let mut unanswered: Vec<_> = matching().filter(|t| t.answer.is_none()).collect();
        // A server that cannot be reached from one local address may be reachable from another: requests that are
        // still open count first, then the most informative reason.
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
            // No request was sent, or only with another server's username after the challenge.
            (_, None) => GatherOutcome::Unused,
            (0, Some(first)) => {
                GatherOutcome::Unreachable(first.send_error.clone().unwrap_or_default())
            }
            (requests, Some(_)) => GatherOutcome::Silent { requests },
        };
        (outcome, first, None)
    }

    /// When a server without an answer counts as failed; `None` until the lookup of its name has started.
    fn deadline(&self, server: &ConfiguredServer, result: &GatherResult) -> Option<Duration> {
        let endpoint = server.endpoint.as_ref().ok()?;
        let lookup = self.lookups.iter().find(|lookup| lookup.endpoint == *endpoint)?;
        Some(result.first_request.unwrap_or(lookup.started) + PATIENCE)
    }

    /// Servers that have failed by now, each reported once.
    pub(super) fn failures(&mut self, now: Duration) -> Vec<ServerFailure> {
        let mut failures = Vec::new();
        for index in 0..self.servers.len() {
            let server = &self.servers[index];
            let result = self.result(server);
            if server.reported || !self.has_failed(server, &result, now) {
                continue;
            }
            if let Some((code, text)) = result.failure() {
                failures.push(ServerFailure { url: result.url, code, text });
                self.servers[index].reported = true;
            }
        }
        failures
    }

    fn has_failed(&self, server: &ConfiguredServer, result: &GatherResult, now: Duration) -> bool {
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

    fn is_being_looked_up(&self, server: &ConfiguredServer) -> bool {
        let Ok(endpoint) = &server.endpoint else { return false };
        self.lookups.iter().any(|lookup| lookup.endpoint == *endpoint && lookup.found.is_none())
    }

    /// `Ok` if nothing more is awaited; otherwise when to check again, where `None` means after the next event.
    pub(super) fn settled(&self, now: Duration) -> Result<(), Option<Duration>> {
        let mut next: Option<Duration> = None;
        let mut open = false;
        for server in
            self.servers.iter().filter(|server| server.endpoint.is_ok() && !server.reported)
        {
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

    /// Whether there is no usable server at all.
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

/// The address in the form in which it was resolved: an IPv4 address may be reported as mapped into IPv6.
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
            let challenges =
                [attr::REALM, attr::NONCE].iter().all(|kind| message.get(*kind).is_some());
            if challenges && transaction.username.is_none() && matches!(code, 401 | 438) {
                return Some(Answer::Challenge);
            }
            let reason = printable(&message.error_reason());
            Some(Answer::Given(GatherOutcome::Refused { code, reason }))
        }
        Class::Request | Class::Indication => None,
    }
}

/// The server's text, safe to print.
fn printable(reason: &str) -> String {
    reason.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
#[path = "gathering/tests.rs"]
mod tests;
