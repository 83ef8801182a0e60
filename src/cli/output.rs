//! Where a command writes: people's text to stderr, results and JSON Lines to stdout.
//!
//! The one place where text of servers, peers and files is made safe for a terminal and for the log of
//! a CI runner ([`printable()`]); colors are put in afterwards. The log does the same in `cli::logging`,
//! the live line in `report::live`.
//!
//! A reader that went away (`orion-peer … | head -1`) is no error: what cannot be delivered any more
//! is dropped. Any other write error on stdout is one, for the result would be missing.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use serde::Serialize;

use super::failure::{ErrorLine, Failure};
use crate::{
    report::live,
    types::{
        Stage,
        printable::{self, printable},
    },
};

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
    /// When the command was begun; none before its flags are known.
    pub begun: Option<Instant>,
}

impl Output {
    /// A line for people, on stderr; nothing when quiet. A line end in it is shown as U+FFFD.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.quiet {
            stderr_line(&printable::line(&printable(text.as_ref())));
        }
    }

    /// Lines for people that were laid out by this program, on stderr; nothing when quiet.
    pub fn lines(&self, text: impl AsRef<str>) {
        if !self.quiet {
            stderr_line(&printable::page(text.as_ref()));
        }
    }

    /// A drawing of this program in light ink on a dark ground, on stderr; nothing when quiet.
    pub fn drawing(&self, lines: &[String]) {
        let (ink, plain) = if self.color { ("\x1b[97;40m", "\x1b[0m") } else { ("", "") };
        if !self.quiet {
            for line in lines {
                stderr_line(&format!("{ink}{line}{plain}"));
            }
        }
    }

    /// A command to a CI runner, on stderr, also when quiet. Whoever made it has escaped it: see
    /// `report::bench::github`.
    pub fn runner_command(&self, command: &str) {
        stderr_line(command);
    }

    /// A result for people or pipes, one line on stdout; nothing with `--json`, where
    /// [`Output::event`] is the result.
    ///
    /// # Errors
    /// stdout cannot be written, unless because its reader went away.
    pub fn result(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { stdout_line(&printable::line(text.as_ref())) }
    }

    /// A result of lines that were laid out by this program; otherwise as [`Output::result`].
    ///
    /// # Errors
    /// stdout cannot be written, unless because its reader went away.
    pub fn page(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { stdout_line(&printable::page(text.as_ref())) }
    }

    /// A page whose lines may begin with a mark of good, bad or neither, which are green, red and
    /// yellow on a terminal.
    ///
    /// # Errors
    /// stdout cannot be written, unless because its reader went away.
    pub fn marked(&self, text: &str, marks: [&str; 3]) -> Result<(), Failure> {
        if !self.color || !io::stdout().is_terminal() || self.json {
            return self.page(text);
        }
        let lines = text.split('\n').map(|line| painted(&printable::line(line), marks));
        stdout_line(&lines.collect::<Vec<_>>().join("\n"))
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
        stdout_line(&printable::json(&text))
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
        let safe = |text: &str| printable::line(&printable(text));
        let text = safe(&format!("{}: {}", failure.stage, failure.message));
        stderr_line(&format!("{red}error:{plain} {text}"));
        if !failure.remedy.is_empty() {
            stderr_line(&format!("  try: {}", safe(&failure.remedy)));
        }
        // stdout being broken may be the failure itself; there is nobody left to tell.
        if !failure.told {
            let _ = self.event(&ErrorLine { error: failure });
        }
    }
}

/// A line whose mark, if it begins with one, is in color: green, red, yellow.
fn painted(line: &str, marks: [&str; 3]) -> String {
    for (mark, color) in marks.into_iter().zip([32, 31, 33]) {
        if let Some(rest) = line.strip_prefix(mark) {
            return format!("\x1b[{color}m{mark}\x1b[0m{rest}");
        }
    }
    line.to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_colored_at_the_beginning_of_a_line_only() {
        let marks = ["pass", "FAIL", "  – "];
        assert_eq!(painted("FAIL  a: FAIL", marks), "\x1b[31mFAIL\x1b[0m  a: FAIL");
        assert_eq!(painted("  –   not run", marks), "\x1b[33m  – \x1b[0m  not run");
        assert_eq!(painted("a pass", marks), "a pass");
    }
}
