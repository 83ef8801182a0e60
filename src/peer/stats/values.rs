//! Puts right what the `rtc` crate (0.21.1, `src/statistics`) writes into stats objects: a value is as W3C
//! has it, or it is left out.
//!
//! The crate writes all fields of an object. Those it never counts are zero, empty or the present time, and
//! nothing tells them from measured ones but the lists below.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::super::{streams::StreamServers, tap::TapCounters};
use crate::types::RelayTransport;

/// RTP clock of H.264 (RFC 6184 §5.1), Hz.
const VIDEO_CLOCK: f64 = 90_000.0;

/// Numbers of RTP streams that are counted, so that a zero is one.
const COUNTED: [&str; 12] = [
    "ssrc",
    "nackCount",
    "pliCount",
    "firCount",
    "retransmittedPacketsSent",
    "packetsLost",
    "packetsSent",
    "packetsReceived",
    "bytesSent",
    "bytesReceived",
    "headerBytesSent",
    "headerBytesReceived",
];

/// Corrects an object; false for one of a kind that W3C has only once something is known.
pub(super) fn correct(value: &mut Value, streams: &StreamServers, tap: &TapCounters) -> bool {
    let Some(kind) = value.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return true;
    };
    let Some(stats) = value.as_object_mut() else { return true };
    in_milliseconds(stats);
    if kind.ends_with("-rtp") {
        rtp(&kind, stats, tap);
        if !tap.reports.write(&kind, stats, VIDEO_CLOCK) {
            return false;
        }
    }
    match kind.as_str() {
        "certificate" => certificate(stats),
        "candidate-pair" => pair(stats),
        "local-candidate" | "remote-candidate" => candidate(&kind, stats, streams),
        // Of sound only.
        "codec" => drop_zero(stats, &["channels"]),
        "transport" => transport(stats),
        _ => {}
    }
    stats.retain(|_, value| match value {
        Value::String(text) => !text.is_empty() && text != "Unspecified",
        Value::Object(fields) => !fields.is_empty(),
        value => !value.is_null(),
    });
    true
}

/// The crate writes seconds; W3C `DOMHighResTimeStamp` is in milliseconds.
fn in_milliseconds(stats: &mut Map<String, Value>) {
    let is_time = |key: &str| key == "timestamp" || key.ends_with("Timestamp");
    for (_, time) in stats.iter_mut().filter(|(key, _)| is_time(key)) {
        *time = time.as_f64().map_or(Value::Null, |seconds| json!((seconds * 1e6).round() / 1e3));
    }
}

fn rtp(kind: &str, stats: &mut Map<String, Value>, tap: &TapCounters) {
    retransmitted(kind, stats);
    let mut put = |key: &str, counter: &AtomicU64| {
        stats.insert(key.to_owned(), json!(counter.load(Ordering::Relaxed)));
    };
    match kind {
        "inbound-rtp" => {
            put("nackCount", &tap.nacks_sent);
            put("pliCount", &tap.plis_sent);
            // The present time; false and zero whatever decodes.
            drop_all(stats, &["estimatedPlayoutTimestamp", "powerEfficientDecoder"]);
            drop_unless_positive(stats, "packetsReceived", &["lastPacketReceivedTimestamp"]);
        }
        "outbound-rtp" => {
            put("nackCount", &tap.nacks_received);
            put("pliCount", &tap.plis_received);
            put("firCount", &tap.firs_received);
            put("retransmittedPacketsSent", &tap.retransmissions_sent);
            // Always `none` and false, also for a picture that was made smaller.
            drop_all(stats, &["powerEfficientEncoder", "qualityLimitationReason"]);
        }
        // A report says what was lost, not what came; the other one is `packetsLost` without its sign.
        "remote-inbound-rtp" => drop_all(stats, &["packetsReceived", "packetsReportedAsLost"]),
        _ => {}
    }
    stats.retain(|key, value| value.as_f64() != Some(0.0) || COUNTED.contains(&key.as_str()));
}

