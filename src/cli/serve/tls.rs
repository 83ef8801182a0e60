//! TLS of `serve`: certificate and key from files, or made for this run.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use super::reachable;
use crate::{
    cli::failure::Failure,
    peer::config::local_addresses,
    server::tls::{Tls, TlsError},
};

/// Flags of `serve` for TLS.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "TLS")]
// The fields are the flags' names.
#[allow(clippy::struct_field_names)]
pub struct TlsArgs {
    /// Certificate for wss:// and https://, PEM, with those between it and its CA; read again when it
    /// changes, and on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Make a certificate for this run, for the names and addresses of --listen; clients take its
    /// fingerprint with --tls-pin
    #[arg(long)]
    pub tls_self_signed: bool,
}

impl TlsArgs {
    /// Reads the files, or makes a certificate for a server that listens on `listen` and is reached at `public`.
    ///
    /// # Errors
    /// Exit code 2: one flag without another, or a file that cannot be used.
    pub fn read(&self, listen: SocketAddr, public: Option<IpAddr>) -> Result<Option<Tls>, Failure> {
        let made = match (&self.tls_cert, &self.tls_key, self.tls_self_signed) {
            (None, None, false) => return Ok(None),
            (None, None, true) => Tls::self_signed(&names(listen.ip(), public)),
            (Some(certificate), Some(key), false) => Tls::from_files(certificate, key),
            (_, _, true) => {
                return Err(Failure::usage(
                    "--tls-self-signed makes a certificate and a key of its own",
                    "leave out --tls-cert and --tls-key, or --tls-self-signed",
                ));
            }
            (_, _, false) => {
                return Err(Failure::usage(
                    "TLS needs a certificate and its key",
                    "give both --tls-cert FILE and --tls-key FILE, or --tls-self-signed",
                ));
            }
        };
        made.map(Some).map_err(|error| unusable(("--tls-cert", "--tls-key"), &error))
    }
}

/// A usage failure that names the flag whose file cannot be used.
pub(in crate::cli) fn unusable((certificate, key): (&str, &str), error: &TlsError) -> Failure {
    let flags = match error {
        TlsError::Read { .. } => format!("{certificate} or {key}: "),
        TlsError::Certificate { .. } => format!("{certificate} "),
        TlsError::Key { .. } => format!("{key} "),
        TlsError::SelfSigned { .. } => String::new(),
    };
    Failure::usage(format!("{flags}{error}"), error.remedy())
}

/// Has SIGHUP read the files again, beside looking at them from time to time. A server without files
/// leaves the signal alone.
#[cfg(unix)]
pub fn reload_on_hangup(tls: Option<Tls>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Some(tls) = tls.filter(Tls::has_files) else { return };
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!(%error, "SIGHUP will not be heard; changed TLS files are seen all the same");
            return;
        }
    };
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tls.refresh();
        }
    });
}

/// There is no SIGHUP here; the files are looked at from time to time.
#[cfg(not(unix))]
pub fn reload_on_hangup(_tls: Option<Tls>) {}

/// What clients may call a server on `ip` by.
fn names(ip: IpAddr, public: Option<IpAddr>) -> Vec<String> {
    let mut names = Vec::new();
    if ip.is_loopback() || ip.is_unspecified() {
        names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    }
    if ip.is_unspecified() {
        names.extend(local_addresses(None, true, true, false).iter().map(ToString::to_string));
    } else {
        names.push(ip.to_string());
    }
    // Those that are printed.
    names.extend(reachable::addresses(ip, public).iter().map(ToString::to_string));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_do_not_go_together_are_usage_errors() {
        let file = || Some(PathBuf::from("/nonexistent/file.pem"));
        for (args, words) in [
            (TlsArgs { tls_cert: file(), ..TlsArgs::default() }, "and its key"),
            (TlsArgs { tls_key: file(), ..TlsArgs::default() }, "and its key"),
            (
                TlsArgs { tls_key: file(), tls_self_signed: true, ..TlsArgs::default() },
                "of its own",
            ),
            (
                TlsArgs { tls_cert: file(), tls_key: file(), tls_self_signed: false },
                "cannot be read",
            ),
        ] {
            let failure = args.read("127.0.0.1:1".parse().unwrap(), None).unwrap_err();
            assert_eq!(failure.exit, 2, "{failure}");
            assert!(failure.message.contains(words), "{failure}");
            assert!(!failure.remedy.is_empty());
        }
        assert!(TlsArgs::default().read("127.0.0.1:1".parse().unwrap(), None).unwrap().is_none());
    }

    #[test]
    fn a_certificate_is_for_all_that_the_listener_is_called_by() {
        let made_for = |listen: &str, public: Option<IpAddr>| {
            let args = TlsArgs { tls_self_signed: true, ..TlsArgs::default() };
            args.read(listen.parse().unwrap(), public).unwrap().unwrap().names()
        };
        let made = |listen: &str| made_for(listen, None);
        assert_eq!(made("127.0.0.1:1"), ["localhost", "127.0.0.1", "::1"]);
        assert_eq!(made("192.0.2.7:1"), ["192.0.2.7"]);
        assert!(made("[::]:1").starts_with(&["localhost".to_owned()]));
        let public = "203.0.113.7".parse().unwrap();
        for listen in ["0.0.0.0:1", "192.0.2.7:1"] {
            let names = made_for(listen, Some(public));
            assert!(names.contains(&"203.0.113.7".to_owned()), "{names:?}");
        }
    }
}
