//! Sends a ping every second on the control channel and measures round-trip times and the clock offset.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use super::epoch_seconds;
use crate::{
    proto::control::{ControlMessage, Id},
    stats::bottleneck::RoundTrip,
};

/// Time between pings.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A ping without an answer within this time is lost.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of answers used for the clock offset: clocks drift by at most about 50 µs per second.
const CLOCK_WINDOW: usize = 60;

/// Maximum number of round trips kept with their start times: several minutes.
const ROUND_TRIPS: usize = 512;

/// Pings of one peer. Sans-IO: the time is an argument.
#[derive(Debug, Default)]
pub struct Pings {
    next: i64,
    waiting: VecDeque<PendingPing>,
    times: Vec<f64>,
    /// Measurements from the last answers that carried the peer's clock: round-trip time and clock offset
    /// (assuming a symmetric path), both in seconds.
    clock: VecDeque<(f64, f64)>,
    /// Round trips of this connection.
    recent: VecDeque<RoundTrip>,
    lost: u64,
}

/// A ping that has not been answered yet.
#[derive(Debug)]
struct PendingPing {
    number: i64,
    sent: Instant,
    wall: SystemTime,
}

impl Pings {
    /// The next ping to send.
    pub fn ping(&mut self, now: Instant, wall: SystemTime) -> ControlMessage {
        while self.waiting.front().is_some_and(|ping| now.duration_since(ping.sent) > PING_TIMEOUT)
        {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.next += 1;
        self.waiting.push_back(PendingPing { number: self.next, sent: now, wall });
        let ts = serde_json::Number::from_f64(epoch_seconds(wall)).unwrap_or_else(|| 0.into());
        ControlMessage::Ping { id: Id::Number(self.next), ts, pad: None }
    }

    /// Records that the last ping was sent at `now`, which is later than it was created.
    pub fn sent(&mut self, now: Instant) {
        if let Some(ping) = self.waiting.back_mut() {
            ping.wall += now.saturating_duration_since(ping.sent);
            ping.sent = now;
        }
    }

    /// Takes an answer that was read at `read_at`; `at` is the peer's clock when it answered, seconds since
    /// 1970.
    pub fn pong(&mut self, id: &Id, at: Option<f64>, read_at: Instant) {
        let Id::Number(number) = id else { return };
        if let Some(position) = self.waiting.iter().position(|ping| ping.number == *number)
            && let Some(ping) = self.waiting.remove(position)
        {
            let took = read_at.saturating_duration_since(ping.sent);
            self.recent.push_back(RoundTrip { sent: ping.sent, took });
            if self.recent.len() > ROUND_TRIPS {
                self.recent.pop_front();
            }
            let rtt = took.as_secs_f64();
            self.times.push(rtt * 1e3);
            if let Some(at) = at {
                self.clock.push_back((rtt, at - epoch_seconds(ping.wall) - rtt / 2.0));
                if self.clock.len() > CLOCK_WINDOW {
                    self.clock.pop_front();
                }
            }
        }
    }

    /// The peer's clock minus ours, in seconds, from the fastest of the last answers (RFC 5905 §8); `None` if
    /// they carry no clock.
    #[must_use]
    pub fn clock_offset(&self) -> Option<f64> {
        let fastest = self.clock.iter().min_by(|a, b| a.0.total_cmp(&b.0));
        fastest.map(|(_, offset)| *offset)
    }

    /// Forgets the pending pings, because their connection was lost.
    pub fn reset(&mut self) {
        self.waiting.clear();
        self.clock.clear();
    }

    /// A new connection is established; discards the round trips, because it may take another path.
    pub fn connected(&mut self) {
        self.recent.clear();
    }

    /// The latest round trips of this connection, or of the previous one until a new one is established.
    pub fn recent(&mut self) -> &[RoundTrip] {
        self.recent.make_contiguous()
    }

    /// Round-trip times since the last call of this function, in ms.
    pub fn take_times(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.times)
    }

    /// Number of pings lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_losses_are_counted() {
        let mut pings = Pings::default();
        let begin = Instant::now();
        let id = |message| match message {
            ControlMessage::Ping { id, .. } => id,
            other => panic!("{other:?}"),
        };
        let first = id(pings.ping(begin, SystemTime::now()));
        let second = id(pings.ping(begin + INTERVAL, SystemTime::now()));
        pings.pong(&second, None, begin + INTERVAL + Duration::from_millis(7));
        pings.pong(&second, None, begin + INTERVAL + Duration::from_millis(9));
        pings.pong(&Id::Text("x".into()), None, begin);
        let times = pings.take_times();
        assert_eq!(times.len(), 1);
        assert!((times[0] - 7.0).abs() < 1e-6);
        let trip = RoundTrip { sent: begin + INTERVAL, took: Duration::from_millis(7) };
        assert_eq!(pings.recent(), [trip]);
        pings.ping(begin + PING_TIMEOUT * 2, SystemTime::now());
        assert_eq!(pings.lost(), 1);
        pings.pong(&first, None, begin + PING_TIMEOUT * 2);
        assert!(pings.take_times().is_empty());
        assert_eq!(pings.clock_offset(), None);
    }

    #[test]
    fn a_round_trip_starts_when_the_ping_is_sent() {
        let mut pings = Pings::default();
        let begin = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let ms = Duration::from_millis;
        pings.ping(begin, wall);
        pings.sent(begin + ms(30));
        pings.pong(&Id::Number(1), Some(1000.035), begin + ms(40));
        assert!((pings.take_times()[0] - 10.0).abs() < 1e-6);
        assert!(pings.clock_offset().unwrap().abs() < 1e-6);
    }

    #[test]
    fn the_fastest_answer_gives_the_clock_offset() {
        let mut pings = Pings::default();
        let begin = Instant::now();
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        // The other clock is 7 s ahead; the directions take 5 ms and 45 ms, then 5 ms each.
        for (number, back) in [(1, 45), (2, 5)] {
            pings.ping(begin, wall);
            let read = begin + Duration::from_millis(5 + back);
            pings.pong(&Id::Number(number), Some(1007.005), read);
        }
        assert!((pings.clock_offset().unwrap() - 7.0).abs() < 1e-6);
        pings.reset();
        assert_eq!(pings.clock_offset(), None);
        assert_eq!(pings.recent().len(), 2, "the last keyframes have yet to be assessed");
        pings.connected();
        assert!(pings.recent().is_empty());
    }
}
