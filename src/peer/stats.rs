//! getStats with the names of W3C webrtc-stats, as JSON.
//!
//! Values that the `rtc` crate leaves at zero are filled from our own counts or omitted, and values in other units
//! are converted: see `values`.

mod values;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rtc::statistics::report::RTCStatsReport;
use serde_json::{Map, Value, json};

use super::{
    control::ControlCounters,
    frames::Frames,
    rtp_observer::RtpCounters,
    streams::StreamServers,
    vitals::{Unanswered, Vitals},
};
use crate::types::{CandidateType, ConnectionType, RelayTransport};

/// A getStats report and its most important values.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Stats objects by id, as `RTCStatsReport` maps them.
    pub report: Map<String, Value>,
    /// The selected candidate pair.
    pub pair: Option<SelectedPair>,
    /// RTP bytes sent, headers included.
    pub video_bytes_sent: u64,
    /// RTP bytes received, headers included.
    pub video_bytes_received: u64,
    /// Data channel message bytes sent.
    pub data_bytes_sent: u64,
    /// Data channel message bytes received.
    pub data_bytes_received: u64,
}

/// The candidate pair in use.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectedPair {
    /// How the pair is connected.
    pub connection: ConnectionType,
    /// Our candidate's type.
    pub local: CandidateType,
    /// The remote candidate's type.
    pub remote: CandidateType,
    /// Our candidate's address and port.
    pub local_address: String,
    /// The remote candidate's address and port.
    pub remote_address: String,
    /// Round-trip time of the last STUN check, seconds.
    pub current_round_trip_time: Option<f64>,
}

/// A candidate of the selected pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CandidateStats {
    pub(super) kind: CandidateType,
    pub(super) address: String,
    pub(super) port: u16,
}

impl Snapshot {
    /// Types of the candidates at one end, `local-candidate` or `remote-candidate`, without duplicates.
    #[must_use]
    pub fn candidate_types(&self, side: &'static str) -> Vec<CandidateType> {
        let mut types: Vec<CandidateType> = entries_of(&self.report, side)
            .filter_map(|candidate| candidate["candidateType"].as_str()?.parse().ok())
            .collect();
        types.sort();
        types.dedup();
        types
    }

    /// Writes the frame counts into the object of the video stream; of several streams, into that of the one in use
    /// now.
    pub(super) fn set_frames(&mut self, frames: &Frames) {
        let streams = self.report.values_mut().filter_map(Value::as_object_mut).filter(|stats| {
            matches!(
                stats.get("type").and_then(Value::as_str),
                Some("outbound-rtp" | "inbound-rtp")
            )
        });
        let last = |stats: &Map<String, Value>| {
            stats.get("lastPacketReceivedTimestamp").and_then(Value::as_f64).unwrap_or_default()
        };
        if let Some(stats) = streams.max_by(|a, b| last(a).total_cmp(&last(b))) {
            frames.write(stats);
        }
    }

    /// Adds the signs of life, for which W3C defines no object: the ms since each, and counts of unanswered messages.
    pub(super) fn set_liveness(&mut self, vitals: &Vitals) {
        let ago = |then: Option<Duration>| {
            then.map(|then| vitals.now.saturating_sub(then).as_millis() as u64)
        };
        let count = |waiting: Option<Unanswered>| waiting.map_or(0, |waiting| waiting.count);
        let liveness = json!({
            "id": "orion-liveness",
            "type": "orion-liveness",
            "timestamp": self.report.values().find_map(|stats| stats.get("timestamp")),
            "checkedMsAgo": ago(vitals.check),
            "mediaMsAgo": ago(vitals.media),
            "dataMsAgo": ago(vitals.data),
            "controlClosedMsAgo": ago(vitals.channel_closed),
            "pingsUnanswered": count(vitals.pings),
            "keyframesUnacknowledged": count(vitals.keyframes_sent),
            "keyframesMissing": count(vitals.keyframes_announced),
            "datagramsDropped": vitals.dropped,
        });
        self.report.insert("orion-liveness".into(), liveness);
    }

    /// Sets the measured capacity of the selected pair's path, bits per second.
    pub(super) fn set_outgoing_bitrate(&mut self, bits_per_second: u64) {
        let pair = selected_id(&self.report).and_then(|id| self.report.get_mut(&id));
        if let Some(pair) = pair {
            pair["availableOutgoingBitrate"] = json!(bits_per_second);
        }
    }
}

impl CandidateStats {
    fn socket(&self) -> String {
        let Self { address, port, .. } = self;
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    }
}

