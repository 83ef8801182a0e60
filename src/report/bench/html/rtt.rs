//! Round-trip times: their distribution, and their course over the run.

use super::{
    points,
    values::{counted, ms, short_name},
};
use crate::report::{
    bench::schema::BenchResult,
    html::{
        markup::{Plot, figure, no_figure},
        scale::{Scale, tick_ms, tick_seconds},
        svg::{Anchor, Area, Curve, Svg},
    },
};

const DISTRIBUTION: &str = "Distribution of round-trip times";
const TIMELINE: &str = "Round-trip time over the run";
const NO_PINGS: &str = "No ping was answered, so there are no round-trip times to draw.";
const NO_SAMPLES: &str = "The result has no individual round-trip times, only percentiles.";

/// Number of bars in the distribution.
const BINS: usize = 40;

/// Maximum number of connections whose start is marked.
const MAX_MARKS: usize = 60;

/// Every recorded round trip of a run as `[atS, ms]`, in chronological order.
pub(super) fn samples(result: &BenchResult) -> Vec<[f64; 2]> {
    let mut samples: Vec<_> = result
        .connections
        .records
        .iter()
        .flat_map(|record| &record.rtt)
        .filter(|[at, ms]| at.is_finite() && ms.is_finite() && *at >= 0.0 && *ms >= 0.0)
        .copied()
        .collect();
    samples.sort_by(|a, b| a[0].total_cmp(&b[0]));
    samples
}

/// The smallest value above 0, and the largest value.
pub(super) fn ends(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values.into_iter().fold((f64::INFINITY, 0.0_f64), |(lo, hi), value| {
        (if value > 0.0 { lo.min(value) } else { lo }, hi.max(value))
    });
    (if lo.is_finite() { lo } else { 0.0 }, hi)
}

/// A sentence in place of a plot when there are no samples.
fn absent(result: &BenchResult, title: &str) -> Plot {
    no_figure(title, if result.rtt_ms.spread.count == 0 { NO_PINGS } else { NO_SAMPLES })
}

/// Histogram with percentiles and the gate.
pub(super) fn distribution(result: &BenchResult, samples: &[[f64; 2]]) -> Plot {
    if samples.is_empty() {
        return absent(result, DISTRIBUTION);
    }
    let (lo, hi) = ends(samples.iter().map(|[_, ms]| *ms));
    let scale = axis(lo, hi, &gates(result));
    let mut bins = [0_u64; BINS];
    for [_, time] in samples {
        bins[((scale.at(*time) * BINS as f64) as usize).min(BINS - 1)] += 1;
    }
    let most = bins.iter().copied().max().unwrap_or(0) as f64;
    let lines = lines(result);
    let top = 14.0 * lines.len() as f64 + 12.0;
    let area = Area { x: scale, y: Scale::counts(most), top, bottom: top + 180.0 };
    let labels = lines.iter().map(|line| line.label.clone()).collect::<Vec<_>>().join(", ");
    let description = format!("Histogram of {} round trips: {labels}.", samples.len());
    let mut svg =
        Svg::new("rtt-spread", DISTRIBUTION, &description, area.bottom + Area::BELOW).left(44.0);
    area.y_axis(&mut svg, |count| format!("{count:.0}"));
    bars(&mut svg, &area, &bins);
    area.x_axis(&mut svg, tick_ms);
    for (row, line) in lines.iter().enumerate() {
        line.draw(&mut svg, &area, 14.0 * row as f64 + 11.0);
    }
    let log = if area.x.is_log() { " The axis is logarithmic." } else { "" };
    let how = format!(
        "The height of a bar is the number of pings with that round-trip time; a long tail to the \
         right is noticeable as hitches.{log}"
    );
    figure(DISTRIBUTION, &svg.render(), &how)
}

fn bars(svg: &mut Svg, area: &Area, bins: &[u64]) {
    let width = 1.0 / bins.len() as f64;
    for (index, count) in bins.iter().enumerate().filter(|(_, count)| **count > 0) {
        let x = index as f64 * width;
        let (from, to) = (area.x.value(x), area.x.value(x + width));
        let pings = counted(*count, "ping", "pings");
        let tip = format!("{} to {}: {pings}", ms(from), ms(to));
        // A single ping must be visible beside bars of thousands.
        let height = (area.bottom - area.down(*count as f64)).max(1.5);
        svg.bar((x, area.bottom - height), (width * 0.9, height), "fill", &tip);
    }
}

/// The percentile limits that were set: `p95`, ms.
fn gates(result: &BenchResult) -> Vec<(String, f64)> {
    result
        .checks
        .iter()
        .filter_map(|check| {
            let percentile = check.name.strip_prefix("max-rtt-")?;
            let limit = check.limit.as_f64().filter(|limit| limit.is_finite() && *limit > 0.0)?;
            Some((percentile.to_owned(), limit))
        })
        .collect()
}

