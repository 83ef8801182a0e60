//! getStats with the names of W3C webrtc-stats, as JSON.
//!
//! What the `rtc` crate leaves at zero is filled from our own counts or left out, and what it
//! writes in other units is put right: times in seconds, candidate ids that can be looked up.

use std::sync::{Arc, atomic::Ordering};

use rtc::statistics::report::RTCStatsReport;
use serde_json::{Map, Value, json};

use super::{control::ControlCounters, tap::TapCounters};
use crate::types::{CandidateType, ConnectionType, RelayTransport};

/// RTP clock of H.264 (RFC 6184 §5.1), Hz.
const VIDEO_CLOCK: f64 = 90_000.0;

/// A getStats report and the figures most asked for.
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
    /// The other side's candidate's type.
    pub remote: CandidateType,
    /// Our candidate's address and port.
    pub local_address: String,
    /// The other side's candidate's address and port.
    pub remote_address: String,
    /// Round-trip time of the last STUN check, seconds.
    pub current_round_trip_time: Option<f64>,
}

pub(super) fn snapshot(
    report: &RTCStatsReport,
    tap: &Arc<TapCounters>,
    control: ControlCounters,
) -> Snapshot {
    let mut entries = Map::new();
    for entry in report.iter() {
        let Some(mut value) = to_json(entry) else { continue };
        mend(&mut value, tap);
        if let Some(id) = value.get("id").and_then(Value::as_str).map(str::to_owned) {
            entries.insert(id, value);
        }
    }
    link_candidates(&mut entries);
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Snapshot {
        pair: selected_pair(&entries),
        report: entries,
        video_bytes_sent: get(&tap.rtp_bytes_sent),
        video_bytes_received: get(&tap.rtp_bytes_received),
        data_bytes_sent: control.bytes_sent,
        data_bytes_received: control.bytes_received,
    }
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

/// Puts right what the crate writes in its own way, by type.
fn mend(value: &mut Value, tap: &TapCounters) {
    let Some(kind) = value.get("type").and_then(Value::as_str).map(str::to_owned) else { return };
    let Some(stats) = value.as_object_mut() else { return };
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let seconds = |ticks: Option<Value>| {
        ticks.and_then(|v| v.as_f64()).map_or(Value::Null, |v| json!(v / VIDEO_CLOCK))
    };
    match kind.as_str() {
        "candidate-pair" => {
            drop_zero(stats, &["availableOutgoingBitrate", "availableIncomingBitrate"]);
        }
        "local-candidate" | "remote-candidate" => {
            // 32-bit priorities are cut to 16 bits, the relay protocol is never told.
            stats.remove("priority");
            stats.remove("relayProtocol");
            if kind == "local-candidate" && stats.get("candidateType") == Some(&json!("relay")) {
                stats.insert("relayProtocol".into(), json!("udp"));
            }
            drop_empty(stats, &["url", "relatedAddress", "tcpType", "usernameFragment"]);
        }
        "inbound-rtp" => {
            let jitter = seconds(stats.remove("jitter"));
            stats.insert("jitter".into(), jitter);
            stats.insert("nackCount".into(), json!(get(&tap.nacks_sent)));
            stats.insert("pliCount".into(), json!(get(&tap.plis_sent)));
            drop_zero_numbers(stats);
        }
        "outbound-rtp" => {
            stats.insert("nackCount".into(), json!(get(&tap.nacks_received)));
            stats.insert("pliCount".into(), json!(get(&tap.plis_received)));
            stats.insert("firCount".into(), json!(get(&tap.firs_received)));
            stats.insert("retransmittedPacketsSent".into(), json!(get(&tap.packets_nacked)));
            drop_zero_numbers(stats);
        }
        "remote-inbound-rtp" => {
            let jitter = seconds(stats.remove("jitter"));
            stats.insert("jitter".into(), jitter);
            stats.insert("packetsLost".into(), json!(get(&tap.remote_packets_lost)));
            drop_zero(stats, &["roundTripTime", "totalRoundTripTime"]);
        }
        _ => {}
    }
}

/// Counts that are really zero, and so stay.
const TRUE_ZEROS: [&str; 10] = [
    "nackCount",
    "pliCount",
    "firCount",
    "retransmittedPacketsSent",
    "packetsLost",
    "packetsSent",
    "packetsReceived",
    "bytesSent",
    "bytesReceived",
    "jitter",
];

/// Leaves out numbers that are zero because the crate does not count them.
fn drop_zero_numbers(stats: &mut Map<String, Value>) {
    stats.retain(|key, value| {
        value.as_f64() != Some(0.0) || TRUE_ZEROS.contains(&key.as_str()) || key == "ssrc"
    });
}

fn drop_zero(stats: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        if stats.get(*key).and_then(Value::as_f64) == Some(0.0) {
            stats.remove(*key);
        }
    }
}

