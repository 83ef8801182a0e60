//! Normalizes stats objects of the `rtc` crate (0.21.1, `src/statistics`): each value follows W3C or is omitted.
//!
//! The crate writes all fields of an object. Fields that it never counts are zero, empty or the current time, and
//! only the lists below distinguish them from measured values.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::super::{rtp_observer::RtpCounters, streams::StreamServers};
use crate::types::RelayTransport;

/// RTP clock of H.264 (RFC 6184 §5.1), Hz.
const VIDEO_CLOCK: f64 = 90_000.0;

/// Values of RTP streams that the crate or we actually count, so that a zero is meaningful.
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

/// Normalizes an object. False if W3C defines the object only once data exists for it, and none does.
pub(super) fn normalize(
    value: &mut Value,
    streams: &StreamServers,
    counters: &RtpCounters,
) -> bool {
    let Some(kind) = value.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return true;
    };
    let Some(stats) = value.as_object_mut() else { return true };
    in_milliseconds(stats);
    if kind.ends_with("-rtp") {
        rtp(&kind, stats, counters);
        if !counters.reports.write(&kind, stats, VIDEO_CLOCK) {
            return false;
        }
    }
    match kind.as_str() {
        "certificate" => certificate(stats),
        "candidate-pair" => pair(stats),
        "local-candidate" | "remote-candidate" => candidate(&kind, stats, streams),
        // Only audio has channels.
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

/// Converts the crate's seconds: W3C `DOMHighResTimeStamp` is in milliseconds.
fn in_milliseconds(stats: &mut Map<String, Value>) {
    let is_time = |key: &str| key == "timestamp" || key.ends_with("Timestamp");
    for (_, time) in stats.iter_mut().filter(|(key, _)| is_time(key)) {
        *time = time.as_f64().map_or(Value::Null, |seconds| json!((seconds * 1e6).round() / 1e3));
    }
}

fn rtp(kind: &str, stats: &mut Map<String, Value>, counters: &RtpCounters) {
    retransmitted(kind, stats);
    let mut insert = |key: &str, counter: &AtomicU64| {
        stats.insert(key.to_owned(), json!(counter.load(Ordering::Relaxed)));
    };
    match kind {
        "inbound-rtp" => {
            insert("nackCount", &counters.nacks_sent);
            insert("pliCount", &counters.plis_sent);
            // The crate writes the current time, and false regardless of the decoder.
            drop_all(stats, &["estimatedPlayoutTimestamp", "powerEfficientDecoder"]);
            drop_unless_positive(stats, "packetsReceived", &["lastPacketReceivedTimestamp"]);
        }
        "outbound-rtp" => {
            insert("nackCount", &counters.nacks_received);
            insert("pliCount", &counters.plis_received);
            insert("firCount", &counters.firs_received);
            insert("retransmittedPacketsSent", &counters.retransmissions_sent);
            // Always false and `none`, even for a picture that was scaled down.
            drop_all(stats, &["powerEfficientEncoder", "qualityLimitationReason"]);
        }
        // A report counts losses, not arrivals; the second field is `packetsLost` without its sign.
        "remote-inbound-rtp" => drop_all(stats, &["packetsReceived", "packetsReportedAsLost"]),
        _ => {}
    }
    stats.retain(|key, value| value.as_f64() != Some(0.0) || COUNTED.contains(&key.as_str()));
}

/// Adds retransmissions on a separate stream to the stream that they repair, as W3C does. The crate names such a
/// stream even if the peer did not agree on it.
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

/// Converts hexadecimal to base64, which the crate lacks, and fingerprints to upper case (RFC 4572 §5).
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
    // The crate truncates 32-bit priorities to 16 bits and never writes the relay protocol.
    drop_all(stats, &["priority", "relayProtocol"]);
    drop_zero(stats, &["relatedPort"]);
    if kind == "local-candidate" && stats.get("candidateType") == Some(&json!("relay")) {
        name_relay(stats, streams);
    }
}