/// An axis over the values, and over the gates if they are near.
fn axis(lo: f64, hi: f64, gates: &[(String, f64)]) -> Scale {
    let near = gates.iter().map(|(_, limit)| *limit).filter(|limit| *limit <= hi * 4.0);
    let hi = near.fold(hi, f64::max);
    if lo > 0.0 && hi / lo > 8.0 { Scale::log(lo, hi) } else { Scale::linear(lo * 0.9, hi) }
}

/// A marked value.
struct Line {
    label: String,
    value: f64,
    class: &'static str,
}

fn lines(result: &BenchResult) -> Vec<Line> {
    let spread = &result.rtt_ms.spread;
    let percentiles =
        [("p50", spread.p50, "p50"), ("p95", spread.p95, "p95"), ("p99", spread.p99, "p99")];
    let percentiles = percentiles.into_iter().filter_map(|(name, value, class)| {
        let value = value.filter(|value| value.is_finite())?;
        Some(Line { label: format!("{name} {}", ms(value)), value, class })
    });
    let gates = gates(result).into_iter().map(|(name, value)| Line {
        label: format!("gate {} ≤ {}", short_name(&name), ms(value)),
        value,
        class: "limit",
    });
    percentiles.chain(gates).collect()
}

impl Line {
    /// Draws the line down from its label; a value beyond the right end becomes an arrow there.
    fn draw(&self, svg: &mut Svg, area: &Area, y: f64) {
        let text = format!("{}-text", self.class);
        if !area.x.contains(self.value) && self.value > area.x.value(0.5) {
            let label = format!("{} →", self.label);
            return svg.text((1.0, y), 0.0, Anchor::End, &text, &label);
        }
        let x = area.x.at(self.value);
        svg.line((x, y - 9.0), (x, area.bottom), self.class);
        let (dx, anchor) = if x > 0.5 { (-5.0, Anchor::End) } else { (5.0, Anchor::Start) };
        svg.text((x, y), dx, anchor, &text, &self.label);
    }
}

/// Round trips over time.
pub(super) fn timeline(result: &BenchResult, samples: &[[f64; 2]]) -> Plot {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return absent(result, TIMELINE);
    };
    let end = last[0].max(if result.duration_s.is_finite() { result.duration_s } else { 0.0 });
    let (lo, hi) = ends(samples.iter().map(|[_, ms]| *ms));
    let area = Area {
        x: Scale::seconds(start(result, first[0]), end),
        y: Scale::fitting(lo, hi),
        top: 20.0,
        bottom: 240.0,
    };
    let description = format!(
        "{} round trips from {} to {} of the run, between {} and {}.",
        samples.len(),
        tick_seconds(first[0], end),
        tick_seconds(last[0], end),
        ms(lo),
        ms(hi)
    );
    let mut svg =
        Svg::new("rtt-time", TIMELINE, &description, area.bottom + Area::BELOW).left(60.0);
    area.y_axis(&mut svg, tick_ms);
    connection_starts(&mut svg, &area, result);
    let grouped = points::draw(&mut svg, &area, samples);
    failures(&mut svg, &area, result);
    area.x_axis(&mut svg, |tick| tick_seconds(tick, end));
    figure(TIMELINE, &svg.render(), &timeline_how(result, grouped))
}

/// When the first connection was started or the first ping was sent, seconds.
fn start(result: &BenchResult, first_ping: f64) -> f64 {
    result.connections.records.iter().map(|record| record.at_s).fold(first_ping, f64::min)
}

fn timeline_how(result: &BenchResult, grouped: bool) -> String {
    let mut how = points::how(grouped, "answered ping");
    let records = &result.connections.records;
    if records.len() <= MAX_MARKS {
        how += " A thin vertical line marks the start of a connection.";
    }
    if records.iter().any(|record| record.failure.is_some()) {
        how += " A cross at the top marks a failed connection.";
    }
    if result.rtt_ms.lost > 0 {
        how = format!("{how} Unanswered pings ({}) are not drawn.", result.rtt_ms.lost);
    }
    how
}

/// A light line at the start of each connection, unless there are too many.
fn connection_starts(svg: &mut Svg, area: &Area, result: &BenchResult) {
    let records = &result.connections.records;
    if records.len() > MAX_MARKS {
        return;
    }
    let mut marks = Curve::default();
    for record in records.iter().filter(|record| record.at_s.is_finite()) {
        marks.upright(area.x.at(record.at_s), area.top, area.bottom);
    }
    svg.curve(&marks, "beginning");
}

fn failures(svg: &mut Svg, area: &Area, result: &BenchResult) {
    let failed = result.connections.records.iter().filter_map(|record| {
        let failure = record.failure.as_ref()?;
        record.at_s.is_finite().then_some((record.at_s, failure.message.as_str()))
    });
    points::crosses(svg, area, failed);
}
