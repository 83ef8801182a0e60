//! Diagnostics on stderr: `-v`, `-vv`, `-vvv`, or any filter in `ORION_LOG`.

mod json;

use std::{
    borrow::Cow,
    io::{self, Write},
};

use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use self::json::{JsonFields, JsonLine};
use super::failure::Failure;
use crate::report::live;

/// Variable with a filter, as in `ORION_LOG=orion_peer=debug,webrtc=warn`.
pub const VARIABLE: &str = "ORION_LOG";

/// How a server logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object.
    Json,
}

/// Starts logging. `ORION_LOG` goes before `verbose`, `verbose` before `quiet`; a server that is given a
/// format logs as with `-v`.
///
/// # Errors
/// `ORION_LOG` is no filter.
pub fn start(
    verbose: u8,
    quiet: bool,
    color: bool,
    format: Option<LogFormat>,
) -> Result<(), Failure> {
    let verbose = if format.is_some() && !quiet { verbose.max(1) } else { verbose };
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
    let log = tracing_subscriber::fmt()
        // The one that is on otherwise panics when stderr cannot be written, as on a full disk.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(AboveLiveLine);
    // Only a second start in one process fails, and then the first one stays.
    let _ = match format {
        Some(LogFormat::Json) => {
            log.with_ansi(false).event_format(JsonLine).fmt_fields(JsonFields).try_init()
        }
        Some(LogFormat::Text) | None => log.with_ansi(color).try_init(),
    };
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
        // The WebSocket's own trace holds every message, and so SDP, candidates and tokens.
        _ => "trace,tungstenite=debug,tokio_tungstenite=debug",
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
        live::above(|| io::stderr().lock().write_all(&one_line(bytes))).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An event, which comes as a whole, without line ends but its last: what a client wrote cannot make
/// lines of its own.
fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = match event {
        [text @ .., b'\n'] => (text, &event[text.len()..]),
        text => (text, &[][..]),
    };
    let breaks = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !text.iter().any(breaks) {
        return Cow::Borrowed(event);
    }
    let kept = text.iter().map(|byte| if breaks(byte) { b' ' } else { *byte });
    Cow::Owned(kept.chain(end.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(&*one_line(b"a b\n"), b"a b\n");
        assert_eq!(&*one_line(b"a\nb\r\nc\n"), b"a b  c\n");
        assert_eq!(&*one_line(b""), b"");
    }

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
