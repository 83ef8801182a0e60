//! What became of a server; of one that failed: code and text, and what to try.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::UNREACHABLE;
use crate::{
    peer::config::read_url,
    proto::token::expiry,
    stun::{
        stream::DialError,
        uri::{Transport, is_turn},
    },
    types::{clock_skew_words, rough_duration},
};

/// What became of one configured server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherResult {
    /// The server, as configured.
    pub url: String,
    /// The user name that goes with it.
    pub username: Option<String>,
    /// What became of it.
    pub outcome: GatherOutcome,
    /// When it was first asked, from the building of the peer connection.
    pub first_request: Option<Duration>,
    /// From there to the answer that decided.
    pub took: Option<Duration>,
}

/// What became of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatherOutcome {
    /// Its name has no address, or not yet; why.
    Unresolved(String),
    /// Never asked: the ICE policy leaves it out, or no local address is of its family.
    Unused,
    /// Never asked: its URL is malformed or of a kind that is not supported here (`stuns:`, TURN over DTLS), or it
    /// has no credentials; why.
    Unusable(String),
    /// TURN over TCP or TLS: no connection, or it ended before the answer; why.
    NotConnected(DialError),
    /// No request could be sent; why.
    Unreachable(String),
    /// Asked, but no answer came, or not yet.
    Silent {
        /// Requests without an answer, repetitions included.
        requests: u32,
    },
    /// STUN: our address as the server sees it (XOR-MAPPED-ADDRESS).
    Reflexive(SocketAddr),
    /// TURN: there is an allocation.
    Allocated {
        /// XOR-RELAYED-ADDRESS.
        relayed: SocketAddr,
        /// LIFETIME.
        lifetime: Duration,
    },
    /// An error answer that is not the challenge every first Allocate request meets.
    Refused {
        /// ERROR-CODE (RFC 8489 §14.8); [`UNREACHABLE`] for an answer that cannot be used.
        code: u16,
        /// The server's words.
        reason: String,
    },
}

impl GatherResult {
    /// Code and text of the failure as `PeerEvent::CandidateError` tells them; `None` when the
    /// server gave what it was asked for, or was not asked.
    #[must_use]
    pub fn failure(&self) -> Option<(u16, String)> {
        match &self.outcome {
            GatherOutcome::Refused { code, reason } => Some((*code, reason.clone())),
            GatherOutcome::Unusable(reason) => {
                Some((UNREACHABLE, format!("it is left out: {reason}")))
            }
            GatherOutcome::Unresolved(reason) => {
                Some((UNREACHABLE, format!("its name cannot be resolved: {reason}")))
            }
            GatherOutcome::Unreachable(reason) => {
                Some((UNREACHABLE, format!("it cannot be reached: {reason}")))
            }
            GatherOutcome::NotConnected(error) => Some((UNREACHABLE, error.to_string())),
            GatherOutcome::Silent { requests: 1 } => {
                Some((UNREACHABLE, "it did not answer the request".into()))
            }
            GatherOutcome::Silent { requests } => {
                Some((UNREACHABLE, format!("it did not answer {requests} requests")))
            }
            GatherOutcome::Unused
            | GatherOutcome::Reflexive(_)
            | GatherOutcome::Allocated { .. } => None,
        }
    }

    /// The failure in kebab case, for programs: `turn-401`, `turn-silent`, `stun-unresolved`,
    /// `stun-unreachable`, `turn-tcp-refused`, `turn-tls-name` and others of [`DialError::code`];
    /// `None` as for [`GatherResult::failure`].
    #[must_use]
    pub fn code(&self) -> Option<String> {
        let what = match &self.outcome {
            GatherOutcome::Refused { code, .. } => code.to_string(),
            GatherOutcome::Unusable(_) => "unusable".into(),
            GatherOutcome::Unresolved(_) => "unresolved".into(),
            GatherOutcome::Unreachable(_) => "unreachable".into(),
            GatherOutcome::Silent { .. } => "silent".into(),
            GatherOutcome::NotConnected(error) => error.code().into(),
            _ => return None,
        };
        let kind = if self.is_turn() { "turn" } else { "stun" };
        Some(format!("{kind}-{what}"))
    }

