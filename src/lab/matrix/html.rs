//! The result as a single self-contained page in the style of the bench report: the grid as a map of
//! connection type and setup time, then the pairs that are not as expected and why, then every pair.
//!
//! A cell of the map shows details on hover or keyboard focus. The map is a table and reads as one.

use std::fmt::Write;

use super::{
    schema::{Cell, LabResult, LinkRecord},
    table::{Grid, letter, ms, verdict},
    words::PINGS_EXPIRE,
};
use crate::{
    nat::{Path, Queue},
    report::html::{
        document,
        markup::{Table, badge, code, esc, long, nothing, section, words},
    },
};

/// Number of shades per color, fastest to slowest.
const SHADES: f64 = 4.0;

/// Renders the result as an HTML page.
#[must_use]
pub fn html(result: &LabResult) -> String {
    let title = format!("orion-peer lab: {} of {} as expected", result.agree, result.total);
    let body = [
        header(result),
        tiles(result),
        map(result),
        differences(result),
        pairs(result),
        details(result),
    ];
    document(&title, include_str!("html/map.css"), &body.concat())
}

fn header(result: &LabResult) -> String {
    let class = match (result.partial, result.agree == result.cells.len() as u64) {
        (_, false) => "bad",
        (true, true) => "warn",
        (false, true) => "good",
    };
    let facts = [
        ("started", result.started_at.clone()),
        ("took", format!("{:.0} s", result.duration_s)),
        ("NATs and links", format!("{}, seed {}", result.layer.as_str(), result.seed)),
        ("TURN", turn(&result.cells)),
        ("link", links(&result.cells)),
    ];
    let versions = result.versions.iter().map(|(name, version)| (name.as_str(), version.clone()));
    let mut list = String::new();
    for (name, value) in facts.into_iter().chain(versions).filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(list, "<div><dt>{}</dt><dd>{}</dd></div>", esc(name), esc(&value));
    }
    format!(
        "<header class=\"verdict {class}\">\n<p class=\"tool\">orion-peer lab</p>\n\
         <h1>{}</h1>\n<p>{}</p>\n</header>\n<dl class=\"facts\">\n{list}</dl>\n",
        esc(verdict(result).split(" (").next().unwrap_or_default()),
        esc("Two peers behind each pair of networks: the expected path and the measured one.")
    )
}

/// The value that all cells share; `None` if they differ.
fn common<'c, T: PartialEq>(cells: &'c [Cell], of: impl Fn(&'c Cell) -> T) -> Option<T> {
    let first = of(cells.first()?);
    cells.iter().all(|cell| of(cell) == first).then_some(first)
}

fn turn(cells: &[Cell]) -> String {
    match common(cells, |cell| &cell.turn) {
        Some(turn) if turn.is_empty() => "none".into(),
        Some(turn) => turn.join(", "),
        None => String::new(),
    }
}

fn links(cells: &[Cell]) -> String {
    match common(cells, |cell| &cell.link) {
        Some(link) if link.a == link.b => link_words(&link.a),
        Some(link) => format!("A {}; B {}", link_words(&link.a), link_words(&link.b)),
        None => "differs per pair".into(),
    }
}

fn link_words(link: &LinkRecord) -> String {
    let mut parts = Vec::new();
    if link.delay_ms > 0.0 {
        parts.push(format!("{} ms one-way delay", link.delay_ms));
    }
    if link.jitter_ms > 0.0 {
        parts.push(format!("up to {} ms jitter", link.jitter_ms));
    }
    if link.loss > 0.0 {
        parts.push(match link.loss_burst {
            0 | 1 => format!("{} % loss", link.loss * 100.0),
            burst => format!("{} % loss in bursts of {burst}", link.loss * 100.0),
        });
    }
    if let Some(rate) = link.rate {
        parts.push(format!("{} Mbit/s", rate as f64 / 1e6));
    }
    if let Some(bytes) = link.queue_bytes {
        parts.push(format!("{} queue", Queue::Bytes(bytes)));
    }
    if parts.is_empty() { "no impairment".into() } else { parts.join(", ") }
}

