//! A configuration file that happens to be in the working directory, as in a checkout or an archive, must not
//! decide where secrets from elsewhere are sent.
//!
//! Such a file may contain a destination together with its secret, or a destination on this machine. A file named with
//! `--config` or `ORION_CONFIG`, or one in the user's own directory, is not restricted.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use clap::{ArgMatches, Command};
use url::Url;

use super::{given, variable, variable_name};
use crate::{
    cli::{
        config::{ConfigFile, FILE_NAME},
        failure::Failure,
    },
    types::is_loopback,
};

/// Secrets and the settings that decide which server receives them, by flag name.
struct Sent {
    secrets: &'static [&'static str],
    /// URLs the secrets are sent to.
    to: &'static [&'static str],
    /// Certificates that make a server trusted.
    trusting: &'static [&'static str],
}

/// All secrets that are sent, or that sign data to be sent. TURN passwords are not sent (RFC 8489 §9.2).
const SENT: [Sent; 4] = [
    Sent {
        secrets: &["access-token", "mac-access-token", "other-access-token", "token", "jwt-secret"],
        to: &["token-url", "signal"],
        trusting: &["cacert", "tls-pin"],
    },
    Sent { secrets: &["db-key"], to: &["db"], trusting: &[] },
    Sent { secrets: &["bus-password"], to: &["bus"], trusting: &["bus-ca"] },
    Sent { secrets: &["twilio-secret"], to: &["twilio-url"], trusting: &[] },
];

/// The values of a flag, and whether they come from the file.
struct Origin {
    in_file: bool,
    values: Vec<String>,
}

impl Origin {
    /// Whether a secret does not belong to the file: it comes from argv, a variable, or a file outside the
    /// directory of the configuration file.
    fn is_foreign(&self) -> bool {
        let outside = |value: &String| {
            let path = value.strip_prefix('@').map(Path::new);
            let path = path.and_then(|path| path.canonicalize().ok());
            let here = Path::new(".").canonicalize().ok();
            path.zip(here).is_some_and(|(path, here)| !path.starts_with(here))
        };
        !self.in_file || self.values.iter().any(outside)
    }

    fn is_remote(&self) -> bool {
        self.values.iter().any(|value| is_remote(value))
    }
}

/// Refuses to send a secret to a destination that is named only by a file in the working directory.
///
/// # Errors
/// Exit code 2; the message names the key in the file, and the remedy permits the destination.
pub(super) fn check(
    root: &Command,
    matches: &ArgMatches,
    config: &ConfigFile,
) -> Result<(), Failure> {
    if !config.found_in_working_dir() {
        return Ok(());
    }
    let mut found = BTreeMap::new();
    collect(root, matches, &mut Vec::new(), config, &mut found);
    for sent in &SENT {
        let foreign = |name: &&&str| found.get(**name).is_some_and(Origin::is_foreign);
        let remote = |name: &&&str| found.get(**name).is_some_and(Origin::is_remote);
        let in_file = |name: &&&str| found.get(**name).is_some_and(|origin| origin.in_file);
        let Some(secret) = sent.secrets.iter().find(foreign) else { continue };
        if !sent.to.iter().any(|name| remote(&name)) {
            continue;
        }
        let to = sent.to.iter().filter(remote).find(in_file);
        if let Some(key) = to.or_else(|| sent.trusting.iter().find(in_file)) {
            return Err(refusal(secret, key));
        }
    }
    Ok(())
}

fn refusal(secret: &str, key: &str) -> Failure {
    Failure::usage(
        format!(
            "`{key}` in `./{FILE_NAME}` would decide where the secret of --{secret} is sent, although the file \
             does not contain the secret and was merely found in the working directory"
        ),
        format!(
            "if you trust the file, name it: --config {FILE_NAME} (or ORION_CONFIG); or pass --{key} on the \
             command line"
        ),
    )
}

/// The values that the invoked commands get, by flag name.
fn collect(
    command: &Command,
    matches: &ArgMatches,
    path: &mut Vec<String>,
    config: &ConfigFile,
    found: &mut BTreeMap<String, Origin>,
) {
    for arg in command.get_arguments() {
        let Some((long, variable_name)) = arg.get_long().zip(variable_name(arg)) else { continue };
        let origin = if given(matches, arg) {
            let words = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
            let values = words.into_iter().flatten().map(|word| word.to_string_lossy().into());
            Origin { in_file: false, values: values.collect() }
        } else if let Some(value) = variable(&variable_name) {
            Origin { in_file: false, values: vec![value.to_string_lossy().into()] }
        } else if let Some((_, values)) = config.values(path, arg) {
            Origin { in_file: true, values }
        } else {
            continue;
        };
        found.insert(long.to_owned(), origin);
    }
    if let Some((name, below)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        path.push(name.to_owned());
        collect(command, below, path, config, found);
        path.pop();
    }
}

/// Whether a value is a URL of another machine.
fn is_remote(value: &str) -> bool {
    let Ok(url) = Url::parse(value.trim()) else { return false };
    let host = url.host_str().unwrap_or_default();
    // For schemes outside the URL standard, such as postgres:, hosts are never parsed as addresses.
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    let here = is_loopback(&url) || address.is_ok_and(|address| address.is_loopback());
    !host.is_empty() && !here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_remote() {
        for here in ["ws://127.0.0.1:8787", "http://localhost", "pairs.sqlite", "", "postgres:///x"]
        {
            assert!(!is_remote(here), "{here}");
        }
        assert!(!is_remote("postgres://u@127.0.0.1/x") && !is_remote("redis://[::1]:6379"));
        for there in ["ws://192.0.2.1", "https://example.org", "postgres://u@db.example/x"] {
            assert!(is_remote(there), "{there}");
        }
    }
}
