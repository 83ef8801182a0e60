//! The page of several runs side by side; the first is the reference.

use std::collections::BTreeSet;

use super::{
    head::{Outcome, length, machine, outcome, summary},
    links, rtt, tables,
    values::{NONE, bytes, cell, maybe, ms, of, setting, short_name, started},
    verdicts::signed,
};
use crate::{
    report::{
        bench::{Named, layout::cut_front, schema::BenchResult},
        html::{
            markup::{Plot, Table, esc, figure, no_figure, nothing, plots, section, words},
            scale::{Scale, tick_ms},
            svg::{Anchor, Area, Curve, MARKERS, Svg},
        },
        human,
    },
    text::printable,
};

const CDF: &str = "Round-trip times, overlaid";

/// Number of points of a run's curve.
const CURVE_POINTS: usize = 200;

/// Space left of bars for the marker of their run, px.
const MARGIN: f64 = 16.0;

/// Maximum length of a run's name above a column, characters.
const MAX_LABEL: usize = 40;

/// Number of distinct line styles; further runs reuse them.
const STYLES: usize = MARKERS.len();

/// Number of runs and their names, for the window's title.
pub(super) fn title(runs: &[Named]) -> String {
    let names: Vec<_> = runs.iter().map(|run| run.name.as_str()).collect();
    format!("{} runs compared: {}", runs.len(), names.join(", "))
}

/// The whole body: comparison, plots, settings, failures.
pub(super) fn body(runs: &[Named]) -> String {
    let columns = vec![vec![cdf(runs), types(runs), sizes(runs)], vec![setup(runs)]];
    [
        header(runs),
        section("comparison", "Side by side", &table(runs)),
        section("plots", "Plots", &(legend(runs) + &plots(vec![columns]))),
        section("settings", "Settings that differ", &settings(runs)),
        section("failures", "Failures", &failures(runs)),
    ]
    .concat()
}

fn header(runs: &[Named]) -> String {
    let outcomes: Vec<_> = runs.iter().map(|run| outcome(&run.result)).collect();
    let count = |word: &str| outcomes.iter().filter(|outcome| outcome.word == word).count();
    let (failed, partial) = (count("Failed"), count("Partial"));
    let (class, verdict) = match (failed, partial) {
        (0, 0) => ("good", "all passed".to_owned()),
        (0, partial) => ("warn", format!("{partial} partial")),
        (failed, 0) => ("bad", format!("{failed} failed")),
        (failed, partial) => ("bad", format!("{failed} failed, {partial} partial")),
    };
    let items: String = runs.iter().zip(&outcomes).map(item).collect();
    format!(
        "<header class=\"verdict {class}\">\n<p class=\"tool\">orion-peer bench</p>\n\
         <h1>{} runs compared: {verdict}</h1>\n<ol>\n{items}</ol>\n</header>\n",
        runs.len()
    )
}

/// The name of a run; for a long path, only its end.
fn label(run: &Named) -> String {
    cut_front(&printable(&run.name), MAX_LABEL)
}

fn item((run, outcome): (&Named, &Outcome)) -> String {
    format!(
        "<li><strong>{}</strong> <span class=\"badge {}\">{}</span> {}. {}</li>\n",
        esc(&run.name),
        outcome.class,
        outcome.word,
        esc(&outcome.reason),
        summary(&run.result)
    )
}

/// Label, unit and value of a quantity by which runs are compared.
type Quantity = (&'static str, &'static str, fn(&BenchResult) -> Option<f64>);

