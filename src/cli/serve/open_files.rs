//! The open file limit: each socket is a file, and the default limit is far below the capacity of a server.

/// Open files that are not connections: listeners, the database, the runtime.
const OTHERS: u64 = 256;

/// Raises the open file limit to what `connections` require, and warns if that is not possible, unless the limit is
/// `good_enough` anyway.
pub fn allow(connections: u64, good_enough: bool) {
    if let Err(allowed) = raise(connections)
        && !good_enough
    {
        tracing::warn!(
            allowed,
            needed = connections.saturating_add(OTHERS),
            "the open file limit is lower than --max-sockets, --max-connections and TURN \
             (--turn-max-allocations) may need: raise it (ulimit -n, LimitNOFILE=), or lower those \
             flags"
        );
    }
}

/// Raises the open file limit to what `connections` require.
///
/// # Errors
/// The resulting limit, if it is too low.
#[cfg(unix)]
pub fn raise(connections: u64) -> Result<(), u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = connections.saturating_add(OTHERS);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let current = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }) {
        Err(_) => Err(limit.current.unwrap_or_default()),
        Ok(()) if current < needed => Err(current),
        Ok(()) => Ok(()),
    }
}

/// On other systems the limit is not changed.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn raise(_connections: u64) -> Result<(), u64> {
    Ok(())
}