/// The key figures.
fn tiles(result: &LabResult) -> String {
    let of = |path: Path| -> Vec<&Cell> {
        result.cells.iter().filter(|cell| cell.measured == path).collect()
    };
    let tile = |label: &str, value: usize, detail: String| {
        format!(
            "<li><span class=\"label\">{label}</span> <strong>{value}</strong> \
             <span class=\"detail\">{detail}</span></li>\n"
        )
    };
    let times = |cells: &[&Cell]| {
        let mut setups: Vec<f64> = cells.iter().filter_map(|cell| cell.setup_ms).collect();
        setups.sort_by(f64::total_cmp);
        let Some((median, slowest)) = setups.get(setups.len() / 2).zip(setups.last()) else {
            return "none".to_owned();
        };
        format!("setup {} median,<br>{} slowest", ms(Some(*median)), ms(Some(*slowest)))
    };
    let (direct, relayed, none) = (of(Path::Direct), of(Path::Relay), of(Path::None));
    let wrong = result.cells.len() - result.agree as usize;
    let expected = none.iter().filter(|cell| cell.agree).count();
    let not_connected = match none.len() {
        0 => "every pair connected".to_owned(),
        _ => format!("{expected} of them as expected"),
    };
    let tiles = [
        tile("Direct", direct.len(), times(&direct)),
        tile("Relayed", relayed.len(), times(&relayed)),
        tile("Not connected", none.len(), not_connected),
        tile("Not as expected", wrong, format!("of {} measured", result.cells.len())),
    ];
    format!("<h2 class=\"quiet\">Key figures</h2>\n<ul class=\"tiles\">\n{}</ul>\n", tiles.concat())
}

/// The grid, when the pairs form one.
fn map(result: &LabResult) -> String {
    let Some(grid) = Grid::of(result) else { return String::new() };
    let scale = Scale::of(&result.cells);
    let mut head = String::new();
    for name in &grid.columns {
        let _ = write!(head, "<th scope=\"col\">{}</th>", breakable(name));
    }
    let mut rows = String::new();
    for a in &grid.rows {
        let _ = write!(rows, "<tr><th scope=\"row\">{}</th>", breakable(a));
        for b in &grid.columns {
            match grid.at(a, b) {
                Some(cell) => rows.push_str(&field(cell, &scale)),
                None => rows.push_str("<td class=\"unmeasured\">not measured</td>"),
            }
        }
        rows.push_str("</tr>\n");
    }
    let caption = "A's network down, B's across";
    let table = format!(
        "<p class=\"caption\" aria-hidden=\"true\">{caption} <span class=\"narrow\">(scroll for more \
         columns)</span></p>\n\
         <div class=\"scroll\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\
         <table class=\"map\">\n<caption>{caption}</caption>\n\
         <thead><tr><th scope=\"col\">A \\ B</th>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>\
         </div>\n{}",
        legend(&scale)
    );
    section("map", "Which networks connect", &table)
}

/// A name that may break after each `+` and `-`.
fn breakable(name: &str) -> String {
    esc(name).replace('+', "+<wbr>").replace('-', "-<wbr>")
}

/// Shade of a cell: logarithmic in the setup time, fastest to slowest.
struct Scale {
    fastest: f64,
    slowest: f64,
}

impl Scale {
    fn of(cells: &[Cell]) -> Self {
        let setups = || cells.iter().filter_map(|cell| cell.setup_ms).filter(|ms| *ms > 0.0);
        Self {
            fastest: setups().fold(f64::INFINITY, f64::min),
            slowest: setups().fold(0.0, f64::max),
        }
    }

