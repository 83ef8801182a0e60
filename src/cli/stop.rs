//! Ctrl-C, SIGTERM and SIGHUP: the first requests a clean shutdown, the second exits immediately.
//!
//! Closing the terminal sends SIGHUP. Under `nohup` it remains ignored, and `serve` reloads its files instead.
//!
//! A dedicated thread with its own runtime handles the signals and exits the process itself, so that busy tasks can
//! delay neither: a runtime whose workers are all busy delivers no signals and no timers.

use std::{io::IsTerminal, process, sync::Mutex, thread, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::failure::INTERRUPTED;
use crate::lock::locked;

/// Maximum duration of a clean shutdown after SIGTERM and SIGHUP; then the process exits. The sender (systemd,
/// Docker, Kubernetes) follows up with SIGKILL some seconds later.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1500);

/// A second signal within this time counts as the same request: `timeout` signals its child, and then the process
/// group of the child.
const SAME_REQUEST: Duration = Duration::from_millis(100);

/// Becomes true at the first signal. Signals have their default action while it is `None`, which is until a command
/// waits for it.
static SHUTDOWN: Mutex<Option<watch::Receiver<bool>>> = Mutex::new(None);

/// Completes at the first Ctrl-C, SIGTERM or SIGHUP. The next one, at least 0.1 s later, exits the process immediately
/// with exit code 130, and so does a shutdown that exceeds [`SHUTDOWN_TIMEOUT`] after SIGTERM or SIGHUP.
///
/// Signals are handled as soon as this function is called, not only while the future is polled.
pub fn shutdown_signal() -> impl Future<Output = ()> {
    first_signal(SHUTDOWN_TIMEOUT, true)
}

/// Like [`shutdown_signal`] for a command that needs `extra` time to shut down, and that handles SIGHUP itself. The
/// first call in a process decides how signals are handled.
pub async fn shutdown_signal_with_drain(extra: Duration) {
    first_signal(SHUTDOWN_TIMEOUT + extra, false).await;
}

/// How signals are handled.
#[derive(Debug, Clone, Copy)]
struct SignalPolicy {
    shutdown_timeout: Duration,
    on_hangup: bool,
}

fn first_signal(shutdown_timeout: Duration, on_hangup: bool) -> impl Future<Output = ()> {
    let shutdown = listen(shutdown_timeout, on_hangup);
    async move {
        let never = match shutdown {
            Some(mut shutdown) => shutdown.wait_for(|shutdown| *shutdown).await.is_err(),
            None => true,
        };
        if never {
            // Without the thread, the default action of the signal ends the process.
            std::future::pending::<()>().await;
        }
    }
}

/// Starts the thread once. `None` if it cannot be started.
fn listen(shutdown_timeout: Duration, on_hangup: bool) -> Option<watch::Receiver<bool>> {
    let mut shutdown = locked(&SHUTDOWN);
    if shutdown.is_none() {
        let on_hangup = on_hangup && !ignores_hangup();
        let policy = SignalPolicy { shutdown_timeout, on_hangup };
        let (sender, receiver) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let watching = async move { exit_on_signals(&sender, policy, ready).await };
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(move || runtime.block_on(watching)).ok()?;
        // A signal before the handlers are installed would have its default action.
        let _ = is_ready.recv();
        *shutdown = Some(receiver);
    }
    shutdown.clone()
}

async fn exit_on_signals(
    shutdown: &watch::Sender<bool>,
    policy: SignalPolicy,
    ready: std::sync::mpsc::Sender<()>,
) {
    let Some(mut signals) = Signals::new(policy.on_hangup) else { return };
    let _ = ready.send(());
    let first = signals.next().await;
    shutdown.send_replace(true);
    let end_by = Instant::now() + policy.shutdown_timeout;
    let doubled = timeout(SAME_REQUEST, signals.next()).await.is_ok();
    match first {
        // A user at a terminal sees the progress and can press Ctrl-C again.
        StopSignal::Interrupt if !doubled => {
            signals.next().await;
        }
        _ => {
            let _ = timeout_at(end_by, signals.next()).await;
        }
    }
    process::exit(INTERRUPTED.into());
}

/// Whether the parent process made this one ignore SIGHUP, as `nohup` does.
fn ignores_hangup() -> bool {
    if cfg!(target_os = "linux") {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        return ignored(&status) & 1 << (SIGHUP - 1) != 0;
    }
    // Reading the disposition requires unsafe code, but `nohup` redirects output away from the terminal.
    !std::io::stderr().is_terminal()
}

/// Signal number defined by POSIX.
const SIGHUP: u32 = 1;

/// Mask of the signals that a process ignores (proc(5)); bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// The kind of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopSignal {
    /// Ctrl-C, SIGINT.
    Interrupt,
    /// SIGTERM, SIGHUP.
    Terminate,
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new(on_hangup: bool) -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt()).ok()?;
        let terminate = signal(SignalKind::terminate()).ok()?;
        let hangup = if on_hangup { Some(signal(SignalKind::hangup()).ok()?) } else { None };
        Some(Self { interrupt, terminate, hangup })
    }

    async fn next(&mut self) -> StopSignal {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
            _ = hangup => StopSignal::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new(_on_hangup: bool) -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) -> StopSignal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        StopSignal::Interrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status() {
        let status = "Name:\torion-peer\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored(status), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
