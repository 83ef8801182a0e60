//! Runs the crate's driver on its own thread, and handles a driver that hangs or ends.
//!
//! `rtc-sctp` 0.21.1 panics on a chunk from the paired peer whose cause is longer than the chunk
//! (`chunk/mod.rs:149`), and iterates over 2^31 sequence numbers for one FORWARD-TSN (`association/mod.rs:1567`).
//! Both happen in the task that drives the connection; nothing in the crate notices that the task is gone, and a task
//! that does not yield cannot be stopped. So the driver has its own thread. The end of the driver is recorded in the
//! [`LivenessMonitor`], whatever the cause. A driver that is unresponsive is abandoned: its connection then counts as
//! ended, and the process can exit without it.

use std::{
    cell::Cell,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::FutureExt;
use tokio::{runtime::Handle, sync::Notify};
use webrtc::runtime::JoinHandle;

use super::vitals::LivenessMonitor;

/// Name of a driver's thread.
const THREAD: &str = "peer-driver";

thread_local! {
    /// Whether this thread runs a driver.
    static DRIVES: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a driver's thread.
pub(super) fn drives() -> bool {
    DRIVES.get()
}

static SILENCE_PANICS: Once = Once::new();

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Number of drivers that were abandoned but are still running: each keeps a core busy.
pub(crate) fn abandoned() -> usize {
    ABANDONED.load(Ordering::Relaxed)
}

/// Silences the panic hook on the threads of drivers: the owner of the connection reports a driver's panic in one
/// line.
fn silence_panics() {
    let others = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if drives() {
            tracing::debug!("{panic}");
        } else {
            others(panic);
        }
    }));
}

type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// State shared by a driver's thread and its [`DriverHandle`].
#[derive(Debug, Default)]
struct DriverControl {
    abort: Notify,
    finished: AtomicBool,
}

/// Starts the driver; `started` receives the runtime of its thread before the driver runs.
pub(super) fn start(
    driver: Driver,
    liveness: Arc<LivenessMonitor>,
    started: impl FnOnce(Handle) + Send + 'static,
) -> Box<dyn JoinHandle> {
    SILENCE_PANICS.call_once(silence_panics);
    let control = Arc::new(DriverControl::default());
    let inside = Arc::clone(&control);
    let monitor = Arc::clone(&liveness);
    let thread = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
        DRIVES.set(true);
        let ended = run(driver, &inside, started);
        inside.finished.store(true, Ordering::Release);
        if !liveness.driver_ended(ended) {
            ABANDONED.fetch_sub(1, Ordering::Relaxed);
        }
    });
    if let Err(error) = thread {
        // The future is dropped with its closure, so building the connection fails.
        control.finished.store(true, Ordering::Release);
        monitor.driver_ended(format!("no thread could be started for the connection: {error}"));
    }
    Box::new(DriverHandle(control))
}

/// Runs the driver until it ends, and returns the cause.
fn run(driver: Driver, control: &DriverControl, started: impl FnOnce(Handle)) -> String {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return format!("no runtime could be started for the connection: {error}"),
    };
    started(runtime.handle().clone());
    let end = runtime.block_on(async {
        tokio::select! {
            end = AssertUnwindSafe(driver).catch_unwind() => end,
            () = control.abort.notified() => Ok(()),
        }
    });
    match end {
        Ok(()) => "its driver has ended".into(),
        Err(panic) => {
            let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
            format!("its driver panicked: {}", message.unwrap_or_else(|| "no message".into()))
        }
    }
}

struct DriverHandle(Arc<DriverControl>);

impl JoinHandle for DriverHandle {
    fn detach(&self) {}

    fn abort(&self) {
        self.0.abort.notify_one();
    }

    fn is_finished(&self) -> bool {
        self.0.finished.load(Ordering::Acquire)
    }
}

/// Declares an unresponsive driver ended, and abandons its thread.
pub(super) fn abandon(liveness: &LivenessMonitor, why: &str) {
    ABANDONED.fetch_add(1, Ordering::Relaxed);
    if !liveness.driver_ended(why.into()) {
        ABANDONED.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end_of(
        driver: impl Future<Output = ()> + Send + 'static,
    ) -> (Box<dyn JoinHandle>, Arc<LivenessMonitor>) {
        let liveness = Arc::new(LivenessMonitor::new());
        let handle = start(Box::pin(driver), Arc::clone(&liveness), |_| {});
        (handle, liveness)
    }

    #[tokio::test]
    async fn every_end_of_a_driver_is_recorded() {
        let (_, returned) = end_of(async {});
        returned.driver_is_gone().await;
        assert_eq!(returned.driver_end().as_deref(), Some("its driver has ended"));
        let (_, panicked) = end_of(async { panic!("attempt to subtract with overflow") });
        panicked.driver_is_gone().await;
        let cause = panicked.driver_end().unwrap();
        assert_eq!(cause, "its driver panicked: attempt to subtract with overflow");
        let (handle, aborted) = end_of(std::future::pending());
        handle.abort();
        aborted.driver_is_gone().await;
        assert!(handle.is_finished());
    }
}
