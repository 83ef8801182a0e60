//! Counters of the signaling server. Labels are fixed lists, so that clients cannot add any.

use std::sync::atomic::{AtomicU64, Ordering};

use super::meter::{Durations, StoreMeter};

/// Counters for a fixed list of labels; unknown labels count under the last one.
#[derive(Debug)]
pub struct Family {
    labels: &'static [&'static str],
    counts: Vec<AtomicU64>,
}

impl Family {
    /// Counters at zero for `labels`, which must not be empty.
    #[must_use]
    pub fn new(labels: &'static [&'static str]) -> Self {
        Self { labels, counts: labels.iter().map(|_| AtomicU64::new(0)).collect() }
    }

    /// Increments the counter of `label`.
    pub fn count(&self, label: &str) {
        let last = self.labels.len().saturating_sub(1);
        let at = self.labels.iter().position(|known| *known == label).unwrap_or(last);
        if let Some(count) = self.counts.get(at) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The labels and their counts.
    pub fn read(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        self.labels.iter().copied().zip(counts)
    }

    /// The count of `label`; 0 if the label is unknown.
    #[must_use]
    pub fn get(&self, label: &str) -> u64 {
        self.read().find(|(known, _)| *known == label).map_or(0, |(_, count)| count)
    }
}

/// Counters of the signaling server.
#[derive(Debug)]
pub struct Counters {
    /// Sockets opened since the server started.
    pub opened: AtomicU64,
    /// Messages delivered or held, by `t`.
    pub relayed: Family,
    /// Messages dropped because the peer was absent and they could not be held, by `t`.
    pub undeliverable: Family,
    /// Handshakes rejected, by error code.
    pub refused: Family,
    /// Messages answered with an error, by error code.
    pub errors: Family,
    /// Sockets closed, by close code; `none` means that the server sent no close code.
    pub closed: Family,
    /// Time that relayed messages spend in the queue until they are written.
    pub relay: Durations,
    /// Bytes of received messages, without WebSocket framing.
    pub bytes_in: AtomicU64,
    /// Bytes of sent messages, without WebSocket framing.
    pub bytes_out: AtomicU64,
    /// Latency and state of the pair store.
    pub store: StoreMeter,
}

impl Default for Counters {
    fn default() -> Self {
        const RELAYED: &[&str] = &["offer", "answer", "ice", "bye", "state"];
        Self {
            opened: AtomicU64::new(0),
            relayed: Family::new(RELAYED),
            undeliverable: Family::new(RELAYED),
            refused: Family::new(&[
                "upgrade-required",
                "bad-handshake",
                "origin",
                "token-missing",
                "token-expired",
                "bad-token",
                "keys-unavailable",
                "not-in-pair",
                "rate-limited",
                "too-many-sockets",
                "draining",
                "overloaded",
                "store-down",
                "bus-down",
                "other",
            ]),
            errors: Family::new(&[
                "rate-limited",
                "malformed",
                "unknown-type",
                "server-only",
                "peer-absent",
                "other",
            ]),
            closed: Family::new(&[
                "1000", "1001", "1002", "1003", "1007", "1009", "1011", "1012", "1013", "4001",
                "4002", "4003", "4004", "4500", "4501", "4502", "4503", "4504", "none", "other",
            ]),
            relay: Durations::default(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            store: StoreMeter::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_labels_do_not_grow_the_family() {
        let family = Family::new(&["a", "other"]);
        for label in ["a", "x", "y", "a"] {
            family.count(label);
        }
        assert_eq!(family.read().collect::<Vec<_>>(), [("a", 2), ("other", 2)]);
    }
}
