//! TLS of `serve`: certificate and key from files, or self-signed for this run.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use super::reachable;
use crate::{
    cli::failure::Failure,
    peer::local_network::local_addresses,
    server::tls::{Tls, TlsError},
};

/// Flags of `serve` for TLS.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "TLS")]
// The fields are the flags' names.
#[allow(clippy::struct_field_names)]
pub struct TlsArgs {
    /// PEM certificate chain (leaf first) for wss:// and https://; reloaded when it changes and on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM private key of the certificate
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Create a temporary self-signed certificate for the names and addresses of --listen; clients pin its fingerprint
    /// with --tls-pin
    #[arg(long)]
    pub tls_self_signed: bool,
}

impl TlsArgs {
    /// Reads the files, or creates a certificate for a server that listens on `listen` and is reachable at `public`.
    ///
    /// # Errors
    /// Exit code 2: a missing flag, or an unusable file.
    pub fn read(&self, listen: SocketAddr, public: Option<IpAddr>) -> Result<Option<Tls>, Failure> {
        let tls = match (&self.tls_cert, &self.tls_key, self.tls_self_signed) {
            (None, None, false) => return Ok(None),
            (None, None, true) => Tls::self_signed(&names(listen.ip(), public)),
            (Some(certificate), Some(key), false) => Tls::from_files(certificate, key),
            (_, _, true) => {
                return Err(Failure::usage(
                    "--tls-self-signed cannot be used with --tls-cert or --tls-key",
                    "omit --tls-cert and --tls-key, or --tls-self-signed",
                ));
            }
            (_, _, false) => {
                return Err(Failure::usage(
                    "TLS requires a certificate and its key",
                    "specify both --tls-cert FILE and --tls-key FILE, or use --tls-self-signed",
                ));
            }
        };
        tls.map(Some).map_err(|error| unusable(("--tls-cert", "--tls-key"), &error))
    }
}

/// The usage failure for an unusable file, with its flag.
pub(in crate::cli) fn unusable((certificate, key): (&str, &str), error: &TlsError) -> Failure {
    let flags = match error {
        TlsError::Read { .. } => format!("{certificate} or {key}: "),
        TlsError::Certificate { .. } => format!("{certificate} "),
        TlsError::Key { .. } => format!("{key} "),
        TlsError::SelfSigned { .. } => String::new(),
    };
    Failure::usage(format!("{flags}{error}"), error.remedy())
}

/// Reloads the files on SIGHUP, in addition to the periodic check. Without files, the signal keeps its default
/// action.
#[cfg(unix)]
pub fn reload_on_hangup(tls: Option<Tls>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Some(tls) = tls.filter(Tls::has_files) else { return };
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!(%error, "cannot handle SIGHUP; changed TLS files are still detected periodically");
            return;
        }
    };
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tls.refresh();
        }
    });
}

/// There is no SIGHUP on this platform; the files are checked periodically.
#[cfg(not(unix))]
pub fn reload_on_hangup(_tls: Option<Tls>) {}

/// The names and addresses that clients may use for a server on `ip`.
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
    // The addresses that `serve` prints.
    names.extend(reachable::addresses(ip, public).iter().map(ToString::to_string));
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflicting_flags_are_usage_errors() {
        let file = || Some(PathBuf::from("/nonexistent/file.pem"));
        for (args, words) in [
            (TlsArgs { tls_cert: file(), ..TlsArgs::default() }, "and its key"),
            (TlsArgs { tls_key: file(), ..TlsArgs::default() }, "and its key"),
            (
                TlsArgs { tls_key: file(), tls_self_signed: true, ..TlsArgs::default() },
                "cannot be used with",
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
    fn a_certificate_covers_all_names_and_addresses() {
        let names_for = |listen: &str, public: Option<IpAddr>| {
            let args = TlsArgs { tls_self_signed: true, ..TlsArgs::default() };
            args.read(listen.parse().unwrap(), public).unwrap().unwrap().names()
        };
        let names = |listen: &str| names_for(listen, None);
        assert_eq!(names("127.0.0.1:1"), ["localhost", "127.0.0.1", "::1"]);
        assert_eq!(names("192.0.2.7:1"), ["192.0.2.7"]);
        assert!(names("[::]:1").starts_with(&["localhost".to_owned()]));
        let public = "203.0.113.7".parse().unwrap();
        for listen in ["0.0.0.0:1", "192.0.2.7:1"] {
            let names = names_for(listen, Some(public));
            assert!(names.contains(&"203.0.113.7".to_owned()), "{names:?}");
        }
    }
}