/// Counts what was sent again on a stream of its own with the stream that it repairs, as W3C does. The crate names such
/// a stream also when the peer did not agree on it.
fn retransmitted(kind: &str, stats: &mut Map<String, Value>) {
    let count = |stats: &Map<String, Value>, key: &str| {
        stats.get(key).and_then(Value::as_u64).unwrap_or_default()
    };
    let direction = if kind == "outbound-rtp" { "Sent" } else { "Received" };
    let packets = count(stats, &format!("retransmittedPackets{direction}"));
    if packets == 0 {
        stats.remove("rtxSsrc");
    } else if direction == "Sent" {
        let bytes = count(stats, "retransmittedBytesSent");
        // The header extension is as long as that of any other packet.
        let headers =
            count(stats, "headerBytesSent") * packets / count(stats, "packetsSent").max(1);
        for (key, more) in
            [("packetsSent", packets), ("bytesSent", bytes), ("headerBytesSent", headers)]
        {
            let sum = count(stats, key).saturating_add(more);
            stats.insert(key.into(), json!(sum));
        }
    }
}

/// The crate has no base64 and writes hexadecimal; RFC 4572 §5 has fingerprints in upper case.
fn certificate(stats: &mut Map<String, Value>) {
    let der = stats.remove("base64Certificate");
    if let Some(der) = der.as_ref().and_then(Value::as_str).and_then(from_hex) {
        stats.insert("base64Certificate".into(), json!(STANDARD.encode(der)));
    }
    if let Some(Value::String(fingerprint)) = stats.get_mut("fingerprint") {
        fingerprint.make_ascii_uppercase();
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, odd) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<_>>().filter(|_| odd.is_empty())
}

fn pair(stats: &mut Map<String, Value>) {
    drop_all(stats, &["packetsDiscardedOnSend", "bytesDiscardedOnSend"]);
    drop_zero(stats, &["availableOutgoingBitrate", "availableIncomingBitrate"]);
    drop_zero(stats, &["currentRoundTripTime", "totalRoundTripTime"]);
    drop_unless_positive(stats, "packetsSent", &["lastPacketSentTimestamp"]);
    drop_unless_positive(stats, "packetsReceived", &["lastPacketReceivedTimestamp"]);
}

fn candidate(kind: &str, stats: &mut Map<String, Value>, streams: &StreamServers) {
    // 32-bit priorities are cut to 16 bits, and the relay protocol is never written.
    drop_all(stats, &["priority", "relayProtocol"]);
    drop_zero(stats, &["relatedPort"]);
    if kind == "local-candidate" && stats.get("candidateType") == Some(&json!("relay")) {
        name_relay(stats, streams);
    }
}

/// Writes the URL of a relayed candidate's server as configured, and the transport to it.
fn name_relay(stats: &mut Map<String, Value>, streams: &StreamServers) {
    let told = stats.get("url").and_then(Value::as_str).and_then(|url| streams.configured(url));
    let transport = told.map_or(RelayTransport::Udp, |(_, transport)| transport);
    if let Some((url, _)) = told {
        stats.insert("url".into(), json!(url));
    }
    stats.insert("relayProtocol".into(), json!(transport));
}

fn transport(stats: &mut Map<String, Value>) {
    drop_zero(stats, &["ccfbMessagesReceived", "ccfbMessagesSent"]);
    if stats.get("tlsVersion") == Some(&json!("DTLS 1.2")) {
        // W3C has the two bytes of the version field (RFC 6347 §4.1).
        stats.insert("tlsVersion".into(), json!("FEFD"));
    }
}

fn drop_all(stats: &mut Map<String, Value>, keys: &[&str]) {
    stats.retain(|key, _| !keys.contains(&key.as_str()));
}

fn drop_zero(stats: &mut Map<String, Value>, keys: &[&str]) {
    stats.retain(|key, value| value.as_f64() != Some(0.0) || !keys.contains(&key.as_str()));
}

/// Drops what means nothing as long as `count` is zero.
fn drop_unless_positive(stats: &mut Map<String, Value>, count: &str, keys: &[&str]) {
    if stats.get(count).and_then(Value::as_f64).is_none_or(|count| count <= 0.0) {
        drop_all(stats, keys);
    }
}

/// Fields that name another object.
const REFERENCES: [&str; 6] = [
    "remoteId",
    "localId",
    "codecId",
    "localCertificateId",
    "remoteCertificateId",
    "issuerCertificateId",
];