    /// From 1 to [`SHADES`].
    fn shade(&self, ms: Option<f64>) -> u32 {
        let Some(ms) = ms.filter(|ms| *ms > 0.0) else { return 1 };
        let span = (self.slowest / self.fastest).ln();
        if span.is_nan() || span <= 0.0 {
            return 1;
        }
        let share = (ms / self.fastest).ln() / span;
        1 + (share * SHADES).clamp(0.0, SHADES - 1.0) as u32
    }
}

fn field(cell: &Cell, scale: &Scale) -> String {
    let class = match cell.measured {
        Path::Direct => "direct",
        Path::Relay => "relay",
        Path::None => "unconnected",
    };
    let wrong = if cell.agree { "" } else { " wrong" };
    let mark = if cell.agree { String::new() } else { format!("≠{}", letter(cell.expected)) };
    let kind = cell.connection_type.as_deref().unwrap_or("none");
    let time = cell.setup_ms.map(|time| ms(Some(time))).unwrap_or_default();
    format!(
        "<td class=\"{class} shade{}{wrong}\" tabindex=\"0\"><b>{}{mark}</b> \
         <span>{}</span> <span>{time}</span><span class=\"tip\" role=\"note\">{}</span></td>",
        scale.shade(cell.setup_ms),
        letter(cell.measured),
        esc(kind).replace('/', "/<wbr>"),
        tip(cell)
    )
}

/// Details shown on hover or focus.
fn tip(cell: &Cell) -> String {
    let mut lines = vec![
        format!("<strong>{}</strong>", esc(&cell.pair())),
        format!("expected {}, measured {}", cell.expected, cell.measured),
    ];
    if let Some(kind) = &cell.connection_type {
        lines.push(format!("{}: setup {}, RTT {}", esc(kind), ms(cell.setup_ms), ms(cell.rtt_ms)));
    }
    if cell.nat.a != cell.a || cell.nat.b != cell.b {
        lines.push(format!("{} and {}", esc(&cell.nat.a), esc(&cell.nat.b)));
    }
    if let Some(reason) = &cell.reason {
        lines.push(format!("{}: {}", reason.stage, esc(&reason.message)));
    }
    lines.join("<br>")
}

fn legend(scale: &Scale) -> String {
    let key = |class: &str, text: &str| {
        format!("<li><span class=\"swatch {class}\"></span> {text}</li>\n")
    };
    let range = if scale.slowest > 0.0 {
        format!(", {} to {} (darker is slower)", ms(Some(scale.fastest)), ms(Some(scale.slowest)))
    } else {
        String::new()
    };
    format!(
        "<ul class=\"legend\">\n{}{}{}{}</ul>\n<p class=\"how\">Each cell: path, candidate type and \
         setup time{range}. Hover over a cell, or focus it with the Tab key, for details.</p>\n",
        key("direct shade3", "D: direct"),
        key("relay shade3", "R: relayed"),
        key("unconnected", "–: not connected"),
        key("wrong", "R≠D: measured R, expected D"),
    )
}

/// Pairs that are not as expected.
fn differences(result: &LabResult) -> String {
    let wrong: Vec<&Cell> = result.cells.iter().filter(|cell| !cell.agree).collect();
    if wrong.is_empty() {
        return section(
            "differences",
            "Not as expected",
            &nothing("All measured pairs are as expected."),
        );
    }
    let columns = ["Pair", "Expected", "Measured", "Reason", "Remedy"];
    let mut table = Table::new("Pairs that are not as expected", &columns);
    for cell in wrong {
        let (why, remedy) = cell.reason.as_ref().map_or_else(Default::default, |reason| {
            (format!("{}: {}", reason.stage, reason.message), reason.remedy.clone())
        });
        table.row(&[
            named(cell),
            cell.expected.to_string(),
            cell.measured.to_string(),
            long(&why),
            long(&remedy),
        ]);
    }
    section("differences", "Not as expected", &table.render())
}

