//! Shows and records a session on a thread of its own.

use super::observe::Observer;

/// An observer on a thread of its own: terminals, pipes and files may block, and what is observed
/// must not wait for them.
pub struct Observing<E> {
    told: std::sync::mpsc::Sender<E>,
    thread: std::thread::JoinHandle<Observer>,
}

impl<E: Send + 'static> Observing<E> {
    /// Starts the thread; `show` shows one thing that was told.
    pub fn start(mut observer: Observer, show: impl Fn(&mut Observer, E) + Send + 'static) -> Self {
        let (told, tellings) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            for event in tellings {
                show(&mut observer, event);
            }
            observer
        });
        Self { told, thread }
    }

    /// Has it shown.
    pub fn tell(&self, event: E) {
        // The thread ends only when it panics, which `end` passes on.
        let _ = self.told.send(event);
    }

    /// Waits until all is shown.
    pub async fn end(self) -> Observer {
        let Self { told, thread } = self;
        drop(told);
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(observer)) => observer,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
