//! Something that fails for a while and is tried again, such as a camera or a disk: reported once, and
//! once more when it is over.

use tokio::time::Instant;

use super::SessionError;

/// Outage with a source or a disk, if there is any.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// Since when, and what was reported last.
    now: Option<(Instant, SessionError)>,
}

impl Outage {
    /// It failed: a line about it, unless the same was reported already.
    pub(super) fn failed(&mut self, error: &SessionError, now: Instant) -> Option<String> {
        let since = match &self.now {
            Some((_, reported)) if reported == error => return None,
            Some((since, _)) => *since,
            None => now,
        };
        self.now = Some((since, error.clone()));
        Some(format!("{}: {}; trying again: {}", error.stage, error.message, error.remedy))
    }

    /// It works: a line about it, if it did not before.
    pub(super) fn over(&mut self, now: Instant) -> Option<String> {
        let (since, error) = self.now.take()?;
        Some(format!("{}: back after {:.1} s", error.stage, (now - since).as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::Stage;

    #[test]
    fn told_once_each() {
        let error =
            |message: &str| SessionError::new(Stage::Source, "source-failed", message, "wait");
        let (begun, mut outage) = (Instant::now(), Outage::default());
        assert_eq!(outage.over(begun), None);
        let told = outage.failed(&error("gone"), begun);
        assert_eq!(told.as_deref(), Some("source: gone; trying again: wait"));
        assert_eq!(outage.failed(&error("gone"), begun), None);
        assert!(outage.failed(&error("busy"), begun).is_some());
        let later = begun + Duration::from_millis(2500);
        assert_eq!(outage.over(later).as_deref(), Some("source: back after 2.5 s"));
        assert_eq!(outage.over(later), None);
    }
}
