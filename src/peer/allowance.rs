//! How much of something may be had: so many at once, and so many a second after that.

use std::time::Instant;

/// A bucket of tokens, full at first.
#[derive(Debug)]
pub(super) struct Allowance {
    most: f64,
    per_second: f64,
    left: f64,
    filled: Option<Instant>,
}

impl Allowance {
    pub(super) fn new(most: u32, per_second: f64) -> Self {
        Self { most: most.into(), per_second, left: most.into(), filled: None }
    }

    /// Takes one, if one is left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let before = self.filled.replace(now).unwrap_or(now);
        let gained = now.saturating_duration_since(before).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.most);
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
    fn what_is_used_up_comes_back_with_time() {
        let begun = Instant::now();
        let mut allowance = Allowance::new(10, 0.5);
        let taken =
            |allowance: &mut Allowance, now| (0..100).filter(|_| allowance.take(now)).count();
        assert_eq!(taken(&mut allowance, begun), 10);
        assert_eq!(taken(&mut allowance, begun + Duration::from_secs(9)), 4);
        assert_eq!(taken(&mut allowance, begun + Duration::from_hours(9)), 10);
    }
}
