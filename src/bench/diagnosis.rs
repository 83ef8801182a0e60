//! Why a connection failed: stage, code, cause and remedy, from what was seen of it.
//!
//! Codes are kebab case and stable. Errors that were told bring their own; what only shows by nothing
//! happening gets one of these:
//!
//! | stage | code | seen |
//! |---|---|---|
//! | signaling | `timeout` | no socket in time |
//! | room | `peer-absent` | the other device never came |
//! | room | `no-answer`, `no-offer` | it is there, and does not describe itself |
//! | gathering | `no-candidate` | no local candidate at all |
//! | gathering | `turn-401` and the like, `turn-silent`, `turn-unresolved`, `turn-unreachable`, `no-turn-server`, `no-relay-candidate` | only relay was allowed, and there is none |
//! | ice | `no-remote-candidate` | the other side told none |
//! | ice | `no-pair` | no pair of candidates got through |
//! | ice | `lost` | connected, and lost before everything was measured |
//! | dtls | `no-handshake` | ICE got through, DTLS did not |
//! | datachannel | `not-open` | DTLS got through, the channel did not |
//! | datachannel | `no-pong` | pings were sent, none was answered |
//! | video | `no-keyframe` | no keyframe came whole |

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

/// What was seen of a connection that did not get through.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// What was told of it.
    pub(super) error: Option<SessionError>,
    /// The other side's device and ours.
    pub(super) joined: bool,
    /// The other device was seen in the room; none when the server does not tell.
    pub(super) present: Option<bool>,
    /// The other side's description came.
    pub(super) described: bool,
    /// How far the peer connection came.
    pub(super) timings: Timings,
    /// Our candidates' types, none twice.
    pub(super) local: Vec<CandidateType>,
    /// The other side's candidates' types, none twice.
    pub(super) remote: Vec<CandidateType>,
    /// What STUN and TURN servers answered.
    pub(super) servers: Vec<GatherResult>,
    /// Given up because no TURN server is left that could give a relay.
    pub(super) no_relay: bool,
    /// This machine's clock less the token server's, s.
    pub(super) clock_skew: Option<f64>,
    /// The connection was up and is gone.
    pub(super) lost: Option<String>,
    /// Pings sent and answered.
    pub(super) pings: (u64, u64),
    /// Why the last keyframe that came in pieces was given up.
    pub(super) broken: Option<String>,
}

/// What was asked of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) role: PeerRole,
    /// Only relay candidates.
    pub(super) relay_only: bool,
    pub(super) within: Duration,
}