fn named(cell: &Cell) -> String {
    match &cell.scenario {
        Some(scenario) => format!("{}<br>{}", code(scenario), esc(&cell.pair())),
        None => esc(&cell.pair()),
    }
}

/// Every pair with all its measurements.
fn pairs(result: &LabResult) -> String {
    if result.cells.is_empty() {
        return section("pairs", "All pairs", &nothing("No pairs were measured."));
    }
    let columns = [
        "Pair",
        "Expected",
        "Measured",
        "Type",
        "#Setup",
        "#First picture",
        "#RTT",
        "#Keyframe latency",
        "As expected",
    ];
    let several = result.cells.iter().any(|cell| cell.connections > 1);
    let caption = if several {
        "Paths, types and times; times are medians of each pair's connections"
    } else {
        "Paths, types and times"
    };
    let mut table = Table::new(caption, &columns);
    for cell in &result.cells {
        let keyframe = cell.keyframe.as_ref().and_then(|keyframe| keyframe.latency_ms);
        table.row(&[
            named(cell),
            cell.expected.to_string(),
            cell.measured.to_string(),
            code(cell.connection_type.as_deref().unwrap_or("–")),
            ms(cell.setup_ms),
            ms(cell.first_picture_ms),
            ms(cell.rtt_ms),
            ms(keyframe),
            if cell.agree { badge(true, "yes") } else { badge(false, "no") },
        ]);
    }
    // With few pairs the table is shown directly; with many, the map already shows most of it.
    if result.cells.len() <= 20 {
        return section("pairs", "All pairs", &table.render());
    }
    let body = format!(
        "<details>\n<summary>All {} with times</summary>\n{}</details>\n",
        result.cells.len(),
        table.render()
    );
    section("pairs", "All pairs", &body)
}

/// Maximum number of pairs shown in full detail.
const MAX_DETAILED: usize = 4;

/// All details of each pair, if there are only a few: networks, stage durations, and the failure reason.
fn details(result: &LabResult) -> String {
    if result.cells.len() > MAX_DETAILED {
        return String::new();
    }
    result.cells.iter().enumerate().map(|(at, cell)| detail(at, cell)).collect()
}

