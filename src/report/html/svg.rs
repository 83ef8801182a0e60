//! Drawings in inline SVG that stretch horizontally with the page while their text keeps its size.
//!
//! Horizontal positions are shares of the width (written as percentages), vertical ones are in CSS pixels. Axis
//! labels are to the left of the drawing, in its margin. Curves, which SVG cannot express in percentages, are drawn
//! in a nested view, 1000 units wide and as high as the drawing, that is stretched without affecting their stroke.

use std::fmt::Write;

use super::{markup::esc, scale::Scale};

/// Width of the nested view in which curves are drawn.
const VIEW: f64 = 1000.0;

/// Formats a number for SVG: always finite, at most two decimals.
pub(crate) fn num(value: f64) -> String {
    let rounded = (value * 100.0).round() / 100.0;
    // Adding 0 makes -0 a 0.
    if rounded.is_finite() { format!("{}", rounded + 0.0) } else { "0".into() }
}

/// Alignment of a text to its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// Right of the position.
    Start,
    /// Centered on the position.
    Middle,
    /// Left of the position.
    End,
}

/// A drawing being built.
#[derive(Debug)]
pub(crate) struct Svg {
    id: &'static str,
    title: String,
    description: String,
    height: f64,
    left: f64,
    marks: String,
}

impl Svg {
    /// An empty drawing. `id` is unique in the page; title and description are for screen readers.
    pub(crate) fn new(id: &'static str, title: &str, description: &str, height: f64) -> Self {
        Self {
            id,
            title: esc(title),
            description: esc(description),
            height,
            left: 0.0,
            marks: String::new(),
        }
    }

    /// Adds a left margin for the labels of a vertical axis, px.
    pub(crate) fn left(mut self, margin: f64) -> Self {
        self.left = margin;
        self
    }

    /// A straight line between two positions.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let _ = writeln!(
            self.marks,
            r#"<line x1="{}%" y1="{}" x2="{}%" y2="{}" class="{class}"/>"#,
            num(from.0 * 100.0),
            num(from.1),
            num(to.0 * 100.0),
            num(to.1)
        );
    }

    /// A bar with its upper left corner at `at`; `tip` is shown as a tooltip.
    pub(crate) fn bar(&mut self, at: (f64, f64), size: (f64, f64), class: &str, tip: &str) {
        let _ = write!(
            self.marks,
            r#"<rect x="{}%" y="{}" width="{}%" height="{}" class="{class}""#,
            num(at.0 * 100.0),
            num(at.1),
            num(size.0.max(0.0) * 100.0),
            num(size.1.max(0.0))
        );
        let _ = if tip.is_empty() {
            writeln!(self.marks, "/>")
        } else {
            writeln!(self.marks, "><title>{}</title></rect>", esc(tip))
        };
    }

    /// A text, shifted by `dx` pixels from its position.
    pub(crate) fn text(
        &mut self,
        at: (f64, f64),
        dx: f64,
        anchor: Anchor,
        class: &str,
        text: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => " mid",
            Anchor::End => " end",
        };
        let _ = writeln!(
            self.marks,
            r#"<text x="{}%" y="{}" dx="{}" class="{class}{anchor}">{}</text>"#,
            num(at.0 * 100.0),
            num(at.1),
            num(dx),
            esc(text)
        );
    }

    /// A small shape around a position; `outline` is path data in pixels with the position at 0,0.
    pub(crate) fn shape(&mut self, at: (f64, f64), outline: &str, class: &str, tip: &str) {
        let tip =
            if tip.is_empty() { String::new() } else { format!("<title>{}</title>", esc(tip)) };
        let _ = writeln!(
            self.marks,
            r#"<svg x="{}%" y="{}"><path d="{outline}" class="{class}">{tip}</path></svg>"#,
            num(at.0 * 100.0),
            num(at.1)
        );
    }

    /// A curve.
    pub(crate) fn curve(&mut self, curve: &Curve, class: &str) {
        if curve.0.is_empty() {
            return;
        }
        let _ = writeln!(
            self.marks,
            r#"<svg viewBox="0 0 {VIEW} {h}" preserveAspectRatio="none" width="100%" height="{h}"><path d="{}" class="{class}"/></svg>"#,
            curve.0,
            h = num(self.height)
        );
    }

    /// The whole drawing.
    pub(crate) fn render(&self) -> String {
        let Self { id, title, description, marks, .. } = self;
        let (height, left) = (num(self.height), num(self.left));
        format!(
            "<svg role=\"img\" aria-labelledby=\"{id}-t {id}-d\" class=\"plot\" \
             style=\"--h:{height}px;--l:{left}px\">\n\
             <title id=\"{id}-t\">{title}</title>\n<desc id=\"{id}-d\">{description}</desc>\n\
             {marks}</svg>\n"
        )
    }
}

