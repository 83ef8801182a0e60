//! Output of commands: human-readable text to stderr, results and JSON Lines to stdout.
//!
//! This is the one place where text from servers, peers and files is made safe for a terminal and for the log of a
//! CI runner ([`printable()`]); colors are added afterward. The log does the same in `cli::logging`, the live
//! line in `report::live`.
//!
//! A closed pipe (`orion-peer … | head -1`) is not an error: further output is dropped. Any other write error on
//! stdout is an error, because the result would be missing.

use std::{
    io::{self, IsTerminal, Write},
    time::Instant,
};

use serde::Serialize;

use super::failure::{ErrorLine, Failure};
use crate::{
    report::live,
    text::printable::{self, printable},
    types::Stage,
};

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ColorWhen {
    /// Only on a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Also for files and pipes.
    Always,
    /// No colors at all.
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

/// Output settings of a command.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    /// Write only JSON Lines to stdout.
    pub json: bool,
    /// Print only errors and results.
    pub quiet: bool,
    /// Use colors on stderr.
    pub color: bool,
    /// When the command was started; `None` while its flags are unknown.
    pub started_at: Option<Instant>,
}

impl Output {
    /// Writes a human-readable line to stderr, unless quiet. Line breaks in it become U+FFFD.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.quiet {
            stderr_line(&printable::line(&printable(text.as_ref())));
        }
    }

    /// Writes human-readable lines laid out by this program to stderr, unless quiet.
    pub fn lines(&self, text: impl AsRef<str>) {
        if !self.quiet {
            stderr_line(&printable::page(text.as_ref()));
        }
    }

    /// Writes a drawing, light on dark, to stderr, unless quiet.
    pub fn drawing(&self, lines: &[String]) {
        let (start, end) = if self.color { ("\x1b[97;40m", "\x1b[0m") } else { ("", "") };
        if !self.quiet {
            for line in lines {
                stderr_line(&format!("{start}{line}{end}"));
            }
        }
    }

    /// Writes a CI runner command to stderr, even if quiet. The caller has escaped it: see
    /// `report::bench::github`.
    pub fn runner_command(&self, command: &str) {
        stderr_line(command);
    }

    /// Writes a one-line result to stdout; does nothing with `--json`, where [`Output::event`] writes the result.
    ///
    /// # Errors
    /// stdout is not writable, except for a closed pipe.
    pub fn result(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { stdout_line(&printable::line(text.as_ref())) }
    }

    /// Writes a multi-line result laid out by this program, like [`Output::result`].
    ///
    /// # Errors
    /// stdout is not writable, except for a closed pipe.
    pub fn page(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { Ok(()) } else { stdout_line(&printable::page(text.as_ref())) }
    }

    /// Writes a page whose lines may start with a mark for success, failure or neither, colored green, red and yellow on a
    /// terminal.
    ///
    /// # Errors
    /// stdout is not writable, except for a closed pipe.
    pub fn marked(&self, text: &str, marks: [&str; 3]) -> Result<(), Failure> {
        if !self.color || !io::stdout().is_terminal() || self.json {
            return self.page(text);
        }
        let lines = text.split('\n').map(|line| colored(&printable::line(line), marks));
        stdout_line(&lines.collect::<Vec<_>>().join("\n"))
    }

    /// Writes a JSON line to stdout; does nothing without `--json`.
    ///
    /// # Errors
    /// The value cannot be serialized, or stdout is not writable, except for a closed pipe.
    pub fn event(&self, value: &impl Serialize) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let text = serde_json::to_string(value).map_err(|error| {
            Failure::new(Stage::Output, format!("cannot write a result as JSON: {error}"), "")
        })?;
        stdout_line(&printable::json(&text))
    }

    /// Writes raw bytes to stdout, with or without `--json`: for scripts and pages requested by name.
    ///
    /// # Errors
    /// stdout is not writable, except for a closed pipe.
    pub fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        stdout_bytes(bytes)
    }

    /// Writes the failure of a command to stderr and, with `--json`, as a JSON line to stdout.
    pub fn failure(&self, failure: &Failure) {
        let (red, plain) = if self.color { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let safe = |text: &str| printable::line(&printable(text));
        let text = safe(&format!("{}: {}", failure.stage, failure.message));
        stderr_line(&format!("{red}error:{plain} {text}"));
        if !failure.remedy.is_empty() {
            stderr_line(&format!("  try: {}", safe(&failure.remedy)));
        }
        // A broken stdout may itself be the failure, which then cannot be reported there.
        if !failure.in_result {
            let _ = self.event(&ErrorLine { error: failure });
        }
    }
}

/// Colors the mark at the start of a line, if there is one: green, red, yellow.
fn colored(line: &str, marks: [&str; 3]) -> String {
    for (mark, color) in marks.into_iter().zip([32, 31, 33]) {
        if let Some(rest) = line.strip_prefix(mark) {
            return format!("\x1b[{color}m{mark}\x1b[0m{rest}");
        }
    }
    line.to_owned()
}

fn stderr_line(text: &str) {
    live::above(|| {
        // A closed stderr cannot be reported anywhere.
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
            "redirect stdout to a disk with free space",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_colored_only_at_the_start_of_a_line() {
        let marks = ["pass", "FAIL", "  – "];
        assert_eq!(colored("FAIL  a: FAIL", marks), "\x1b[31mFAIL\x1b[0m  a: FAIL");
        assert_eq!(colored("  –   not run", marks), "\x1b[33m  – \x1b[0m  not run");
        assert_eq!(colored("a pass", marks), "a pass");
    }
}