pub(super) fn snapshot(
    report: &RTCStatsReport,
    selected: Option<[CandidateStats; 2]>,
    signaled: impl Fn(SocketAddr) -> Option<CandidateType>,
    streams: &StreamServers,
    counters: &Arc<RtpCounters>,
    control: ControlCounters,
) -> Snapshot {
    let mut entries = Map::new();
    for entry in report.iter() {
        let Some(mut value) = to_json(entry) else { continue };
        if !values::normalize(&mut value, streams, counters) {
            continue;
        }
        if let Some(id) = value.get("id").and_then(Value::as_str).map(str::to_owned) {
            entries.insert(id, value);
        }
    }
    link_candidates(&mut entries);
    values::link_objects(&mut entries);
    let selected = selected.or_else(|| described(&entries)).map(|[local, mut remote]| {
        if remote.kind == CandidateType::Prflx
            && let Ok(address) = remote.address.parse()
        {
            let kind = signaled(SocketAddr::new(address, remote.port));
            remote.kind = kind.unwrap_or(remote.kind);
        }
        [local, remote]
    });
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Snapshot {
        pair: selected_pair(&mut entries, selected),
        video_bytes_sent: rtp_bytes(&entries, "outbound-rtp", ["bytesSent", "headerBytesSent"])
            .unwrap_or_else(|| get(&counters.rtp_bytes_sent)),
        video_bytes_received: rtp_bytes(
            &entries,
            "inbound-rtp",
            ["bytesReceived", "headerBytesReceived"],
        )
        .unwrap_or_else(|| get(&counters.rtp_bytes_received)),
        report: entries,
        data_bytes_sent: control.bytes_sent,
        data_bytes_received: control.bytes_received,
    }
}

/// Payload and header bytes of all streams in one direction, so that the displayed total agrees with getStats. `None`
/// until there is a stream.
fn rtp_bytes(entries: &Map<String, Value>, kind: &'static str, names: [&str; 2]) -> Option<u64> {
    let bytes = entries_of(entries, kind).map(|stream| {
        names.iter().filter_map(|name| stream.get(*name)?.as_u64()).fold(0, u64::saturating_add)
    });
    bytes.reduce(u64::saturating_add)
}

fn to_json(entry: &rtc::statistics::report::RTCStatsReportEntry) -> Option<Value> {
    use rtc::statistics::report::RTCStatsReportEntry as Entry;
    let value = match entry {
        Entry::PeerConnection(stats) => serde_json::to_value(stats),
        Entry::Transport(stats) => serde_json::to_value(stats),
        Entry::IceCandidatePair(stats) => serde_json::to_value(stats),
        Entry::LocalCandidate(stats) | Entry::RemoteCandidate(stats) => serde_json::to_value(stats),
        Entry::Certificate(stats) => serde_json::to_value(stats),
        Entry::Codec(stats) => serde_json::to_value(stats),
        Entry::DataChannel(stats) => serde_json::to_value(stats),
        Entry::InboundRtp(stats) => serde_json::to_value(stats),
        Entry::OutboundRtp(stats) => serde_json::to_value(stats),
        Entry::RemoteInboundRtp(stats) => serde_json::to_value(stats),
        Entry::RemoteOutboundRtp(stats) => serde_json::to_value(stats),
        _ => return None,
    };
    value.ok()
}

/// Completes the candidate ids in the crate's pairs, which lack the prefix of the candidates' own ids.
fn link_candidates(entries: &mut Map<String, Value>) {
    let ids: Vec<String> = entries.keys().cloned().collect();
    for value in entries.values_mut() {
        for key in ["localCandidateId", "remoteCandidateId"] {
            let Some(name) = value.get(key).and_then(Value::as_str) else { continue };
            if name.is_empty() || ids.iter().any(|id| id == name) {
                continue;
            }
            let local = key.starts_with("local");
            let found = ids.iter().find(|id| {
                id.ends_with(name)
                    && id.to_lowercase().contains(if local { "local" } else { "remote" })
            });
            if let Some(id) = found {
                value[key] = json!(id);
            }
        }
    }
}

fn entries_of<'a>(
    entries: &'a Map<String, Value>,
    kind: &'static str,
) -> impl Iterator<Item = &'a Value> {
    entries.values().filter(move |v| v.get("type").and_then(Value::as_str) == Some(kind))
}

/// Id of the selected pair's entry.
fn selected_id(entries: &Map<String, Value>) -> Option<String> {
    let reported = entries_of(entries, "transport")
        .filter_map(|transport| transport.get("selectedCandidatePairId")?.as_str())
        .find(|id| entries.contains_key(*id));
    let found = reported.or_else(|| {
        entries_of(entries, "candidate-pair")
            .find(|pair| pair["nominated"] == json!(true) && pair["state"] == json!("succeeded"))
            .and_then(|pair| pair["id"].as_str())
    });
    found.map(str::to_owned)
}

