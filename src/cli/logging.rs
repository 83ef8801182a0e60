//! Diagnostics on stderr: `-v`, `-vv`, `-vvv`, or any filter in `ORION_LOG`.

use std::io::{self, Write};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::failure::Failure;
use crate::report::live;

/// Variable with a filter, as in `ORION_LOG=orion_peer=debug,webrtc=warn`.
pub const VARIABLE: &str = "ORION_LOG";

/// Starts logging. `ORION_LOG` goes before `verbose`, `verbose` before `quiet`.
///
/// # Errors
/// `ORION_LOG` is no filter.
pub fn start(verbose: u8, quiet: bool, color: bool) -> Result<(), Failure> {
    let own = std::env::var(VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let filter = match own {
        Some(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(
                format!("environment variable {VARIABLE}: `{text}` is no log filter: {error}"),
                "write a level, or target=level pairs: ORION_LOG=orion_peer=debug,webrtc=warn",
            )
        })?,
        None => EnvFilter::new(filter_of(verbose, quiet)),
    };
    // Only a second start in one process fails, and then the first one stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(color)
        .with_writer(AboveLiveLine)
        .try_init();
    Ok(())
}

/// The WebRTC crates (`webrtc`, `rtc_ice`, …) warn of what is normal, such as checks before the first
/// candidate: they are heard from `-v` on.
fn filter_of(verbose: u8, quiet: bool) -> &'static str {
    match (verbose, quiet) {
        (0, true) => "error,webrtc=off,rtc=off",
        (0, false) => "warn,webrtc=off,rtc=off",
        (1, _) => "warn,orion_peer=info",
        (2, _) => "info,orion_peer=debug",
        (3, _) => "debug,orion_peer=trace",
        _ => "trace",
    }
}

/// stderr, with the live line out of the way.
struct AboveLiveLine;

impl<'a> MakeWriter<'a> for AboveLiveLine {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for AboveLiveLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        live::above(|| io::stderr().lock().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_filter() {
        for verbose in 0..6 {
            for quiet in [false, true] {
                EnvFilter::try_new(filter_of(verbose, quiet)).unwrap();
            }
        }
        assert!(filter_of(0, true).starts_with("error,"));
    }
}
