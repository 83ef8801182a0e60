//! Detects a driver that hangs, and abandons it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{driver, runtime::PeerRuntime, vitals::LivenessMonitor};

/// Interval at which the driver has to show progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(400);

/// Consecutive checks without progress after which a driver counts as unresponsive: 2 s.
const MAX_MISSES: u32 = 5;

/// Watches the driver until it ends, and declares it ended when it is unresponsive.
///
/// It counts checks instead of time: after a suspend, or on an overloaded machine, this task is as late as the
/// driver.
pub(super) async fn watch(liveness: Arc<LivenessMonitor>, runtime: Weak<PeerRuntime>) {
    let mut misses = 0;
    while liveness.driver_end().is_none() {
        let before = liveness.driver_turns();
        match runtime.upgrade() {
            Some(runtime) if runtime.is_resolving() => misses = 0,
            Some(runtime) => runtime.wake(),
            None => return,
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
        misses = if liveness.driver_turns() == before { misses + 1 } else { 0 };
        if misses >= MAX_MISSES {
            driver::abandon(&liveness, "its driver has been unresponsive for 2 s");
        }
    }
}
