//! Shows and records a session on a thread of its own.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
    mpsc,
};

use super::observe::Observer;

/// Most that waits to be shown, bytes in memory as [`Weigh`] has them. While nobody reads stdout or
/// stderr, what comes beyond that is left out.
const MOST_WAITING: usize = 8 << 20;

/// Weight of a session's statistics: some tens of objects with some tens of values each.
pub const REPORT_WEIGHT: usize = 32 << 10;

/// What something to be shown takes of memory.
pub trait Weigh {
    /// Bytes, about.
    fn weight(&self) -> usize;
}

/// An observer on a thread of its own: terminals, pipes and files may block, and what is observed
/// must not wait for them.
pub struct Observing<E> {
    told: mpsc::Sender<E>,
    waiting: Arc<Waiting>,
    thread: std::thread::JoinHandle<Observer>,
}

/// What was told and is not shown yet.
#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// How much was left out since that was last said.
    left_out: AtomicU64,
}

impl<E: Weigh + Send + 'static> Observing<E> {
    /// Starts the thread; `show` shows one thing that was told.
    pub fn start(mut observer: Observer, show: impl Fn(&mut Observer, E) + Send + 'static) -> Self {
        let (told, tellings) = mpsc::channel::<E>();
        let waiting = Arc::<Waiting>::default();
        let thread = std::thread::spawn({
            let waiting = Arc::clone(&waiting);
            move || {
                for event in tellings {
                    let weight = event.weight();
                    show(&mut observer, event);
                    waiting.bytes.fetch_sub(weight, Ordering::Relaxed);
                    let left_out = waiting.left_out.swap(0, Ordering::Relaxed);
                    if left_out > 0 {
                        observer.left_out(left_out);
                    }
                }
                observer
            }
        });
        Self { told, waiting, thread }
    }

    /// Has it shown, or counts it when too much waits already.
    pub fn tell(&self, event: E) {
        let weight = event.weight();
        // Only this thread adds: between the two lines it can only become less.
        if self.waiting.bytes.load(Ordering::Relaxed).saturating_add(weight) > MOST_WAITING {
            self.waiting.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.waiting.bytes.fetch_add(weight, Ordering::Relaxed);
        // The thread ends only when it panics, which `end` passes on.
        let _ = self.told.send(event);
    }

    /// Waits until all is shown.
    pub async fn end(self) -> Observer {
        let Self { told, thread, .. } = self;
        drop(told);
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(observer)) => observer,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
