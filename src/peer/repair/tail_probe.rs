//! Repeats the last packet sent until it is known to have arrived.
//!
//! If the last packets of a keyframe are lost, or all of them, the receiver cannot notice: the next keyframe is
//! seconds away. So the sender repeats the last packet after a round trip without a report, as QUIC and TCP probe
//! for a lost tail (RFC 9002 §6.2, RFC 8985 §7). The repeat fills the gap or reveals the gap before it. A receiver
//! report with its sequence number ends the repeats.

use std::time::{Duration, Instant};

use super::{WORTH, round_trip::RoundTrip};
use crate::peer::sequence::near;

/// Maximum time between two repeats, which is the delay that an outage may add.
const MAX_PAUSE: Duration = Duration::from_millis(300);

/// On a lossy path, the last packet of a picture is repeated this early, without waiting for a report: a repeat
/// costs a hundredth of the picture and saves a round trip if the packet was lost.
const EARLY: [Duration; 2] = [Duration::from_millis(8), Duration::from_millis(16)];

/// Early repeats are sent only if the timeout is at least this long compared with their pauses.
const EARLY_FROM: Duration = Duration::from_millis(30);

/// The last packet of one RTP stream.
#[derive(Debug, Default)]
pub(super) struct TailProbe {
    newest: Option<u64>,
    sent: Option<Instant>,
    repeats: u32,
    /// Early repeats still to come.
    early: usize,
    due: Option<Instant>,
}

impl TailProbe {
    /// A packet was sent for the first time. `early` means that it is the last of a picture and the path loses
    /// packets.
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

    /// The peer reported the highest sequence number it has. Returns the time since the last packet was sent, if it
    /// is that packet and it was sent only once.
    pub(super) fn acknowledged(&mut self, highest: u16, now: Instant) -> Option<Duration> {
        let newest = self.newest?;
        if near(newest, u64::from(highest), 16) != newest {
            return None;
        }
        self.due.take()?;
        self.sent.filter(|_| self.repeats == 0).map(|sent| now.saturating_duration_since(sent))
    }

    /// When to repeat the last packet.
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
    fn repeats(
        probe: &mut TailProbe,
        path: &RoundTrip,
        begin: Instant,
        until: Duration,
    ) -> Vec<u128> {
        let mut times = Vec::new();
        while let Some(due) = probe.due().filter(|due| *due <= begin + until) {
            if probe.take(path, due).is_some() {
                times.push((due - begin).as_millis());
            }
        }
        times
    }

    #[test]
    fn the_last_packet_is_repeated_until_it_is_reported() {
        let (now, path) = (Instant::now(), known(100 * MS));
        let mut probe = TailProbe::default();
        probe.sent(65_536, false, &path, now);
        let now = now + MS;
        probe.sent(65_537, false, &path, now);
        assert_eq!(probe.take(&path, now + 100 * MS), None);
        let first = path.timeout().as_millis();
        let times = repeats(&mut probe, &path, now, 1000 * MS);
        assert_eq!(times[..2], [first, 3 * first]);
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= 300), "{times:?}");
        assert_eq!(probe.acknowledged(0, now + 1000 * MS), None, "an older packet does not count");
        assert!(probe.due().is_some());
        assert_eq!(
            probe.acknowledged(1, now + 1000 * MS),
            None,
            "any of the transmissions may have arrived"
        );
        assert_eq!(probe.due(), None);
    }

    #[test]
    fn on_a_lossy_path_the_last_packet_is_repeated_early() {
        let (now, path) = (Instant::now(), known(100 * MS));
        let mut probe = TailProbe::default();
        probe.sent(65_536, true, &path, now);
        let times = repeats(&mut probe, &path, now, 500 * MS);
        let timeout = path.timeout().as_millis();
        assert_eq!(times[..3], [8, 24, timeout]);
        assert_eq!(probe.acknowledged(0, now + 500 * MS), None, "any of them may have arrived");
        let near = known(5 * MS);
        probe.sent(65_537, true, &near, now);
        assert_eq!(probe.due(), Some(now + near.timeout()), "a report arrives just as soon");
    }

    #[test]
    fn an_answer_to_a_single_transmission_is_a_round_trip() {
        let (now, path) = (Instant::now(), RoundTrip::default());
        let mut probe = TailProbe::default();
        probe.sent(70_000, false, &path, now);
        assert_eq!(probe.acknowledged((70_000 % 65_536) as u16, now + 40 * MS), Some(40 * MS));
        assert_eq!(probe.acknowledged((70_000 % 65_536) as u16, now + 90 * MS), None);
    }

    #[test]
    fn repeats_end_when_the_picture_is_too_old() {
        let (now, path) = (Instant::now(), known(20 * MS));
        let mut probe = TailProbe::default();
        probe.sent(65_536, false, &path, now);
        let times = repeats(&mut probe, &path, now, Duration::from_mins(1));
        assert_eq!(probe.due(), None);
        assert!(*times.last().unwrap() < 10_000 && times.len() < 60, "{}", times.len());
    }
}
