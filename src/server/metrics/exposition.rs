//! The Prometheus text format, version 0.0.4: a family's help, its type, then its samples.

use std::fmt::{Arguments, Write};

use crate::signaling::server::{
    counters::Family,
    meter::{BOUNDS, Durations},
};

/// Appends a counter with one sample for each value of its label; an empty label means a single sample without one.
pub fn counter<'a>(
    text: &mut String,
    name: &str,
    label: &str,
    help: &str,
    values: impl IntoIterator<Item = (&'a str, u64)>,
) {
    head(text, name, help, "counter");
    for (value, count) in values {
        if label.is_empty() {
            line(text, format_args!("{name} {count}"));
        } else {
            line(text, format_args!("{name}{{{label}=\"{value}\"}} {count}"));
        }
    }
}

/// Appends a family of counters.
pub(super) fn labelled(text: &mut String, name: &str, label: &str, help: &str, family: &Family) {
    counter(text, name, label, help, family.read());
}

/// Appends one gauge.
pub fn gauge(text: &mut String, name: &str, help: &str, value: usize) {
    head(text, name, help, "gauge");
    line(text, format_args!("{name} {value}"));
}

/// Appends a histogram in seconds for each value of its label; an empty label means a single one without a label.
pub(super) fn histogram<'a>(
    text: &mut String,
    name: &str,
    label: &str,
    help: &str,
    values: impl IntoIterator<Item = (&'a str, &'a Durations)>,
) {
    head(text, name, help, "histogram");
    for (value, durations) in values {
        let (own, own_and) = if label.is_empty() {
            (String::new(), String::new())
        } else {
            (format!("{{{label}=\"{value}\"}}"), format!("{label}=\"{value}\","))
        };
        let read = durations.read();
        for (bound, count) in BOUNDS.iter().zip(read.cumulative) {
            line(text, format_args!("{name}_bucket{{{own_and}le=\"{bound}\"}} {count}"));
        }
        line(text, format_args!("{name}_bucket{{{own_and}le=\"+Inf\"}} {}", read.count));
        line(text, format_args!("{name}_sum{own} {}", read.sum));
        line(text, format_args!("{name}_count{own} {}", read.count));
    }
}

/// Appends the help and the type of a family.
pub(super) fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

/// Appends one line.
pub(super) fn line(text: &mut String, line: Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}
