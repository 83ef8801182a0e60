//! JSON Schemas (draft 2020-12) of the lines that `send` and `recv` write and print. The files are in `schemas/`; tests
//! validate the output against them.

/// A line of `frames.jsonl` of `recv --out`.
pub const FRAMES: &str = include_str!("schemas/frames.json");

/// A line of `keyframes.jsonl` of `--stats`.
pub const KEYFRAMES: &str = include_str!("schemas/keyframes.json");

/// A line that `send`, `recv` and `demo` print with `--json`.
pub const LINES: &str = include_str!("schemas/lines.json");
