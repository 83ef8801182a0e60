//! Contents of the RTCP reports about a connection's streams (RFC 3550 §6.4), for getStats: the crate leaves these
//! values at zero.

use std::{collections::HashMap, sync::Mutex};

use rtc::rtcp::{reception_report::ReceptionReport, sender_report::SenderReport};
use serde_json::{Map, Value, json};

use crate::lock::locked;

/// Maximum number of streams remembered: normally there is only one, but the peer chooses the SSRCs in its reports.
const MAX_STREAMS: usize = 8;

/// Seconds from 1900, the NTP epoch, to 1970.
const NTP_TO_UNIX: f64 = 2_208_988_800.0;

/// The newest report of each stream, by SSRC.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<NewestReports>);

#[derive(Debug, Default)]
struct NewestReports {
    /// Our reports about received streams.
    ours: HashMap<u32, Reception>,
    /// The peer's reports about our streams.
    theirs: HashMap<u32, Reception>,
    /// The peer's reports about its own streams.
    sent: HashMap<u32, SenderCounts>,
}

#[derive(Debug, Clone, Copy)]
struct Reception {
    lost: i64,
    fraction_lost: f64,
    /// Ticks of the stream's clock.
    jitter: u32,
}

#[derive(Debug, Clone, Copy)]
struct SenderCounts {
    packets: u32,
    bytes: u32,
    /// NTP time, 2^-32 s.
    time: u64,
    reports: u64,
}

impl Reports {
    /// Records receiver reports that we send.
    pub(super) fn ours(&self, reports: &[ReceptionReport]) {
        record(&mut self.lock().ours, reports);
    }

    /// Records reception reports that the peer sends.
    pub(super) fn theirs(&self, reports: &[ReceptionReport]) {
        record(&mut self.lock().theirs, reports);
    }

    /// Records a sender report from the peer.
    pub(super) fn sender(&self, report: &SenderReport) {
        let mut newest = self.lock();
        let reports = newest.sent.get(&report.ssrc).map_or(0, |sent| sent.reports) + 1;
        let (packets, bytes, time) = (report.packet_count, report.octet_count, report.ntp_time);
        insert_bounded(
            &mut newest.sent,
            report.ssrc,
            SenderCounts { packets, bytes, time, reports },
        );
    }

