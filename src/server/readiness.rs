//! Whether the pair store answers, as `/readyz` says it: anybody may ask, so the store is asked once a
//! second at most, and by one at a time.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::Parts;

/// How long an answer of the store is good.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What the store answered last.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// When it answered, and whether it was well.
    last: Mutex<Option<(Instant, bool)>>,
}

/// Whether the store answers now, or did within the last second.
pub(super) async fn is_store_ready(parts: &Arc<Parts>) -> bool {
    let parts = Arc::clone(parts);
    // In a task of its own: clients that ask and go away do not begin one question after the other.
    let asked = tokio::spawn(async move {
        let mut last = parts.readiness.last.lock().await;
        if let Some((at, ready)) = *last
            && at.elapsed() < GOOD_FOR
        {
            return ready;
        }
        let store = &parts.signaling.counters().store;
        let answer = store.watch(parts.config.store.ready()).await;
        if let Err(error) = &answer {
            tracing::debug!(%error, "not ready");
        }
        *last = Some((Instant::now(), answer.is_ok()));
        answer.is_ok()
    });
    asked.await.unwrap_or(false)
}
