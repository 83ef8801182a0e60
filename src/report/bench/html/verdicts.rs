//! Judgments of a run: gates, and the comparison with a baseline.

use super::values::{NONE, cell, short_name};
use crate::report::{
    bench::{
        schema::{BenchResult, Comparison, MetricComparison, Verdict},
        wording::{self, limit_and_actual},
    },
    html::{
        markup::{Plot, Table, badge, code, esc, figure, long, no_figure, nothing, plots, section},
        scale::Scale,
        svg::{Anchor, Area, MARKERS, Svg},
    },
    human,
};

/// Maximum change that is drawn, as a share of the baseline.
const MAX_DRAWN: f64 = 3.0;

/// Maximum change that is written out; a file may contain 1e300.
const MAX_CHANGE: f64 = 1e4;

/// Height of a row of the interval plot, px.
const ROW: f64 = 38.0;

/// The gates of a run; a sentence when there were none.
pub(super) fn gates(result: &BenchResult) -> String {
    if result.checks.is_empty() {
        let none = "No gates were set. Without gates, every connection must succeed.";
        return section("gates", "Gates", &nothing(none));
    }
    let mut table = Table::new(
        "Limits and measured values",
        &["Gate", "Result", "#Limit", "#Measured", "Note"],
    );
    for check in &result.checks {
        let (limit, actual) = limit_and_actual(check);
        table.row(&[
            code(&format!("--{}", check.name)),
            badge(check.pass, if check.pass { "met" } else { "not met" }),
            esc(&limit),
            esc(&actual),
            long(check.note.as_deref().unwrap_or_default()),
        ]);
    }
    let note = if result.partial {
        nothing(
            "The run is partial: gates were checked against the values measured before it ended.",
        )
    } else {
        String::new()
    };
    section("gates", "Gates", &(table.render() + &note))
}

/// The comparison with the baseline; empty without one.
pub(super) fn comparison(result: &BenchResult) -> String {
    let Some(comparison) = &result.comparison else { return String::new() };
    let names: Vec<_> = comparison.baseline.iter().map(|name| code(name)).collect();
    let allowed = comparison.max_regression.map_or_else(
        || "No limit was set.".to_owned(),
        |limit| format!("A metric may be up to {} worse.", esc(&human::share(limit))),
    );
    let mut body = format!(
        "<p>Baseline: {}. {allowed}</p>\n<p class=\"how\">{}</p>\n",
        names.join(", "),
        esc(&comparison.method)
    );
    let mut table = Table::new(
        "All metrics, baseline and this run",
        &["Metric", "#Baseline", "#This run", "#Change, + is worse", "#Interval", "Verdict"],
    );
    for metric in &comparison.metrics {
        table.row(&[
            code(&metric.name),
            cell(metric.baseline, &metric.unit),
            cell(metric.current, &metric.unit),
            metric.change.map_or_else(|| NONE.into(), |change| changed(change, &metric.unit)),
            metric.interval.map_or_else(|| NONE.into(), |ends| interval(ends, &metric.unit)),
            verdict(metric.verdict),
        ]);
    }
    body += &table.render();
    body += &plots(vec![vec![vec![intervals(comparison)]]]);
    section("comparison", "Against the baseline", &body)
}

/// A change with its sign: `+4.1 %`, `−3 %`.
pub(super) fn signed(share: f64) -> String {
    if !share.is_finite() {
        return NONE.into();
    }
    let text = wording::signed(share.clamp(-MAX_CHANGE, MAX_CHANGE));
    text.replace('-', "−")
}

/// A change of a metric: in points if the metric is a share.
fn changed(change: f64, unit: &str) -> String {
    let text = signed(change);
    if unit == "share" { text.replace(" %", " points") } else { text }
}

fn interval([low, high]: [f64; 2], unit: &str) -> String {
    let low = signed(low);
    format!("{} to {}", low.trim_end_matches(" %"), changed(high, unit))
}

