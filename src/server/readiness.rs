//! Whether the pair store responds, for `/readyz`. Any client may ask, so the store is queried at most once
//! per second, and never concurrently.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use super::Parts;

/// How long a result is reused.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last result.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// Time of the last query, and whether it succeeded.
    last: Mutex<Option<(Instant, bool)>>,
}

/// Whether the store responds, or did within the last second.
pub(super) async fn is_store_ready(parts: &Arc<Parts>) -> bool {
    let parts = Arc::clone(parts);
    // In a separate task: clients that ask and disconnect do not start one query after another.
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
