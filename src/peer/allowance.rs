//! A token bucket: a burst, then a rate per second.

use std::time::Instant;

/// A bucket of tokens, initially full.
#[derive(Debug)]
pub(super) struct Allowance {
    capacity: f64,
    per_second: f64,
    left: f64,
    filled: Option<Instant>,
}

impl Allowance {
    pub(super) fn new(capacity: u32, per_second: f64) -> Self {
        Self { capacity: capacity.into(), per_second, left: capacity.into(), filled: None }
    }

    /// Takes one token; false if none is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let before = self.filled.replace(now).unwrap_or(now);
        let gained = now.saturating_duration_since(before).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.capacity);
        let enough = self.left >= 1.0;
        self.left -= f64::from(u8::from(enough));
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tokens_refill_over_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10, 0.5);
        let taken =
            |allowance: &mut Allowance, now| (0..100).filter(|_| allowance.take(now)).count();
        assert_eq!(taken(&mut allowance, start), 10);
        assert_eq!(taken(&mut allowance, start + Duration::from_secs(9)), 4);
        assert_eq!(taken(&mut allowance, start + Duration::from_hours(9)), 10);
    }
}
