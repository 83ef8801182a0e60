//! The result as text: the grid of a whole matrix, or one line per pair, then the pairs that are not as
//! expected, then the slowest ones.

use std::fmt::Write;

use super::schema::{Cell, LabResult};
use crate::{
    lab::timeline,
    nat::Path,
    report::layout::{self, Align},
    text::printable,
};

/// Number of pairs listed as the slowest.
const SLOWEST: usize = 5;

/// A grid of networks with the cell of each pair.
pub(super) struct Grid<'r> {
    /// Row labels: A's networks.
    pub(super) rows: Vec<&'r str>,
    /// Column labels: B's networks.
    pub(super) columns: Vec<&'r str>,
    cells: &'r [Cell],
}

impl<'r> Grid<'r> {
    /// Returns a grid if the pairs form one: at least two rows and two columns, no pair twice, and half of
    /// the fields filled.
    pub(super) fn of(result: &'r LabResult) -> Option<Self> {
        let cells = &result.cells[..];
        let (mut rows, mut columns): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for cell in cells {
            if cell.same_nat || cell.scenario.is_some() {
                return None;
            }
            if !rows.contains(&cell.a.as_str()) {
                rows.push(&cell.a);
            }
            if !columns.contains(&cell.b.as_str()) {
                columns.push(&cell.b);
            }
        }
        let grid = Self { rows, columns, cells };
        let fields = grid.rows.len() * grid.columns.len();
        let once = cells
            .iter()
            .all(|cell| grid.at(&cell.a, &cell.b).is_some_and(|first| std::ptr::eq(first, cell)));
        let wide = grid.rows.len() > 1 && grid.columns.len() > 1;
        (wide && once && cells.len() * 2 >= fields).then_some(grid)
    }

    /// The cell of a pair.
    pub(super) fn at(&self, a: &str, b: &str) -> Option<&'r Cell> {
        self.cells.iter().find(|cell| cell.a == a && cell.b == b)
    }
}

/// The letter for a path: `D`, `R` or `–`.
pub(super) fn letter(path: Path) -> &'static str {
    match path {
        Path::Direct => "D",
        Path::Relay => "R",
        Path::None => "–",
    }
}

/// The whole result as text.
#[must_use]
pub fn table(result: &LabResult) -> String {
    let timelines = result.timelines.iter().map(timeline::table::table).collect::<Vec<_>>();
    if result.cells.is_empty() && !timelines.is_empty() {
        return format!("{}\n\n{}\n", timelines.join("\n\n"), verdict(result));
    }
    let mut text = match Grid::of(result) {
        Some(grid) => grid_text(&grid),
        None => list(&result.cells),
    };
    let _ = writeln!(text, "\n{}", verdict(result));
    let wrong: Vec<&Cell> = result.cells.iter().filter(|cell| !cell.agree).collect();
    for cell in wrong {
        let _ = write!(text, "\n  {}: {}", printable(&cell.pair()), difference(cell));
    }
    text.push_str(&slowest(&result.cells));
    for timeline in timelines {
        let _ = write!(text, "\n{timeline}\n");
    }
    text
}

/// `81 of 81 pairs are as expected (simulated, seed 1, 61 s)`.
#[must_use]
pub fn verdict(result: &LabResult) -> String {
    let LabResult { agree, total, layer, seed, duration_s, .. } = result;
    let what = match (result.cells.is_empty(), result.timelines.is_empty()) {
        (_, true) => "pair",
        (true, false) => "timeline",
        (false, false) => "scenario",
    };
    let pairs = if *total == 1 { format!("{what} is") } else { format!("{what}s are") };
    let stopped = match (result.cells.len() + result.timelines.len()) as u64 {
        done if result.partial => format!(", stopped after {done}"),
        _ => String::new(),
    };
    let again = match result.cells.iter().filter(|cell| cell.attempts > 1).count() {
        0 => String::new(),
        twice => format!(", {twice} measured twice"),
    };
    let layer = layer.as_str();
    format!(
        "{agree} of {total} {pairs} as expected{again}{stopped} ({layer}, seed {seed}, {duration_s:.0} s)"
    )
}

/// How a cell differs from the expectation, why, and the remedy.
pub(super) fn difference(cell: &Cell) -> String {
    let mut text = format!("expected {}, measured {}", cell.expected, cell.measured);
    if let Some(reason) = &cell.reason {
        let _ = write!(text, ": {}: {}", reason.stage, printable(&reason.message));
        if !reason.remedy.is_empty() {
            let _ = write!(text, "\n    try: {}", printable(&reason.remedy));
        }
    }
    text.push('\n');
    text
}

