//! Diagnoses a failed connection: stage, code, cause and remedy, from the evidence collected.
//!
//! Codes are kebab case and stable. Reported errors have their own; a failure that is visible only as missing progress
//! gets one of these:
//!
//! | stage | code | evidence |
//! |---|---|---|
//! | signaling | `timeout` | no socket in time |
//! | room | `peer-absent` | the other device never joined |
//! | room | `no-answer`, `no-offer` | the other device is present, but sends no description |
//! | gathering | `no-candidate` | no local candidate at all |
//! | gathering | `turn-401` and the like, `turn-silent`, `turn-unresolved`, `turn-unreachable`, `no-turn-server`, `no-relay-candidate` | only relays are allowed, but no relay candidate was gathered |
//! | ice | `no-remote-candidate` | the peer sent none |
//! | ice | `no-pair` | no candidate pair worked |
//! | ice | `lost` | connected, but lost before everything was measured |
//! | dtls | `no-handshake` | ICE connected, but DTLS did not |
//! | datachannel | `not-open` | DTLS connected, but the channel did not open |
//! | datachannel | `no-pong` | pings were sent, but none was answered |
//! | video | `no-keyframe` | no keyframe arrived completely |

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use crate::{
    peer::{
        self, PeerRole, Timings,
        gathering::{GatherOutcome, GatherResult},
    },
    report::schema::FailureRecord,
    session::SessionError,
    types::{CandidateType, Stage},
};

/// Evidence collected about a failed connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// The reported error.
    pub(super) error: Option<SessionError>,
    /// Whether this device joined the room.
    pub(super) joined: bool,
    /// Whether the other device is in the room; `None` if the server does not report it.
    pub(super) present: Option<bool>,
    /// Whether the remote description was received.
    pub(super) described: bool,
    /// Progress of the peer connection.
    pub(super) timings: Timings,
    /// Types of the local candidates, without duplicates.
    pub(super) local: Vec<CandidateType>,
    /// Types of the remote candidates, without duplicates.
    pub(super) remote: Vec<CandidateType>,
    /// Answers of the STUN and TURN servers.
    pub(super) servers: Vec<GatherResult>,
    /// Abandoned because no TURN server is left that could provide a relay.
    pub(super) no_relay: bool,
    /// This machine's clock minus the token server's, s.
    pub(super) clock_skew: Option<f64>,
    /// Why the established connection was lost.
    pub(super) lost: Option<String>,
    /// Pings sent and answered.
    pub(super) pings: (u64, u64),
    /// Reason why the last incomplete keyframe was dropped.
    pub(super) broken: Option<String>,
}

/// The configuration of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expectation {
    pub(super) role: PeerRole,
    /// Only relay candidates.
    pub(super) relay_only: bool,
    pub(super) within: Duration,
}

/// Determines the cause.
pub(super) fn diagnose(evidence: &Evidence, expectation: Expectation) -> FailureRecord {
    if let Some(error) = &evidence.error {
        return FailureRecord {
            stage: error.stage,
            code: error.code.clone(),
            message: error.message.clone(),
            remedy: error.remedy.clone(),
        };
    }
    let record = |stage, code: &str, message: String, remedy: String| FailureRecord {
        stage,
        code: code.to_owned(),
        message,
        remedy,
    };
    let within = expectation.within;
    if !evidence.joined {
        return record(
            Stage::Signaling,
            "timeout",
            format!("no signaling connection within {within:?}"),
            "check the server's address and load, or set a longer --timeout".into(),
        );
    }
    if evidence.no_relay {
        return no_relay(evidence);
    }
    if !evidence.described {
        return room(evidence, expectation);
    }
    if let Some(why) = &evidence.lost
        && evidence.timings.data_channel.is_some()
    {
        return record(
            Stage::Ice,
            "lost",
            format!("the connection was lost during the measurement: {why}"),
            "check the peer, and the network between the two peers".into(),
        );
    }
    if evidence.timings.ice.is_none() {
        return not_connected(evidence, expectation);
    }
    if evidence.timings.dtls.is_none() {
        return record(
            Stage::Dtls,
            "no-handshake",
            format!("ICE connected, but the DTLS handshake did not complete within {within:?}"),
            "see the peer's log: larger UDP packets may be dropped (MTU), or the fingerprints may \
             differ"
                .into(),
        );
    }
    if evidence.timings.data_channel.is_none() {
        return record(
            Stage::Datachannel,
            "not-open",
            format!("DTLS completed, but the data channel did not open within {within:?}"),
            "check that the peer accepts a data channel (m=application)".into(),
        );
    }
    measured(evidence)
}