/// The quantities of the comparison table.
const QUANTITIES: [Quantity; 19] = [
    ("success rate", "share", |r| r.connections.success_rate),
    ("setup p50", "ms", |r| r.connections.setup_ms.total.p50),
    ("setup p95", "ms", |r| r.connections.setup_ms.total.p95),
    ("first picture p50", "ms", |r| r.connections.first_picture_ms.from_start.p50),
    ("first picture p95", "ms", |r| r.connections.first_picture_ms.from_start.p95),
    ("RTT p50", "ms", |r| r.rtt_ms.spread.p50),
    ("RTT p95", "ms", |r| r.rtt_ms.spread.p95),
    ("RTT p99", "ms", |r| r.rtt_ms.spread.p99),
    ("pings lost", "share", |r| share(Some(r.rtt_ms.lost), Some(r.rtt_ms.sent))),
    ("keyframes intact", "share", |r| {
        share(r.keyframes.intact, r.keyframes.sent.or(r.keyframes.received))
    }),
    ("keyframe latency p50", "ms", |r| r.keyframes.latency_ms.p50),
    ("keyframe latency p95", "ms", |r| r.keyframes.latency_ms.p95),
    ("keyframe network p50", "ms", |r| r.keyframes.stages_ms.network.p50),
    ("keyframe network p95", "ms", |r| r.keyframes.stages_ms.network.p95),
    ("keyframe size, mean", "bytes", |r| r.keyframes.bytes.mean),
    ("keyframe size, max", "bytes", |r| r.keyframes.bytes.max),
    ("keyframe PSNR p50", "dB", |r| r.keyframes.psnr_db.p50),
    ("peak resident memory", "bytes", |r| r.resources.max_rss_bytes.map(|b| b as f64)),
    ("memory per connection", "bytes", |r| r.resources.rss_bytes_per_connection.map(|b| b as f64)),
];

fn share(part: Option<u64>, all: Option<u64>) -> Option<f64> {
    let all = all.filter(|all| *all > 0)?;
    Some(part? as f64 / all as f64)
}

fn table(runs: &[Named]) -> String {
    let mut table = Table::new("One column per run; the first is the reference", &["Quantity"]);
    for run in runs {
        table.column(&format!("#{}", label(run)));
    }
    let mut facts = |name: &str, text: &dyn Fn(&BenchResult) -> String| {
        let cells = runs.iter().map(|run| text(&run.result));
        table.row(&std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>());
    };
    facts("verdict", &|r| {
        let outcome = outcome(r);
        format!("<span class=\"badge {}\">{}</span>", outcome.class, outcome.word)
    });
    facts("started", &started);
    facts("duration", &length);
    facts("machine", &machine);
    facts("version", &|r| esc(&r.version));
    facts("connections", &|r| of(r.connections.succeeded, r.connections.attempted));
    facts("95 % CI of success rate", &|r| {
        let [low, high] = r.connections.ci95.map(human::share);
        esc(&format!("{low} to {high}"))
    });
    for (name, unit, metric) in QUANTITIES {
        let values: Vec<_> = runs.iter().map(|run| metric(&run.result)).collect();
        if values.iter().any(Option::is_some) {
            let cells = values.iter().enumerate().map(|(index, value)| {
                let reference = if index == 0 { None } else { values[0] };
                cell(*value, unit) + &difference(*value, reference, unit)
            });
            table.row(&std::iter::once(name.to_owned()).chain(cells).collect::<Vec<_>>());
        }
    }
    let tested = if runs.iter().any(|run| run.result.comparison.is_some()) {
        "tests with confidence intervals are in each run's comparison with the baseline."
    } else {
        "run <code>bench --baseline</code> for a test."
    };
    let note = format!(
        "<p class=\"how\">Differences from the first run compare single numbers and may be due to \
         chance: {tested}</p>\n"
    );
    table.render() + &note
}

/// Difference from the reference: in points for shares, otherwise relative to the reference.
fn difference(value: Option<f64>, reference: Option<f64>, unit: &str) -> String {
    let (Some(value), Some(reference)) = (value, reference) else { return String::new() };
    let text = match unit {
        "share" => {
            let points = (value - reference) * 100.0;
            let sign = if points < -0.005 { "−" } else { "+" };
            let size = human::trim(&format!("{:.2}", points.abs()));
            if size == "0" { "same".into() } else { format!("{sign}{size} points") }
        }
        _ if reference > 0.0 => signed((value - reference) / reference),
        _ => return String::new(),
    };
    let text = if text == "0 %" { "same".to_owned() } else { text };
    format!(" <span class=\"delta\">{}</span>", esc(&text))
}

/// Settings that differ between the runs, which make them less comparable.
fn settings(runs: &[Named]) -> String {
    let keys: BTreeSet<&String> = runs.iter().flat_map(|run| run.result.config.keys()).collect();
    let mut table = Table::new("These runs have different settings", &["Setting"]);
    for run in runs {
        table.column(&label(run));
    }
    let mut differ = false;
    for key in keys {
        let values: Vec<_> = runs.iter().map(|run| run.result.config.get(key)).collect();
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            differ = true;
            let cells = values.iter().map(|value| {
                value.map_or_else(|| NONE.to_owned(), |value| esc(&setting(key, value)))
            });
            table.row(&std::iter::once(esc(&words(key))).chain(cells).collect::<Vec<_>>());
        }
    }
    if differ { table.render() } else { nothing("All runs have the same settings.") }
}

