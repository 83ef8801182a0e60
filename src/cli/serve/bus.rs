//! Flags for the bus between several nodes.

use std::path::PathBuf;

use clap::Args;

use crate::{
    cli::{failure::Failure, secret::SecretSource},
    signaling::bus::{BusConfig, BusError},
};

/// Flags for the bus.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Several nodes")]
pub struct BusArgs {
    /// Redis 7 or Valkey that connects several nodes: `redis://[USER@]HOST:PORT`, or `rediss://` for TLS; `@FILE` reads
    /// it from a file
    #[arg(long, value_name = "URL")]
    pub bus: Option<SecretSource>,
    /// Password of the bus; `@FILE` reads it from a file
    #[arg(long, value_name = "SECRET", requires = "bus")]
    pub bus_password: Option<SecretSource>,
    /// Key and channel prefix, so that several deployments can share a bus
    #[arg(long, value_name = "TEXT", default_value = "orion:")]
    pub bus_prefix: String,
    /// Trusted CA certificates (PEM) for a `rediss://` bus, instead of the built-in roots
    #[arg(long, value_name = "FILE", requires = "bus")]
    pub bus_ca: Option<PathBuf>,
}

/// Converts the flags to a configuration; `None` without `--bus`.
pub(super) fn configure(args: &BusArgs) -> Result<Option<BusConfig>, Failure> {
    let Some(url) = SecretSource::read("--bus", args.bus.as_ref())? else { return Ok(None) };
    let url = std::str::from_utf8(url.expose()).map_err(|_| {
        Failure::usage("--bus is not UTF-8", "write redis://HOST:PORT, or rediss:// for TLS")
    })?;
    let password = SecretSource::read("--bus-password", args.bus_password.as_ref())?;
    let ca = args.bus_ca.as_ref().map(|path| {
        std::fs::read(path).map_err(|error| {
            Failure::usage(
                format!("--bus-ca: cannot read `{}`: {error}", path.display()),
                "check the path and its permissions",
            )
        })
    });
    if ca.is_some() && !(url.starts_with("rediss://") || url.starts_with("valkeys://")) {
        return Err(Failure::usage(
            "--bus-ca requires a bus with TLS",
            "write --bus rediss://HOST:PORT, or omit --bus-ca",
        ));
    }
    let ca = ca.transpose()?;
    BusConfig::new(url, password.as_ref(), &args.bus_prefix, ca.as_deref()).map(Some).map_err(
        |error: BusError| {
            Failure::usage(
                format!("--bus is not valid: {error}"),
                "write redis://HOST:PORT, or rediss:// for TLS (with --bus-ca for a private CA)",
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BusArgs,
    }

    fn configured(flags: &[&str]) -> Result<Option<BusConfig>, Failure> {
        configure(&Line::try_parse_from(["serve"].iter().chain(flags)).unwrap().args)
    }

    #[test]
    fn without_flags_there_is_a_single_node() {
        assert!(configured(&[]).unwrap().is_none());
    }

    #[test]
    fn bad_urls_and_files_are_usage_errors_that_name_the_flag() {
        for (flags, words) in [
            (&["--bus", "http://127.0.0.1"][..], "--bus is not valid"),
            (&["--bus", ""], "--bus: the secret is empty"),
            (&["--bus", "redis://0.0.0.0:1"], "--bus is not valid"),
            (&["--bus", "@/nonexistent/url"], "--bus: cannot read"),
            (&["--bus", "redis://h", "--bus-password", "@/nonexistent"], "--bus-password"),
            (&["--bus", "rediss://h", "--bus-ca", "/nonexistent"], "--bus-ca"),
            (&["--bus", "redis://h", "--bus-ca", "/dev/null"], "--bus-ca"),
        ] {
            let failure = configured(flags).unwrap_err();
            assert_eq!(failure.exit, 2, "{flags:?}: {failure}");
            assert!(failure.message.contains(words), "{flags:?}: {failure}");
        }
    }

    #[test]
    fn a_password_from_a_file_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hush\n").unwrap();
        let password = format!("@{}", file.path().display());
        let config = configured(&["--bus", "redis://h", "--bus-password", &password]);
        assert!(!format!("{:?}", config.unwrap().unwrap()).contains("hush"));
    }
}