fn room(evidence: &Evidence, expectation: Expectation) -> FailureRecord {
    let within = expectation.within;
    let (code, message, remedy) = match (evidence.present, expectation.role) {
        (Some(false), _) => (
            "peer-absent",
            format!("the other device did not join the room within {within:?}"),
            "start `orion-peer bench --respond` (or `recv`, or the app) with the other device of \
             the pair",
        ),
        (_, PeerRole::Sender) => (
            "no-answer",
            format!("the peer did not answer the offer within {within:?}"),
            "check that the other device is in the room and answers; see its log",
        ),
        (_, PeerRole::Receiver) => (
            "no-offer",
            format!("the peer sent no offer within {within:?}"),
            "check that the other device is in the room and sends an offer: bench --role recv \
             needs a sender",
        ),
    };
    FailureRecord { stage: Stage::Room, code: code.into(), message, remedy: remedy.into() }
}

fn not_connected(evidence: &Evidence, expectation: Expectation) -> FailureRecord {
    let relay = CandidateType::Relay;
    if expectation.relay_only && !evidence.local.contains(&relay) {
        return no_relay(evidence);
    }
    if evidence.local.is_empty() {
        return FailureRecord {
            stage: Stage::Gathering,
            code: "no-candidate".into(),
            message: "no local candidate was found".into(),
            remedy: "check --interface, --network and --candidates".into(),
        };
    }
    let servers = answers(&evidence.servers);
    if evidence.remote.is_empty() {
        return FailureRecord {
            stage: Stage::Ice,
            code: "no-remote-candidate".into(),
            message: format!("the peer sent no candidates{servers}"),
            remedy: "check the peer's candidate gathering: its network and its TURN credentials"
                .into(),
        };
    }
    let remedy = if evidence.local.contains(&relay) || evidence.remote.contains(&relay) {
        "check that both peers can reach the relay, which was available but did not help, and that \
         it may relay to the peer's address"
    } else if !servers.is_empty() {
        "fix the TURN server named above: neither peer has a relay candidate"
    } else {
        "add a TURN server (--ice-server turn:HOST with --turn-secret): neither peer has a relay \
         candidate"
    };
    FailureRecord {
        stage: Stage::Ice,
        code: "no-pair".into(),
        message: format!(
            "no candidate pair worked within {:?}: local {}, remote {}{servers}",
            expectation.within,
            list(&evidence.local),
            list(&evidence.remote)
        ),
        remedy: remedy.into(),
    }
}

/// Only relays are allowed, but there is no relay candidate: the response of the server that should have provided one
/// is the cause.
fn no_relay(evidence: &Evidence) -> FailureRecord {
    let mut turn = evidence.servers.iter().filter(|server| server.is_turn()).peekable();
    let (code, message, remedy) = if turn.peek().is_none() {
        (
            "no-turn-server".to_owned(),
            "only relay candidates are allowed, and no TURN server is configured".to_owned(),
            "set --ice-server turn:HOST with --turn-secret, or configure one in the token API"
                .to_owned(),
        )
    } else if let Some((server, (number, text))) = turn
        .filter_map(|server| Some((server, server.failure()?)))
        // The answer of a server is more informative than silence.
        .max_by_key(|(server, _)| matches!(server.outcome, GatherOutcome::Refused { .. }))
    {
        (
            server.code().unwrap_or_else(|| "no-relay-candidate".into()),
            match (&server.outcome, evidence.servers.as_slice()) {
                (_, [_, _, ..]) => format!(
                    "no server provided a relay candidate: {}",
                    peer::no_relay(&evidence.servers).unwrap_or_default()
                ),
                (GatherOutcome::Refused { .. }, _) => {
                    format!("TURN {} answered {number} {text}", server.url)
                }
                _ => format!("TURN {}: {text}", server.url),
            },
            server.remedy(SystemTime::now(), evidence.clock_skew),
        )
    } else {
        (
            "no-relay-candidate".to_owned(),
            "only relay candidates are allowed, and no TURN server provided one".to_owned(),
            "check --network, and that this machine has an address of the server's address family"
                .to_owned(),
        )
    };
    FailureRecord { stage: Stage::Gathering, code, message, remedy }
}