/// Failures of all runs, one row per run, stage and code.
fn failures(runs: &[Named]) -> String {
    let mut table = Table::new("Failures of each run, most frequent first", &["Run"]);
    for column in tables::FAILURE_COLUMNS {
        table.column(column);
    }
    let (mut any, mut without) = (false, Vec::new());
    for run in runs {
        let groups = &run.result.connections.failures;
        for group in groups {
            any = true;
            let cells = tables::failure(group);
            table.row(&std::iter::once(esc(&run.name)).chain(cells).collect::<Vec<_>>());
        }
        if groups.is_empty() {
            without.push(run.name.as_str());
        }
    }
    let none = match without.len() {
        0 => String::new(),
        count if count == runs.len() => nothing("No connection failed in any of the runs."),
        _ => nothing(&format!("No connection failed in {}.", without.join(", "))),
    };
    if any { table.render() + &none } else { none }
}

/// Color, dash and marker of each run.
fn legend(runs: &[Named]) -> String {
    let key = |(index, run): (usize, &Named)| {
        let style = index % STYLES;
        format!(
            "<li><svg class=\"key wide\" aria-hidden=\"true\"><line x1=\"0\" y1=\"50%\" \
             x2=\"100%\" \
             y2=\"50%\" class=\"cdf r{style}\"/><svg x=\"50%\" y=\"50%\" class=\"r{style}\" \
             overflow=\"visible\"><path d=\"{}\" class=\"run-mark\"/></svg></svg>{}</li>\n",
            MARKERS[style],
            esc(&label(run))
        )
    };
    let items: String = runs.iter().enumerate().map(key).collect();
    format!("<ul class=\"legend\">\n{items}</ul>\n")
}

/// Empirical distribution functions of the round-trip times.
fn cdf(runs: &[Named]) -> Plot {
    let sorted: Vec<Vec<f64>> = runs
        .iter()
        .map(|run| {
            let mut values: Vec<_> = rtt::samples(&run.result).iter().map(|[_, ms]| *ms).collect();
            values.sort_by(f64::total_cmp);
            values
        })
        .collect();
    if sorted.iter().all(Vec::is_empty) {
        return no_figure(CDF, "No run has individual round-trip times.");
    }
    let (lo, hi) = rtt::ends(sorted.iter().flatten().copied());
    let x =
        if lo > 0.0 && hi / lo > 8.0 { Scale::log(lo, hi) } else { Scale::linear(lo * 0.9, hi) };
    let area = Area { x, y: Scale::linear(0.0, 1.0), top: 10.0, bottom: 240.0 };
    let texts = runs
        .iter()
        .map(|run| format!("{} p50 {}", run.name, maybe(run.result.rtt_ms.spread.p50, "ms")));
    let description = texts.collect::<Vec<_>>().join(", ");
    let mut svg = Svg::new("cdf", CDF, &description, area.bottom + Area::BELOW).left(52.0);
    area.y_axis(&mut svg, human::share);
    area.x_axis(&mut svg, tick_ms);
    for (index, values) in sorted.iter().enumerate() {
        run_curve(&mut svg, &area, values, index % STYLES);
    }
    let how = "The height of a curve is the share of pings answered within the time on the axis. \
               Further left is faster; the marker is the median. Unanswered pings are not \
               included.";
    figure(CDF, &svg.render(), how)
}

fn run_curve(svg: &mut Svg, area: &Area, values: &[f64], style: usize) {
    let Some(last) = values.len().checked_sub(1) else { return };
    let mut curve = Curve::default();
    curve.go(area.x.at(values[0]), area.bottom);
    let steps = CURVE_POINTS.min(last).max(1);
    for step in 0..=steps {
        let index = last * step / steps;
        let share = (index + 1) as f64 / values.len() as f64;
        curve.draw(area.x.at(values[index]), area.down(share));
    }
    svg.curve(&curve, &format!("cdf r{style}"));
    let middle = area.x.at(values[last / 2]);
    svg.shape((middle, area.down(0.5)), MARKERS[style], &format!("run-mark r{style}"), "");
}

