//! `LISTEN` (`PostgreSQL`'s chapter on asynchronous notification): the migration's trigger sends a
//! notification for each pair that has ended.
//!
//! Notifications can get lost with the connection, so every new connection is a hint at all pairs. Without
//! a connection, the server still polls the table every few seconds.

use std::{io, time::Duration};

use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::mpsc, time::timeout};

use super::WITHIN;
use crate::{pairs::Hint, types::PairId};

/// Channel of the migration's trigger.
const CHANNEL: &str = "orion_pair_ended";

/// Interval between attempts to connect.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Time without a notification after which the connection is tested.
const QUIET: Duration = Duration::from_secs(20);

/// Forwards notifications until the receiver is dropped.
pub(super) async fn listen(options: PgConnectOptions, hints: mpsc::Sender<Hint>) {
    let mut warned = false;
    loop {
        let ended = tokio::select! {
            () = hints.closed() => return,
            ended = forward(&options, &hints, &mut warned) => ended,
        };
        if let Err(error) = ended
            && !std::mem::replace(&mut warned, true)
        {
            tracing::warn!(%error, "no notifications of revoked pairs from the database; polling instead");
        }
        tokio::select! {
            () = hints.closed() => return,
            () = tokio::time::sleep(RETRY_AFTER) => {}
        }
    }
}

/// One connection, from its first to its last notification.
async fn forward(
    options: &PgConnectOptions,
    hints: &mpsc::Sender<Hint>,
    warned: &mut bool,
) -> Result<(), sqlx::Error> {
    // A separate pool: a hanging connection must not block the next one.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(WITHIN)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    timeout(WITHIN, listener.listen(CHANNEL)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    if std::mem::take(warned) {
        tracing::info!("notifications of revoked pairs from the database restored");
    }
    let mut next = Hint::Any;
    loop {
        if hints.send(next).await.is_err() {
            return Ok(());
        }
        next = loop {
            match timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => {
                    break Hint::Pair(PairId::from(notification.payload()));
                }
                Ok(Ok(None)) => {
                    return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
                }
                Ok(Err(error)) => return Err(error),
                Err(_quiet) => timeout(WITHIN, listener.execute("SELECT 1"))
                    .await
                    .map_err(|_| sqlx::Error::PoolTimedOut)??,
            };
        };
    }
}
