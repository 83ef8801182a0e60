//! Connection setup by stage: for all connections together, and for each connection.

use super::{
    points,
    values::{maybe, ms},
};
use crate::{
    report::{
        bench::schema::{BenchResult, ConnectionRecord, Setup},
        html::{
            markup::{Plot, esc, figure, no_figure, words},
            scale::{Scale, tick_ms, tick_seconds},
            svg::{Anchor, Area, CROSS, Svg},
        },
    },
    stats::Spread,
};

const STAGES: &str = "Setup time by stage";
const CONNECTIONS: &str = "Setup, connection by connection";

/// Maximum number of connections drawn as one column each.
const MAX_COLUMNS: usize = 60;

/// Minimum number of columns that share the width.
const MIN_SLOTS: usize = 8;

/// Height of a stage's row, px.
const ROW: f64 = 36.0;

/// Stages that can be stacked because there are no gaps between them.
fn stacked<T>(setup: &Setup<T>) -> impl Iterator<Item = (usize, &'static str, &T)> {
    let stages = setup.stages().into_iter().enumerate();
    stages
        .filter(|(_, (name, _))| !matches!(*name, "firstKeyframe" | "total"))
        .map(|(index, (name, value))| (index, name, value))
}

/// One bar per stage.
pub(super) fn stages(result: &BenchResult) -> Plot {
    let setup = &result.connections.setup_ms;
    let rows: Vec<(&str, &Spread)> =
        setup.stages().into_iter().filter(|(_, spread)| spread.p50.is_some()).collect();
    if rows.is_empty() {
        return no_figure(STAGES, "No connection completed any stage.");
    }
    let most = rows.iter().filter_map(|(_, spread)| spread.p95.or(spread.p50)).fold(0.0, f64::max);
    let bottom = ROW * rows.len() as f64 + 4.0;
    let area =
        Area { x: Scale::linear(0.0, most * 1.02), y: Scale::linear(0.0, 1.0), top: 0.0, bottom };
    let medians =
        rows.iter().map(|(name, spread)| format!("{} {}", words(name), maybe(spread.p50, "ms")));
    let description = format!("Medians: {}.", medians.collect::<Vec<_>>().join(", "));
    let mut svg = Svg::new("setup-stages", STAGES, &description, bottom + Area::BELOW);
    area.x_axis(&mut svg, tick_ms);
    for (index, (name, spread)) in rows.iter().enumerate() {
        stage_row(&mut svg, &area, ROW * index as f64, name, spread);
    }
    let how = "The bar is the median, the line extends to the 95th percentile, and the dot is the \
               maximum (an arrow if it is beyond the right edge). Total runs from the start to the \
               open data channel; the first keyframe follows.";
    figure(STAGES, &svg.render(), how)
}

fn stage_row(svg: &mut Svg, area: &Area, y: f64, name: &str, spread: &Spread) {
    let p50 = spread.p50.unwrap_or(0.0);
    let (p95, max) = (spread.p95.unwrap_or(p50), spread.max.unwrap_or(p50));
    let class = if name == "total" { "fill total" } else { "fill" };
    svg.text((0.0, y + 13.0), 0.0, Anchor::Start, "name", &words(name));
    let (short, whole) = match spread.count {
        1 => (ms(p50), ms(p50)),
        _ => (
            format!("{}, p95 {}", ms(p50), ms(p95)),
            format!("{}, p95 {}, max {}", ms(p50), ms(p95), ms(max)),
        ),
    };
    svg.text((1.0, y + 13.0), 0.0, Anchor::End, "tick roomy", &whole);
    svg.text((1.0, y + 13.0), 0.0, Anchor::End, "tick tight", &short);
    svg.bar((0.0, y + 18.0), (area.x.at(p50).max(0.002), 12.0), class, "");
    let (middle, from, to) = (y + 24.0, area.x.at(p50), area.x.at(p95));
    svg.line((from, middle), (to, middle), "whisker");
    svg.line((to, middle - 4.0), (to, middle + 4.0), "whisker");
    if area.x.contains(max) {
        svg.shape((area.x.at(max), middle), "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", "most", "");
    } else {
        svg.shape((1.0, middle), "M-4-4 4 0-4 4z", "most", "");
    }
}

/// One column of stacked stages per connection, or points when there are too many.
pub(super) fn connections(result: &BenchResult) -> Plot {
    let records = &result.connections.records;
    if records.is_empty() {
        return no_figure(CONNECTIONS, "The result has no records of individual connections.");
    }
    if records.len() > MAX_COLUMNS {
        return totals(result);
    }
    let most = records.iter().map(stack_height).fold(0.0, f64::max);
    if most <= 0.0 {
        return no_figure(CONNECTIONS, "No connection completed any stage.");
    }
    let area = Area {
        x: Scale::span(0.0, 1.0, 1.0),
        y: Scale::linear(0.0, most),
        top: 20.0,
        bottom: height(result),
    };
    let description = format!(
        "{} connections in the order they were started; the highest column is {}.",
        records.len(),
        ms(most)
    );
    let mut svg =
        Svg::new("setup-each", CONNECTIONS, &description, area.bottom + Area::BELOW).left(60.0);
    area.y_axis(&mut svg, tick_ms);
    for (index, record) in records.iter().enumerate() {
        column(&mut svg, &area, index, records.len(), record);
    }
    svg.line((0.0, area.bottom), (1.0, area.bottom), "axis");
    column_numbers(&mut svg, area.bottom, records.len());
    let failed = if records.iter().any(|record| !record.ok) {
        " A cross marks where a connection failed."
    } else {
        ""
    };
    let how = format!(
        "Each column is one connection, from its start to the open data channel, in the order they \
         were started; its parts are the stages, from bottom to top.{failed}"
    );
    figure(CONNECTIONS, &(svg.render() + &legend(records)), &how)
}