/// Names the reason.
pub(super) fn diagnose(seen: &Seen, asked: Asked) -> FailureRecord {
    if let Some(error) = &seen.error {
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
    let within = asked.within;
    if !seen.joined {
        return record(
            Stage::Signaling,
            "timeout",
            format!("no signaling connection within {within:?}"),
            "check the server's address and load; or give a longer --timeout".into(),
        );
    }
    if seen.no_relay {
        return no_relay(seen);
    }
    if !seen.described {
        return room(seen, asked);
    }
    if let Some(why) = &seen.lost
        && seen.timings.data_channel.is_some()
    {
        return record(
            Stage::Ice,
            "lost",
            format!("the connection was lost while it was measured: {why}"),
            "look at the other side, and at the network between".into(),
        );
    }
    if seen.timings.ice.is_none() {
        return not_connected(seen, asked);
    }
    if seen.timings.dtls.is_none() {
        return record(
            Stage::Dtls,
            "no-handshake",
            format!("ICE connected, but DTLS did not within {within:?}"),
            "larger UDP packets may not get through (MTU), or the fingerprints differ: look at \
             the other side's log"
                .into(),
        );
    }
    if seen.timings.data_channel.is_none() {
        return record(
            Stage::Datachannel,
            "not-open",
            format!("DTLS is done, but the data channel did not open within {within:?}"),
            "does the other side accept a data channel (m=application)?".into(),
        );
    }
    measured(seen)
}

fn room(seen: &Seen, asked: Asked) -> FailureRecord {
    let within = asked.within;
    let (code, message, remedy) = match (seen.present, asked.role) {
        (Some(false), _) => (
            "peer-absent",
            format!("the other device did not come into the room within {within:?}"),
            "start `orion-peer bench --respond` (or `recv`, or the app) with the other device of \
             the pair",
        ),
        (_, PeerRole::Sender) => (
            "no-answer",
            format!("the other side did not answer the offer within {within:?}"),
            "is the other device in the room, and does it answer? look at its log",
        ),
        (_, PeerRole::Receiver) => (
            "no-offer",
            format!("the other side made no offer within {within:?}"),
            "is the other device in the room, and does it offer? bench --role recv needs a sender",
        ),
    };
    FailureRecord { stage: Stage::Room, code: code.into(), message, remedy: remedy.into() }
}

fn not_connected(seen: &Seen, asked: Asked) -> FailureRecord {
    let relay = CandidateType::Relay;
    if asked.relay_only && !seen.local.contains(&relay) {
        return no_relay(seen);
    }
    if seen.local.is_empty() {
        return FailureRecord {
            stage: Stage::Gathering,
            code: "no-candidate".into(),
            message: "no local candidate was found".into(),
            remedy: "check --interface, --network and --candidates".into(),
        };
    }
    let servers = answers(&seen.servers);
    if seen.remote.is_empty() {
        return FailureRecord {
            stage: Stage::Ice,
            code: "no-remote-candidate".into(),
            message: format!("the other side told no candidate{servers}"),
            remedy: "look at the other side's gathering: its network, its TURN credentials".into(),
        };
    }
    let remedy = if seen.local.contains(&relay) || seen.remote.contains(&relay) {
        "a relay was there and did not help: is it reachable by both, and may it relay to the other \
         side's address?"
    } else if !servers.is_empty() {
        "neither side has a relay candidate: mend the TURN server named above"
    } else {
        "neither side has a relay candidate: give a TURN server (--ice-server turn:HOST with \
         --turn-secret)"
    };
    FailureRecord {
        stage: Stage::Ice,
        code: "no-pair".into(),
        message: format!(
            "no pair of candidates got through within {:?}: ours {}, theirs {}{servers}",
            asked.within,
            list(&seen.local),
            list(&seen.remote)
        ),
        remedy: remedy.into(),
    }
}

/// Relay only, and no relay candidate: the server that should have given one says why.
fn no_relay(seen: &Seen) -> FailureRecord {
    let mut turn = seen.servers.iter().filter(|server| server.is_turn()).peekable();
    let (code, message, remedy) = if turn.peek().is_none() {
        (
            "no-turn-server".to_owned(),
            "only relay candidates may be used, and no TURN server is known".to_owned(),
            "give --ice-server turn:HOST with --turn-secret, or let the token API name one"
                .to_owned(),
        )
    } else if let Some((server, (number, text))) = turn
        .filter_map(|server| Some((server, server.failure()?)))
        // A server that answered says more than one that did not.
        .max_by_key(|(server, _)| matches!(server.outcome, GatherOutcome::Refused { .. }))
    {
        (
            server.code().unwrap_or_else(|| "no-relay-candidate".into()),
            match (&server.outcome, seen.servers.as_slice()) {
                (_, [_, _, ..]) => format!(
                    "no server gave a relayed candidate: {}",
                    peer::no_relay(&seen.servers).unwrap_or_default()
                ),
                (GatherOutcome::Refused { .. }, _) => {
                    format!("TURN {} answered {number} {text}", server.url)
                }
                _ => format!("TURN {}: {text}", server.url),
            },
            server.remedy(SystemTime::now(), seen.clock_skew),
        )
    } else {
        (
            "no-relay-candidate".to_owned(),
            "only relay candidates may be used, and no TURN server gave one".to_owned(),
            "check --network: does this machine have an address of the server's family?".to_owned(),
        )
    };
    FailureRecord { stage: Stage::Gathering, code, message, remedy }
}

fn measured(seen: &Seen) -> FailureRecord {
    let (sent, answered) = seen.pings;
    if sent > 0 && answered == 0 {
        return FailureRecord {
            stage: Stage::Datachannel,
            code: "no-pong".into(),
            message: format!("{sent} pings were sent over the data channel, none was answered"),
            remedy: "does the other side answer `ping` with `pong`?".into(),
        };
    }
    let why = seen.broken.as_ref().map_or(String::new(), |why| format!(": {why}"));
    FailureRecord {
        stage: Stage::Video,
        code: "no-keyframe".into(),
        message: format!("no keyframe arrived whole{why}"),
        remedy: "look at the loss between the two (simulated by --loss, kept by --no-repair), and whether it \
                 arrives with --pace 1Mbit or --max-bytes 30KB: a buffer on the way may be too small"
            .into(),
    }
}

/// Servers that failed, for the end of a message.
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

    const ASKED: Asked =
        Asked { role: PeerRole::Sender, relay_only: false, within: Duration::from_secs(15) };

    fn code(seen: &Seen, asked: Asked) -> (Stage, String) {
        let record = diagnose(seen, asked);
        assert!(!record.message.is_empty() && !record.remedy.is_empty(), "{record:?}");
        (record.stage, record.code)
    }

    #[test]
    fn each_step_that_was_not_reached_has_its_own_reason() {
        let mut seen = Seen::default();
        assert_eq!(code(&seen, ASKED), (Stage::Signaling, "timeout".into()));
        seen.joined = true;
        assert_eq!(code(&seen, ASKED), (Stage::Room, "no-answer".into()));
        seen.present = Some(false);
        assert_eq!(code(&seen, ASKED), (Stage::Room, "peer-absent".into()));
        seen.described = true;
        assert_eq!(code(&seen, ASKED), (Stage::Gathering, "no-candidate".into()));
        seen.local = vec![CandidateType::Host];
        assert_eq!(code(&seen, ASKED), (Stage::Ice, "no-remote-candidate".into()));
        seen.remote = vec![CandidateType::Host, CandidateType::Srflx];
        assert_eq!(code(&seen, ASKED), (Stage::Ice, "no-pair".into()));
        let relay_only = Asked { relay_only: true, ..ASKED };
        assert_eq!(code(&seen, relay_only), (Stage::Gathering, "no-turn-server".into()));
        let server = |outcome| GatherResult {
            url: "turn:t:3478".into(),
            username: None,
            outcome,
            first_request: None,
            took: None,
        };
        seen.servers = vec![server(GatherOutcome::Silent { requests: 7 })];
        assert_eq!(code(&seen, relay_only), (Stage::Gathering, "turn-silent".into()));
        let refused = GatherOutcome::Refused { code: 401, reason: "Unauthorized".into() };
        seen.servers.insert(0, server(refused));
        assert_eq!(code(&seen, relay_only), (Stage::Gathering, "turn-401".into()));
        // Known before the other side has answered.
        let early = Seen { described: false, no_relay: true, ..seen.clone() };
        assert_eq!(code(&early, relay_only), (Stage::Gathering, "turn-401".into()));
        let message = diagnose(&seen, ASKED).message;
        assert!(message.contains("turn:t:3478: 401 Unauthorized"), "{message}");
        let step = Some(Duration::from_millis(1));
        seen.timings.ice = step;
        assert_eq!(code(&seen, ASKED), (Stage::Dtls, "no-handshake".into()));
        seen.timings.dtls = step;
        assert_eq!(code(&seen, ASKED), (Stage::Datachannel, "not-open".into()));
        seen.timings.data_channel = step;
        seen.pings = (50, 0);
        assert_eq!(code(&seen, ASKED), (Stage::Datachannel, "no-pong".into()));
        seen.pings = (50, 49);
        assert_eq!(code(&seen, ASKED), (Stage::Video, "no-keyframe".into()));
        seen.lost = Some("no answer".into());
        assert_eq!(code(&seen, ASKED), (Stage::Ice, "lost".into()));
    }
}
