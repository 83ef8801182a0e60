//! The outcome for a server, with code, text and remedy if it failed.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::UNREACHABLE;
use crate::{
    proto::token::expiry,
    stun::{
        stream::DialError,
        uri::{Transport, is_turn, read_url},
    },
    text::{clock_skew_words, rough_duration},
};

/// The outcome for one configured server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherResult {
    /// URL of the server, as configured.
    pub url: String,
    /// The username configured for the server.
    pub username: Option<String>,
    /// The outcome so far.
    pub outcome: GatherOutcome,
    /// Time from the construction of the peer connection to the first request.
    pub first_request: Option<Duration>,
    /// Time from the first request to the decisive answer.
    pub took: Option<Duration>,
}

/// The outcome for a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatherOutcome {
    /// Its name has not been resolved; the reason.
    Unresolved(String),
    /// No request was sent: the ICE policy excludes it, or no local address is of its family.
    Unused,
    /// No request was sent: its URL is malformed or of an unsupported kind (`stuns:`, TURN over DTLS), or it has no
    /// credentials; the reason.
    Unusable(String),
    /// TURN over TCP or TLS: the connection failed, or it closed before the answer; the reason.
    NotConnected(DialError),
    /// No request could be sent; the reason.
    Unreachable(String),
    /// A request was sent, but no answer has arrived.
    Silent {
        /// Requests without an answer, including retransmissions.
        requests: u32,
    },
    /// STUN: our address as the server sees it (XOR-MAPPED-ADDRESS).
    Reflexive(SocketAddr),
    /// TURN: an allocation was created.
    Allocated {
        /// XOR-RELAYED-ADDRESS.
        relayed: SocketAddr,
        /// The granted LIFETIME.
        lifetime: Duration,
    },
    /// An error answer other than the challenge to every first Allocate request.
    Refused {
        /// ERROR-CODE (RFC 8489 §14.8); [`UNREACHABLE`] for an answer that cannot be used.
        code: u16,
        /// The server's error text.
        reason: String,
    },
}

