//! The current send rate: measured by pacing, used by every sender on the path.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Rate for an unknown path, bits per second: fast enough for a keyframe of 100 KB in 80 ms, slow enough for the
/// buffers on most paths.
pub const INITIAL_RATE: u64 = 10_000_000;

/// The rate at which RTP is sent, including retransmissions. Clones share it.
#[derive(Debug, Clone)]
pub struct SendRate(Arc<AtomicU64>);

impl SendRate {
    /// A rate in bits per second.
    #[must_use]
    pub fn new(bits_per_second: u64) -> Self {
        Self(Arc::new(AtomicU64::new(bits_per_second)))
    }

    /// Bits per second on the wire.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the rate, bits per second.
    pub fn set(&self, bits_per_second: u64) {
        self.0.store(bits_per_second, Ordering::Relaxed);
    }
}

impl Default for SendRate {
    fn default() -> Self {
        Self::new(INITIAL_RATE)
    }
}