/// Leaves out the names of objects that are not there, and names the transport of codecs, which the crate
/// does not.
pub(super) fn connect(entries: &mut Map<String, Value>) {
    let of_type = |kind: &str| {
        let mut found = entries.iter().filter(|(_, stats)| stats["type"] == kind);
        found.next().map(|(id, _)| id.clone())
    };
    let transport = of_type("transport");
    let ids: std::collections::HashSet<String> = entries.keys().cloned().collect();
    for stats in entries.values_mut().filter_map(Value::as_object_mut) {
        stats.retain(|key, value| {
            !REFERENCES.contains(&key.as_str()) || value.as_str().is_some_and(|id| ids.contains(id))
        });
        if stats.get("type") == Some(&json!("codec"))
            && let Some(transport) = &transport
        {
            stats.insert("transportId".into(), json!(transport));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::stream::Trust;

    fn corrected(mut value: Value) -> Value {
        let streams = StreamServers::new(&[], Trust::web(), None);
        assert!(correct(&mut value, &streams, &TapCounters::default()), "{value}");
        value
    }

    #[test]
    fn certificates_are_base64_of_der() {
        let value = json!({"id": "c", "type": "certificate", "fingerprint": "0a:ff",
            "fingerprintAlgorithm": "sha-256", "base64Certificate": "30820166",
            "issuerCertificateId": ""});
        let right = json!({"id": "c", "type": "certificate", "fingerprint": "0A:FF",
            "fingerprintAlgorithm": "sha-256", "base64Certificate": "MIIBZg=="});
        assert_eq!(corrected(value), right);
        for wrong in ["308", "3x", "MIIB"] {
            let value = json!({"type": "certificate", "base64Certificate": wrong});
            assert_eq!(corrected(value), json!({"type": "certificate"}), "{wrong}");
        }
    }

    /// As the crate writes them before anything was counted.
    #[test]
    fn what_is_not_known_is_left_out() {
        for (value, right) in [
            (
                json!({"type": "outbound-rtp", "ssrc": 5, "active": true, "encoderImplementation": "",
                    "mediaSourceId": "", "powerEfficientEncoder": false, "psnrSum": {}, "framesSent": 0,
                    "qualityLimitationReason": "none", "targetBitrate": 0.0, "packetsSent": 0}),
                json!({"type": "outbound-rtp", "ssrc": 5, "active": true, "packetsSent": 0,
                    "nackCount": 0, "pliCount": 0, "firCount": 0, "retransmittedPacketsSent": 0}),
            ),
            (
                json!({"type": "inbound-rtp", "ssrc": 5, "playoutId": "", "jitter": 0.0,
                    "powerEfficientDecoder": false, "estimatedPlayoutTimestamp": 1.7e9,
                    "lastPacketReceivedTimestamp": 1.7e9, "packetsReceived": 0, "framesDecoded": 0}),
                json!({"type": "inbound-rtp", "ssrc": 5, "packetsReceived": 0, "nackCount": 0,
                    "pliCount": 0}),
            ),
            (
                json!({"type": "candidate-pair", "packetsDiscardedOnSend": 0, "packetsSent": 0,
                    "lastPacketSentTimestamp": 1.7e9, "currentRoundTripTime": 0.0,
                    "packetsReceived": 3, "lastPacketReceivedTimestamp": 1.7e9}),
                json!({"type": "candidate-pair", "packetsSent": 0, "packetsReceived": 3,
                    "lastPacketReceivedTimestamp": 1.7e12}),
            ),
            (
                json!({"type": "transport", "tlsVersion": "DTLS 1.2", "iceLocalUsernameFragment": ""}),
                json!({"type": "transport", "tlsVersion": "FEFD"}),
            ),
            (
                json!({"type": "local-candidate", "candidateType": "host", "relatedPort": 0,
                    "priority": 3, "url": ""}),
                json!({"type": "local-candidate", "candidateType": "host"}),
            ),
        ] {
            assert_eq!(corrected(value), right);
        }
        let streams = StreamServers::new(&[], Trust::web(), None);
        for kind in ["remote-inbound-rtp", "remote-outbound-rtp"] {
            let mut value =
                json!({"type": kind, "ssrc": 5, "packetsReceived": 0, "packetsSent": 0});
            assert!(!correct(&mut value, &streams, &TapCounters::default()), "{kind}");
        }
    }

    #[test]
    fn objects_name_only_others_that_are_there() {
        let mut entries: Map<String, Value> = serde_json::from_value(json!({
            "T": {"type": "transport"},
            "C": {"type": "codec"},
            "O": {"type": "outbound-rtp", "codecId": "C", "remoteId": "none"},
        }))
        .unwrap();
        connect(&mut entries);
        assert_eq!(entries["O"], json!({"type": "outbound-rtp", "codecId": "C"}));
        assert_eq!(entries["C"]["transportId"], "T");
    }
}
