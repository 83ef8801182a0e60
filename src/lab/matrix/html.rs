//! The result as one page that explains itself, in the look of the bench's: the grid as a map of what
//! connected how fast, then what does not agree and why, then every pair.
//!
//! A field of the map tells more where the pointer or the focus is: it is a table, and readable as one.

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

/// Shades of a colour, from the quickest to the slowest.
const SHADES: f64 = 4.0;

/// The page.
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
    let mut told = String::new();
    for (name, value) in facts.into_iter().chain(versions).filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(told, "<div><dt>{}</dt><dd>{}</dd></div>", esc(name), esc(&value));
    }
    format!(
        "<header class=\"verdict {class}\">\n<p class=\"tool\">orion-peer lab</p>\n\
         <h1>{}</h1>\n<p>{}</p>\n</header>\n<dl class=\"facts\">\n{told}</dl>\n",
        esc(verdict(result).split(" (").next().unwrap_or_default()),
        esc("Two peers behind each pair of networks: how theory says they meet, and how they did.")
    )
}

/// What all have in common; empty when they have not.
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
        None => "each pair's own".into(),
    }
}

fn link_words(link: &LinkRecord) -> String {
    let mut words = Vec::new();
    if link.delay_ms > 0.0 {
        words.push(format!("{} ms each way", link.delay_ms));
    }
    if link.jitter_ms > 0.0 {
        words.push(format!("up to {} ms jitter", link.jitter_ms));
    }
    if link.loss > 0.0 {
        words.push(match link.loss_burst {
            0 | 1 => format!("{} % loss", link.loss * 100.0),
            burst => format!("{} % loss in bursts of {burst}", link.loss * 100.0),
        });
    }
    if let Some(rate) = link.rate {
        words.push(format!("{} Mbit/s", rate as f64 / 1e6));
    }
    if let Some(bytes) = link.queue_bytes {
        words.push(format!("a queue of {}", Queue::Bytes(bytes)));
    }
    if words.is_empty() { "clear".into() } else { words.join(", ") }
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
        format!("set-up {} median,<br>{} slowest", ms(Some(*median)), ms(Some(*slowest)))
    };
    let (direct, relayed, none) = (of(Path::Direct), of(Path::Relay), of(Path::None));
    let wrong = result.cells.len() - result.agree as usize;
    let expected = none.iter().filter(|cell| cell.agree).count();
    let not_connected = match none.len() {
        0 => "every pair found a way".to_owned(),
        _ => format!("{expected} of them as expected"),
    };
    let tiles = [
        tile("Direct", direct.len(), times(&direct)),
        tile("Through a relay", relayed.len(), times(&relayed)),
        tile("Not connected", none.len(), not_connected),
        tile("Not as expected", wrong, format!("of {} measured", result.cells.len())),
    ];
    format!("<h2 class=\"quiet\">Key figures</h2>\n<ul class=\"tiles\">\n{}</ul>\n", tiles.concat())
}

/// The grid, when the pairs make one.
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
    section("map", "Who connects with whom", &table)
}

/// A name that may break after each `+` and `-`.
fn breakable(name: &str) -> String {
    esc(name).replace('+', "+<wbr>").replace('-', "-<wbr>")
}

/// How strong the colour of a field is: by the logarithm of the set-up time, from the quickest to the slowest.
struct Scale {
    least: f64,
    most: f64,
}

impl Scale {
    fn of(cells: &[Cell]) -> Self {
        let setups = || cells.iter().filter_map(|cell| cell.setup_ms).filter(|ms| *ms > 0.0);
        Self { least: setups().fold(f64::INFINITY, f64::min), most: setups().fold(0.0, f64::max) }
    }