fn verdict(verdict: Verdict) -> String {
    let (class, text) = match verdict {
        Verdict::Regressed => ("bad", "✗ regressed"),
        Verdict::Worse => ("warn", "▲ worse, possibly within the limit"),
        Verdict::Same => ("plain", "= no significant difference"),
        Verdict::Better => ("good", "▼ better"),
        Verdict::Unknown => ("plain", "? not enough samples"),
    };
    format!("<span class=\"badge {class}\">{text}</span>")
}

/// One row per metric: the change as a point in its interval, with lines at no change and at the limit.
fn intervals(comparison: &Comparison) -> Plot {
    let title = "Changes with confidence intervals";
    let drawn: Vec<(&MetricComparison, f64, [f64; 2])> = comparison
        .metrics
        .iter()
        .filter_map(|metric| {
            let change = metric.change.filter(|change| change.is_finite())?;
            let interval = metric.interval.unwrap_or([change, change]);
            interval.iter().all(|end| end.is_finite()).then_some((metric, change, interval))
        })
        .collect();
    if drawn.is_empty() {
        return no_figure(title, "No change could be computed.");
    }
    let limit = comparison.max_regression.filter(|limit| limit.is_finite());
    let ends = drawn.iter().flat_map(|(_, change, interval)| [*change, interval[0], interval[1]]);
    let ends: Vec<f64> = ends.chain(limit).chain([0.02, -0.02]).collect();
    let lo = ends.iter().copied().fold(0.0, f64::min).max(-1.0);
    let hi = ends.iter().copied().fold(0.0, f64::max).min(MAX_DRAWN);
    let top = 24.0;
    let bottom = top + ROW * drawn.len() as f64;
    let area = Area { x: Scale::linear(lo, hi), y: Scale::linear(0.0, 1.0), top, bottom };
    let description = drawn
        .iter()
        .map(|(metric, change, _)| format!("{} {}", metric.name, changed(*change, &metric.unit)));
    let description = description.collect::<Vec<_>>().join(", ");
    let mut svg = Svg::new("intervals", title, &description, bottom + Area::BELOW).left(16.0);
    area.x_axis(&mut svg, signed);
    let zero = area.x.at(0.0);
    svg.line((zero, top - 8.0), (zero, bottom), "axis");
    if let Some(limit) = limit {
        let x = area.x.at(limit);
        svg.line((x, top - 8.0), (x, bottom), "limit");
        let label = format!("limit {}", signed(limit));
        let (dx, anchor) = if x > 0.6 { (-5.0, Anchor::End) } else { (5.0, Anchor::Start) };
        svg.text((x, 12.0), dx, anchor, "limit-text", &label);
    }
    for (row, (metric, change, interval)) in drawn.iter().enumerate() {
        let y = top + ROW * (row as f64 + 0.5);
        interval_row(&mut svg, &area, y, metric, *change, *interval);
    }
    let how = "To the right of the solid line is worse, to the left is better. A bar entirely to \
               the right of the dashed limit is a regression; one that crosses the solid line is \
               not a significant difference. Shares are in percentage points.";
    figure(title, &svg.render(), how)
}

fn interval_row(
    svg: &mut Svg,
    area: &Area,
    y: f64,
    metric: &MetricComparison,
    change: f64,
    [low, high]: [f64; 2],
) {
    let (class, marker) = match metric.verdict {
        Verdict::Regressed => ("bad", MARKERS[1]),
        Verdict::Worse => ("warn", MARKERS[2]),
        Verdict::Better => ("good", MARKERS[4]),
        Verdict::Same | Verdict::Unknown => ("plain", MARKERS[0]),
    };
    svg.text((0.0, y - 6.0), 0.0, Anchor::Start, "name", &short_name(&metric.name));
    let y = y + 6.0;
    svg.line((area.x.at(low), y), (area.x.at(high), y), &format!("whisker {class}"));
    let beyond = if high > MAX_DRAWN { ", beyond the right edge" } else { "" };
    let (now, ends) = (changed(change, &metric.unit), interval([low, high], &metric.unit));
    let tip = format!("{now} ({ends}{beyond})");
    svg.shape((area.x.at(change), y), marker, &format!("mark {class}"), &tip);
}
