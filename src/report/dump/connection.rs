//! One peer connection of a dump: configuration, negotiation, statistics.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use serde_json::{Map, Value, json};

use super::{iso, samples::Samples};
use crate::{
    peer::{ConnectionState, IcePolicy},
    proto::{signaling::IceCandidateInit, token::IceServer},
    report::stats::millis,
    session::negotiation::{NegotiationStep, SdpType},
};

/// Maximum number of stats objects kept; later ones are ignored.
const MAX_OBJECTS: usize = 500;

/// Maximum size of a log, bytes; the oldest entries are dropped.
const MAX_LOG_BYTES: usize = 1 << 20;

/// Maximum size of one entry, bytes: descriptions of either peer are shorter.
const MAX_ENTRY_BYTES: usize = 64 << 10;

/// Minimum number of words in a candidate (RFC 8839 §5.1).
const CANDIDATE_PARTS: usize = 8;

/// Approximate overhead of an entry in addition to its text, bytes.
const ENTRY_BYTES: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Connection {
    configuration: Value,
    log: VecDeque<Entry>,
    log_bytes: usize,
    pub(super) objects: BTreeMap<String, Samples>,
}

#[derive(Debug)]
struct Entry {
    time: String,
    kind: &'static str,
    value: String,
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.value.len()
    }
}

impl Connection {
    /// Logs an event: `kind` as in webrtc-internals, `value` as text.
    pub(super) fn log(&mut self, time: SystemTime, kind: &'static str, value: &str) {
        let value = value[..value.floor_char_boundary(MAX_ENTRY_BYTES)].to_owned();
        let entry = Entry { time: iso(millis(time)), kind, value };
        self.log_bytes += entry.bytes();
        self.log.push_back(entry);
        while self.log_bytes > MAX_LOG_BYTES {
            let Some(oldest) = self.log.pop_front() else { return };
            self.log_bytes -= oldest.bytes();
        }
    }

    /// Logs a step of the negotiation as webrtc-internals would.
    pub(super) fn step(&mut self, time: SystemTime, step: &NegotiationStep) {
        match step {
            NegotiationStep::Created { ice_servers, ice_policy } => {
                self.configuration = configuration(ice_servers, *ice_policy);
            }
            NegotiationStep::Local(kind, sdp) => {
                self.log(time, "setLocalDescription", &description(*kind, sdp));
                self.log(time, "signalingstatechange", signaling_state(*kind, "have-local-offer"));
                self.log(time, "icegatheringstatechange", "gathering");
            }
            NegotiationStep::Remote(kind, sdp) => {
                self.log(time, "setRemoteDescription", &description(*kind, sdp));
                self.log(time, "signalingstatechange", signaling_state(*kind, "have-remote-offer"));
            }
            NegotiationStep::RemoteRefused(why) => {
                self.log(time, "setRemoteDescriptionOnFailure", why);
            }
            NegotiationStep::LocalCandidate(Some(candidate)) => {
                self.log(time, "icecandidate", &words(candidate));
            }
            NegotiationStep::LocalCandidate(None) => {
                self.log(time, "icegatheringstatechange", "complete");
            }
            NegotiationStep::RemoteCandidate(Some(candidate)) => {
                // Importers assume that every candidate has all its parts.
                let whole = candidate.candidate.split(' ').count() >= CANDIDATE_PARTS;
                let kind = if whole { "addIceCandidate" } else { "addIceCandidateOnFailure" };
                self.log(time, kind, &words(candidate));
            }
            NegotiationStep::RemoteCandidate(None) => self.log(time, "addIceCandidate", ""),
            NegotiationStep::State(state) => {
                self.log(time, "iceconnectionstatechange", ice_state(*state));
                self.log(time, "connectionstatechange", &state.to_string());
            }
            NegotiationStep::Closed => {
                self.log(time, "close", "");
                self.log(time, "connectionstatechange", "closed");
            }
        }
    }

    /// Adds a statistics report: W3C stats objects by their id.
    pub(super) fn stats(&mut self, time: SystemTime, report: &Map<String, Value>) {
        for (id, object) in report {
            let Value::Object(object) = object else { continue };
            if self.objects.contains_key(id) || self.objects.len() < MAX_OBJECTS {
                self.objects.entry(id.clone()).or_default().add(millis(time), object);
            }
        }
    }

    pub(super) fn to_json(&self, pid: u32, url: &str) -> Value {
        let mut series = Map::new();
        for (id, samples) in &self.objects {
            samples.add_series(id, &mut series);
        }
        let entry = |Entry { time, kind, value }: &Entry| json!({"time": time, "type": kind, "value": value});
        json!({
            "pid": pid,
            "url": url,
            "rtcConfiguration": self.configuration.to_string(),
            "constraints": "",
            "updateLog": self.log.iter().map(entry).collect::<Vec<_>>(),
            "stats": series,
        })
    }
}