fn detail(at: usize, cell: &Cell) -> String {
    let mut table = Table::new("Networks, stages and results", &["What", "Value"]);
    let mut row = |name: &str, value: String| table.row(&[esc(name), value]);
    let end = |name: &str, nat: &str, link: &LinkRecord| {
        let nat = if name == nat { String::new() } else { format!("{nat}; ") };
        esc(&format!("{name} ({nat}link {})", link_words(link)))
    };
    row("A", end(&cell.a, &cell.nat.a, &cell.link.a));
    row("B", end(&cell.b, &cell.nat.b, &cell.link.b));
    row("TURN", esc(&if cell.turn.is_empty() { "none".into() } else { cell.turn.join(", ") }));
    let kinds: Vec<_> =
        cell.by_type.iter().map(|(kind, count)| format!("{count} x {kind}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
    row("connections", esc(&format!("{}{kinds}", cell.connections)));
    for (name, time) in cell.stages.stages() {
        if time.is_some() {
            row(&format!("setup: {}", words(name)), ms(*time));
        }
    }
    row("first picture, from start", ms(cell.first_picture_ms));
    row("first picture, from joining", ms(cell.first_picture_from_join_ms));
    row("RTT", ms(cell.rtt_ms));
    if let Some(lost) = cell.ping_loss {
        let why = if lost > 0.0 { format!(" ({PINGS_EXPIRE})") } else { String::new() };
        row("pings unanswered", format!("{:.0} %{why}", lost * 100.0));
    }
    if let Some(keyframe) = &cell.keyframe {
        row("keyframe latency, capture to complete", ms(keyframe.latency_ms));
        row("keyframe network, first packet to last", ms(keyframe.network_ms));
        row("keyframes intact", format!("{} of {}", keyframe.intact, keyframe.sent));
    }
    if let Some(reason) = &cell.reason {
        row("reason", esc(&format!("{}: {}", reason.stage, reason.message)));
        row("remedy", esc(&reason.remedy));
    }
    section(&format!("pair-{}", at + 1), &cell.pair(), &table.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::matrix::example;

    #[test]
    fn the_map_has_a_cell_per_pair_and_marks_unexpected_results() {
        let page = html(&example::matrix());
        assert_eq!(page.matches("class=\"tip\"").count(), 81);
        assert!(page.contains("<title>orion-peer lab: 79 of 81 as expected</title>"), "{page}");
        assert!(page.contains("<b>R≠D</b>") && page.contains("<b>–≠R</b>"));
        assert_eq!(page.matches(" wrong\"").count(), 2 + 1, "two cells and the legend");
        assert!(page.contains("<h1>79 of 81 pairs are as expected</h1>"));
        assert!(page.contains("verdict bad"));
    }

    #[test]
    fn untrusted_text_is_escaped() {
        let evil = "<script>alert(1)</script>";
        let mut result = example::matrix();
        for cell in &mut result.cells {
            (cell.a, cell.b) = (format!("{}{evil}", cell.a), format!("{}{evil}", cell.b));
            cell.nat.a = evil.into();
            cell.connection_type = Some(evil.into());
            if let Some(reason) = &mut cell.reason {
                (reason.message, reason.remedy) = (evil.into(), evil.into());
            }
        }
        result.versions.insert(evil.into(), evil.into());
        result.started_at = evil.into();
        let mut scenario = example::matrix();
        scenario.cells[0].scenario = Some(evil.into());
        for page in [html(&result), html(&scenario)] {
            assert!(!page.contains("<script"), "{page}");
            assert!(page.contains("&lt;script&gt;"));
        }
    }

    #[test]
    fn darker_is_slower() {
        let cells: Vec<Cell> = [10.0, 30.0, 100.0, 1000.0]
            .map(|ms| Cell { setup_ms: Some(ms), ..example::cell("port", "port") })
            .into();
        let scale = Scale::of(&cells);
        let shades: Vec<u32> = cells.iter().map(|cell| scale.shade(cell.setup_ms)).collect();
        assert_eq!(shades, [1, 1, 3, 4]);
        assert_eq!(Scale::of(&cells[..1]).shade(Some(10.0)), 1);
        assert_eq!(Scale::of(&[]).shade(None), 1);
    }

    #[test]
    fn few_pairs_have_no_map_and_an_empty_result_is_a_valid_page() {
        let page = html(&example::result(vec![example::cell("port", "port")]));
        assert!(!page.contains("class=\"map\"") && page.contains("<code>srflx</code>"), "{page}");
        assert!(page.contains("All measured pairs are as expected."));
        assert!(html(&example::result(Vec::new())).contains("No pairs were measured."));
        // The page for a single pair shows everything that a bug report needs.
        let page = html(&example::result(vec![example::failed("lte-symmetric", "udp-blocked")]));
        for words in
            ["lte-symmetric (sym; link", "udp-blocked (link", "no pair of &lt;candidates&gt;"]
        {
            assert!(page.contains(words), "{words}: {page}");
        }
        let mut cell = example::cell("port", "port");
        assert!(html(&example::result(vec![cell.clone()])).contains("setup: "));
        cell.connections = 10;
        assert!(html(&example::result(vec![cell])).contains("times are medians"));
    }

    #[test]
    fn identical_links_are_shown_once() {
        let mut result = example::matrix();
        assert!(html(&result).contains("<dt>link</dt><dd>no impairment</dd>"));
        for cell in &mut result.cells {
            cell.link.a.delay_ms = 40.0;
            cell.link.b.loss = 0.02;
        }
        assert!(html(&result).contains("A 40 ms one-way delay; B 2 % loss"));
        result.cells[3].link.a.rate = Some(500_000);
        assert!(html(&result).contains("differs per pair"));
    }
}
