//! Runs a [`SessionReporter`] on its own thread.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
    mpsc,
};

use super::session_reporter::SessionReporter;

/// Maximum memory of queued events, in bytes as reported by [`Weigh`]. If stdout or stderr is not read, further
/// events are omitted.
const MAX_QUEUED_BYTES: usize = 8 << 20;

/// Weight of a session's statistics in bytes: a few dozen objects with a few dozen values each.
pub const REPORT_WEIGHT: usize = 32 << 10;

/// Memory usage of an event.
pub trait Weigh {
    /// Approximate size in bytes.
    fn weight(&self) -> usize;
}

/// A reporter on its own thread: terminals, pipes and files may block, and the session must not wait for them.
pub struct ReporterThread<E> {
    events: mpsc::Sender<E>,
    queue: Arc<QueueState>,
    thread: std::thread::JoinHandle<SessionReporter>,
}

/// State of the queue of events not yet shown.
#[derive(Default)]
struct QueueState {
    bytes: AtomicUsize,
    /// Number of events omitted since the last report of omissions.
    omitted: AtomicU64,
}

impl<E: Weigh + Send + 'static> ReporterThread<E> {
    /// Starts the thread; `show` shows one event.
    pub fn start(
        mut reporter: SessionReporter,
        show: impl Fn(&mut SessionReporter, E) + Send + 'static,
    ) -> Self {
        let (events, received) = mpsc::channel::<E>();
        let queue = Arc::<QueueState>::default();
        let thread = std::thread::spawn({
            let queue = Arc::clone(&queue);
            move || {
                for event in received {
                    let weight = event.weight();
                    show(&mut reporter, event);
                    queue.bytes.fetch_sub(weight, Ordering::Relaxed);
                    let omitted = queue.omitted.swap(0, Ordering::Relaxed);
                    if omitted > 0 {
                        reporter.omitted(omitted);
                    }
                }
                reporter
            }
        });
        Self { events, queue, thread }
    }

    /// Queues an event, or counts it as omitted if the queue is full.
    pub fn send(&self, event: E) {
        let weight = event.weight();
        // Only this thread adds, so the total can only shrink before the `fetch_add`.
        if self.queue.bytes.load(Ordering::Relaxed).saturating_add(weight) > MAX_QUEUED_BYTES {
            self.queue.omitted.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.queue.bytes.fetch_add(weight, Ordering::Relaxed);
        // The thread ends early only if it panics, and `join` propagates that.
        let _ = self.events.send(event);
    }

    /// Waits until all events are shown.
    pub async fn join(self) -> SessionReporter {
        let Self { events, thread, .. } = self;
        drop(events);
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(reporter)) => reporter,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
