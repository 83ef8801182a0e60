//! Output of `lab`: the plan, the progress and the human-readable result.

use crate::{
    cli::{failure::Failure, output::Output},
    lab::matrix::{Cell, LabResult, run::Job, table, words},
    report::{
        layout::{WIDTH, fold},
        live::{LiveMode, Progress},
    },
};

/// Shows a run.
pub(super) struct LabDisplay {
    output: Output,
    progress: Progress,
    terminal: bool,
    done: u64,
    pairs: usize,
}

impl LabDisplay {
    /// Creates the display for a number of pairs.
    pub(super) fn new(output: Output, pairs: usize) -> Self {
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let mode = LiveMode::choose(terminal, output.quiet, output.color);
        Self { output, progress: Progress::new(mode, pairs as u64), terminal, done: 0, pairs }
    }

    /// Shows the plan.
    pub(super) fn start(&self, job: &Job) {
        match job.plans.as_slice() {
            [plan] => self.output.lines(fold(&words::before(plan), WIDTH)),
            plans => {
                let concurrent = super::parallel(job);
                self.output.line(format!("{} pairs, {concurrent} concurrently", plans.len()));
            }
        }
    }

    /// Shows a measured pair.
    pub(super) fn cell(&mut self, cell: &Cell) {
        self.done += 1;
        let kind = cell.connection_type.as_deref().unwrap_or("not connected");
        let text = format!("{}: {kind}", cell.pair());
        self.progress.update(self.done, &text);
        if !cell.agree {
            let (expected, measured) = (cell.expected, cell.measured);
            self.output.line(format!("{text}: expected {expected}, measured {measured}"));
        } else if !self.terminal && self.pairs > 1 {
            self.output.line(format!("{}/{} {text}", self.done, self.pairs));
        }
    }

    /// Writes the result to stdout.
    pub(super) fn end(self, result: &LabResult, one: bool) -> Result<(), Failure> {
        drop(self.progress);
        self.output.event(result)?;
        match result.cells.as_slice() {
            [cell] if one => self.output.page(fold(&words::after(cell), WIDTH)),
            _ => self.output.page(table::table(result).trim_end()),
        }
    }
}