/// A cross that marks failures.
pub(crate) const CROSS: &str = "M-4-4 4 4M4-4-4 4";

/// Outlines that distinguish series without color, one per series, cyclically.
pub(crate) const MARKERS: [&str; 6] = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.5 4.5 3.5h-9z",
    "M0-5 5 0 0 5-5 0z",
    "M0 4.5 4.5-3.5h-9z",
    "M-5-1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",
];

/// Path data in the stretched view.
#[derive(Debug, Default)]
pub(crate) struct Curve(String);

impl Curve {
    /// Moves to a position without drawing.
    pub(crate) fn go(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "M{} {}", across(x), num_short(y));
    }

    /// Draws a line to a position.
    pub(crate) fn draw(&mut self, x: f64, y: f64) {
        let _ = write!(self.0, "L{} {}", across(x), num_short(y));
    }

    /// A dot; its class sets the size with a round stroke.
    pub(crate) fn dot(&mut self, x: f64, y: f64) {
        self.go(x, y);
        self.0.push_str("h.1");
    }

    /// A vertical line.
    pub(crate) fn upright(&mut self, x: f64, from: f64, to: f64) {
        self.go(x, from);
        let _ = write!(self.0, "V{}", num_short(to));
    }
}

fn across(x: f64) -> String {
    num_short(x * VIEW)
}

/// One decimal: a tenth of a pixel, or of a thousandth of the width.
fn num_short(value: f64) -> String {
    num((value * 10.0).round() / 10.0)
}

/// The rectangle that two axes span.
#[derive(Debug)]
pub(crate) struct Area {
    /// Horizontal axis.
    pub(crate) x: Scale,
    /// Vertical axis.
    pub(crate) y: Scale,
    /// Upper edge, px.
    pub(crate) top: f64,
    /// Lower edge, px.
    pub(crate) bottom: f64,
}

impl Area {
    /// Space below the lower edge for the labels of the horizontal axis, px.
    pub(crate) const BELOW: f64 = 24.0;

    /// Vertical position of a value, px.
    pub(crate) fn down(&self, value: f64) -> f64 {
        self.bottom - self.y.at(value) * (self.bottom - self.top)
    }

    /// Draws grid lines and labels of the vertical axis.
    pub(crate) fn y_axis(&self, svg: &mut Svg, text: impl Fn(f64) -> String) {
        for tick in self.y.ticks() {
            let y = self.down(*tick);
            svg.line((0.0, y), (1.0, y), "grid");
            svg.text((0.0, y + 4.0), -8.0, Anchor::End, "tick", &text(*tick));
        }
    }

    /// Draws the base line, ticks and labels of the horizontal axis.
    pub(crate) fn x_axis(&self, svg: &mut Svg, text: impl Fn(f64) -> String) {
        svg.line((0.0, self.bottom), (1.0, self.bottom), "axis");
        let labels: Vec<String> = self.x.ticks().iter().map(|tick| text(*tick)).collect();
        let crowded = labels.iter().map(|label| label.len() + 1).sum::<usize>() > NARROW;
        for (index, (tick, label)) in self.x.ticks().iter().zip(&labels).enumerate() {
            let x = self.x.at(*tick);
            svg.line((x, self.bottom), (x, self.bottom + 5.0), "axis");
            let minor = if self.x.is_log() { !is_power_of_ten(*tick) } else { index % 2 == 1 };
            let class = if crowded && minor { "tick roomy" } else { "tick" };
            svg.text((x, self.bottom + 18.0), 0.0, Anchor::Middle, class, label);
        }
    }
}

/// Characters that fit under an axis on a phone.
const NARROW: usize = 30;

fn is_power_of_ten(value: f64) -> bool {
    let power = value.log10();
    (power - power.round()).abs() < 1e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_always_finite_and_short() {
        let values = [f64::NAN, f64::INFINITY, -f64::INFINITY, 1.0 / 3.0, -0.0, 12.0, 1e300];
        let texts: Vec<_> = values.map(num).into();
        assert_eq!(texts[..6], ["0", "0", "0", "0.33", "0", "12"]);
        assert!(!texts[6].contains("inf"));
    }

    #[test]
    fn a_drawing_has_title_and_description() {
        let mut svg = Svg::new("x", "RTT <1>", "All of it", 100.0);
        svg.text((0.5, 10.0), 0.0, Anchor::Middle, "tick", "</svg>");
        svg.bar((0.0, 0.0), (-1.0, 5.0), "b", "a&b");
        let text = svg.render();
        assert!(text.contains(r#"role="img" aria-labelledby="x-t x-d""#), "{text}");
        assert!(text.contains("<title id=\"x-t\">RTT &lt;1&gt;</title>"), "{text}");
        assert!(text.contains("&lt;/svg&gt;") && text.contains("a&amp;b"), "{text}");
        assert!(text.contains(r#"width="0%""#), "{text}");
    }
}
