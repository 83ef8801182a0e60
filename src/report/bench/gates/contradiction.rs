//! Gates that the planned measurement can never meet: reported before the run, not after it.

use super::Gates;
use crate::{
    report::human,
    types::{CandidateType, ConnectionType},
};

/// What a run is going to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measured {
    /// Pings are sent.
    pub pings: bool,
    /// Keyframes are sent or received.
    pub keyframes: bool,
    /// `--ice-policy relay`.
    pub ice_policy_relay: bool,
    /// `--candidates`; empty for all.
    pub candidates: Vec<CandidateType>,
    /// Size budget of the local encoder, bytes; `None` when this process does not encode frames.
    pub budget_bytes: Option<u64>,
}

type Contradiction = (String, String);

impl Gates {
    /// Message and remedy if a gate can never be met.
    #[must_use]
    pub fn contradiction(&self, what: &Measured) -> Option<Contradiction> {
        self.unmeasured(what).or_else(|| self.wrong_type(what)).or_else(|| self.over_budget(what))
    }

    fn unmeasured(&self, what: &Measured) -> Option<Contradiction> {
        let pings = [
            ("--max-rtt-p50", self.max_rtt_p50.is_some()),
            ("--max-rtt-p95", self.max_rtt_p95.is_some()),
            ("--max-rtt-p99", self.max_rtt_p99.is_some()),
            ("--max-ping-loss", self.max_ping_loss.is_some()),
        ];
        let keyframes = [
            ("--min-keyframes-intact", self.min_keyframes_intact.is_some()),
            ("--max-frame-bytes", self.max_frame_bytes.is_some()),
            ("--max-keyframe-latency-p95", self.max_keyframe_latency_p95.is_some()),
            ("--max-keyframe-network-p95", self.max_keyframe_network_p95.is_some()),
            ("--max-keyframe-spread", self.max_keyframe_spread.is_some()),
            ("--max-first-picture", self.max_first_picture.is_some()),
            ("--max-first-picture-p95", self.max_first_picture_p95.is_some()),
        ];
        let unmet = |gates: &[(&'static str, bool)], measured: bool, flag, things| {
            let gate = gates.iter().find(|(_, set)| *set && !measured)?.0;
            let message = format!("{gate} needs {things}, but {flag} 0 sends none");
            Some((message, format!("remove {gate}, or set {flag} above 0")))
        };
        unmet(&pings, what.pings, "--pings", "pings")
            .or_else(|| unmet(&keyframes, what.keyframes, "--keyframes", "keyframes"))
    }

    fn wrong_type(&self, what: &Measured) -> Option<Contradiction> {
        use CandidateType::{Host, Prflx, Relay, Srflx};
        let required = self.require_type?;
        let relayed = matches!(required.0, ConnectionType::Relay(_));
        if what.ice_policy_relay && !relayed {
            return Some((
                format!("--require-type {required} cannot be met with --ice-policy relay"),
                "remove --ice-policy relay, or use --require-type relay".to_owned(),
            ));
        }
        // One candidate of the pair is local: the type is never more direct than the local candidates.
        let possible: &[CandidateType] = match required.0 {
            ConnectionType::Host => &[Host],
            ConnectionType::Srflx => &[Host, Srflx, Prflx],
            ConnectionType::Relay(_) => &[Relay],
        };
        if what.candidates.is_empty() || what.candidates.iter().any(|one| possible.contains(one)) {
            return None;
        }
        let given: Vec<&str> = what.candidates.iter().map(|one| one.as_str()).collect();
        let given = given.join(",");
        Some((
            format!("--require-type {required} cannot be met with --candidates {given}"),
            format!("add {} to --candidates, or remove the flag", possible[0]),
        ))
    }

    fn over_budget(&self, what: &Measured) -> Option<Contradiction> {
        let (limit, budget) = self.max_frame_bytes.zip(what.budget_bytes)?;
        (limit < budget).then(|| {
            let [limit, budget] = [limit, budget].map(human::bytes);
            (
                format!(
                    "--max-frame-bytes {limit} is below --max-bytes, the encoder's size \
                         budget ({budget})"
                ),
                format!("set --max-bytes to {} or less", limit.replace(' ', "")),
            )
        })
    }
}