    /// Whether it is a TURN server.
    #[must_use]
    pub fn is_turn(&self) -> bool {
        is_turn(&self.url)
    }

    /// Why there is no relayed candidate of it, for a message; empty when there is one.
    fn no_relay(&self) -> String {
        let url = &self.url;
        match &self.outcome {
            GatherOutcome::Allocated { .. } => String::new(),
            _ if !self.is_turn() => format!("{url}: a STUN server relays nothing"),
            GatherOutcome::Refused { code, reason } => format!("{url}: {code} {reason}"),
            _ => match self.failure() {
                Some((_, text)) => format!("{url}: {text}"),
                None => format!("{url}: it was not asked, for no local address is of its family"),
            },
        }
    }

    fn is_stream(&self) -> bool {
        read_url(&self.url).is_ok_and(|uri| uri.transport != Transport::Udp)
    }

    /// What to try about the failure; empty without one. `clock_skew` is how far this machine's
    /// clock is ahead of the server's, seconds, when it is known.
    #[must_use]
    pub fn remedy(&self, now: SystemTime, clock_skew: Option<f64>) -> String {
        match &self.outcome {
            GatherOutcome::Refused { code, .. } => {
                refusal_remedy(*code, self.username.as_deref(), now, clock_skew)
            }
            GatherOutcome::Unusable(_) => {
                "write stun:HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT], \
                 a TURN server with username and credential"
                    .into()
            }
            GatherOutcome::Unresolved(_) => {
                "check the spelling of the host and this machine's name server".into()
            }
            GatherOutcome::Unreachable(_) => "check this machine's network and routes".into(),
            GatherOutcome::NotConnected(error) => error.remedy(),
            GatherOutcome::Silent { .. } if self.is_stream() => {
                "the server takes the connection and says nothing: is it a TURN server? See its log"
                    .into()
            }
            GatherOutcome::Silent { .. } => {
                "check host and port, that the server runs, and whether a firewall between blocks UDP"
                    .into()
            }
            GatherOutcome::Unused
            | GatherOutcome::Reflexive(_)
            | GatherOutcome::Allocated { .. } => String::new(),
        }
    }
}

/// Why no server gave a relayed candidate, server by server; `None` when one did.
#[must_use]
pub fn no_relay(results: &[GatherResult]) -> Option<String> {
    if results.iter().any(|result| matches!(result.outcome, GatherOutcome::Allocated { .. })) {
        return None;
    }
    let reasons: Vec<String> = results.iter().map(GatherResult::no_relay).collect();
    Some(if reasons.is_empty() { "no TURN server is known".into() } else { reasons.join("; ") })
}

/// What to try when a STUN or TURN server answers with this error code (RFC 8489 §14.8, RFC 8656
/// §19). `username` is the one that was sent; `clock_skew` as for [`GatherResult::remedy`].
#[must_use]
pub fn refusal_remedy(
    code: u16,
    username: Option<&str>,
    now: SystemTime,
    clock_skew: Option<f64>,
) -> String {
    match code {
        300 => "the server sends its clients to another one: give the URL of that one",
        400 | 420 => "is it a STUN or TURN server of RFC 8489 and 8656? See its log",
        401 => return login_remedy(username, now, clock_skew),
        403 => "the server forbids it: check which users and addresses it allows",
        437 => "the server still holds an older allocation of this address: try again in 10 min",
        438 => "the server takes back its nonces at once: is it one server, not several behind one address?",
        440 | 443 => "the server relays another address family: check --network and its relay addresses",
        441 => "the allocation belongs to another user name: give each server one user name only",
        442 => "the server does not relay UDP: check its configuration",
        486 => "this user has as many allocations as the server allows: close other connections or raise the server's quota",
        508 => "the server has no relay port left: close other connections or raise its port range or capacity",
        UNREACHABLE => "is it a STUN or TURN server of RFC 8489 and 8656?",
        500..=599 => "the server has failed: see its log and try again",
        _ => "see the server's log",
    }
    .into()
}