/// The selected pair as the report describes it: without a data channel the crate offers no other access to it
/// until the first media packet. A peer-reflexive candidate is not in the report.
fn described(entries: &Map<String, Value>) -> Option<[CandidateStats; 2]> {
    let pair = &entries[&selected_id(entries)?];
    let candidate = |key: &str| {
        let candidate = entries.get(pair[key].as_str()?)?;
        Some(CandidateStats {
            kind: candidate["candidateType"].as_str()?.parse().ok()?,
            address: candidate["address"].as_str()?.to_owned(),
            port: candidate["port"].as_u64()?.try_into().ok()?,
        })
    };
    Some([candidate("localCandidateId")?, candidate("remoteCandidateId")?])
}

/// The type of a candidate, judged by all candidates at the same end with the same address.
fn true_kind(
    entries: &Map<String, Value>,
    side: &'static str,
    candidate: &CandidateStats,
) -> CandidateType {
    if matches!(candidate.kind, CandidateType::Host | CandidateType::Relay) {
        return candidate.kind;
    }
    entries_of(entries, side)
        .filter(|c| c["address"] == json!(candidate.address) && c["port"] == json!(candidate.port))
        .filter_map(|c| c["candidateType"].as_str()?.parse().ok())
        // Another peer-reflexive candidate adds no information.
        .filter(|kind| *kind != CandidateType::Prflx)
        .min()
        .unwrap_or(candidate.kind)
}

/// Describes the selected pair, and adds the entry of its remote candidate if the crate omitted it: a check that
/// arrived before the candidate was signaled makes it peer reflexive. Its type is then that of another candidate with
/// the same address (RFC 8445 §7.3.1.3). A host candidate takes precedence over all others: a reflexive candidate
/// with the same address only shows that there is no NAT (§5.1.3).
fn selected_pair(
    entries: &mut Map<String, Value>,
    selected: Option<[CandidateStats; 2]>,
) -> Option<SelectedPair> {
    let [mut local, mut remote] = selected?;
    let id = selected_id(entries);
    let rtt = id.as_ref().and_then(|id| entries[id]["currentRoundTripTime"].as_f64());
    if let Some(id) = id
        && let Some(name) = entries[&id]["remoteCandidateId"].as_str().map(str::to_owned)
        && !name.is_empty()
        && !entries.contains_key(&name)
    {
        let timestamp = entries[&id]["timestamp"].clone();
        let entry = json!({
            "id": name, "type": "remote-candidate", "timestamp": timestamp,
            "transportId": "RTCTransport", "candidateType": remote.kind,
            "address": remote.address, "port": remote.port, "protocol": "udp",
        });
        entries.insert(name, entry);
    }
    local.kind = true_kind(entries, "local-candidate", &local);
    remote.kind = true_kind(entries, "remote-candidate", &remote);
    let relay = relay_transport(entries, &local);
    Some(SelectedPair {
        connection: ConnectionType::judge(local.kind, remote.kind, relay),
        local: local.kind,
        remote: remote.kind,
        local_address: local.socket(),
        remote_address: remote.socket(),
        current_round_trip_time: rtt.filter(|rtt| *rtt > 0.0),
    })
}

/// Logs the selected pair, if it has changed.
pub(super) fn log_selection(before: Option<&SelectedPair>, now: Option<&SelectedPair>) {
    let ends = |pair: &SelectedPair| (pair.local_address.clone(), pair.remote_address.clone());
    let Some(pair) = now.filter(|now| before.map(ends) != Some(ends(now))) else { return };
    tracing::info!(
        "selected pair: {} {} to {} {}, {}",
        pair.local.as_str(),
        pair.local_address,
        pair.remote.as_str(),
        pair.remote_address,
        pair.connection
    );
}

