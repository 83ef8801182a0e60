//! Operating system errors: classification and remedies.

use std::io;

/// Whether the process (EMFILE) or the system (ENFILE) has run out of file descriptors.
#[must_use]
pub fn out_of_files(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
        matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

/// The remedy for an address that cannot be bound; `another` is the instruction for choosing another one:
/// "use another address with --listen".
#[must_use]
pub fn listen_remedy(error: &io::Error, another: &str) -> String {
    match error.kind() {
        _ if out_of_files(error) => {
            "out of file descriptors: raise the limit (ulimit -n, LimitNOFILE=)".to_owned()
        }
        io::ErrorKind::AddrInUse => format!("stop the other server on that port, or {another}"),
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface of this machine has that address (see `ip address`): {another}")
        }
        io::ErrorKind::PermissionDenied => format!(
            "a port below 1024 needs root or the capability CAP_NET_BIND_SERVICE: {another}, with a \
             port of 1024 or higher"
        ),
        _ => another.to_owned(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn each_bind_error_has_its_own_remedy() {
        for (code, expected) in [
            (Errno::ADDRINUSE, "stop the other server"),
            (Errno::ADDRNOTAVAIL, "no interface of this machine"),
            (Errno::ACCESS, "CAP_NET_BIND_SERVICE"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "ulimit -n"),
        ] {
            let error = io::Error::from_raw_os_error(code.raw_os_error());
            let remedy = listen_remedy(&error, "use another address with --listen");
            assert!(remedy.contains(expected), "{error}: {remedy}");
            assert!(!remedy.contains("other server") || code == Errno::ADDRINUSE, "{remedy}");
        }
    }
}
