//! Pauses between attempts: 0, 0.3, 1.2, 2.7, 4.8, 7 s, then 7 s, each plus up to 1 s of jitter so that clients do
//! not reconnect simultaneously.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};

/// The pauses of the wire contract, ms.
const PAUSES_MS: [u64; 6] = [0, 300, 1200, 2700, 4800, 7000];

/// The pauses before the attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    jitter: Duration,
    attempt: usize,
    random: StdRng,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1), rand::random())
    }
}

impl Backoff {
    /// Pauses with up to `jitter` added, reproducible by `seed`.
    #[must_use]
    pub fn new(jitter: Duration, seed: u64) -> Self {
        Self { jitter, attempt: 0, random: StdRng::seed_from_u64(seed) }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let base = PAUSES_MS[self.attempt.min(PAUSES_MS.len() - 1)];
        self.attempt += 1;
        Duration::from_millis(base) + self.jitter.mul_f64(self.random.random::<f64>())
    }

    /// Restarts the sequence after a stable connection.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_follow_the_contract() {
        let mut backoff = Backoff::new(Duration::ZERO, 1);
        let pauses: Vec<_> = (0..8).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(pauses, [0, 300, 1200, 2700, 4800, 7000, 7000, 7000]);
        backoff.reset();
        assert_eq!(backoff.pause(), Duration::ZERO);
    }

    #[test]
    fn jitter_is_reproducible_and_limited() {
        let pauses = |seed| -> Vec<Duration> {
            let mut backoff = Backoff::new(Duration::from_secs(1), seed);
            (0..6).map(|_| backoff.pause()).collect()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
        for (pause, base) in pauses(3).into_iter().zip(PAUSES_MS) {
            let base = Duration::from_millis(base);
            assert!(base <= pause && pause < base + Duration::from_secs(1));
        }
    }
}
