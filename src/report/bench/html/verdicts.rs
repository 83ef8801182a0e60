//! What a run is held against: gates, and a baseline.

use super::{
    markup::Table,
    markup::{badge, code, esc, section},
    scale::Scale,
    svg::{Anchor, Area, MARKERS, Svg},
    values::{NONE, json_in_unit, maybe},
};
use crate::report::{
    bench::schema::{BenchResult, Check, Comparison, MetricComparison, Verdict},
    human,
};

/// Furthest change that is drawn, as a share of the baseline.
const FURTHEST: f64 = 3.0;

/// Height of a row of the interval plot, px.
const ROW: f64 = 38.0;

/// The gates of a run; a sentence when there were none.
pub(super) fn gates(result: &BenchResult) -> String {
    if result.checks.is_empty() {
        let none = super::markup::nothing("No gates were set: this run could not fail one.");
        return section("gates", "Gates", &none);
    }
    let mut table = Table::new(
        "What was asked for and what was measured",
        &["Gate", "#Limit", "#Measured", "Result"],
    );
    for check in &result.checks {
        let note = check
            .note
            .as_ref()
            .map_or_else(String::new, |note| format!("<br><small>{}</small>", esc(note)));
        table.row(&[
            code(&format!("--{}", check.name)),
            esc(&limit(check)),
            esc(&json_in_unit(&check.actual, &check.unit)),
            badge(check.pass, if check.pass { "met" } else { "not met" }) + &note,
        ]);
    }
    section("gates", "Gates", &table.render())
}

fn limit(check: &Check) -> String {
    let limit = json_in_unit(&check.limit, &check.unit);
    match check.name.split('-').next() {
        Some("min") => format!("at least {limit}"),
        Some("max") => format!("at most {limit}"),
        _ => limit,
    }
}

/// This run against its baseline; nothing when there was none.
pub(super) fn comparison(result: &BenchResult) -> String {
    let Some(comparison) = &result.comparison else { return String::new() };
    let names: Vec<_> = comparison.baseline.iter().map(|name| code(name)).collect();
    let allowed = comparison.max_regression.map_or_else(
        || "No limit was set.".to_owned(),
        |limit| format!("A metric may be {} worse.", human::share(limit)),
    );
    let mut body = format!(
        "<p>Baseline: {}. {allowed}</p>\n<p class=\"how\">{}</p>\n",
        names.join(", "),
        esc(&comparison.method)
    );
    let mut table = Table::new(
        "Every metric, then and now",
        &["Metric", "#Baseline", "#Now", "#Change, + is worse", "#Interval", "Verdict"],
    );
    for metric in &comparison.metrics {
        table.row(&[
            code(&metric.name),
            maybe(metric.baseline, &metric.unit),
            maybe(metric.current, &metric.unit),
            metric.change.map_or_else(|| NONE.into(), signed),
            metric.interval.map_or_else(
                || NONE.into(),
                |[low, high]| format!("{} to {}", signed(low), signed(high)),
            ),
            verdict(metric.verdict),
        ]);
    }
    body += &table.render();
    body += &intervals(comparison);
    section("comparison", "Against the baseline", &body)
}

/// A change with its sign: `+4.1 %`, `−3 %`.
pub(super) fn signed(share: f64) -> String {
    if !share.is_finite() {
        return NONE.into();
    }
    // A tenth of a percent is below what a run can tell.
    let text = human::share((share.abs() * 1000.0).round() / 1000.0);
    match share {
        _ if text == "0 %" => text,
        share if share < 0.0 => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

fn verdict(verdict: Verdict) -> String {
    let (class, text) = match verdict {
        Verdict::Regressed => ("bad", "✗ regressed"),
        Verdict::Worse => ("warn", "▲ worse, maybe within the limit"),
        Verdict::Same => ("plain", "= no difference can be told"),
        Verdict::Better => ("good", "▼ better"),
        Verdict::Unknown => ("plain", "? too little to tell"),
    };
    format!("<span class=\"badge {class}\">{text}</span>")
}

/// One row a metric: the change as a point in its interval, against no change and the limit.
fn intervals(comparison: &Comparison) -> String {
    let title = "How much worse or better, with intervals";
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
        return super::markup::empty_figure(title, "No change could be computed.");
    }
    let limit = comparison.max_regression.filter(|limit| limit.is_finite());
    let ends = drawn.iter().flat_map(|(_, change, interval)| [*change, interval[0], interval[1]]);
    let ends: Vec<f64> = ends.chain(limit).chain([0.02, -0.02]).collect();
    let lo = ends.iter().copied().fold(0.0, f64::min).max(-1.0);
    let hi = ends.iter().copied().fold(0.0, f64::max).min(FURTHEST);
    let top = 24.0;
    let bottom = top + ROW * drawn.len() as f64;
    let area = Area { x: Scale::linear(lo, hi), y: Scale::linear(0.0, 1.0), top, bottom };
    let description =
        drawn.iter().map(|(metric, change, _)| format!("{} {}", metric.name, signed(*change)));
    let description = description.collect::<Vec<_>>().join(", ");
    let mut svg = Svg::new("intervals", title, &description, bottom + Area::BELOW);
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
    let how = "Right of the solid line is worse, left is better. A bar that lies wholly right of the \
               dashed limit is a regression; one that crosses the solid line is no sure difference.";
    super::markup::figure(title, &svg.render(), how)
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
    svg.text((0.0, y - 6.0), 0.0, Anchor::Start, "name", &metric.name);
    let y = y + 6.0;
    svg.line((area.x.at(low), y), (area.x.at(high), y), &format!("whisker {class}"));
    let beyond = if high > FURTHEST { ", beyond the right edge" } else { "" };
    let tip = format!("{} ({} to {}{beyond})", signed(change), signed(low), signed(high));
    svg.shape((area.x.at(change), y), marker, &format!("mark {class}"), &tip);
}