fn measured(evidence: &Evidence) -> FailureRecord {
    let (sent, answered) = evidence.pings;
    if sent > 0 && answered == 0 {
        return FailureRecord {
            stage: Stage::Datachannel,
            code: "no-pong".into(),
            message: format!("{sent} pings were sent over the data channel, but none was answered"),
            remedy: "check that the peer answers `ping` with `pong`".into(),
        };
    }
    let why = evidence.broken.as_ref().map_or(String::new(), |why| format!(": {why}"));
    FailureRecord {
        stage: Stage::Video,
        code: "no-keyframe".into(),
        message: format!("no keyframe arrived completely{why}"),
        remedy: "check the packet loss on the path (--loss simulates it, --no-repair leaves it \
                 unrepaired), and try --pace 1Mbit or --max-bytes 30KB: a buffer on the path may \
                 be too small"
            .into(),
    }
}

/// Failed servers, to be appended to a message.
fn answers(servers: &[GatherResult]) -> String {
    let failed = servers.iter().filter_map(|server| Some((server, server.failure()?)));
    failed.fold(String::new(), |mut text, (server, (code, words))| {
        let _ = write!(text, "; {}: {code} {words}", server.url);
        text
    })
}

fn list(types: &[CandidateType]) -> String {
    types.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTATION: Expectation =
        Expectation { role: PeerRole::Sender, relay_only: false, within: Duration::from_secs(15) };

    fn code(evidence: &Evidence, expectation: Expectation) -> (Stage, String) {
        let record = diagnose(evidence, expectation);
        assert!(!record.message.is_empty() && !record.remedy.is_empty(), "{record:?}");
        (record.stage, record.code)
    }

    #[test]
    fn each_step_not_reached_has_its_own_code() {
        let mut evidence = Evidence::default();
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Signaling, "timeout".into()));
        evidence.joined = true;
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Room, "no-answer".into()));
        evidence.present = Some(false);
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Room, "peer-absent".into()));
        evidence.described = true;
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Gathering, "no-candidate".into()));
        evidence.local = vec![CandidateType::Host];
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Ice, "no-remote-candidate".into()));
        evidence.remote = vec![CandidateType::Host, CandidateType::Srflx];
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Ice, "no-pair".into()));
        let relay_only = Expectation { relay_only: true, ..EXPECTATION };
        assert_eq!(code(&evidence, relay_only), (Stage::Gathering, "no-turn-server".into()));
        let server = |outcome| GatherResult {
            url: "turn:t:3478".into(),
            username: None,
            outcome,
            first_request: None,
            took: None,
        };
        evidence.servers = vec![server(GatherOutcome::Silent { requests: 7 })];
        assert_eq!(code(&evidence, relay_only), (Stage::Gathering, "turn-silent".into()));
        let refused = GatherOutcome::Refused { code: 401, reason: "Unauthorized".into() };
        evidence.servers.insert(0, server(refused));
        assert_eq!(code(&evidence, relay_only), (Stage::Gathering, "turn-401".into()));
        // Known before the peer has answered.
        let early = Evidence { described: false, no_relay: true, ..evidence.clone() };
        assert_eq!(code(&early, relay_only), (Stage::Gathering, "turn-401".into()));
        let message = diagnose(&evidence, EXPECTATION).message;
        assert!(message.contains("turn:t:3478: 401 Unauthorized"), "{message}");
        let step = Some(Duration::from_millis(1));
        evidence.timings.ice = step;
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Dtls, "no-handshake".into()));
        evidence.timings.dtls = step;
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Datachannel, "not-open".into()));
        evidence.timings.data_channel = step;
        evidence.pings = (50, 0);
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Datachannel, "no-pong".into()));
        evidence.pings = (50, 49);
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Video, "no-keyframe".into()));
        evidence.lost = Some("no answer".into());
        assert_eq!(code(&evidence, EXPECTATION), (Stage::Ice, "lost".into()));
    }
}