/// The transport to the server that relays our candidate.
fn relay_transport(
    entries: &Map<String, Value>,
    candidate: &CandidateStats,
) -> Option<RelayTransport> {
    entries_of(entries, "local-candidate")
        .find(|c| {
            c["candidateType"] == json!("relay")
                && c["address"] == json!(candidate.address)
                && c["port"] == json!(candidate.port)
        })
        .and_then(|c| serde_json::from_value(c["relayProtocol"].clone()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proto::token::IceServer, tls::Trust};

    #[test]
    fn a_relayed_candidate_has_the_url_and_transport_of_its_server() {
        let urls = ["turn:t:3478", "turn:t:80?transport=tcp", "turns:t"].map(str::to_owned);
        let server = IceServer { urls: urls.to_vec(), username: None, credential: None };
        let streams = StreamServers::new(&[server], Trust::web(), None);
        let mut entries = Map::new();
        let reported = [
            ("turn:t:3478?transport=udp", "udp", "turn:t:3478?transport=udp"),
            ("turn:relay-1.invalid:80?transport=udp", "tcp", &urls[1]),
            ("turn:relay-2.invalid:5349?transport=udp", "tls", &urls[2]),
        ];
        for (port, (url, protocol, configured)) in (5000..).zip(reported) {
            let mut value = json!({"id": protocol, "type": "local-candidate", "url": url,
                "candidateType": "relay", "address": "192.0.2.1", "port": port});
            assert!(values::normalize(&mut value, &streams, &RtpCounters::default()));
            assert_eq!(
                (&value["url"], &value["relayProtocol"]),
                (&json!(configured), &json!(protocol))
            );
            entries.insert(protocol.into(), value);
        }
        let ours = candidate(CandidateType::Relay, "192.0.2.1", 5002);
        let theirs = candidate(CandidateType::Host, "10.0.0.2", 6000);
        let pair = selected_pair(&mut entries, Some([ours, theirs])).unwrap();
        assert_eq!(pair.connection, ConnectionType::Relay(Some(RelayTransport::Tls)));
    }

    fn candidate(kind: CandidateType, address: &str, port: u16) -> CandidateStats {
        CandidateStats { kind, address: address.into(), port }
    }

    #[test]
    fn a_peer_reflexive_candidate_has_the_signaled_type_of_its_address() {
        let mut entries: Map<String, Value> = serde_json::from_value(json!({
            "R1": {"id": "R1", "type": "remote-candidate", "candidateType": "prflx",
                "address": "192.0.2.9", "port": 50000},
            "R2": {"id": "R2", "type": "remote-candidate", "candidateType": "relay",
                "address": "192.0.2.9", "port": 50000},
        }))
        .unwrap();
        let ours = || candidate(CandidateType::Host, "10.0.0.1", 6000);
        let theirs = |port| candidate(CandidateType::Prflx, "192.0.2.9", port);
        let pair = selected_pair(&mut entries, Some([ours(), theirs(50_000)])).unwrap();
        assert_eq!(
            (pair.remote, pair.connection),
            (CandidateType::Relay, ConnectionType::Relay(None))
        );
        let pair = selected_pair(&mut entries, Some([ours(), theirs(50_001)])).unwrap();
        assert_eq!((pair.remote, pair.connection), (CandidateType::Prflx, ConnectionType::Srflx));
    }

    #[test]
    fn the_report_alone_describes_the_pair() {
        let mut entries: Map<String, Value> = serde_json::from_value(json!({
            "P": {"id": "P", "type": "candidate-pair", "nominated": true, "state": "succeeded",
                "localCandidateId": "L", "remoteCandidateId": "R"},
            "L": {"id": "L", "type": "local-candidate", "candidateType": "host",
                "address": "10.0.0.1", "port": 6000},
            "R": {"id": "R", "type": "remote-candidate", "candidateType": "relay",
                "address": "192.0.2.9", "port": 50000},
        }))
        .unwrap();
        let ours = candidate(CandidateType::Host, "10.0.0.1", 6000);
        let theirs = candidate(CandidateType::Relay, "192.0.2.9", 50_000);
        assert_eq!(described(&entries), Some([ours, theirs]));
        entries.remove("R");
        assert_eq!(described(&entries), None);
    }

    #[test]
    fn the_pair_is_found_despite_shortened_ids_and_missing_candidates() {
        let mut entries: Map<String, Value> = serde_json::from_value(json!({
            "P1": {"id": "P1", "type": "candidate-pair", "nominated": true, "state": "succeeded",
                "localCandidateId": "abc", "remoteCandidateId": "ghi", "currentRoundTripTime": 0.01},
            "RTCLocalIceCandidate_abc": {"id": "RTCLocalIceCandidate_abc", "type": "local-candidate",
                "candidateType": "host", "address": "10.0.0.1", "port": 5000},
            "RTCRemoteIceCandidate_def": {"id": "RTCRemoteIceCandidate_def", "type": "remote-candidate",
                "candidateType": "host", "address": "10.0.0.2", "port": 6000},
        }))
        .unwrap();
        link_candidates(&mut entries);
        assert_eq!(entries["P1"]["localCandidateId"], "RTCLocalIceCandidate_abc");
        let local = candidate(CandidateType::Host, "10.0.0.1", 5000);
        let early = candidate(CandidateType::Prflx, "10.0.0.2", 6000);
        let pair = selected_pair(&mut entries, Some([local.clone(), early])).unwrap();
        assert_eq!(pair.connection, ConnectionType::Host);
        assert_eq!(pair.current_round_trip_time, Some(0.01));
        assert_eq!(entries["ghi"]["candidateType"], "prflx");
        let other = candidate(CandidateType::Prflx, "::1", 6000);
        let pair = selected_pair(&mut entries, Some([local, other])).unwrap();
        assert_eq!(pair.connection, ConnectionType::Srflx);
        assert_eq!(pair.remote_address, "[::1]:6000");
    }
}