    /// Writes the known values into the object of an RTP stream. Returns false if W3C defines the object only after a
    /// report, and none has arrived.
    pub(super) fn write(
        &self,
        kind: &str,
        stats: &mut Map<String, Value>,
        clock_rate: f64,
    ) -> bool {
        let ssrc = stats.get("ssrc").and_then(Value::as_u64).and_then(|ssrc| ssrc.try_into().ok());
        let Some(ssrc) = ssrc else { return true };
        let newest = self.lock();
        match kind {
            "inbound-rtp" => {
                stats.remove("jitter");
                if let Some(reception) = newest.ours.get(&ssrc) {
                    reception.write(stats, clock_rate);
                }
                true
            }
            "remote-inbound-rtp" => {
                let Some(reception) = newest.theirs.get(&ssrc) else { return false };
                reception.write(stats, clock_rate);
                stats.insert("fractionLost".into(), json!(reception.fraction_lost));
                true
            }
            "remote-outbound-rtp" => {
                let Some(sent) = newest.sent.get(&ssrc) else { return false };
                let seconds = sent.time as f64 / 4_294_967_296.0 - NTP_TO_UNIX;
                stats.insert("packetsSent".into(), json!(sent.packets));
                stats.insert("bytesSent".into(), json!(sent.bytes));
                stats.insert("reportsSent".into(), json!(sent.reports));
                stats.insert("remoteTimestamp".into(), json!((seconds * 1e6).round() / 1e3));
                true
            }
            _ => true,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, NewestReports> {
        locked(&self.0)
    }
}

impl Reception {
    fn write(&self, stats: &mut Map<String, Value>, clock_rate: f64) {
        stats.insert("packetsLost".into(), json!(self.lost));
        stats.insert("jitter".into(), json!(f64::from(self.jitter) / clock_rate));
    }
}

fn record(newest: &mut HashMap<u32, Reception>, reports: &[ReceptionReport]) {
    for report in reports {
        // A signed 24-bit number: duplicates make it negative (RFC 3550 §6.4.1).
        let bits = i64::from(report.total_lost & 0xff_ffff);
        let lost = if bits < 1 << 23 { bits } else { bits - (1 << 24) };
        let fraction_lost = f64::from(report.fraction_lost) / 256.0;
        insert_bounded(
            newest,
            report.ssrc,
            Reception { lost, fraction_lost, jitter: report.jitter },
        );
    }
}

fn insert_bounded<T>(newest: &mut HashMap<u32, T>, ssrc: u32, value: T) {
    if newest.len() < MAX_STREAMS || newest.contains_key(&ssrc) {
        newest.insert(ssrc, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(ssrc: u32) -> Map<String, Value> {
        let stats = json!({"ssrc": ssrc, "jitter": 0.0, "packetsLost": 0, "packetsSent": 0});
        serde_json::from_value(stats).unwrap()
    }

    #[test]
    fn reports_become_w3c_values() {
        let reports = Reports::default();
        let mut empty = stats(7);
        assert!(reports.write("inbound-rtp", &mut empty, 90_000.0));
        assert_eq!(empty.get("jitter"), None, "not measured yet");
        for kind in ["remote-inbound-rtp", "remote-outbound-rtp"] {
            assert!(!reports.write(kind, &mut stats(7), 90_000.0), "{kind}");
        }
        let report = |total_lost| ReceptionReport {
            ssrc: 7,
            fraction_lost: 64,
            total_lost,
            jitter: 900,
            ..ReceptionReport::default()
        };
        reports.ours(&[report(3)]);
        // One duplicate, as a signed 24-bit number.
        reports.theirs(&[report(0xff_ffff)]);
        let mut inbound = stats(7);
        assert!(reports.write("inbound-rtp", &mut inbound, 90_000.0));
        assert_eq!((&inbound["packetsLost"], &inbound["jitter"]), (&json!(3), &json!(0.01)));
        let mut remote = stats(7);
        assert!(reports.write("remote-inbound-rtp", &mut remote, 90_000.0));
        assert_eq!((&remote["packetsLost"], &remote["fractionLost"]), (&json!(-1), &json!(0.25)));
        assert!(!reports.write("remote-inbound-rtp", &mut stats(8), 90_000.0));
    }

    #[test]
    fn sender_reports_are_counted_and_their_time_is_relative_to_1970() {
        let reports = Reports::default();
        let ntp_time = (2_208_988_800 + 1_700_000_000) << 32 | 1 << 31;
        for packet_count in [10, 20] {
            let octet_count = packet_count * 1000;
            reports.sender(&SenderReport {
                ssrc: 7,
                ntp_time,
                packet_count,
                octet_count,
                ..SenderReport::default()
            });
        }
        let mut remote = stats(7);
        assert!(reports.write("remote-outbound-rtp", &mut remote, 90_000.0));
        assert_eq!((&remote["packetsSent"], &remote["bytesSent"]), (&json!(20), &json!(20_000)));
        assert_eq!(remote["reportsSent"], json!(2));
        assert_eq!(remote["remoteTimestamp"], json!(1_700_000_000_500.0));
    }

    #[test]
    fn a_flood_of_streams_is_bounded() {
        let reports = Reports::default();
        for ssrc in 0..1000 {
            reports.theirs(&[ReceptionReport { ssrc, ..ReceptionReport::default() }]);
            reports.sender(&SenderReport { ssrc, ..SenderReport::default() });
        }
        let newest = reports.lock();
        assert_eq!((newest.theirs.len(), newest.sent.len()), (MAX_STREAMS, MAX_STREAMS));
    }
}
