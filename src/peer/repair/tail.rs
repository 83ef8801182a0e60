//! The last packet sent, repeated until it is known to have arrived.
//!
//! When the last packets of a keyframe are lost, or all of them, the receiver cannot know: the next one
//! comes seconds later. So the sender repeats the last one after a round trip without news, as QUIC
//! and TCP probe for a lost tail (RFC 9002 §6.2, RFC 8985 §7). It fills the gap, or it shows the receiver
//! the gap before it. A receiver report that has its sequence number ends it.

use std::time::{Duration, Instant};

use super::{WORTH, round_trip::RoundTrip};
use crate::peer::sequence::near;

/// Longest time between two repeats: after an outage it is waited for once.
const MAX_PAUSE: Duration = Duration::from_millis(300);

/// The last packet of one RTP stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    newest: Option<u64>,
    sent: Option<Instant>,
    repeats: u32,
    due: Option<Instant>,
}

impl Tail {
    /// A packet was sent for the first time.
    pub(super) fn sent(&mut self, sequence: u64, round_trip: &RoundTrip, now: Instant) {
        if self.newest.is_some_and(|newest| sequence <= newest) {
            return;
        }
        self.newest = Some(sequence);
        self.sent = Some(now);
        self.repeats = 0;
        self.due = Some(now + round_trip.timeout());
    }

    /// The other side told the highest sequence number it has. Gives how long that took when it is the
    /// last packet, which was sent only once.
    pub(super) fn acknowledged(&mut self, highest: u16, now: Instant) -> Option<Duration> {
        let newest = self.newest?;
        if near(newest, u64::from(highest), 16) != newest {
            return None;
        }
        self.due.take()?;
        self.sent.filter(|_| self.repeats == 0).map(|sent| now.saturating_duration_since(sent))
    }

    /// When the last packet is to be repeated.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The packet to repeat now.
    pub(super) fn take(&mut self, round_trip: &RoundTrip, now: Instant) -> Option<u64> {
        let (newest, sent) = (self.newest?, self.sent?);
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        if now.saturating_duration_since(sent) >= WORTH {
            self.due = None;
            return None;
        }
        self.repeats += 1;
        let timeout = round_trip.timeout();
        let pause = timeout * (1 << self.repeats.min(4));
        self.due = Some(now + pause.min(MAX_PAUSE.max(timeout)));
        Some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn known(round_trip: Duration) -> RoundTrip {
        let mut known = RoundTrip::default();
        known.sample(round_trip);
        known
    }

    /// Times of the repeats, in ms after the packet.
    fn repeats(tail: &mut Tail, way: &RoundTrip, begin: Instant, until: Duration) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(due) = tail.due().filter(|due| *due <= begin + until) {
            if tail.take(way, due).is_some() {
                times.push((due - begin).as_millis());
            }
        }
        times
    }

    #[test]
    fn the_last_packet_is_repeated_until_it_is_told_of() {
        let (now, way) = (Instant::now(), known(100 * MS));
        let mut tail = Tail::default();
        tail.sent(65_536, &way, now);
        let now = now + MS;
        tail.sent(65_537, &way, now);
        assert_eq!(tail.take(&way, now + 100 * MS), None);
        let first = way.timeout().as_millis();
        let times = repeats(&mut tail, &way, now, 1000 * MS);
        assert_eq!(times[..2], [first, 3 * first]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 300), "{times:?}");
        assert_eq!(tail.acknowledged(0, now + 1000 * MS), None, "an older one is no news");
        assert!(tail.due().is_some());
        assert_eq!(tail.acknowledged(1, now + 1000 * MS), None, "which of them came is not known");
        assert_eq!(tail.due(), None);
    }

    #[test]
    fn an_answer_to_the_only_one_is_a_round_trip() {
        let (now, way) = (Instant::now(), RoundTrip::default());
        let mut tail = Tail::default();
        tail.sent(70_000, &way, now);
        assert_eq!(tail.acknowledged((70_000 % 65_536) as u16, now + 40 * MS), Some(40 * MS));
        assert_eq!(tail.acknowledged((70_000 % 65_536) as u16, now + 90 * MS), None);
    }

    #[test]
    fn it_ends_when_the_picture_is_worth_nothing_any_more() {
        let (now, way) = (Instant::now(), known(20 * MS));
        let mut tail = Tail::default();
        tail.sent(65_536, &way, now);
        let times = repeats(&mut tail, &way, now, Duration::from_mins(1));
        assert_eq!(tail.due(), None);
        assert!(*times.last().unwrap() < 10_000 && times.len() < 60, "{}", times.len());
    }
}
