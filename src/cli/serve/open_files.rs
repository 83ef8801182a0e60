//! Open files: each socket is one, and the usual limit of a process is far below what a server may hold.

/// Files that are open beside connections: listeners, the database, the runtime.
const OTHERS: u64 = 256;

/// Raises this process's limit on open files as far as `connections` need it, and says when the system
/// does not let it.
#[cfg(unix)]
pub fn allow(connections: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = connections.saturating_add(OTHERS);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let current = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    if raised.is_err() || current < needed {
        tracing::warn!(
            allowed = if raised.is_ok() { current } else { limit.current.unwrap_or_default() },
            needed,
            "fewer open files are allowed than --max-sockets and --max-connections may need: raise \
             the limit (ulimit -n, LimitNOFILE=), or lower them"
        );
    }
}

/// The limit of other systems is left alone.
#[cfg(not(unix))]
pub fn allow(_connections: u64) {}