/// 401 to a request with or without a login. Of TURN REST credentials the user name starts with
/// their expiry, seconds since 1970 (draft-uberti-behave-turn-rest-00 §2.2).
fn login_remedy(username: Option<&str>, now: SystemTime, clock_skew: Option<f64>) -> String {
    let skew = clock_skew.map(clock_skew_words);
    let Some(username) = username.filter(|name| !name.is_empty()) else {
        return "the server wants a login: give --turn-username with --turn-credential, or \
                --turn-secret"
            .into();
    };
    let Some(expiry) = expiry(username) else {
        return "the user name or the password differs from the server's".into();
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = now.saturating_sub(Duration::from_secs(expiry));
    if !ago.is_zero() {
        let clock = skew.unwrap_or_else(|| "this machine's clock is wrong".into());
        let ago = rough_duration(ago.as_secs_f64());
        return format!(
            "the credential expired {ago} ago: the token answer is too old, or {clock}"
        );
    }
    match skew {
        Some(skew) => format!("the secret or the password differs from the server's, or {skew}"),
        None => "the secret or the password differs from the server's, or the clocks do".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_login_is_told_by_its_cause() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let remedy = |name: Option<&str>, skew| refusal_remedy(401, name, now, skew);
        let good = Some("1700000600:phone");
        assert!(remedy(good, None).ends_with("or the clocks do"));
        let skewed = remedy(good, Some(-420.0));
        assert!(skewed.contains("secret") && skewed.contains("7 min behind"), "{skewed}");
        let over = remedy(Some("1699999760:phone"), None);
        assert!(over.contains("expired 4 min ago"), "{over}");
        let ahead = remedy(Some("1699999760"), Some(3600.0));
        assert!(ahead.contains("60 min ahead"), "{ahead}");
        assert!(!remedy(Some("phone"), None).contains("clock"));
        for nobody in [None, Some("")] {
            assert!(remedy(nobody, None).contains("--turn-username"));
        }
    }

    #[test]
    fn each_server_says_why_it_relays_nothing() {
        let server = |url: &str, outcome| GatherResult {
            url: url.into(),
            username: None,
            outcome,
            first_request: None,
            took: None,
        };
        let refused = GatherOutcome::Refused { code: 401, reason: "Unauthorized".into() };
        let mut results = vec![
            server("stun:s", GatherOutcome::Unused),
            server("TURN:a", refused),
            server("turn://b", GatherOutcome::Unusable("no slashes".into())),
            server("turn:c", GatherOutcome::Silent { requests: 7 }),
        ];
        assert_eq!(
            no_relay(&results).unwrap(),
            "stun:s: a STUN server relays nothing; TURN:a: 401 Unauthorized; \
             turn://b: it is left out: no slashes; turn:c: it did not answer 7 requests"
        );
        assert_eq!(no_relay(&[]).unwrap(), "no TURN server is known");
        let allocated = GatherOutcome::Allocated {
            relayed: ([192, 0, 2, 1], 9).into(),
            lifetime: Duration::ZERO,
        };
        results.push(server("turn:d", allocated));
        assert_eq!(no_relay(&results), None);
    }

    #[test]
    fn each_refusal_has_words_of_its_own() {
        let words = |code| refusal_remedy(code, None, UNIX_EPOCH, None);
        let codes = [300, 400, 401, 403, 437, 438, 440, 441, 442, 486, 508, 500, 701, 999];
        let all: std::collections::HashSet<_> = codes.map(words).into_iter().collect();
        assert_eq!(all.len(), codes.len());
    }
}
