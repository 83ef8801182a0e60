//! Ctrl-C and SIGTERM: the first asks for a clean end, the second does not wait for it.

/// Completes at the first Ctrl-C or SIGTERM; the next one ends the process at once.
pub async fn asked() {
    signal().await;
    tokio::spawn(async {
        signal().await;
        std::process::exit(130);
    });
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return interrupt().await;
    };
    tokio::select! {
        () = interrupt() => {}
        _ = terminate.recv() => {}
    }
}

#[cfg(not(unix))]
async fn signal() {
    interrupt().await;
}

async fn interrupt() {
    if tokio::signal::ctrl_c().await.is_err() {
        // No handler can be set: then the default one ends the process.
        std::future::pending::<()>().await;
    }
}
