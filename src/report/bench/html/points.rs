//! Many single values along an axis, in a picture whose size does not grow with their number.

use crate::report::html::svg::{Area, CROSS, Curve, Svg};

/// Most points that are drawn one by one.
pub(super) const MOST_POINTS: usize = 2_000;

/// Columns that more points are gathered into.
const COLUMNS: usize = 240;

/// Most crosses of a plot.
const MOST_CROSSES: usize = 400;

/// Draws points `[x, y]` one by one, or, when there are too many, a line from the smallest to the
/// largest of each column and a dot at its median. Tells whether they were gathered.
pub(super) fn draw(svg: &mut Svg, area: &Area, points: &[[f64; 2]]) -> bool {
    if points.len() <= MOST_POINTS {
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

/// Marks places along the upper edge where there is no value, each with a reason.
pub(super) fn crosses<'t>(
    svg: &mut Svg,
    area: &Area,
    places: impl IntoIterator<Item = (f64, &'t str)>,
) {
    for (x, why) in places.into_iter().take(MOST_CROSSES) {
        svg.shape((area.x.at(x), area.top - 8.0), CROSS, "cross", why);
    }
}

/// How to read what [`draw`] drew; `one` is what a point stands for.
pub(super) fn how(gathered: bool, one: &str) -> String {
    if gathered {
        format!(
            "Too many to draw each {one}: a line goes from the smallest to the largest of its slice, \
             the dot is the median."
        )
    } else {
        format!("One dot is one {one}.")
    }
}