/// The ICE state that corresponds to the connection state, which does not distinguish ICE from DTLS.
fn ice_state(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::New => "new",
        ConnectionState::Connecting => "checking",
        ConnectionState::Connected => "connected",
        ConnectionState::Disconnected => "disconnected",
        ConnectionState::Failed => "failed",
        ConnectionState::Closed => "closed",
    }
}

/// A W3C `RTCConfiguration` without credentials.
fn configuration(ice_servers: &[IceServer], ice_policy: IcePolicy) -> Value {
    let servers: Vec<_> = ice_servers.iter().map(|server| json!({"urls": server.urls})).collect();
    let policy = match ice_policy {
        IcePolicy::All => "all",
        IcePolicy::Relay => "relay",
    };
    json!({"iceServers": servers, "iceTransportPolicy": policy})
}

fn description(kind: SdpType, sdp: &str) -> String {
    let kind = match kind {
        SdpType::Offer => "offer",
        SdpType::Answer => "answer",
    };
    format!("type: {kind}, sdp: {sdp}")
}

/// W3C `RTCSignalingState` after a description is set.
fn signaling_state(kind: SdpType, offered: &'static str) -> &'static str {
    match kind {
        SdpType::Offer => offered,
        SdpType::Answer => "stable",
    }
}

fn words(candidate: &IceCandidateInit) -> String {
    let mid = candidate.sdp_mid.as_deref().unwrap_or("");
    let index = candidate.sdp_mline_index.map(|index| index.to_string()).unwrap_or_default();
    format!("sdpMid: {mid}, sdpMLineIndex: {index}, candidate: {}", candidate.candidate)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn log(connection: &Connection) -> Vec<(&str, &str)> {
        connection.log.iter().map(|entry| (entry.kind, entry.value.as_str())).collect()
    }

    #[test]
    fn steps_are_logged_as_chromium_does() {
        let candidate = IceCandidateInit {
            candidate: "candidate:1 1 udp 1 192.0.2.1 9 typ host".into(),
            sdp_mid: Some("0".into()),
            sdp_mline_index: Some(0),
            username_fragment: None,
        };
        let garbage = IceCandidateInit { candidate: "candidate:".into(), ..candidate.clone() };
        let mut connection = Connection::default();
        let server = IceServer {
            urls: vec!["turn:turn.example:3478".into()],
            username: Some("name".into()),
            credential: Some("secret".into()),
        };
        for step in [
            NegotiationStep::Created { ice_servers: vec![server], ice_policy: IcePolicy::Relay },
            NegotiationStep::Local(SdpType::Offer, "v=0\r\n".into()),
            NegotiationStep::LocalCandidate(Some(candidate.clone())),
            NegotiationStep::LocalCandidate(None),
            NegotiationStep::Remote(SdpType::Answer, "v=0\r\n".into()),
            NegotiationStep::RemoteCandidate(Some(candidate)),
            NegotiationStep::RemoteCandidate(Some(garbage)),
            NegotiationStep::RemoteCandidate(None),
            NegotiationStep::Closed,
        ] {
            connection.step(at(1), &step);
        }
        let words =
            "sdpMid: 0, sdpMLineIndex: 0, candidate: candidate:1 1 udp 1 192.0.2.1 9 typ host";
        assert_eq!(
            log(&connection),
            [
                ("setLocalDescription", "type: offer, sdp: v=0\r\n"),
                ("signalingstatechange", "have-local-offer"),
                ("icegatheringstatechange", "gathering"),
                ("icecandidate", words),
                ("icegatheringstatechange", "complete"),
                ("setRemoteDescription", "type: answer, sdp: v=0\r\n"),
                ("signalingstatechange", "stable"),
                ("addIceCandidate", words),
                ("addIceCandidateOnFailure", "sdpMid: 0, sdpMLineIndex: 0, candidate: candidate:"),
                ("addIceCandidate", ""),
                ("close", ""),
                ("connectionstatechange", "closed"),
            ]
        );
        let servers = json!([{"urls": ["turn:turn.example:3478"]}]);
        assert_eq!(
            connection.configuration,
            json!({"iceServers": servers, "iceTransportPolicy": "relay"})
        );
    }

    #[test]
    fn a_log_is_bounded_whatever_the_peer_sends() {
        let mut connection = Connection::default();
        for second in 0..40_000 {
            connection.log(at(second), "log", "tick");
        }
        assert!((5_000..20_000).contains(&connection.log.len()));
        assert_eq!(connection.log.back().unwrap().time, iso(39_999e3));
        for _ in 0..100 {
            let huge = NegotiationStep::Remote(SdpType::Offer, "ä".repeat(1 << 20));
            connection.step(at(40_000), &huge);
        }
        let kept: usize = connection.log.iter().map(|entry| entry.value.len()).sum();
        assert!(kept <= MAX_LOG_BYTES, "{kept}");
        assert_eq!(connection.log_bytes, connection.log.iter().map(Entry::bytes).sum::<usize>());
    }
}