/// Writes the URL of a relayed candidate's server as configured, and the transport to it.
fn name_relay(stats: &mut Map<String, Value>, streams: &StreamServers) {
    let configured =
        stats.get("url").and_then(Value::as_str).and_then(|url| streams.configured(url));
    let transport = configured.map_or(RelayTransport::Udp, |(_, transport)| transport);
    if let Some((url, _)) = configured {
        stats.insert("url".into(), json!(url));
    }
    stats.insert("relayProtocol".into(), json!(transport));
}

fn transport(stats: &mut Map<String, Value>) {
    drop_zero(stats, &["ccfbMessagesReceived", "ccfbMessagesSent"]);
    if stats.get("tlsVersion") == Some(&json!("DTLS 1.2")) {
        // W3C requires the two bytes of the version field (RFC 6347 §4.1).
        stats.insert("tlsVersion".into(), json!("FEFD"));
    }
}

fn drop_all(stats: &mut Map<String, Value>, keys: &[&str]) {
    stats.retain(|key, _| !keys.contains(&key.as_str()));
}

fn drop_zero(stats: &mut Map<String, Value>, keys: &[&str]) {
    stats.retain(|key, value| value.as_f64() != Some(0.0) || !keys.contains(&key.as_str()));
}

/// Drops values that are meaningless as long as `count` is zero.
fn drop_unless_positive(stats: &mut Map<String, Value>, count: &str, keys: &[&str]) {
    if stats.get(count).and_then(Value::as_f64).is_none_or(|count| count <= 0.0) {
        drop_all(stats, keys);
    }
}

/// Fields that refer to another object.
const REFERENCES: [&str; 6] = [
    "remoteId",
    "localId",
    "codecId",
    "localCertificateId",
    "remoteCertificateId",
    "issuerCertificateId",
];

/// Removes references to missing objects, and adds the transport of codecs, which the crate omits.
pub(super) fn link_objects(entries: &mut Map<String, Value>) {
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
    use crate::tls::Trust;

    fn normalized(mut value: Value) -> Value {
        let streams = StreamServers::new(&[], Trust::web(), None);
        assert!(normalize(&mut value, &streams, &RtpCounters::default()), "{value}");
        value
    }

    #[test]
    fn certificates_are_base64_of_der() {
        let value = json!({"id": "c", "type": "certificate", "fingerprint": "0a:ff",
            "fingerprintAlgorithm": "sha-256", "base64Certificate": "30820166",
            "issuerCertificateId": ""});
        let right = json!({"id": "c", "type": "certificate", "fingerprint": "0A:FF",
            "fingerprintAlgorithm": "sha-256", "base64Certificate": "MIIBZg=="});
        assert_eq!(normalized(value), right);
        for wrong in ["308", "3x", "MIIB"] {
            let value = json!({"type": "certificate", "base64Certificate": wrong});
            assert_eq!(normalized(value), json!({"type": "certificate"}), "{wrong}");
        }
    }

    /// The objects are as the crate writes them before anything has been counted.
    #[test]
    fn unknown_values_are_omitted() {
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
            assert_eq!(normalized(value), right);
        }
        let streams = StreamServers::new(&[], Trust::web(), None);
        for kind in ["remote-inbound-rtp", "remote-outbound-rtp"] {
            let mut value =
                json!({"type": kind, "ssrc": 5, "packetsReceived": 0, "packetsSent": 0});
            assert!(!normalize(&mut value, &streams, &RtpCounters::default()), "{kind}");
        }
    }

    #[test]
    fn objects_refer_only_to_existing_objects() {
        let mut entries: Map<String, Value> = serde_json::from_value(json!({
            "T": {"type": "transport"},
            "C": {"type": "codec"},
            "O": {"type": "outbound-rtp", "codecId": "C", "remoteId": "none"},
        }))
        .unwrap();
        link_objects(&mut entries);
        assert_eq!(entries["O"], json!({"type": "outbound-rtp", "codecId": "C"}));
        assert_eq!(entries["C"]["transportId"], "T");
    }
}
