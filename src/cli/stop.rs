//! Ctrl-C, SIGTERM and SIGHUP: the first asks for a clean end, the second does not wait for it.
//!
//! SIGHUP is what a terminal that is closed sends. Under `nohup`, which has it ignored, it stays ignored,
//! and `serve` reads its files again at it.
//!
//! A thread of its own listens, with a runtime of its own, and ends the process itself. Tasks that spin
//! keep neither it nor the end waiting: a runtime all of whose workers are busy delivers no signal and
//! no timer.

use std::{
    io::IsTerminal,
    process,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::failure::INTERRUPTED;

/// How long a clean end may take after SIGTERM and SIGHUP; then the process ends without it. Whoever sends one
/// (systemd, Docker, Kubernetes) goes on to SIGKILL some seconds later.
pub const CLEAN_END_WITHIN: Duration = Duration::from_millis(1500);

/// What comes this soon after the first is the same wish: `timeout` signals its child, and then the group that its
/// child is in.
const SAME_WISH: Duration = Duration::from_millis(100);

/// Says that a signal came; none before anybody asks, and then the signals have their default action.
static ASKED: Mutex<Option<watch::Receiver<bool>>> = Mutex::new(None);

/// Completes at the first Ctrl-C, SIGTERM or SIGHUP. The next one, 0.1 s later or more, ends the process at once, with
/// exit code 130, and so does a clean end that takes longer than [`CLEAN_END_WITHIN`] after SIGTERM or SIGHUP.
pub async fn asked() {
    first_of(CLEAN_END_WITHIN, true).await;
}

/// The same for a command whose clean end has `longer` than that, and that has a use of its own for SIGHUP. The
/// first caller in a process decides.
pub async fn draining(longer: Duration) {
    first_of(CLEAN_END_WITHIN + longer, false).await;
}

/// To what, and what follows.
#[derive(Debug, Clone, Copy)]
struct Listening {
    clean_end_within: Duration,
    to_hangup: bool,
}

async fn first_of(clean_end_within: Duration, to_hangup: bool) {
    let asked = listen(clean_end_within, to_hangup);
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
fn listen(clean_end_within: Duration, to_hangup: bool) -> Option<watch::Receiver<bool>> {
    let mut asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
    if asked.is_none() {
        let to_hangup = to_hangup && !ignores_hangup();
        let listening = Listening { clean_end_within, to_hangup };
        let (sender, receiver) = watch::channel(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let (ready, is_ready) = std::sync::mpsc::channel();
        let watching = async move { end_on_signals(&sender, listening, ready).await };
        let thread = thread::Builder::new().name("signals".into());
        thread.spawn(move || runtime.block_on(watching)).ok()?;
        // A signal that comes before it listens would have its default action.
        let _ = is_ready.recv();
        *asked = Some(receiver);
    }
    asked.clone()
}

async fn end_on_signals(
    asked: &watch::Sender<bool>,
    listening: Listening,
    ready: std::sync::mpsc::Sender<()>,
) {
    let Some(mut signals) = Signals::new(listening.to_hangup) else { return };
    let _ = ready.send(());
    let first = signals.next().await;
    asked.send_replace(true);
    let end_by = Instant::now() + listening.clean_end_within;
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
    process::exit(INTERRUPTED.into());
}

/// Whether the one who started this process has SIGHUP ignored, as `nohup` does.
fn ignores_hangup() -> bool {
    if cfg!(target_os = "linux") {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        return ignored(&status) & 1 << (SIGHUP - 1) != 0;
    }
    // Nothing says so without unsafe code; `nohup` redirects what would go to the terminal.
    !std::io::stderr().is_terminal()
}

/// POSIX gives the number.
const SIGHUP: u32 = 1;

/// The signals that a process ignores, as proc(5) has them: bit 0 is signal 1.
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// What was asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
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
    fn new(to_hangup: bool) -> Option<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt()).ok()?;
        let terminate = signal(SignalKind::terminate()).ok()?;
        let hangup = if to_hangup { Some(signal(SignalKind::hangup()).ok()?) } else { None };
        Some(Self { interrupt, terminate, hangup })
    }

    async fn next(&mut self) -> Asked {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
            _ = hangup => Asked::Terminate,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new(_to_hangup: bool) -> Option<Self> {
        Some(Self)
    }

    async fn next(&mut self) -> Asked {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Asked::Interrupt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ignored_signals_are_read_off_the_status() {
        let status = "Name:\torion-peer\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored(status), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
