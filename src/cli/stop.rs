//! Ctrl-C and SIGTERM: the first asks for a clean end, the second does not wait for it.
//!
//! A thread of its own listens, with a runtime of its own, and ends the process itself. Tasks that spin
//! keep neither it nor the end waiting: a runtime all of whose workers are busy delivers no signal and
//! no timer.

use std::{
    process,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

/// How long a clean end may take after SIGTERM; then the process ends without it. Whoever sends one
/// (systemd, Docker, Kubernetes) goes on to SIGKILL some seconds later.
pub const CLEAN_END_WITHIN: Duration = Duration::from_millis(1500);

/// What comes this soon after the first is the same wish: `timeout` signals its child, and then the group that its
/// child is in.
const SAME_WISH: Duration = Duration::from_millis(100);

/// Exit code of an end that was not waited for: 128 + SIGINT, as shells have it.
const FORCED: i32 = 130;

/// Says that a signal came; none before anybody asks, and then the signals have their default action.
static ASKED: Mutex<Option<watch::Receiver<bool>>> = Mutex::new(None);

/// Completes at the first Ctrl-C or SIGTERM. The next one, 0.1 s later or more, ends the process at once,
/// with exit code 130, and so does a clean end that takes longer than [`CLEAN_END_WITHIN`] after SIGTERM.
pub async fn asked() {
    draining(Duration::ZERO).await;
}

/// The same for a command whose clean end has `longer` than that. The first caller in a process decides.
pub async fn draining(longer: Duration) {
    let asked = listen(CLEAN_END_WITHIN + longer);
    let never = match asked {
        Some(mut asked) => asked.wait_for(|asked| *asked).await.is_err(),
        None => true,
    };
    if never {
        // Nobody listens: then the default action ends the process.
        std::future::pending::<()>().await;
    }
}

/// Starts the thread, once. None when it cannot be started.
fn listen(clean_end_within: Duration) -> Option<watch::Receiver<bool>> {
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if asked.is_none() {
        let (sender, receiver) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let watching = async move { end_on_signals(&sender, clean_end_within).await };
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(move || runtime.block_on(watching)).ok()?;
        *asked = Some(receiver);
    }
    asked.clone()
}

async fn end_on_signals(asked: &watch::Sender<bool>, clean_end_within: Duration) {
    let Some(mut signals) = Signals::new() else { return };
    let first = signals.next().await;
    asked.send_replace(true);
    let end_by = Instant::now() + clean_end_within;
    let doubled = timeout(SAME_WISH, signals.next()).await.is_ok();
    match first {
        // Somebody at a terminal sees what goes on, and asks again.
        Asked::Interrupt if !doubled => {
            signals.next().await;
        }
        _ => {
            let _ = timeout_at(end_by, signals.next()).await;
        }
    }
    process::exit(FORCED);
}

/// What was asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Ctrl-C, SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt()).ok()?;
        let terminate = signal(SignalKind::terminate()).ok()?;
        Some(Self { interrupt, terminate })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) -> Asked {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Asked::Interrupt
    }
}
