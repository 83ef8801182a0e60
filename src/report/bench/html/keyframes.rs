//! Keyframes: size and latency.

use super::{
    points,
    setup::{column_numbers, slots},
    values::{budget, bytes, ms},
};
use crate::report::{
    bench::schema::{BenchResult, KeyframeRecord},
    html::{
        markup::{Plot, figure, no_figure},
        scale::{Scale, tick_bytes, tick_ms},
        svg::{Anchor, Area, CROSS, Svg},
    },
};

const SIZES: &str = "Size of each keyframe";
const LATENCY: &str = "Latency of each keyframe";

/// Maximum number of keyframes drawn as one bar each.
const MAX_BARS: usize = 240;

/// Every keyframe of a run in chronological order.
pub(super) fn records(result: &BenchResult) -> Vec<&KeyframeRecord> {
    let mut records: Vec<_> =
        result.connections.records.iter().flat_map(|record| &record.keyframes).collect();
    records.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    records
}

/// A missing plot with the reason.
fn absent(result: &BenchResult, title: &str) -> Plot {
    no_figure(
        title,
        match result.keyframes.bytes.count {
            0 => "No keyframe was sent or received.",
            _ => "The result has no records of individual keyframes, only totals.",
        },
    )
}

/// An axis of ordinal numbers from 1, each in the middle of its column.
pub(super) fn ordinals(count: usize) -> Scale {
    Scale::span(0.5, slots(count) as f64 + 0.5, 1.0)
}

/// One bar per keyframe, and the budget.
pub(super) fn sizes(result: &BenchResult, records: &[&KeyframeRecord]) -> Plot {
    if records.is_empty() {
        return absent(result, SIZES);
    }
    let budget = budget(result);
    let most = records.iter().map(|record| record.bytes as f64).fold(0.0, f64::max);
    let near = budget.filter(|budget| *budget <= most * 4.0);
    let area = Area {
        x: ordinals(records.len()),
        y: Scale::linear(0.0, near.unwrap_or(0.0).max(most).max(1.0)),
        top: 24.0,
        bottom: 220.0,
    };
    let description = format!(
        "{} keyframes, the largest {}; {} over the budget.",
        records.len(),
        bytes(most),
        result.keyframes.over_limit
    );
    let mut svg = Svg::new("key-sizes", SIZES, &description, area.bottom + Area::BELOW).left(64.0);
    area.y_axis(&mut svg, tick_bytes);
    let grouped = draw_sizes(&mut svg, &area, records, budget);
    svg.line((0.0, area.bottom), (1.0, area.bottom), "axis");
    if let Some(budget) = budget {
        budget_line(&mut svg, &area, budget);
    }
    column_numbers(&mut svg, area.bottom, records.len());
    let bars = records.len() <= MAX_BARS;
    let mut how = if bars {
        "Each bar is one keyframe.".to_owned()
    } else {
        points::how(grouped, "keyframe")
    };
    how += " Keyframes are in the order they were sent.";
    let over = budget.is_some_and(|budget| most > budget);
    how += match (over, bars) {
        (true, true) => " Hatched bars are over the budget, shown as a dashed line.",
        (true, false) => " Points above the dashed line are over the budget.",
        (false, _) if budget.is_some() => {
            " No keyframe is over the budget, shown as a dashed line."
        }
        (false, _) => "",
    };
    if records.iter().any(|record| record.intact == Some(false)) {
        how += " A cross marks a keyframe that did not arrive intact.";
    }
    figure(SIZES, &svg.render(), &how)
}

