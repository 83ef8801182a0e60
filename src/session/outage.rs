//! A temporary failure of a camera or a disk that is retried: reported once, and again when it is over.

use tokio::time::Instant;

use super::SessionError;

/// The current outage of a source or a disk, if any.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// When it started, and the last reported error.
    now: Option<(Instant, SessionError)>,
}

impl Outage {
    /// An attempt failed: returns a message unless the same error was already reported.
    pub(super) fn failed(&mut self, error: &SessionError, now: Instant) -> Option<String> {
        let since = match &self.now {
            Some((_, reported)) if reported == error => return None,
            Some((since, _)) => *since,
            None => now,
        };
        self.now = Some((since, error.clone()));
        Some(format!("{}: {}; trying again: {}", error.stage, error.message, error.remedy))
    }

    /// An attempt succeeded: returns a message if there was an outage.
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
    fn each_error_is_reported_once() {
        let error =
            |message: &str| SessionError::new(Stage::Source, "source-failed", message, "wait");
        let (started, mut outage) = (Instant::now(), Outage::default());
        assert_eq!(outage.over(started), None);
        let line = outage.failed(&error("gone"), started);
        assert_eq!(line.as_deref(), Some("source: gone; trying again: wait"));
        assert_eq!(outage.failed(&error("gone"), started), None);
        assert!(outage.failed(&error("busy"), started).is_some());
        let later = started + Duration::from_millis(2500);
        assert_eq!(outage.over(later).as_deref(), Some("source: back after 2.5 s"));
        assert_eq!(outage.over(later), None);
    }
}
