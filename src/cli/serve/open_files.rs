//! Open files: each socket is one, and the usual limit of a process is far below what a server may hold.

/// Files that are open beside connections: listeners, the database, the runtime.
const OTHERS: u64 = 256;

/// Raises this process's limit on open files as far as `connections` need it, and says when the system
/// does not let it, unless it `will_do` without.
pub fn allow(connections: u64, will_do: bool) {
    if let Err(allowed) = raise(connections)
        && !will_do
    {
        tracing::warn!(
            allowed,
            needed = connections.saturating_add(OTHERS),
            "fewer open files are allowed than --max-sockets, --max-connections and TURN \
             (--turn-max-allocations) may need: raise the limit (ulimit -n, LimitNOFILE=), or lower \
             them"
        );
    }
}

/// Raises this process's limit on open files as far as `connections` need it.
///
/// # Errors
/// What is allowed, when it is less.
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

/// The limit of other systems is left alone.
///
/// # Errors
/// Never.
#[cfg(not(unix))]
pub fn raise(_connections: u64) -> Result<(), u64> {
    Ok(())
}
