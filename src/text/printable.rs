//! Untrusted text (from servers, peers, files) made safe to print.
//!
//! Every human-readable line passes one of these where it leaves the process: [`line`](fn@line) and
//! [`page`] in `cli::output` and in the log, [`json`] for JSON Lines. Code that lays text out in columns
//! uses [`printable`] for each cell, because only there our own line breaks can be distinguished from those
//! of the content.

use std::fmt::Write;

/// Maximum length of the text that [`printable`] returns, in characters.
const MAX_PRINTABLE: usize = 4096;

/// Commands that CI runners recognize anywhere in a line: GitHub Actions (`actions/runner`,
/// `ActionCommand.TryParse`) and Azure Pipelines (`##vso[`).
const RUNNER_COMMANDS: [&str; 2] = ["##[", "##vso["];

/// Whether a character controls a terminal (C0, DEL, C1: ECMA-48) or the writing direction
/// (UAX #9 §2), or separates lines (U+2028, U+2029).
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn replaced(c: char) -> char {
    if is_unprintable(c) { char::REPLACEMENT_CHARACTER } else { c }
}

/// Text for part of a line: control characters, line breaks included, become U+FFFD; at most 4096
/// characters are kept.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(replaced).take(MAX_PRINTABLE).collect()
}

/// A whole line: like [`printable`], but of any length, and with CI runner commands defused.
#[must_use]
pub fn line(text: &str) -> String {
    let text: String = text.chars().map(replaced).collect();
    let start = text.trim_start();
    let text = if start.strip_prefix("::").is_some_and(|rest| rest.contains("::")) {
        text.replacen("::", "\u{fffd}:", 1)
    } else {
        text
    };
    RUNNER_COMMANDS.iter().fold(text, |text, command| {
        if text.contains(command) {
            text.replace(command, &command.replacen("##", "#\u{fffd}", 1))
        } else {
            text
        }
    })
}

/// Several lines laid out by this program: each as [`line`](fn@line).
#[must_use]
pub fn page(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Serialized JSON: control characters and CI runner commands are escaped (`\u009b`) instead of replaced, so
/// every JSON parser reads the same string.
#[must_use]
pub fn json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        // These characters occur inside strings only, and none is above U+FFFF.
        if is_unprintable(c) {
            // Writing to a String cannot fail.
            let _ = write!(safe, "\\u{:04x}", c as u32);
        } else {
            safe.push(c);
        }
    }
    RUNNER_COMMANDS
        .iter()
        .fold(safe, |text, command| text.replace(command, &command.replacen("##", "#\\u0023", 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}c"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(printable("\u{202e}txt.exe"), "\u{fffd}txt.exe");
        assert_eq!(printable("Grüße, 世界"), "Grüße, 世界");
        assert_eq!(printable(&"x".repeat(5000)).len(), 4096);
    }

    #[test]
    fn a_line_stays_one_line_and_cannot_command_a_ci_runner() {
        assert_eq!(line("\u{1b}]0;x\u{7}\u{1b}[31m"), "\u{fffd}]0;x\u{fffd}\u{fffd}[31m");
        assert_eq!(line("a\r\n::error::x"), "a\u{fffd}\u{fffd}::error::x");
        assert_eq!(line(" \u{a0}::error::x"), " \u{a0}\u{fffd}:error::x");
        assert_eq!(line("a ##[error]b ##vso[x]"), "a #\u{fffd}[error]b #\u{fffd}vso[x]");
        assert_eq!(line("###[error]b"), "##\u{fffd}[error]b");
        for innocent in ["::1 is loopback", "a::b::c", "# [x]", &"x".repeat(5000)] {
            assert_eq!(line(innocent), innocent);
        }
    }

    #[test]
    fn a_page_keeps_its_lines() {
        assert_eq!(page("a\n  ::warning::b\n\u{1b}c\n"), "a\n  \u{fffd}:warning::b\n\u{fffd}c\n");
        assert_eq!(page("a\r\nb"), "a\u{fffd}\nb");
    }

    #[test]
    fn json_stays_the_same_json() {
        let text = "\u{7f}\u{9b}31m\u{202e}\u{2028} ##[error]x ##vso[y] \u{1b} ü";
        let written = json(&serde_json::to_string(text).unwrap());
        assert!(!written.chars().any(is_unprintable) && !written.contains("##"), "{written}");
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