    /// From 1 to [`SHADES`].
    fn shade(&self, ms: Option<f64>) -> u32 {
        let Some(ms) = ms.filter(|ms| *ms > 0.0) else { return 1 };
        let span = (self.most / self.least).ln();
        if span.is_nan() || span <= 0.0 {
            return 1;
        }
        let share = (ms / self.least).ln() / span;
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

/// What a field tells when it is asked.
fn tip(cell: &Cell) -> String {
    let mut lines = vec![
        format!("<strong>{}</strong>", esc(&cell.pair())),
        format!("expected {}, measured {}", cell.expected, cell.measured),
    ];
    if let Some(kind) = &cell.connection_type {
        lines.push(format!("{}: set-up {}, RTT {}", esc(kind), ms(cell.setup_ms), ms(cell.rtt_ms)));
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
    let range = if scale.most > 0.0 {
        format!("; the stronger the slower, {} to {}", ms(Some(scale.least)), ms(Some(scale.most)))
    } else {
        String::new()
    };
    format!(
        "<ul class=\"legend\">\n{}{}{}{}</ul>\n<p class=\"how\">Each field: the path, its type, and the \
         set-up time{range}. Point at a field, or move to it by the Tab key, for more.</p>\n",
        key("direct shade3", "D: direct"),
        key("relay shade3", "R: through a relay"),
        key("unconnected", "–: not at all"),
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
            &nothing("Every pair that was measured came out as expected."),
        );
    }
    let columns = ["Pair", "Expected", "Measured", "Why", "What to try"];
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

/// Every pair with all that was measured of it.
fn pairs(result: &LabResult) -> String {
    if result.cells.is_empty() {
        return section("pairs", "Every pair", &nothing("No pair was measured."));
    }
    let columns = [
        "Pair",
        "Expected",
        "Measured",
        "Type",
        "#Set-up",
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
    // Few pairs are what one came for; the fields of a map say most of many already.
    if result.cells.len() <= 20 {
        return section("pairs", "Every pair", &table.render());
    }
    let body = format!(
        "<details>\n<summary>All {} with their times</summary>\n{}</details>\n",
        result.cells.len(),
        table.render()
    );
    section("pairs", "Every pair", &body)
}

/// Most pairs that are shown in all detail.
const MOST_DETAILED: usize = 4;

/// All that is known of a few pairs: their networks, how long each stage took, and why.
fn details(result: &LabResult) -> String {
    if result.cells.len() > MOST_DETAILED {
        return String::new();
    }
    result.cells.iter().enumerate().map(|(at, cell)| detail(at, cell)).collect()
}

fn detail(at: usize, cell: &Cell) -> String {
    let mut table = Table::new("Networks, stages and what came out", &["What", "Value"]);
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
            row(&format!("set-up: {}", words(name)), ms(*time));
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
        row("why", esc(&format!("{}: {}", reason.stage, reason.message)));
        row("try", esc(&reason.remedy));
    }
    section(&format!("pair-{}", at + 1), &cell.pair(), &table.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::matrix::example;

    #[test]
    fn the_map_has_a_field_a_pair_and_marks_what_does_not_agree() {
        let page = html(&example::matrix());
        assert_eq!(page.matches("class=\"tip\"").count(), 81);
        assert!(page.contains("<title>orion-peer lab: 79 of 81 as expected</title>"), "{page}");
        assert!(page.contains("<b>R≠D</b>") && page.contains("<b>–≠R</b>"));
        assert_eq!(page.matches(" wrong\"").count(), 2 + 1, "two fields and the legend");
        assert!(page.contains("<h1>79 of 81 pairs are as expected</h1>"));
        assert!(page.contains("verdict bad"));
    }

    #[test]
    fn what_comes_from_elsewhere_cannot_become_markup() {
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
    fn stronger_is_slower() {
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
    fn a_few_pairs_have_no_map_and_nothing_at_all_is_a_page() {
        let page = html(&example::result(vec![example::cell("port", "port")]));
        assert!(!page.contains("class=\"map\"") && page.contains("<code>srflx</code>"), "{page}");
        assert!(page.contains("Every pair that was measured came out as expected."));
        assert!(html(&example::result(Vec::new())).contains("No pair was measured."));
        // What the ticket is about stands on the page of one pair.
        let page = html(&example::result(vec![example::failed("lte-symmetric", "udp-blocked")]));
        for words in
            ["lte-symmetric (sym; link", "udp-blocked (link", "no pair of &lt;candidates&gt;"]
        {
            assert!(page.contains(words), "{words}: {page}");
        }
        let mut cell = example::cell("port", "port");
        assert!(html(&example::result(vec![cell.clone()])).contains("set-up: "));
        cell.connections = 10;
        assert!(html(&example::result(vec![cell])).contains("times are medians"));
    }

    #[test]
    fn links_are_told_once_when_they_are_the_same() {
        let mut result = example::matrix();
        assert!(html(&result).contains("<dt>link</dt><dd>clear</dd>"));
        for cell in &mut result.cells {
            cell.link.a.delay_ms = 40.0;
            cell.link.b.loss = 0.02;
        }
        assert!(html(&result).contains("A 40 ms each way; B 2 % loss"));
        result.cells[3].link.a.rate = Some(500_000);
        assert!(html(&result).contains("each pair&#39;s own"));
    }
}
