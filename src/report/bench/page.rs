//! The terminal page that [`super::table`] and [`super::side_by_side`] write to.

use super::{
    layout::{Align, Column, columns, cut, wrap},
    schema::BenchResult,
    wording::{self, NOTHING},
};
use crate::{report::human, text::printable};

/// Maximum length of a text, characters: a message from another machine may have any length.
const MAX_TEXT: usize = 4096;

/// Maximum length of a name beside its numbers in rows that are too wide, characters including the indent.
const MAX_NAME: usize = 16;

/// Plain text under headings, at most `width` columns wide.
pub(super) struct Page {
    pub(super) text: String,
    pub(super) width: usize,
}

impl Page {
    pub(super) fn new(width: usize) -> Self {
        Self { text: String::new(), width }
    }

    /// A line, safe on a terminal and in the log of a CI runner.
    pub(super) fn line(&mut self, line: &str) {
        self.text.push_str(&printable::line(line));
        self.text.push('\n');
    }

    /// An empty line and a heading.
    pub(super) fn heading(&mut self, heading: &str) {
        self.line("");
        self.line(heading);
    }

    /// Text of any length, wrapped and indented.
    pub(super) fn paragraph(&mut self, indent: usize, text: &str) {
        for line in wrap(&cut(text, MAX_TEXT), indent, self.width) {
            self.line(&line);
        }
    }

    /// Lays out rows that begin with a name, each as its lines. Where the rows would be wider than the page, a long
    /// name gets a line of its own and is never cut.
    pub(super) fn named_rows(&self, layout: &[Column], rows: &[Vec<String>]) -> Vec<Vec<String>> {
        let lines = columns(layout, rows);
        if lines.iter().all(|line| line.chars().count() <= self.width) {
            return lines.into_iter().map(|line| vec![line]).collect();
        }
        let mut alone = Vec::new();
        let mut rest = rows.to_vec();
        for row in &mut rest {
            let long = row.first_mut().filter(|name| name.chars().count() > MAX_NAME);
            alone.push(long.map(std::mem::take));
        }
        let lines = columns(layout, &rest).into_iter().zip(alone);
        lines
            .map(|(line, name)| {
                // A name in a file may have any length.
                let name = name.map(|name| wrap(&cut(&name, MAX_TEXT), 2, self.width));
                name.into_iter().flatten().chain([line]).collect()
            })
            .collect()
    }

    /// Rows of cells in columns.
    pub(super) fn rows(&mut self, layout: &[Column], rows: &[Vec<String>]) {
        for line in columns(layout, rows) {
            self.line(&line);
        }
    }
}

/// A row of cells.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// The comparison of a result with its baseline, if there is one.
pub(super) fn comparison(page: &mut Page, result: &BenchResult) {
    let Some(comparison) = &result.comparison else { return };
    page.heading("against the baseline");
    page.paragraph(2, &wording::baseline(&comparison.baseline));
    let mut rows = vec![row(["", "baseline", "this run", "change", "interval", ""])];
    for metric in &comparison.metrics {
        rows.push(row([
            &format!("  {}", metric.name),
            &wording::maybe(metric.baseline, &metric.unit),
            &wording::maybe(metric.current, &metric.unit),
            &metric.change.map_or_else(|| NOTHING.into(), |c| cut(&wording::signed(c), 9)),
            &cut(&wording::interval(metric), 18),
            wording::verdict(metric.verdict),
        ]));
    }
    let mut layout = [(Align::Right, 0); 6];
    layout[0] = (Align::Left, 15);
    layout[5] = (Align::Left, 0);
    for line in page.named_rows(&layout, &rows).into_iter().flatten() {
        page.line(&line);
    }
    let allowed = comparison
        .max_regression
        .map_or_else(String::new, |share| format!("; {} worse is allowed", human::share(share)));
    page.paragraph(2, &format!("change and its interval: + is worse{allowed}"));
    page.paragraph(2, "same: no significant difference; unknown: not enough samples");
    page.paragraph(2, &comparison.method);
}
