//! Diagnostics on stderr: `-v`, `-vv`, `-vvv`, or any filter in `ORION_LOG`. Control characters in fields are
//! replaced, and secrets are removed (`redact`).

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
use crate::{report::live, text::printable};

/// Variable with a filter, such as `ORION_LOG=orion_peer=debug,webrtc=warn`.
pub const VARIABLE: &str = "ORION_LOG";

/// Log format of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One human-readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// Starts logging. `ORION_LOG` takes precedence over `verbose`, and `verbose` over `quiet`; a server with an
/// explicit format logs as with `-v`.
///
/// # Errors
/// `ORION_LOG` is not a valid filter.
pub fn start(
    verbose: u8,
    quiet: bool,
    color: bool,
    format: Option<LogFormat>,
) -> Result<(), Failure> {
    let verbose = if format.is_some() && !quiet { verbose.max(1) } else { verbose };
    let from_variable = std::env::var(VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let filter = match from_variable {
        Some(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(
                format!(
                    "environment variable {VARIABLE}: `{text}` is not a valid log filter: {error}"
                ),
                "use a level or target=level pairs, such as ORION_LOG=orion_peer=debug,webrtc=warn",
            )
        })?,
        None => EnvFilter::new(filter_of(verbose, quiet)),
    };
    let log = tracing_subscriber::fmt()
        // By default the subscriber panics if stderr is not writable, as on a full disk.
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(LogWriter);
    // Fails only if logging was already started in this process; the first subscriber stays.
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

/// Excludes traces that contain secrets in forms that [`redact`] does not recognize: the WebSocket crates log
/// whole frames in hexadecimal (`tungstenite` 0.30.0, `protocol/frame/mod.rs:229`), whatever the filter.
fn is_readable(metadata: &Metadata<'_>) -> bool {
    let websocket = ["tungstenite", "tokio_tungstenite"];
    *metadata.level() != Level::TRACE
        || !websocket.iter().any(|target| metadata.target().starts_with(target))
}

/// `-v`: signaling messages, states, the selected candidate pair. `-vv`: also descriptions, candidates and control messages.
/// The WebRTC crates (`webrtc`, `rtc_ice`, …) warn about normal events, such as checks before the first candidate,
/// so they are logged from `-vvv` on.
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

/// Formats fields of an event or a span on one line without control characters. Adds no colors:
/// `tracing-subscriber` colors level and target itself.
struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), fields)?;
        // Line breaks within a field mostly come from multi-line errors.
        writer.write_str(&printable::line(&text.replace(['\r', '\n'], " ")))
    }
}

/// Writes to stderr, above the live line and without secrets.
struct LogWriter;

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for LogWriter {
    /// Writes one event: the subscriber passes each event in a single call.
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
    fn every_level_has_a_valid_filter() {
        for verbose in 0..6 {
            for quiet in [false, true] {
                EnvFilter::try_new(filter_of(verbose, quiet)).unwrap();
            }
        }
        assert!(filter_of(0, true).starts_with("error,"));
    }
}