fn grid_text(grid: &Grid<'_>) -> String {
    let field = |a: &str, b: &str| match grid.at(a, b) {
        None => String::new(),
        Some(cell) if cell.agree => letter(cell.measured).to_owned(),
        Some(cell) if cell.measured == cell.expected => format!("{}!", letter(cell.measured)),
        Some(cell) => format!("{}≠{}", letter(cell.measured), letter(cell.expected)),
    };
    let width = |text: &str| text.chars().count();
    let first = grid.rows.iter().map(|row| width(row)).max().unwrap_or(0).max(5);
    let mut text = format!("{:first$}", "A \\ B");
    for column in &grid.columns {
        let _ = write!(text, "  {:^1$}", printable(column), width(column).max(3));
    }
    text.push('\n');
    for row in &grid.rows {
        let _ = write!(text, "{:first$}", printable(row));
        for column in &grid.columns {
            let _ = write!(text, "  {:^1$}", field(row, column), width(column).max(3));
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str("\nD direct, R relayed, – not connected");
    if grid.cells.iter().any(|cell| !cell.agree) {
        text.push_str(
            "; R≠D measured R, expected D; D! path as expected, but something else failed",
        );
    }
    text.push('\n');
    text
}

fn list(cells: &[Cell]) -> String {
    let rows = cells.iter().map(|cell| {
        let name = match &cell.scenario {
            Some(scenario) => scenario.clone(),
            None => cell.pair(),
        };
        [
            printable(&name),
            cell.expected.to_string(),
            cell.measured.to_string(),
            cell.connection_type.clone().unwrap_or_else(|| "–".into()),
            ms(cell.setup_ms),
            ms(cell.first_picture_ms),
            ms(cell.rtt_ms),
        ]
    });
    let head = ["pair", "expected", "measured", "type", "setup", "picture", "RTT"];
    let medians = if cells.iter().any(|cell| cell.connections > 1) {
        "times are medians of each pair's connections; picture: time to the first one\n"
    } else {
        "picture: time to the first one\n"
    };
    columns(head, &rows.collect::<Vec<_>>()) + medians
}

/// The slowest pairs, when there are more than a few.
fn slowest(cells: &[Cell]) -> String {
    let mut connected: Vec<&Cell> = cells.iter().filter(|cell| cell.setup_ms.is_some()).collect();
    if cells.len() <= SLOWEST || connected.is_empty() {
        return String::new();
    }
    connected.sort_by(|one, other| other.setup_ms.total_cmp(&one.setup_ms));
    let rows = connected.iter().take(SLOWEST).map(|cell| {
        let kind = cell.connection_type.clone().unwrap_or_default();
        let (setup, picture) = (ms(cell.setup_ms), ms(cell.first_picture_ms));
        [printable(&cell.pair()), kind, setup, picture, ms(cell.rtt_ms)]
    });
    format!(
        "\n{}",
        columns(["slowest", "type", "setup", "picture", "RTT"], &rows.collect::<Vec<_>>())
    )
}

/// A table whose last three columns are numbers; one line per row.
fn columns<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let align: [_; N] =
        std::array::from_fn(|at| (if at + 3 >= N { Align::Right } else { Align::Left }, 0));
    let head = head.map(str::to_owned).to_vec();
    let rows: Vec<_> = [head].into_iter().chain(rows.iter().map(|row| row.to_vec())).collect();
    layout::columns(&align, &rows).into_iter().map(|line| line + "\n").collect()
}

/// `84 ms`, `–`.
pub(super) fn ms(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(ms) if ms < 10.0 => format!("{ms:.1} ms"),
        Some(ms) => format!("{ms:.0} ms"),
    }
}

trait TotalCmp {
    fn total_cmp(&self, other: &Self) -> std::cmp::Ordering;
}

impl TotalCmp for Option<f64> {
    fn total_cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.unwrap_or(-1.0).total_cmp(&other.unwrap_or(-1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::matrix::example;

    #[test]
    fn a_matrix_is_a_grid_that_marks_unexpected_results() {
        let text = table(&example::matrix());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("A \\ B") && lines[0].ends_with("udp-blocked"), "{text}");
        let row = |name: &str| {
            let line = lines.iter().find(|line| line.split_whitespace().next() == Some(name));
            line.unwrap().split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("none"), "D D D D D D D D R");
        assert_eq!(row("fullcone"), "D D D D R≠D D D D R");
        assert_eq!(row("port"), "D D D D D –≠R D R R");
        assert!(
            text.contains("79 of 81 pairs are as expected (simulated, seed 1, 61 s)"),
            "{text}"
        );
        assert!(
            text.contains("port and sym: expected relay, measured none: ice: no pair"),
            "{text}"
        );
        assert!(text.contains("    try: measure again"), "{text}");
        let slowest = text.split("\nslowest").nth(1).unwrap();
        assert!(
            slowest.lines().nth(1).unwrap().contains("relay/tcp  212 ms   253 ms  1.2 ms"),
            "{text}"
        );
        assert_eq!(slowest.lines().count(), 1 + SLOWEST);
    }

    #[test]
    fn a_few_pairs_are_a_list() {
        let mut scenario = example::cell("lte-symmetric", "home-router");
        scenario.scenario = Some("phone-mac".into());
        let text = table(&example::result(vec![scenario, example::cell("port", "port")]));
        assert!(text.contains("phone-mac      relay     relay     relay/udp"), "{text}");
        assert!(text.contains("port and port  direct    direct    srflx       84 ms"), "{text}");
        assert!(!text.contains("slowest") && text.contains("2 of 2 pairs are"), "{text}");
    }

    #[test]
    fn a_stopped_run_is_marked() {
        let mut result = example::result(vec![example::cell("port", "port")]);
        (result.total, result.partial) = (81, true);
        assert!(verdict(&result).starts_with("1 of 81 pairs are as expected, stopped after 1"));
    }

    #[test]
    fn duplicate_pairs_do_not_form_a_grid() {
        let cell = |a, b| example::cell(a, b);
        let twice = vec![cell("port", "sym"), cell("sym", "port"), cell("port", "sym")];
        assert!(Grid::of(&example::result(twice)).is_none());
        let half = vec![cell("port", "sym"), cell("sym", "port")];
        assert!(Grid::of(&example::result(half)).is_some());
    }
}
