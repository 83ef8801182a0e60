//! The result of a timeline as text: one row per event.

use std::fmt::Write;

use super::schema::{Outage, TimelineResult};
use crate::{
    report::layout::{self, Align},
    text::printable,
};

/// Column titles and alignment.
const HEAD: [(&str, Align); 7] = [
    ("at", Align::Right),
    ("event", Align::Left),
    ("outage", Align::Right),
    ("recovery", Align::Right),
    ("sent", Align::Right),
    ("lost", Align::Right),
    ("via", Align::Left),
];

/// Renders a heading, one row per event, and the number of lost keyframes.
#[must_use]
pub fn table(result: &TimelineResult) -> String {
    let TimelineResult { name, a, b, interval_s, .. } = result;
    let mut text = format!(
        "{}: {} and {}, a keyframe every {interval_s} s\n",
        printable(name),
        printable(a),
        printable(b)
    );
    let TimelineResult { sent, came, lost, most_lost, .. } = result;
    if !result.outages.is_empty() {
        let head = HEAD.map(|(name, _)| name.to_owned()).to_vec();
        let rows: Vec<_> = [head].into_iter().chain(result.outages.iter().map(row)).collect();
        for line in layout::columns(&HEAD.map(|(_, align)| (align, 0)), &rows) {
            let _ = writeln!(text, "   {line}");
        }
    }
    if let Some(first) = result.first_keyframe_s {
        let _ = writeln!(text, "first picture {first:.2} s after the start of both peers");
    }
    let _ = write!(text, "{came} of {sent} keyframes received");
    if *lost > 0 {
        let _ = write!(text, ", {lost} lost (maximum {most_lost})");
    }
    match &result.reason {
        None => text.push_str("; as expected"),
        Some(reason) => {
            let _ = write!(text, "\nnot as expected: {}", printable(&reason.message));
            if !reason.remedy.is_empty() {
                let _ = write!(text, "\n  try: {}", printable(&reason.remedy));
            }
        }
    }
    text
}

fn row(outage: &Outage) -> Vec<String> {
    let Outage { at_s, event, outage_s, recovery_s, sent, lost, .. } = outage;
    let mark = if outage.agree { "" } else { " !" };
    let recovery =
        if outage.back { format!("{recovery_s:.1} s{mark}") } else { "never !".to_owned() };
    vec![
        format!("{at_s:.1} s"),
        printable(event),
        format!("{outage_s:.1} s"),
        recovery,
        sent.to_string(),
        lost.to_string(),
        outage.via.clone().unwrap_or_else(|| "–".into()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::timeline::schema::example;

    #[test]
    fn each_event_has_a_row() {
        let mut result = example();
        let text = table(&result);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "x: port and sym, a keyframe every 0.5 s");
        assert_eq!(
            lines[2],
            "   10.0 s  kill signaling for 3s   0.0 s     0.0 s    20     0  srflx"
        );
        assert_eq!(
            lines[3],
            "   20.0 s  nat a -> sym            6.2 s   6.2 s !    20     0  srflx"
        );
        assert_eq!(lines[4], "first picture 0.40 s after the start of both peers");
        assert_eq!(lines[5], "40 of 40 keyframes received; as expected");
        (result.lost, result.came, result.outages[1].back) = (1, 39, false);
        let text = table(&result);
        assert!(
            text.contains("never !")
                && text.contains("39 of 40 keyframes received, 1 lost (maximum 0)")
        );
    }
}
