//! The work of a run, and the share of each of its connections.

use std::time::Duration;

/// The work of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchPlan {
    /// Counted connections.
    pub connections: u64,
    /// Warm-up connections made first, which are not counted.
    pub warmup: u64,
    /// Maximum connections started per second; if `None`, one starts as soon as another has ended.
    pub rate: Option<f64>,
    /// Pings over all connections.
    pub pings: u64,
    /// Time between the pings of a connection.
    pub ping_interval: Duration,
    /// Size of a ping message, bytes.
    pub ping_bytes: usize,
    /// How long the channel retransmits a ping or pong; if `None`, indefinitely.
    pub ping_life_time: Option<Duration>,
    /// Keyframes over all connections.
    pub keyframes: u64,
    /// Time between the keyframes of a connection.
    pub interval: Duration,
    /// How long each connection is measured; if set, pings and keyframes are sent for that long, and `pings` and
    /// `keyframes` only determine whether any are sent.
    pub duration: Option<Duration>,
}

/// The work of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Pings to send.
    pub pings: u64,
    /// Keyframes to send or to wait for.
    pub keyframes: u64,
}

impl BenchPlan {
    /// The share of counted connection `index`, from 0. The first connections get the remainder.
    #[must_use]
    pub fn share(&self, index: u64) -> Share {
        if self.duration.is_some() {
            let endless = |count: u64| if count == 0 { 0 } else { u64::MAX };
            return Share { pings: endless(self.pings), keyframes: endless(self.keyframes) };
        }
        let part = |count: u64| {
            let connections = self.connections.max(1);
            count / connections + u64::from(index < count % connections)
        };
        Share { pings: part(self.pings), keyframes: part(self.keyframes) }
    }

    /// The work of a warm-up connection: a little of everything that is measured.
    #[must_use]
    pub fn warmup_share(&self) -> Share {
        Share { pings: self.pings.min(5), keyframes: self.keyframes.min(1) }
    }

    /// Keyframes that all connections need together, including warm-up connections.
    #[must_use]
    pub fn keyframes_in_all(&self) -> u64 {
        let counted = match self.duration {
            Some(duration) => {
                let each = duration.as_nanos() / self.interval.as_nanos().max(1) + 1;
                self.connections.saturating_mul(u64::try_from(each).unwrap_or(u64::MAX))
            }
            None => self.keyframes,
        };
        counted.saturating_add(self.warmup)
    }

    /// When connection `nth` (from 0) is due, relative to the start.
    #[must_use]
    pub fn due(&self, nth: u64) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(nth as f64 / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(connections: u64, pings: u64, keyframes: u64) -> BenchPlan {
        BenchPlan {
            connections,
            warmup: 1,
            rate: None,
            pings,
            ping_interval: Duration::from_millis(20),
            ping_bytes: 64,
            ping_life_time: Some(Duration::from_millis(100)),
            keyframes,
            interval: Duration::from_secs(1),
            duration: None,
        }
    }

    #[test]
    fn all_work_is_distributed_exactly_once() {
        for (connections, pings, keyframes) in [(20, 1000, 10), (7, 1000, 10), (3, 2, 0), (1, 9, 9)]
        {
            let plan = plan(connections, pings, keyframes);
            let shares: Vec<Share> = (0..connections).map(|index| plan.share(index)).collect();
            assert_eq!(shares.iter().map(|share| share.pings).sum::<u64>(), pings);
            assert_eq!(shares.iter().map(|share| share.keyframes).sum::<u64>(), keyframes);
            let most = shares.iter().map(|share| share.pings).max().unwrap();
            let least = shares.iter().map(|share| share.pings).min().unwrap();
            assert!(most - least <= 1);
        }
    }

    #[test]
    fn with_a_duration_counts_only_enable_or_disable() {
        let plan = BenchPlan { duration: Some(Duration::from_secs(9)), ..plan(4, 8, 0) };
        assert_eq!(plan.share(3), Share { pings: u64::MAX, keyframes: 0 });
        assert_eq!(plan.keyframes_in_all(), 4 * 10 + 1);
    }

    #[test]
    fn connections_are_started_at_the_rate() {
        let plan = BenchPlan { rate: Some(4.0), ..plan(8, 0, 0) };
        assert_eq!(plan.due(6), Duration::from_millis(1500));
        assert_eq!(BenchPlan { rate: None, ..plan }.due(6), Duration::ZERO);
    }
}
