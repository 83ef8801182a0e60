//! Monitors how keyframes are delivered and what limits their delivery.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    media::encoder::EncoderConfig,
    session::Delivered,
    stats::bottleneck::{ArrivedKeyframe, Assessment, PingedBy, RoundTrip, assess, summarize},
};

/// Maximum number of keyframes of a connection that are assessed together: several minutes.
const MAX_KEYFRAMES: usize = 64;

/// The last keyframes of a connection.
#[derive(Debug)]
pub(super) struct DeliveryMonitor {
    keyframes: VecDeque<ArrivedKeyframe>,
    budget: u64,
    connected: Option<Instant>,
    first_after: Option<Duration>,
    /// The last conclusion: the previous connection's until this one has keyframes.
    last: Option<Delivered>,
}

impl DeliveryMonitor {
    /// No keyframes yet; the budget is the sender's default.
    pub(super) fn new() -> Self {
        Self {
            keyframes: VecDeque::new(),
            budget: EncoderConfig::default().max_bytes as u64,
            connected: None,
            first_after: None,
            last: None,
        }
    }

    /// A new connection is established. The conclusion of the previous one is kept until there is a new one.
    pub(super) fn connected(&mut self, at: Instant) {
        self.connected = Some(at);
        self.first_after = None;
        self.keyframes.clear();
    }

    /// The sender was asked to change the budget to this number of bytes.
    pub(super) fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
    }

    /// Maximum keyframe size, in bytes.
    pub(super) fn budget(&self) -> u64 {
        self.budget
    }

    /// Assesses a keyframe by the round trips known now; a ping sent among its packets may still be in
    /// flight.
    pub(super) fn keyframe(
        &mut self,
        keyframe: ArrivedKeyframe,
        round_trips: &[RoundTrip],
    ) -> Option<Assessment> {
        let whole = keyframe.first + keyframe.delivery.spread;
        if self.first_after.is_none() {
            self.first_after = self.connected.map(|at| whole.saturating_duration_since(at));
        }
        self.keyframes.push_back(keyframe);
        if self.keyframes.len() > MAX_KEYFRAMES {
            self.keyframes.pop_front();
        }
        assess(self.keyframes.make_contiguous(), round_trips, PingedBy::Receiver).pop()
    }

    /// How the last keyframes were delivered.
    pub(super) fn delivered(&mut self, round_trips: &[RoundTrip]) -> Option<Delivered> {
        let keyframes = self.keyframes.make_contiguous();
        let assessment = assess(keyframes, round_trips, PingedBy::Receiver);
        let overall = summarize(keyframes.iter().zip(&assessment));
        let (budget, first_after) = (self.budget, self.first_after);
        self.last = overall.map(|overall| Delivered { overall, budget, first_after }).or(self.last);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{bottleneck::Limit, delivery::Delivery};

    fn arrival(first: Instant) -> ArrivedKeyframe {
        let spread = Duration::from_millis(12);
        let delivery = Delivery { bytes: 105_000, spread, original: spread, ..Delivery::default() };
        ArrivedKeyframe { first, delivery, bytes: 100_000, pixels: None }
    }

    #[test]
    fn the_first_keyframe_of_each_connection_is_timed() {
        let (mut monitor, begin) = (DeliveryMonitor::new(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(monitor.delivered(&[]), None);
        monitor.connected(begin);
        let assessment = monitor.keyframe(arrival(begin + 15 * second), &[]).unwrap();
        assert_eq!(assessment.limit, Limit::None);
        monitor.keyframe(arrival(begin + 18 * second), &[]);
        let first = Duration::from_millis(15_012);
        let delivered = monitor.delivered(&[]).unwrap();
        assert_eq!((delivered.first_after, delivered.overall.of), (Some(first), 2));
        monitor.connected(begin + 30 * second);
        assert_eq!(monitor.delivered(&[]), Some(delivered), "there is nothing new yet");
        monitor.set_budget(50_000);
        monitor.keyframe(arrival(begin + 31 * second), &[]);
        let delivered = monitor.delivered(&[]).unwrap();
        assert_eq!((delivered.overall.of, delivered.budget), (1, 50_000));
    }

    #[test]
    fn the_number_of_kept_keyframes_is_bounded() {
        let mut monitor = DeliveryMonitor::new();
        for nth in 0..1000 {
            monitor.keyframe(arrival(Instant::now() + Duration::from_secs(nth)), &[]);
        }
        assert_eq!(monitor.delivered(&[]).unwrap().overall.of, MAX_KEYFRAMES as u64);
    }
}