impl GatherResult {
    /// Code and text of the failure for `PeerEvent::CandidateError`; `None` if the server granted the request or
    /// received none.
    #[must_use]
    pub fn failure(&self) -> Option<(u16, String)> {
        match &self.outcome {
            GatherOutcome::Refused { code, reason } => Some((*code, reason.clone())),
            GatherOutcome::Unusable(reason) => {
                Some((UNREACHABLE, format!("it is ignored: {reason}")))
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

    /// Why the server provides no relayed candidate, for a message; empty if it does.
    fn no_relay(&self) -> String {
        let url = &self.url;
        match &self.outcome {
            GatherOutcome::Allocated { .. } => String::new(),
            _ if !self.is_turn() => format!("{url}: a STUN server does not relay"),
            GatherOutcome::Refused { code, reason } => format!("{url}: {code} {reason}"),
            _ => match self.failure() {
                Some((_, text)) => format!("{url}: {text}"),
                None => format!("{url}: no local address is of its address family"),
            },
        }
    }

    fn is_stream(&self) -> bool {
        read_url(&self.url).is_ok_and(|uri| uri.transport != Transport::Udp)
    }

    /// The remedy for the failure; empty without one. `clock_skew` is how far this machine's clock is ahead of the
    /// server's, in seconds, if known.
    #[must_use]
    pub fn remedy(&self, now: SystemTime, clock_skew: Option<f64>) -> String {
        match &self.outcome {
            GatherOutcome::Refused { code, .. } => {
                refusal_remedy(*code, self.username.as_deref(), now, clock_skew)
            }
            GatherOutcome::Unusable(_) => {
                "use stun:HOST[:PORT], turn:HOST[:PORT][?transport=udp|tcp] or turns:HOST[:PORT], \
                 and give a TURN server a username and a credential"
                    .into()
            }
            GatherOutcome::Unresolved(_) => {
                "check the spelling of the host and this machine's name server".into()
            }
            GatherOutcome::Unreachable(_) => "check this machine's network and routes".into(),
            GatherOutcome::NotConnected(error) => error.remedy(),
            GatherOutcome::Silent { .. } if self.is_stream() => {
                "check the server's log and that it is a TURN server: it accepts the connection \
                 but does not answer"
                    .into()
            }
            GatherOutcome::Silent { .. } => {
                "check host and port, that the server is running, and that no firewall blocks UDP"
                    .into()
            }
            GatherOutcome::Unused
            | GatherOutcome::Reflexive(_)
            | GatherOutcome::Allocated { .. } => String::new(),
        }
    }
}

/// Why no server provided a relayed candidate, server by server; `None` if one did.
#[must_use]
pub fn no_relay(results: &[GatherResult]) -> Option<String> {
    if results.iter().any(|result| matches!(result.outcome, GatherOutcome::Allocated { .. })) {
        return None;
    }
    let reasons: Vec<String> = results.iter().map(GatherResult::no_relay).collect();
    Some(if reasons.is_empty() {
        "no TURN server is configured".into()
    } else {
        reasons.join("; ")
    })
}

/// The remedy for a STUN or TURN server's answer with this error code (RFC 8489 §14.8, RFC 8656 §19). `username` is
/// the one that was sent; `clock_skew` as for [`GatherResult::remedy`].
#[must_use]
pub fn refusal_remedy(
    code: u16,
    username: Option<&str>,
    now: SystemTime,
    clock_skew: Option<f64>,
) -> String {
    match code {
        300 => "use the URL of the other server, to which this one redirects its clients",
        400 | 420 => {
            "check the server's log and that it is a STUN or TURN server (RFC 8489 and 8656)"
        }
        401 => return login_remedy(username, now, clock_skew),
        403 => "check which users and addresses the server allows",
        437 => "try again in 10 min: the server still holds an older allocation for this address",
        438 => {
            "check that this is a single server, not several behind one address: it expires its \
             nonces immediately"
        }
        440 | 443 => {
            "check --network and the server's relay addresses: their address families differ"
        }
        441 => "use a single username for each server: the allocation belongs to another one",
        442 => "check the server's configuration: it does not relay UDP",
        486 => {
            "close other connections or raise the server's quota: this user has reached its \
             allocation limit"
        }
        508 => {
            "close other connections or raise the server's port range or capacity: it has no free \
             relay port"
        }
        UNREACHABLE => "check that it is a STUN or TURN server (RFC 8489 and 8656)",
        500..=599 => "check the server's log and try again: the server failed",
        _ => "check the server's log",
    }
    .into()
}

/// The remedy for 401 in answer to a request with or without credentials. The username of TURN REST credentials
/// starts with their expiry, in seconds since 1970 (draft-uberti-behave-turn-rest-00 §2.2).
fn login_remedy(username: Option<&str>, now: SystemTime, clock_skew: Option<f64>) -> String {
    let skew = clock_skew.map(clock_skew_words);
    let Some(username) = username.filter(|name| !name.is_empty()) else {
        return "set --turn-username with --turn-credential, or --turn-secret: the server \
                requires credentials"
            .into();
    };
    let Some(expiry) = expiry(username) else {
        return "check the username and the password: one of them differs from the server's".into();
    };
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ago = now.saturating_sub(Duration::from_secs(expiry));
    if !ago.is_zero() {
        let clock = skew.unwrap_or_else(|| "this machine's clock is wrong".into());
        let ago = rough_duration(ago.as_secs_f64());
        return format!(
            "get a new credential: it expired {ago} ago because the token response is too old or \
             {clock}"
        );
    }
    match skew {
        Some(skew) => {
            format!("check the secret or password: it differs from the server's, or {skew}")
        }
        None => "check the secret or password and the clock: one of them differs from the server's"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_login_names_its_cause() {
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let remedy = |name: Option<&str>, skew| refusal_remedy(401, name, now, skew);
        let good = Some("1700000600:phone");
        assert!(remedy(good, None).contains("password and the clock"));
        let skewed = remedy(good, Some(-420.0));
        assert!(skewed.contains("secret") && skewed.contains("7 min behind"), "{skewed}");
        let expired = remedy(Some("1699999760:phone"), None);
        assert!(expired.contains("expired 4 min ago"), "{expired}");
        let ahead = remedy(Some("1699999760"), Some(3600.0));
        assert!(ahead.contains("60 min ahead"), "{ahead}");
        assert!(!remedy(Some("phone"), None).contains("clock"));
        for none in [None, Some("")] {
            assert!(remedy(none, None).contains("--turn-username"));
        }
    }

    #[test]
    fn each_server_reports_why_it_does_not_relay() {
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
            "stun:s: a STUN server does not relay; TURN:a: 401 Unauthorized; \
             turn://b: it is ignored: no slashes; turn:c: it did not answer 7 requests"
        );
        assert_eq!(no_relay(&[]).unwrap(), "no TURN server is configured");
        let allocated = GatherOutcome::Allocated {
            relayed: ([192, 0, 2, 1], 9).into(),
            lifetime: Duration::ZERO,
        };
        results.push(server("turn:d", allocated));
        assert_eq!(no_relay(&results), None);
    }

    #[test]
    fn each_error_code_has_its_own_remedy() {
        let remedy = |code| refusal_remedy(code, None, UNIX_EPOCH, None);
        let codes = [300, 400, 401, 403, 437, 438, 440, 441, 442, 486, 508, 500, 701, 999];
        let all: std::collections::HashSet<_> = codes.map(remedy).into_iter().collect();
        assert_eq!(all.len(), codes.len());
    }
}
