//! Plots of many values along an axis; the size of a plot does not grow with their number.

use crate::report::html::svg::{Area, CROSS, Curve, Svg};

/// Maximum number of points drawn one by one.
pub(super) const MAX_POINTS: usize = 2_000;

/// Number of columns that more points are grouped into.
const COLUMNS: usize = 240;

/// Maximum number of crosses in a plot.
const MAX_CROSSES: usize = 400;

/// Draws points `[x, y]` one by one, or, when there are too many, a line from the minimum to the maximum of each
/// column and a dot at its median. Returns whether they were grouped.
pub(super) fn draw(svg: &mut Svg, area: &Area, points: &[[f64; 2]]) -> bool {
    if points.len() <= MAX_POINTS {
        let mut dots = Curve::default();
        for [x, y] in points {
            dots.dot(area.x.at(*x), area.down(*y));
        }
        svg.curve(&dots, if points.len() > 200 { "dots small" } else { "dots" });
        return false;
    }
    let (mut ranges, mut medians) = (Curve::default(), Curve::default());
    for (index, mut values) in columns(area, points).into_iter().enumerate() {
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else { continue };
        let x = (index as f64 + 0.5) / COLUMNS as f64;
        ranges.upright(x, area.down(*least), area.down(*most));
        medians.dot(x, area.down(values[values.len() / 2]));
    }
    svg.curve(&ranges, "ranges");
    svg.curve(&medians, "dots small");
    true
}

fn columns(area: &Area, points: &[[f64; 2]]) -> Vec<Vec<f64>> {
    let mut columns = vec![Vec::new(); COLUMNS];
    for [x, y] in points {
        let column = (area.x.at(*x) * COLUMNS as f64) as usize;
        columns[column.min(COLUMNS - 1)].push(*y);
    }
    columns
}

/// Marks positions without a value along the upper edge, each with a reason.
pub(super) fn crosses<'t>(
    svg: &mut Svg,
    area: &Area,
    places: impl IntoIterator<Item = (f64, &'t str)>,
) {
    for (x, why) in places.into_iter().take(MAX_CROSSES) {
        svg.shape((area.x.at(x), area.top - 8.0), CROSS, "cross", why);
    }
}

/// Explains the output of [`draw`]; `one` is the meaning of a point.
pub(super) fn how(grouped: bool, one: &str) -> String {
    if grouped {
        format!(
            "Too many to draw each {one}: lines run from the minimum to the maximum of each slice, \
             and dots are medians."
        )
    } else {
        format!("Each dot is one {one}.")
    }
}