fn drop_empty(stats: &mut Map<String, Value>, keys: &[&str]) {
    for key in keys {
        if stats.get(*key).is_some_and(|v| v.is_null() || v == "" || v == "unspecified") {
            stats.remove(*key);
        }
    }
}

/// The crate's pairs name their candidates without the prefix of the candidates' own ids.
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

fn selected_pair(entries: &Map<String, Value>) -> Option<SelectedPair> {
    let of_type = |kind: &'static str| {
        entries.values().filter(move |v| v.get("type").and_then(Value::as_str) == Some(kind))
    };
    let selected = of_type("transport")
        .filter_map(|transport| transport.get("selectedCandidatePairId")?.as_str())
        .find_map(|id| entries.get(id));
    let pair = selected.or_else(|| {
        of_type("candidate-pair")
            .find(|pair| pair["nominated"] == json!(true) && pair["state"] == json!("succeeded"))
    })?;
    let candidate = |key: &str| entries.get(pair.get(key)?.as_str()?);
    let local = candidate("localCandidateId")?;
    let remote = candidate("remoteCandidateId")?;
    let kind = |c: &Value| c.get("candidateType")?.as_str()?.parse::<CandidateType>().ok();
    let address = |c: &Value| {
        let port = c.get("port").and_then(Value::as_u64).unwrap_or(0);
        match c.get("address").and_then(Value::as_str) {
            Some(ip) if ip.contains(':') => format!("[{ip}]:{port}"),
            Some(ip) => format!("{ip}:{port}"),
            None => String::new(),
        }
    };
    let (local_kind, remote_kind) = (kind(local)?, kind(remote)?);
    Some(SelectedPair {
        connection: ConnectionType::judge(local_kind, remote_kind, Some(RelayTransport::Udp)),
        local: local_kind,
        remote: remote_kind,
        local_address: address(local),
        remote_address: address(remote),
        current_round_trip_time: pair
            .get("currentRoundTripTime")
            .and_then(Value::as_f64)
            .filter(|rtt| *rtt > 0.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_is_found_although_the_crate_shortens_ids() {
        let mut entries: Map<String, Value> = serde_json::from_value(json!({
            "P1": {"id": "P1", "type": "candidate-pair", "nominated": true, "state": "succeeded",
                "localCandidateId": "abc", "remoteCandidateId": "def", "currentRoundTripTime": 0.01},
            "RTCLocalIceCandidate_abc": {"id": "RTCLocalIceCandidate_abc", "type": "local-candidate",
                "candidateType": "host", "address": "10.0.0.1", "port": 5000},
            "RTCRemoteIceCandidate_def": {"id": "RTCRemoteIceCandidate_def", "type": "remote-candidate",
                "candidateType": "relay", "address": "::1", "port": 6000},
        }))
        .unwrap();
        link_candidates(&mut entries);
        let pair = selected_pair(&entries).unwrap();
        assert_eq!(pair.connection, ConnectionType::Relay(None));
        assert_eq!(pair.remote_address, "[::1]:6000");
        assert_eq!(pair.current_round_trip_time, Some(0.01));
    }

    #[test]
    fn uncounted_zeros_are_left_out_and_jitter_is_in_seconds() {
        let mut value = json!({"id": "i", "type": "inbound-rtp", "ssrc": 5, "jitter": 900.0,
            "framesReceived": 0, "packetsLost": 0, "packetsReceived": 12});
        mend(&mut value, &TapCounters::default());
        assert_eq!(value["jitter"], json!(0.01));
        assert!(value.get("framesReceived").is_none());
        assert_eq!(value["packetsLost"], json!(0));
    }
}
