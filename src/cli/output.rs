//! Where a command writes: people's text to stderr, results and JSON Lines to stdout.
//!
//! A reader that went away (`orion-peer … | head -1`) is no error: what cannot be delivered any more
//! is dropped. Any other write error on stdout is one, for the result would be missing.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::failure::{ErrorLine, Failure};
use crate::{report::live, types::Stage};

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorWhen {
    /// Whether stderr gets colors.
    #[must_use]
    pub fn resolve(self) -> bool {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => {
                io::stderr().is_terminal()
                    && !set("NO_COLOR")
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }
}

/// How a command talks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    /// stdout is JSON Lines and nothing else.
    pub json: bool,
    /// Only errors and results.
    pub quiet: bool,
    /// Colors on stderr.
    pub color: bool,
}

impl Output {
    /// A line for people, on stderr; nothing when quiet.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.quiet {
            stderr_line(text.as_ref());
        }
    }

    /// A line on stderr, also when quiet: for a program that reads it there.
    pub fn always(&self, text: &str) {
        stderr_line(text);
    }

    /// A result for people or pipes, on stdout with a line end; nothing with `--json`, where
    /// [`Output::event`] is the result.
    ///
    /// # Errors
    /// stdout cannot be written, unless because its reader went away.
    pub fn result(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { stdout_line(text.as_ref()) }
    }

    /// A JSON line on stdout; nothing without `--json`.
    ///
    /// # Errors
    /// The value is no JSON, or stdout cannot be written, unless because its reader went away.
    pub fn event(&self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(|error| {
            Failure::new(Stage::Output, format!("cannot write a result as JSON: {error}"), "")
        })?;
        stdout_line(&text)
    }

    /// Bytes as they are on stdout, with or without `--json`: for scripts and pages that are asked
    /// for by name.
    ///
    /// # Errors
    /// stdout cannot be written, unless because its reader went away.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        stdout_bytes(bytes)
    }

    /// How a command failed: on stderr, and as a JSON line on stdout with `--json`.
    pub fn failure(&self, failure: &Failure) {
        let (red, plain) = if self.color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        stderr_line(&format!("{red}error:{plain} {failure}"));
        // stdout being broken may be the failure itself; there is nobody left to tell.
        if !failure.told {
            let _ = self.event(&ErrorLine { error: failure });
        }
    }
}

fn stderr_line(text: &str) {
    live::above(|| {
        // Nobody reads stderr any more: nothing to be done about it.
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

fn stdout_line(text: &str) -> Result<(), Failure> {
    let mut line = String::with_capacity(text.len() + 1);
    line.push_str(text);
    line.push('\n');
    stdout_bytes(line.as_bytes())
}

fn stdout_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut result = Ok(());
    live::above(|| {
        let mut stdout = io::stdout().lock();
        result = stdout.write_all(bytes).and_then(|()| stdout.flush());
    });
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Stage::Output,
            format!("cannot write to stdout: {error}"),
            "send stdout to a file or a disk that has room",
        )),
        _ => Ok(()),
    }
}
