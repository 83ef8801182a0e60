//! When packets arrived, to be told to their sender: soon, for it may be sending still, and at once after
//! the last packet of a picture. Nothing is told while nothing arrives.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rtc::rtcp::transport_feedbacks::transport_layer_cc::TransportLayerCc;

use super::feedback;
use crate::peer::sequence::extend_sequence;

/// From the first packet to the message about it.
const WITHIN: Duration = Duration::from_millis(20);

/// The same where a second one followed: a sender that probes the path does so with a burst that lasts as long, and
/// goes on from what it learns.
const BURST_WITHIN: Duration = Duration::from_millis(10);

/// Packets that are told of at once. A message about so many is a hundredth of them.
const TOGETHER: usize = 10;

/// Missing packets told of in one message.
const MOST_MISSING: u64 = 512;

/// The packets that came and were not told of yet.
#[derive(Debug)]
pub(super) struct Arrivals {
    epoch: Instant,
    newest: Option<u64>,
    /// The number after the newest one that was told of.
    told: Option<u64>,
    waiting: BTreeMap<u64, i64>,
    /// When the first of them came.
    since: Option<Instant>,
    due: Option<Instant>,
    messages: u8,
}

impl Arrivals {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            newest: None,
            told: None,
            waiting: BTreeMap::new(),
            since: None,
            due: None,
            messages: 0,
        }
    }

    /// A packet came; `last` is that of a picture.
    pub(super) fn arrived(&mut self, number: u16, last: bool, now: Instant) {
        let number = extend_sequence(&mut self.newest, number);
        let micros = now.saturating_duration_since(self.epoch).as_micros() as i64;
        self.waiting.entry(number).or_insert(micros);
        let since = *self.since.get_or_insert(now);
        self.due = Some(match self.waiting.len() {
            _ if last => now,
            TOGETHER.. => now,
            2.. => now.max(since + BURST_WITHIN),
            _ => since + WITHIN,
        });
    }

    /// When [`Arrivals::take`] wants to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The message that is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<TransportLayerCc> {
        self.due.take_if(|due| now >= *due)?;
        self.since = None;
        let waiting = std::mem::take(&mut self.waiting);
        let (first, newest) = (*waiting.first_key_value()?.0, *waiting.last_key_value()?.0);
        // From where the last message ended, for what is missing since then; or from a packet that came
        // late.
        let oldest = newest.saturating_sub(MOST_MISSING);
        let base = self.told.unwrap_or(first).min(first).max(oldest);
        self.told = Some(self.told.map_or(newest + 1, |told| told.max(newest + 1)));
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

    fn told(message: &TransportLayerCc) -> Vec<(u16, bool)> {
        let reports = feedback::Reader::default().read(message);
        reports.into_iter().map(|(number, came)| (number, came.is_some())).collect()
    }

    #[test]
    fn the_end_of_a_picture_is_told_at_once_and_silence_not_at_all() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        assert_eq!(arrivals.due(), None);
        arrivals.arrived(65_534, false, now);
        assert_eq!(arrivals.due(), Some(now + WITHIN));
        arrivals.arrived(0, true, now + MS);
        assert_eq!(arrivals.due(), Some(now + MS));
        let message = arrivals.take(now + MS).unwrap();
        assert_eq!(told(&message), [(65_534, true), (65_535, false), (0, true)]);
        assert_eq!(arrivals.due(), None);
        assert!(arrivals.take(now + 1000 * MS).is_none());
    }

    /// As libwebrtc probes: five packets of padding in 10 ms, none of which ends a picture.
    #[test]
    fn a_burst_of_ten_milliseconds_is_told_at_its_end() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for number in 0..5_u16 {
            arrivals.arrived(number, false, now + u32::from(number) * 2 * MS);
        }
        assert_eq!(arrivals.due(), Some(now + 10 * MS));
        assert_eq!(told(&arrivals.take(now + 10 * MS).unwrap()).len(), 5);
        assert_eq!(arrivals.due(), None);
        // Packets far apart, over a slow path, are reported two at a time.
        arrivals.arrived(5, false, now + 20 * MS);
        arrivals.arrived(6, false, now + 32 * MS);
        assert_eq!(arrivals.due(), Some(now + 32 * MS));
    }

    #[test]
    fn what_is_missing_is_told_once_and_what_is_late_again() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        arrivals.arrived(0, true, now);
        arrivals.take(now).unwrap();
        arrivals.arrived(3, true, now);
        assert_eq!(told(&arrivals.take(now).unwrap()), [(1, false), (2, false), (3, true)]);
        arrivals.arrived(2, false, now);
        arrivals.arrived(4, true, now);
        assert_eq!(told(&arrivals.take(now).unwrap()), [(2, true), (3, false), (4, true)]);
    }

    #[test]
    fn ten_packets_are_told_of_at_once_and_a_leap_makes_no_large_message() {
        let now = Instant::now();
        let mut arrivals = Arrivals::new(now);
        for number in 0..10 {
            assert!(arrivals.take(now).is_none());
            arrivals.arrived(number, false, now);
        }
        assert_eq!(told(&arrivals.take(now).unwrap()).len(), 10);
        arrivals.arrived(30_000, true, now);
        assert_eq!(told(&arrivals.take(now).unwrap()).len(), 513);
    }
}
