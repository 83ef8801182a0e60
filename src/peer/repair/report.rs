//! Counts the arrivals of an RTP stream for receiver reports (RFC 3550 §6.4.1, appendix A.3 and A.8).
//!
//! Reports are sent once a second and at the end of each picture: above all, the sender needs to know that its
//! last packet has arrived. That report is sent twice, because it may get lost.

use std::time::{Duration, Instant};

use rtc::rtcp::{reception_report::ReceptionReport, sender_report::SenderReport};

use crate::peer::sequence::extend_sequence;

/// Interval between regular reports.
const INTERVAL: Duration = Duration::from_secs(1);

/// Delay from the last packet of a picture to the reports about it.
const AFTER_MARKER: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(30)];

/// Number of ticks after which RTP timestamps wrap.
const TIMESTAMPS: f64 = 4_294_967_296.0;

/// A jump farther ahead than this is not a loss: counting restarts, as for a sender that has restarted (RFC 3550
/// appendix A.1).
const MAX_GAP: u64 = 1 << 15;

/// Reports refer to a sender report for this long. One arrives every second; the delay since an older one is
/// mostly clock drift or the sleep of a machine, and after 18 hours it does not fit its field.
const MAX_DELAY: Duration = Duration::from_mins(1);

/// The wrap that `extend` adds.
const TURN: u64 = 1 << 16;

/// Counts the packets of one stream.
#[derive(Debug)]
pub(super) struct ReceptionCounter {
    ssrc: u32,
    /// Ticks of the RTP clock per second.
    clock_rate: f64,
    newest: Option<u64>,
    first: u64,
    received: u64,
    /// Expected and received at the last report.
    before: (u64, u64),
    /// Arrival minus RTP timestamp of the newest packet, in ticks.
    transit: Option<f64>,
    jitter: f64,
    started: Option<Instant>,
    /// Middle 32 bits of the NTP time of the last sender report, and when it arrived.
    sender_report: Option<(u32, Instant)>,
    next: Option<Instant>,
    early: [Option<Instant>; 2],
}

impl ReceptionCounter {
    pub(super) fn new(ssrc: u32, clock_rate: u32) -> Self {
        Self {
            ssrc,
            clock_rate: f64::from(clock_rate),
            newest: None,
            first: 0,
            received: 0,
            before: (0, 0),
            transit: None,
            jitter: 0.0,
            started: None,
            sender_report: None,
            next: None,
            early: [None; 2],
        }
    }

    /// A packet arrived.
    pub(super) fn arrived(&mut self, sequence: u16, timestamp: u32, marker: bool, now: Instant) {
        let before = self.newest;
        let sequence = extend_sequence(&mut self.newest, sequence);
        if before.is_none_or(|before| sequence > before + MAX_GAP) {
            (self.first, self.received, self.before) = (sequence, 0, (0, 0));
        }
        self.received += 1;
        if before.is_none() {
            self.started = Some(now);
            self.next = Some(now + INTERVAL);
        }
        self.first = self.first.min(sequence);
        if self.newest == before {
            return;
        }
        if marker {
            self.early = AFTER_MARKER.map(|after| Some(now + after));
        }
        // Late packets reveal nothing about how evenly packets arrive.
        let ticks = now.saturating_duration_since(self.started.unwrap_or(now)).as_secs_f64();
        let transit = (ticks * self.clock_rate - f64::from(timestamp)).rem_euclid(TIMESTAMPS);
        if let Some(last) = self.transit.replace(transit) {
            let off = (transit - last).abs();
            self.jitter += (off.min(TIMESTAMPS - off) - self.jitter) / 16.0;
        }
    }

    /// A sender report arrived.
    pub(super) fn sender_report(&mut self, report: &SenderReport, now: Instant) {
        self.sender_report = Some(((report.ntp_time >> 16) as u32, now));
    }

