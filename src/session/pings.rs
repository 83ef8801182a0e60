//! A ping every second on the control channel, and the round-trip times its answers give.

use std::{
    collections::VecDeque,
    time::{Duration, Instant, SystemTime},
};

use super::epoch_seconds;
use crate::proto::control::{ControlMessage, Id};

/// Time between pings.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// A ping without an answer by then is lost.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Pings of one side. Sans-IO: the time is an argument.
#[derive(Debug, Default)]
pub struct Pings {
    next: i64,
    waiting: VecDeque<(i64, Instant)>,
    times: Vec<f64>,
    lost: u64,
}

impl Pings {
    /// The next ping to send.
    pub fn ping(&mut self, now: Instant, wall: SystemTime) -> ControlMessage {
        while self.waiting.front().is_some_and(|(_, sent)| now.duration_since(*sent) > GIVE_UP) {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.next += 1;
        self.waiting.push_back((self.next, now));
        let ts = serde_json::Number::from_f64(epoch_seconds(wall)).unwrap_or_else(|| 0.into());
        ControlMessage::Ping { id: Id::Number(self.next), ts, pad: None }
    }

    /// Takes the answer to a ping of ours, which was read at `read_at`.
    pub fn pong(&mut self, id: &Id, read_at: Instant) {
        let Id::Number(number) = id else { return };
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| waiting == number)
            && let Some((_, sent)) = self.waiting.remove(at)
        {
            self.times.push(read_at.duration_since(sent).as_secs_f64() * 1e3);
        }
    }

    /// Forgets the pings on their way: the connection they were on is gone.
    pub fn reset(&mut self) {
        self.waiting.clear();
    }

    /// Round-trip times since the last call, ms.
    pub fn take_times(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.times)
    }

    /// Pings given up so far.
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
        pings.pong(&second, begin + INTERVAL + Duration::from_millis(7));
        pings.pong(&second, begin + INTERVAL + Duration::from_millis(9));
        pings.pong(&Id::Text("x".into()), begin);
        let times = pings.take_times();
        assert_eq!(times.len(), 1);
        assert!((times[0] - 7.0).abs() < 1e-6);
        pings.ping(begin + GIVE_UP * 2, SystemTime::now());
        assert_eq!(pings.lost(), 1);
        pings.pong(&first, begin + GIVE_UP * 2);
        assert!(pings.take_times().is_empty());
    }
}