/// Approximately the height of the plot of stages beside it, px.
fn height(result: &BenchResult) -> f64 {
    let stages = result.connections.setup_ms.stages();
    let rows = stages.iter().filter(|(_, spread)| spread.p50.is_some()).count();
    (ROW * rows as f64 - 40.0).clamp(200.0, 320.0)
}

fn stack_height(record: &ConnectionRecord) -> f64 {
    stacked(&record.setup_ms).filter_map(|(_, _, value)| sane(*value)).sum()
}

fn sane(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite() && *value >= 0.0)
}

fn column(svg: &mut Svg, area: &Area, index: usize, count: usize, record: &ConnectionRecord) {
    let width = 1.0 / slots(count) as f64;
    let x = (index as f64 + 0.1) * width;
    let mut sum = 0.0;
    for (stage, name, value) in stacked(&record.setup_ms) {
        let Some(time) = sane(*value) else { continue };
        let (from, to) = (area.down(sum), area.down(sum + time));
        let tip = format!("connection {}: {} {}", record.index, words(name), ms(time));
        svg.bar((x, to), (width * 0.8, from - to), &format!("s{stage}"), &tip);
        sum += time;
    }
    if !record.ok {
        let why = record.failure.as_ref().map_or("failed", |failure| failure.message.as_str());
        let y = area.down(sum) - 8.0;
        svg.shape((x + width * 0.4, y), CROSS, "cross", why);
    }
}

/// Number of columns that share the width, with a minimum so that few columns do not get too wide.
pub(super) fn slots(count: usize) -> usize {
    count.max(MIN_SLOTS)
}

/// Numbers from 1 below the columns, as many as fit a narrow page.
pub(super) fn column_numbers(svg: &mut Svg, bottom: f64, count: usize) {
    let stride = match count {
        0..=12 => 1,
        13..=24 => 2,
        _ => (Scale::linear(0.0, count as f64).ticks()[1] as usize).max(1),
    };
    for number in (1..=count).filter(|number| number % stride == 0) {
        let x = (number as f64 - 0.5) / slots(count) as f64;
        svg.text((x, bottom + 18.0), 0.0, Anchor::Middle, "tick", &number.to_string());
    }
}

/// Names the parts of the columns, except for stages that no connection reached.
fn legend(records: &[ConnectionRecord]) -> String {
    let present = |stage: usize| {
        records.iter().any(|record| sane(*record.setup_ms.stages()[stage].1).is_some())
    };
    let items: String = stacked(&Setup::<()>::default())
        .filter(|(stage, ..)| present(*stage))
        .map(|(stage, name, ())| key(stage, name))
        .collect();
    format!("<ul class=\"legend\">\n{items}</ul>\n")
}

fn key(stage: usize, name: &str) -> String {
    format!(
        "<li><svg class=\"key\" aria-hidden=\"true\"><rect width=\"100%\" height=\"100%\" \
         class=\"s{stage}\"/></svg>{}</li>\n",
        esc(&words(name))
    )
}

/// Total setup times over the run.
fn totals(result: &BenchResult) -> Plot {
    let records = &result.connections.records;
    let points: Vec<[f64; 2]> = records
        .iter()
        .filter_map(|record| Some([record.at_s, sane(record.setup_ms.total)?]))
        .filter(|[at, _]| at.is_finite())
        .collect();
    let Some(end) = points.iter().map(|[at, _]| *at).reduce(f64::max) else {
        return no_figure(CONNECTIONS, "No connection reached an open data channel.");
    };
    let start = points.iter().map(|[at, _]| *at).fold(end, f64::min);
    let (lo, hi) = super::rtt::ends(points.iter().map(|[_, total]| *total));
    let area = Area {
        x: Scale::seconds(start, end),
        y: Scale::fitting(lo, hi),
        top: 20.0,
        bottom: height(result),
    };
    let description =
        format!("{} setups over the run, between {} and {}.", points.len(), ms(lo), ms(hi));
    let mut svg =
        Svg::new("setup-each", CONNECTIONS, &description, area.bottom + Area::BELOW).left(60.0);
    area.y_axis(&mut svg, tick_ms);
    let grouped = points::draw(&mut svg, &area, &points);
    let failed = records.iter().filter(|record| !record.ok && record.at_s.is_finite());
    points::crosses(&mut svg, &area, failed.map(|record| (record.at_s, "failed")));
    area.x_axis(&mut svg, |tick| tick_seconds(tick, end));
    let failed = if records.iter().any(|record| !record.ok) {
        " A cross at the top marks a failed connection."
    } else {
        ""
    };
    let how = points::how(grouped, "connection")
        + " The horizontal axis shows its start, the vertical axis the time until its data channel \
            was open."
        + failed;
    figure(CONNECTIONS, &svg.render(), &how)
}
