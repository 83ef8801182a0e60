//! JSON Schemas (draft 2020-12) of what `send` and `recv` write and print, line by line. The files stand in `schemas/`;
//! tests hold what is written against them.

/// A line of `frames.jsonl` of `recv --out`.
pub const FRAMES: &str = include_str!("schemas/frames.json");

/// A line of `keyframes.jsonl` of `--stats`.
pub const KEYFRAMES: &str = include_str!("schemas/keyframes.json");

/// A line that `send`, `recv` and `demo` print with `--json`.
pub const LINES: &str = include_str!("schemas/lines.json");
