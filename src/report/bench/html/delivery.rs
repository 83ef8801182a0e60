//! How keyframes were delivered: the time from the first packet to the last, the minimum possible, and the bottleneck.

use super::{
    keyframes::ordinals,
    points,
    setup::column_numbers,
    values::{NONE, budget, bytes, cell, ms},
};
use crate::report::{
    bench::{
        schema::{BenchResult, KeyframeRecord},
        wording,
    },
    delivery::{DeliveryReport, KeyframeDelivery, limit_words, path_words},
    html::{
        markup::{self, Plot, Table, code, esc, figure, long, no_figure, nothing},
        scale::{Scale, tick_ms},
        svg::{Anchor, Area, Svg},
    },
    human,
};

const TITLE: &str = "First to last packet of each keyframe";

/// Maximum rows of the table of keyframes.
const MAX_ROWS: usize = 1_000;

/// The findings with their remedies, and a table of every keyframe.
pub(super) fn section(result: &BenchResult, records: &[&KeyframeRecord]) -> String {
    let figures = |delivery: &DeliveryReport| esc(&delivery.figures().join(", "));
    let figures = result.keyframes.delivery.as_ref().map(figures);
    let mut body =
        figures.map_or_else(String::new, |figures| format!("<p>Median: {figures}.</p>\n"));
    let mut table = Table::new("Findings about the delivery", &["Code", "What", "What to try"]);
    let mut found = false;
    for finding in wording::findings(result) {
        found = true;
        table.row(&[code(&finding.code), long(&finding.message), long(&finding.remedy)]);
    }
    body += &if found { table.render() } else { nothing("No bottleneck was found.") };
    markup::section("delivery", "Delivery of keyframes", &body)
        + &markup::section("keyframes", "Keyframes", &every(result, records))
}

/// A collapsed table of every keyframe whose delivery was measured.
fn every(result: &BenchResult, records: &[&KeyframeRecord]) -> String {
    let budget = budget(result);
    let measured: Vec<_> = records
        .iter()
        .enumerate()
        .filter_map(|(index, record)| Some((index + 1, record, record.delivery.as_ref()?)))
        .collect();
    if measured.is_empty() {
        return nothing("No keyframe was received in this process.");
    }
    let columns = [
        "No.",
        "#Size",
        "#Share of budget",
        "#First to last packet",
        "#Rate",
        "#Path rate",
        "#Minimum time",
        "Limited by",
    ];
    let mut table = Table::new("Keyframes in the order they arrived", &columns);
    for (number, record, delivery) in measured.iter().take(MAX_ROWS) {
        table.row(&row(*number, record, delivery, budget));
    }
    let left = match measured.len().saturating_sub(MAX_ROWS) {
        0 => String::new(),
        left => nothing(&format!("{left} more keyframes are in the JSON result.")),
    };
    let count = measured.len();
    let table = table.render();
    format!("<details>\n<summary>Every keyframe ({count})</summary>\n{table}{left}</details>\n")
}

fn row(
    number: usize,
    record: &KeyframeRecord,
    delivery: &KeyframeDelivery,
    budget: Option<f64>,
) -> [String; 8] {
    let share = budget.map(|budget| human::share(record.bytes as f64 / budget));
    let rate = delivery.bits_per_second.map(|rate| human::bitrate(rate as f64));
    let maybe = |text: Option<String>| text.map_or_else(|| NONE.into(), |text| esc(&text));
    let likely = if delivery.sure { "" } else { ", likely" };
    [
        number.to_string(),
        bytes(record.bytes as f64),
        maybe(share),
        cell(record.spread_ms, "ms"),
        maybe(rate),
        maybe(delivery.path.map(path_words)),
        cell(delivery.least_ms, "ms"),
        format!("{}{likely}", limit_words(delivery.limited_by)),
    ]
}

/// One dot per keyframe, and the minimum time at the path's rate.
pub(super) fn plot(result: &BenchResult, records: &[&KeyframeRecord]) -> Plot {
    let points: Vec<[f64; 2]> = records
        .iter()
        .enumerate()
        .filter_map(|(index, record)| {
            let spread = record.spread_ms.filter(|ms| ms.is_finite() && *ms >= 0.0)?;
            Some([index as f64 + 1.0, spread])
        })
        .collect();
    if points.is_empty() {
        return no_figure(TITLE, "No keyframe was received in this process.");
    }
    let least = result.keyframes.delivery.as_ref().and_then(|delivery| delivery.least_ms);
    let least = least.filter(|least| least.is_finite() && *least > 0.0);
    let (lo, hi) = super::rtt::ends(points.iter().map(|[_, ms]| *ms).chain(least));
    let area =
        Area { x: ordinals(records.len()), y: Scale::fitting(lo, hi), top: 24.0, bottom: 220.0 };
    let description = format!("{} keyframes between {} and {}.", points.len(), ms(lo), ms(hi));
    let mut svg = Svg::new("key-spread", TITLE, &description, area.bottom + Area::BELOW).left(64.0);
    area.y_axis(&mut svg, tick_ms);
    let gathered = points::draw(&mut svg, &area, &points);
    let mut how = points::how(gathered, "keyframe");
    if let Some(least) = least.filter(|least| area.y.contains(*least)) {
        let y = area.down(least);
        svg.line((0.0, y), (1.0, y), "limit");
        let label = format!("minimum at path rate {}", ms(least));
        svg.text((1.0, 11.0), 0.0, Anchor::End, "limit-text", &label);
        how += " The dashed line shows the time that the packets of a keyframe take at the \
                measured rate of the path.";
    }
    svg.line((0.0, area.bottom), (1.0, area.bottom), "axis");
    column_numbers(&mut svg, area.bottom, records.len());
    figure(TITLE, &svg.render(), &how)
}