    /// When a report is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.early.iter().flatten().chain(&self.next).min().copied()
    }

    /// The report block; marks due reports as sent.
    pub(super) fn report(&mut self, now: Instant) -> ReceptionReport {
        for early in &mut self.early {
            *early = early.filter(|due| now < *due);
        }
        self.next = self.next.map(|next| if now < next { next } else { now + INTERVAL });
        let newest = self.newest.unwrap_or_default();
        let expected = if self.newest.is_some() { newest - self.first + 1 } else { 0 };
        let since =
            (expected.saturating_sub(self.before.0), self.received.saturating_sub(self.before.1));
        self.before = (expected, self.received);
        let lost = since.0.saturating_sub(since.1);
        let recent = self
            .sender_report
            .map(|(middle, arrived)| (middle, now.saturating_duration_since(arrived)))
            .filter(|(_, delay)| *delay <= MAX_DELAY);
        let (last_sender_report, delay) = recent
            .map_or((0, 0), |(middle, delay)| (middle, (delay.as_secs_f64() * 65_536.0) as u32));
        ReceptionReport {
            ssrc: self.ssrc,
            fraction_lost: (lost * 256).checked_div(since.0).unwrap_or(0).min(255) as u8,
            total_lost: expected.saturating_sub(self.received).min(0x7f_ffff) as u32,
            last_sequence_number: newest.saturating_sub(TURN) as u32,
            jitter: self.jitter as u32,
            last_sender_report,
            delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_end_of_a_picture_is_reported_immediately_and_again() {
        let now = Instant::now();
        let mut reception = ReceptionCounter::new(7, 90_000);
        assert_eq!(reception.due(), None);
        reception.arrived(10, 0, false, now);
        assert_eq!(reception.due(), Some(now + INTERVAL));
        reception.arrived(11, 0, true, now);
        assert_eq!(reception.due(), Some(now + MS));
        assert_eq!(reception.report(now + MS).last_sequence_number, 11);
        assert_eq!(reception.due(), Some(now + 30 * MS));
        reception.report(now + 30 * MS);
        assert_eq!(reception.due(), Some(now + INTERVAL));
        reception.report(now + INTERVAL);
        assert_eq!(reception.due(), Some(now + 2 * INTERVAL));
    }

    #[test]
    fn losses_are_counted_until_they_are_repaired() {
        let now = Instant::now();
        let mut reception = ReceptionCounter::new(7, 90_000);
        for sequence in [65_534, 65_535, 1, 2] {
            reception.arrived(sequence, 0, false, now);
        }
        let report = reception.report(now);
        assert_eq!((report.total_lost, report.fraction_lost), (1, 51));
        assert_eq!(report.last_sequence_number, 65_536 + 2);
        reception.arrived(0, 0, false, now);
        let report = reception.report(now);
        assert_eq!((report.total_lost, report.fraction_lost), (0, 0));
        assert_eq!(report.ssrc, 7);
    }

    #[test]
    fn the_delay_since_the_sender_report_is_reported() {
        let now = Instant::now();
        let mut reception = ReceptionCounter::new(7, 90_000);
        reception.arrived(1, 0, false, now);
        assert_eq!(reception.report(now).last_sender_report, 0);
        let report = SenderReport { ntp_time: 0x1122_3344_5566_7788, ..SenderReport::default() };
        reception.sender_report(&report, now);
        let block = reception.report(now + 500 * MS);
        assert_eq!((block.last_sender_report, block.delay), (0x3344_5566, 32_768));
    }

    /// DLSR wraps after 18.2 hours.
    #[test]
    fn an_old_sender_report_is_not_referred_to() {
        let now = Instant::now();
        let mut reception = ReceptionCounter::new(7, 90_000);
        reception.arrived(1, 0, false, now);
        let report = SenderReport { ntp_time: 0x1122_3344_5566_7788, ..SenderReport::default() };
        reception.sender_report(&report, now);
        for hours in [1, 18, 19, 720] {
            let block = reception.report(now + Duration::from_hours(hours));
            assert_eq!((block.last_sender_report, block.delay), (0, 0), "{hours} h");
        }
    }

    #[test]
    fn counting_restarts_when_the_sender_restarts() {
        let now = Instant::now();
        for (jump, lost) in [(1_000, 999), (20_000, 19_999), (40_000, 0), (60_000, 0)] {
            let mut reception = ReceptionCounter::new(7, 90_000);
            reception.arrived(5_000, 0, false, now);
            reception.report(now);
            let next = 5_000_u16.wrapping_add(jump);
            reception.arrived(next, 0, false, now);
            let block = reception.report(now);
            assert_eq!(block.total_lost, lost, "{jump}");
            assert_eq!(
                block.last_sequence_number as u16, next,
                "otherwise the sender would repeat the packet"
            );
        }
    }

    #[test]
    fn jitter_follows_the_spacing() {
        let now = Instant::now();
        let mut reception = ReceptionCounter::new(7, 90_000);
        for packet in 0..100_u32 {
            reception.arrived(packet as u16, packet * 900, false, now + packet * 10 * MS);
        }
        assert_eq!(reception.report(now).jitter, 0);
        for packet in 100..400_u32 {
            let late = (packet % 2) * 4 * MS;
            reception.arrived(packet as u16, packet * 900, false, now + packet * 10 * MS + late);
        }
        // 4 ms at 90 kHz.
        assert!((350..=360).contains(&reception.report(now).jitter));
    }
}
