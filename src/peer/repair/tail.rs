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

/// Where packets get lost, the last one of a picture is repeated so soon without waiting for news: it costs a hundredth
/// of the picture, and a round trip when it is lost.
const EARLY: [Duration; 2] = [Duration::from_millis(8), Duration::from_millis(16)];

/// But only where that is short against the wait for news.
const EARLY_FROM: Duration = Duration::from_millis(30);

/// The last packet of one RTP stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    newest: Option<u64>,
    sent: Option<Instant>,
    repeats: u32,
    /// Repeats to come without waiting for news.
    early: usize,
    due: Option<Instant>,
}

impl Tail {
    /// A packet was sent for the first time. `early` says that it is the last of a picture, and that packets get lost.
    pub(super) fn sent(
        &mut self,
        sequence: u64,
        early: bool,
        round_trip: &RoundTrip,
        now: Instant,
    ) {
        if self.newest.is_some_and(|newest| sequence <= newest) {
            return;
        }
        self.newest = Some(sequence);
        self.sent = Some(now);
        self.repeats = 0;
        let timeout = round_trip.timeout();
        self.early = if early && timeout >= EARLY_FROM { EARLY.len() } else { 0 };
        self.due = Some(now + if self.early > 0 { EARLY[0] } else { timeout });
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
        let timeout = round_trip.timeout();
        if self.early > 0 {
            self.early -= 1;
            let next = EARLY.len() - self.early;
            self.due = Some(EARLY.get(next).map_or(sent + timeout, |pause| now + *pause));
            self.repeats = self.repeats.max(1);
            return Some(newest);
        }
        self.repeats += 1;
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
        tail.sent(65_536, false, &way, now);
        let now = now + MS;
        tail.sent(65_537, false, &way, now);
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
    fn where_packets_get_lost_it_is_repeated_at_once() {
        let (now, way) = (Instant::now(), known(100 * MS));
        let mut tail = Tail::default();
        tail.sent(65_536, true, &way, now);
        let times = repeats(&mut tail, &way, now, 500 * MS);
        let timeout = way.timeout().as_millis();
        assert_eq!(times[..3], [8, 24, timeout]);
        assert_eq!(tail.acknowledged(0, now + 500 * MS), None, "which of them came is not known");
        let near = known(5 * MS);
        tail.sent(65_537, true, &near, now);
        assert_eq!(tail.due(), Some(now + near.timeout()), "news is there as soon");
    }

    #[test]
    fn an_answer_to_the_only_one_is_a_round_trip() {
        let (now, way) = (Instant::now(), RoundTrip::default());
        let mut tail = Tail::default();
        tail.sent(70_000, false, &way, now);
        assert_eq!(tail.acknowledged((70_000 % 65_536) as u16, now + 40 * MS), Some(40 * MS));
        assert_eq!(tail.acknowledged((70_000 % 65_536) as u16, now + 90 * MS), None);
    }

    #[test]
    fn it_ends_when_the_picture_is_worth_nothing_any_more() {
        let (now, way) = (Instant::now(), known(20 * MS));
        let mut tail = Tail::default();
        tail.sent(65_536, false, &way, now);
        let times = repeats(&mut tail, &way, now, Duration::from_mins(1));
        assert_eq!(tail.due(), None);
        assert!(*times.last().unwrap() < 10_000 && times.len() < 60, "{}", times.len());
    }
}
