//! `LISTEN` (`PostgreSQL`'s chapter on asynchronous notification): the trigger of the migration tells
//! of each pair that ended.
//!
//! A notification can get lost with the connection, so every new connection is a hint at all pairs.
//! While there is none, the server still looks at the table every few seconds.

use std::{io, time::Duration};

use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::mpsc, time::timeout};

use super::WITHIN;
use crate::{pairs::Hint, types::PairId};

/// Where the trigger of the migration notifies.
const CHANNEL: &str = "orion_pair_ended";

/// Between attempts to connect.
const AGAIN: Duration = Duration::from_secs(2);

/// After so long without a notification the connection is tried.
const QUIET: Duration = Duration::from_secs(20);

/// Passes notifications on until nobody takes them.
pub(super) async fn listen(options: PgConnectOptions, hints: mpsc::Sender<Hint>) {
    let mut told = false;
    loop {
        let ended = tokio::select! {
            () = hints.closed() => return,
            ended = hear(&options, &hints, &mut told) => ended,
        };
        if let Err(error) = ended
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(%error, "the database does not tell of revoked pairs; looking for them");
        }
        tokio::select! {
            () = hints.closed() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// One connection, from its first to its last notification.
async fn hear(
    options: &PgConnectOptions,
    hints: &mpsc::Sender<Hint>,
    told: &mut bool,
) -> Result<(), sqlx::Error> {
    // A pool of its own: a connection that hangs must not be in the way of the next.
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(WITHIN)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    timeout(WITHIN, listener.listen(CHANNEL)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    if std::mem::take(told) {
        tracing::info!("the database tells of revoked pairs again");
    }
    let mut next = Hint::Any;
    loop {
        if hints.send(next).await.is_err() {
            return Ok(());
        }
        next = loop {
            match timeout(QUIET, listener.try_recv()).await {
                Ok(Ok(Some(told))) => break Hint::Pair(PairId::from(told.payload())),
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
