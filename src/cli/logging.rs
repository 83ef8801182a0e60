//! Diagnostics on stderr: `-v`, `-vv`, `-vvv`, or any filter in `ORION_LOG`. What fields hold steers no
//! terminal, and secrets are taken out (`redact`).

mod json;
mod redact;

use std::{
    fmt,
    io::{self, Write},
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter,
    field::RecordFields,
    filter::filter_fn,
    fmt::{
        FormatFields, MakeWriter,
        format::{DefaultFields, Writer},
    },
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use self::{
    json::{JsonFields, JsonLine},
    redact::redact,
};
use super::failure::Failure;
use crate::{report::live, types::printable};

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
        .with_writer(LogWriter);
    // Only a second start in one process fails, and then the first one stays.
    let _ = match format {
        Some(LogFormat::Json) => {
            let log = log.with_ansi(false).event_format(JsonLine).fmt_fields(JsonFields);
            log.finish().with(filter_fn(is_readable)).try_init()
        }
        Some(LogFormat::Text) | None => {
            let log = log.with_ansi(color).fmt_fields(TextFields);
            log.finish().with(filter_fn(is_readable)).try_init()
        }
    };
    Ok(())
}

/// Not the traces that hold secrets in forms which [`redact`] does not read: the WebSocket crates write
/// whole frames in hexadecimal (`tungstenite` 0.30.0, `protocol/frame/mod.rs:229`), whatever the filter.
fn is_readable(metadata: &Metadata<'_>) -> bool {
    let websocket = ["tungstenite", "tokio_tungstenite"];
    *metadata.level() != Level::TRACE
        || !websocket.iter().any(|target| metadata.target().starts_with(target))
}

/// `-v`: signaling messages, states, the selected pair. `-vv`: descriptions, candidates and control messages, too.
/// The WebRTC crates (`webrtc`, `rtc_ice`, …) warn of what is normal, such as checks before the first candidate:
/// they are heard from `-vvv` on.
fn filter_of(verbose: u8, quiet: bool) -> &'static str {
    match (verbose, quiet) {
        (0, true) => "error,webrtc=off,rtc=off",
        (0, false) => "warn,webrtc=off,rtc=off",
        (1, _) => "warn,webrtc=off,rtc=off,orion_peer=info",
        (2, _) => "warn,webrtc=off,rtc=off,orion_peer=debug",
        (3, _) => "debug,orion_peer=trace",
        _ => "trace",
    }
}

/// Fields of an event or a span as text that steers no terminal and stays in its line. Without colors:
/// those of the level and the target are put in by `tracing-subscriber` itself.
struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        // Line ends within a field are most often those of an error that has several lines.
        writer.write_str(&printable::line(&text.replace(['\r', '\n'], " ")))
    }
}

/// stderr, with the live line out of the way, and without secrets.
struct LogWriter;

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for LogWriter {
    /// An event, which comes as a whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let safe = redact(&text);
        live::above(|| io::stderr().lock().write_all(safe.as_bytes())).map(|()| bytes.len())
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