/// One group of bars: a heading, and a value per run.
struct Group {
    name: String,
    values: Vec<Option<f64>>,
}

fn setup(runs: &[Named]) -> Plot {
    let stages = runs[0].result.connections.setup_ms.stages();
    let groups = stages.iter().enumerate().map(|(stage, (name, _))| Group {
        name: words(name),
        values: runs
            .iter()
            .map(|run| run.result.connections.setup_ms.stages()[stage].1.p50)
            .collect(),
    });
    let how = "One bar per run, in the order above: the median time of a stage, over the \
               connections that completed it.";
    grouped("setup-runs", "Setup by stage, medians", groups.collect(), ms, how)
}

fn types(runs: &[Named]) -> Plot {
    let kinds = links::types(runs.iter().map(|run| &run.result.connections));
    let of = |run: &Named, count: u64| {
        let attempted = run.result.connections.attempted;
        (attempted > 0).then(|| count as f64 / attempted as f64)
    };
    let mut groups: Vec<_> = kinds
        .into_iter()
        .map(|kind| Group {
            values: runs
                .iter()
                .map(|run| {
                    of(run, run.result.connections.by_type.get(&kind).copied().unwrap_or_default())
                })
                .collect(),
            name: kind,
        })
        .collect();
    let failed: Vec<_> = runs
        .iter()
        .map(|run| {
            let connections = &run.result.connections;
            of(run, connections.attempted.saturating_sub(connections.succeeded))
        })
        .collect();
    if failed.iter().flatten().any(|share| *share > 0.0) {
        groups.push(Group { name: "failed".into(), values: failed });
    }
    let how = "One bar per run, in the order above: the share of its connections of that type.";
    grouped("type-runs", "How peers were connected", groups, human::share, how)
}

fn sizes(runs: &[Named]) -> Plot {
    let row = |name: &str, value: fn(&BenchResult) -> Option<f64>| Group {
        name: name.into(),
        values: runs.iter().map(|run| value(&run.result)).collect(),
    };
    let groups = vec![
        row("mean", |r| r.keyframes.bytes.mean),
        row("p95", |r| r.keyframes.bytes.p95),
        row("largest", |r| r.keyframes.bytes.max),
    ];
    let how = "One bar per run, in the order above.";
    grouped("size-runs", "Keyframe sizes", groups, bytes, how)
}

/// Groups of bars from 0, one bar per run with its value beside it.
fn grouped(
    id: &'static str,
    title: &str,
    mut groups: Vec<Group>,
    text: impl Fn(f64) -> String,
    how: &str,
) -> Plot {
    let finite = |value: &Option<f64>| value.filter(|value| value.is_finite());
    groups.retain(|group| group.values.iter().any(|value| finite(value).is_some()));
    let values = groups.iter().flat_map(|group| &group.values);
    let most = values.filter_map(finite).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let Some(first) = groups.first() else {
        return no_figure(title, "No run measured this.");
    };
    let (bar, gap) = (16.0, 26.0);
    let step = gap + bar * first.values.len() as f64;
    let texts = groups.iter().map(|group| {
        let values =
            group.values.iter().map(|value| finite(value).map_or_else(|| NONE.into(), &text));
        format!("{}: {}", group.name, values.collect::<Vec<_>>().join(", "))
    });
    let description = texts.collect::<Vec<_>>().join("; ");
    let mut svg = Svg::new(id, title, &description, step * groups.len() as f64).left(MARGIN);
    for (index, group) in groups.iter().enumerate() {
        let y = step * index as f64;
        svg.text((0.0, y + 13.0), -MARGIN, Anchor::Start, "name", &short_name(&group.name));
        for (run, value) in group.values.iter().enumerate() {
            let y = y + 18.0 + bar * run as f64;
            let label = finite(value).map_or_else(|| NONE.into(), &text);
            // A quarter of the width is left for the number beside the longest bar.
            let width = finite(value).unwrap_or(0.0) / most * 0.74;
            svg.bar((0.0, y), (width, bar - 3.0), &format!("run r{}", run % STYLES), "");
            svg.shape(
                (0.0, y + 6.5),
                MARKERS[run % STYLES],
                &format!("run-mark beside r{}", run % STYLES),
                "",
            );
            svg.text((width, y + 11.0), 8.0, Anchor::Start, "tick", &label);
        }
    }
    figure(title, &svg.render(), how)
}