/// Draws the sizes; returns whether they were grouped into columns.
fn draw_sizes(
    svg: &mut Svg,
    area: &Area,
    records: &[&KeyframeRecord],
    budget: Option<f64>,
) -> bool {
    let places = records.iter().enumerate().map(|(index, record)| (index as f64 + 1.0, record));
    if records.len() > MAX_BARS {
        let points: Vec<_> =
            places.clone().map(|(number, record)| [number, record.bytes as f64]).collect();
        let grouped = points::draw(svg, area, &points);
        let broken = places.filter(|(_, record)| record.intact == Some(false));
        points::crosses(svg, area, broken.map(|(number, _)| (number, "not intact")));
        return grouped;
    }
    let width = 1.0 / slots(records.len()) as f64;
    for (number, record) in places {
        let x = area.x.at(number) - width / 2.0;
        let over = budget.is_some_and(|budget| record.bytes as f64 > budget);
        let state = match record.intact {
            Some(true) => "intact",
            Some(false) => "not intact",
            None => "unknown whether intact",
        };
        let y = area.down(record.bytes as f64);
        let tip = format!("keyframe {number}: {}, {state}", bytes(record.bytes as f64));
        svg.bar(
            (x + width * 0.1, y),
            (width * 0.8, area.bottom - y),
            if over { "over" } else { "fill" },
            &tip,
        );
        if record.intact == Some(false) {
            svg.shape((x + width / 2.0, y - 8.0), CROSS, "cross", "not intact");
        }
    }
    false
}

fn budget_line(svg: &mut Svg, area: &Area, budget: f64) {
    let label = format!("budget {}", bytes(budget));
    if area.y.contains(budget) {
        let y = area.down(budget);
        svg.line((0.0, y), (1.0, y), "limit");
        svg.text((1.0, 11.0), 0.0, Anchor::End, "limit-text", &label);
    } else {
        svg.text((1.0, 11.0), 0.0, Anchor::End, "limit-text", &format!("↑ {label}"));
    }
}

/// One dot per keyframe.
pub(super) fn latency(result: &BenchResult, records: &[&KeyframeRecord]) -> Plot {
    let numbered =
        || records.iter().enumerate().map(|(index, record)| (index as f64 + 1.0, record));
    let points: Vec<[f64; 2]> = numbered()
        .filter_map(|(number, record)| {
            let latency =
                record.latency_ms.filter(|latency| latency.is_finite() && *latency >= 0.0)?;
            Some([number, latency])
        })
        .collect();
    if points.is_empty() {
        let why = match result.keyframes.latency_ms.count {
            0 => "No keyframe was timed.",
            _ => "The result has no records of individual keyframes, only percentiles.",
        };
        return no_figure(LATENCY, why);
    }
    let (lo, hi) = super::rtt::ends(points.iter().map(|[_, late]| *late));
    let area =
        Area { x: ordinals(records.len()), y: Scale::fitting(lo, hi), top: 24.0, bottom: 220.0 };
    let description = format!("{} keyframes between {} and {}.", points.len(), ms(lo), ms(hi));
    let mut svg = Svg::new("key-late", LATENCY, &description, area.bottom + Area::BELOW).left(64.0);
    area.y_axis(&mut svg, tick_ms);
    let grouped = points::draw(&mut svg, &area, &points);
    percentiles(&mut svg, &area, result);
    svg.line((0.0, area.bottom), (1.0, area.bottom), "axis");
    column_numbers(&mut svg, area.bottom, records.len());
    let untimed: Vec<_> = numbered().filter(|(_, record)| record.latency_ms.is_none()).collect();
    let mut how = points::how(grouped, "keyframe")
        + " The vertical axis shows the time from capture to the arrival of the last packet.";
    if !untimed.is_empty() {
        how += " Crosses mark keyframes without a time: incomplete, or not reported by the peer.";
    }
    points::crosses(&mut svg, &area, untimed.into_iter().map(|(number, _)| (number, "no time")));
    figure(LATENCY, &svg.render(), &how)
}

fn percentiles(svg: &mut Svg, area: &Area, result: &BenchResult) {
    let spread = &result.keyframes.latency_ms;
    let mut labels = Vec::new();
    for (name, value) in [("p50", spread.p50), ("p95", spread.p95)] {
        let Some(value) = value.filter(|value| area.y.contains(*value)) else { continue };
        let y = area.down(value);
        svg.line((0.0, y), (1.0, y), name);
        labels.push(format!("{name} {}", ms(value)));
    }
    svg.text((1.0, 9.0), 0.0, Anchor::End, "tick", &labels.join(", "));
}
