//! Reports arrival times to the sender: promptly, because it may still be sending, and immediately after the
//! last packet of a picture. Nothing is sent while nothing arrives.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rtc::rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;

use super::feedback;
use crate::peer::sequence::extend_sequence;

/// Maximum delay from the first packet to the message about it.
const REPORT_DELAY: Duration = Duration::from_millis(20);

/// The maximum delay once a second packet has arrived: a sender probes the path with a burst of this length
/// and waits for the result.
const BURST_REPORT_DELAY: Duration = Duration::from_millis(10);

/// This many packets are reported immediately: the message is a hundredth of their size.
const BATCH_PACKETS: usize = 10;

/// Maximum number of missing packets reported in one message.
const MAX_MISSING: u64 = 512;

/// Packets that have arrived and have not been reported yet.
#[derive(Debug)]
pub(super) struct Arrivals {
    epoch: Instant,
    newest: Option<u64>,
    /// The number after the newest reported packet.
    reported_end: Option<u64>,
    waiting: BTreeMap<u64, i64>,
    /// When the first waiting packet arrived.
    since: Option<Instant>,
    due: Option<Instant>,
    messages: u8,
}

impl Arrivals {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            newest: None,
            reported_end: None,
            waiting: BTreeMap::new(),
            since: None,
            due: None,
            messages: 0,
        }
    }

    /// A packet arrived; `last` marks the last packet of a picture.
    pub(super) fn arrived(&mut self, number: u16, last: bool, now: Instant) {
        let number = extend_sequence(&mut self.newest, number);
        let micros = now.saturating_duration_since(self.epoch).as_micros() as i64;
        self.waiting.entry(number).or_insert(micros);
        let since = *self.since.get_or_insert(now);
        self.due = Some(match self.waiting.len() {
            _ if last => now,
            BATCH_PACKETS.. => now,
            2.. => now.max(since + BURST_REPORT_DELAY),
            _ => since + REPORT_DELAY,
        });
    }

    /// When to call [`Arrivals::take`].
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The message, once it is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<TransportLayerCc> {
        self.due.take_if(|due| now >= *due)?;
        self.since = None;
        let waiting = std::mem::take(&mut self.waiting);
        let (first, newest) = (*waiting.first_key_value()?.0, *waiting.last_key_value()?.0);
        // Starts where the last message ended, to report packets missing since then; or at a packet that
        // arrived late.
        let oldest = newest.saturating_sub(MAX_MISSING);
        let base = self.reported_end.unwrap_or(first).min(first).max(oldest);
        self.reported_end = Some(self.reported_end.map_or(newest + 1, |end| end.max(newest + 1)));
        let arrivals: Vec<Option<i64>> =
            (base..=newest).map(|number| waiting.get(&number).copied()).collect();
        let message = feedback::write(base as u16, &arrivals, self.messages)?;
        self.messages = self.messages.wrapping_add(1);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn reported(message: &TransportLayerCc) -> Vec<(u16, bool)> {
        let reports = feedback::Reader::default().read(message);
        reports.into_iter().map(|(number, arrived)| (number, arrived.is_some())).collect()
    }

    #[test]
    fn the_end_of_a_picture_is_reported_immediately_and_silence_never() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        assert_eq!(arrivals.due(), None);
        arrivals.arrived(65_534, false, now);
        assert_eq!(arrivals.due(), Some(now + REPORT_DELAY));
        arrivals.arrived(0, true, now + MS);
        assert_eq!(arrivals.due(), Some(now + MS));
        let message = arrivals.take(now + MS).unwrap();
        assert_eq!(reported(&message), [(65_534, true), (65_535, false), (0, true)]);
        assert_eq!(arrivals.due(), None);
        assert!(arrivals.take(now + 1000 * MS).is_none());
    }

    /// libwebrtc probes with five packets of padding in 10 ms, none of which ends a picture.
    #[test]
    fn a_burst_of_ten_milliseconds_is_reported_at_its_end() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for number in 0..5_u16 {
            arrivals.arrived(number, false, now + u32::from(number) * 2 * MS);
        }
        assert_eq!(arrivals.due(), Some(now + 10 * MS));
        assert_eq!(reported(&arrivals.take(now + 10 * MS).unwrap()).len(), 5);
        assert_eq!(arrivals.due(), None);
        // Packets far apart, over a slow path, are reported two at a time.
        arrivals.arrived(5, false, now + 20 * MS);
        arrivals.arrived(6, false, now + 32 * MS);
        assert_eq!(arrivals.due(), Some(now + 32 * MS));
    }

    #[test]
    fn missing_packets_are_reported_once_and_late_ones_again() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        arrivals.arrived(0, true, now);
        arrivals.take(now).unwrap();
        arrivals.arrived(3, true, now);
        assert_eq!(reported(&arrivals.take(now).unwrap()), [(1, false), (2, false), (3, true)]);
        arrivals.arrived(2, false, now);
        arrivals.arrived(4, true, now);
        assert_eq!(reported(&arrivals.take(now).unwrap()), [(2, true), (3, false), (4, true)]);
    }

    #[test]
    fn ten_packets_are_reported_immediately_and_a_jump_does_not_cause_a_large_message() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for number in 0..10 {
            assert!(arrivals.take(now).is_none());
            arrivals.arrived(number, false, now);
        }
        assert_eq!(reported(&arrivals.take(now).unwrap()).len(), 10);
        arrivals.arrived(30_000, true, now);
        assert_eq!(reported(&arrivals.take(now).unwrap()).len(), 513);
    }
}
