//! CSV (RFC 4180) in tidy long form, one measured value per row, for pandas, R and spreadsheets:
//! `run,connection,at_s,metric,value,unit,detail`.

use std::fmt::Write as _;

use super::{
    Named,
    schema::{ConnectionRecord, IceServerRecord, KeyframeRecord},
};
use crate::text::printable::{self, is_unprintable};

/// Names of the columns.
const HEADER: &str = "run,connection,at_s,metric,value,unit,detail\r\n";

/// One row for each value of each connection. `at_s` is in seconds since the start of the run. Metrics:
/// `ok` and `keyframe.intact` (1 or 0), `setup.STAGE`, `first-picture.from-start`, `first-picture.from-join`,
/// `pings.sent`, `pings.lost`, `rtt`, `keyframe.bytes`, `keyframe.latency`, `keyframe.encode`, `keyframe.psnr`,
/// `keyframe.ssim`, `keyframe.spread` (first packet to last), `keyframe.rate`, `keyframe.stage.STAGE`, and
/// `ice-server` (time to its answer). A value that was not measured has no row; an ICE server that did not answer has
/// a row without a value.
#[must_use]
pub fn csv(runs: &[Named]) -> String {
    let mut text = HEADER.to_owned();
    for run in runs {
        for record in &run.result.connections.records {
            connection(&mut Rows { text: &mut text, run: &cell(&run.name), record }, record);
        }
    }
    text
}

/// Writes rows of one connection.
struct Rows<'a> {
    text: &'a mut String,
    run: &'a str,
    record: &'a ConnectionRecord,
}

impl Rows<'_> {
    fn add(&mut self, at_s: f64, metric: &str, value: Option<f64>, unit: &str, detail: &str) {
        let value = value.map_or_else(String::new, |value| value.to_string());
        let (run, index) = (self.run, self.record.index);
        let detail = cell(detail);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{run},{index},{at_s},{metric},{value},{unit},{detail}\r\n");
    }

    fn maybe(&mut self, at_s: f64, metric: &str, value: Option<f64>, unit: &str) {
        if value.is_some() {
            self.add(at_s, metric, value, unit, "");
        }
    }
}

fn connection(rows: &mut Rows, record: &ConnectionRecord) {
    let at = record.at_s;
    let detail = record.failure.as_ref().map_or_else(
        || record.connection_type.clone().unwrap_or_default(),
        |failure| format!("{}/{}: {}", failure.stage, failure.code, failure.message),
    );
    rows.add(at, "ok", Some(f64::from(u8::from(record.ok))), "bool", &detail);
    for (stage, value) in record.setup_ms.stages() {
        rows.maybe(at, &format!("setup.{stage}"), *value, "ms");
    }
    let first = record.first_picture_ms;
    rows.maybe(at, "first-picture.from-start", first.from_start, "ms");
    rows.maybe(at, "first-picture.from-join", first.from_join, "ms");
    rows.add(at, "pings.sent", Some(record.pings_sent as f64), "count", "");
    rows.add(at, "pings.lost", Some(record.pings_lost as f64), "count", "");
    for [at, ms] in &record.rtt {
        rows.add(*at, "rtt", Some(*ms), "ms", "");
    }
    for keyframe in &record.keyframes {
        keyframe_rows(rows, keyframe);
    }
    for server in &record.ice_servers {
        rows.add(at, "ice-server", server.ms, "ms", &answer(server));
    }
}

fn keyframe_rows(rows: &mut Rows, keyframe: &KeyframeRecord) {
    let at = keyframe.at_s;
    rows.add(at, "keyframe.bytes", Some(keyframe.bytes as f64), "bytes", "");
    rows.maybe(at, "keyframe.latency", keyframe.latency_ms, "ms");
    rows.maybe(at, "keyframe.encode", keyframe.encode_ms, "ms");
    rows.maybe(at, "keyframe.psnr", keyframe.psnr_db, "dB");
    rows.maybe(at, "keyframe.ssim", keyframe.ssim, "");
    rows.maybe(at, "keyframe.spread", keyframe.spread_ms, "ms");
    let rate = keyframe.delivery.and_then(|delivery| delivery.bits_per_second);
    rows.maybe(at, "keyframe.rate", rate.map(|rate| rate as f64), "bit/s");
    for (stage, time) in keyframe.stages_ms.named() {
        rows.maybe(at, &format!("keyframe.stage.{stage}"), *time, "ms");
    }
    let intact = keyframe.intact.map(|intact| f64::from(u8::from(intact)));
    rows.maybe(at, "keyframe.intact", intact, "bool");
}

/// `turn:turn.example.org refused 401 Unauthorized`.
fn answer(server: &IceServerRecord) -> String {
    let code = server.code.map(|code| code.to_string());
    let parts = [Some(&server.url), Some(&server.result), code.as_ref(), server.reason.as_ref()];
    parts.into_iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// A text cell, on one line and without terminal control characters, because the output may go to a terminal. A cell
/// that a spreadsheet would interpret as a formula is prefixed with an apostrophe, which makes it text (OWASP, "CSV
/// Injection"), even if the formula follows characters that a spreadsheet may strip; a cell with a comma or a quote
/// is quoted.
fn cell(text: &str) -> String {
    let formula = text
        .trim_start_matches(|c: char| c.is_whitespace() || is_unprintable(c))
        .starts_with(['=', '+', '-', '@']);
    let text = printable::line(text);
    let text = if formula { format!("'{text}") } else { text };
    if text.contains([',', '"']) || text != text.trim() {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::example, *};

    /// Parses by the grammar of RFC 4180.
    fn parse(text: &str) -> Vec<Vec<String>> {
        let (mut rows, mut row, mut cell) = (Vec::new(), Vec::new(), String::new());
        let mut quoted = false;
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' if quoted && rest.peek() == Some(&'"') => cell.extend(rest.next()),
                '"' => quoted = !quoted,
                ',' if !quoted => row.push(std::mem::take(&mut cell)),
                '\r' if !quoted => {
                    assert_eq!(rest.next(), Some('\n'));
                    row.push(std::mem::take(&mut cell));
                    rows.push(std::mem::take(&mut row));
                }
                c => cell.push(c),
            }
        }
        assert!(!quoted && row.is_empty() && cell.is_empty(), "ends in the middle of a row");
        rows
    }

    #[test]
    fn every_measured_value_has_a_row() {
        let run = example::named("full", example::full());
        let records = run.result.connections.records.clone();
        let rows = parse(&csv(&[run]));
        assert_eq!(rows[0].join(","), HEADER.trim_end());
        assert!(rows.iter().all(|row| row.len() == 7), "{rows:?}");
        let of = |metric: &str| rows.iter().filter(|row| row[3] == metric).count();
        assert_eq!(of("ok"), records.len());
        assert_eq!(of("rtt"), records.iter().map(|r| r.rtt.len()).sum::<usize>());
        assert_eq!(of("keyframe.bytes"), records.iter().map(|r| r.keyframes.len()).sum::<usize>());
        let stages = records.iter().flat_map(|r| r.setup_ms.stages().map(|(_, v)| v.is_some()));
        assert_eq!(
            rows.iter().filter(|row| row[3].starts_with("setup.")).count(),
            stages.filter(|measured| *measured).count()
        );
        for row in &rows[1..] {
            assert!(row[4].is_empty() && row[3] == "ice-server" || row[4].parse::<f64>().is_ok());
        }
    }

    #[test]
    fn rows_of_one_connection() {
        let mut result = example::minimal();
        let mut record = ConnectionRecord { index: 3, at_s: 1.5, ok: true, ..Default::default() };
        record.connection_type = Some("host".into());
        record.setup_ms.ice = Some(12.5);
        record.pings_sent = 2;
        record.pings_lost = 1;
        record.rtt = vec![[1.6, 0.25]];
        result.connections.records = vec![record];
        let expected = "run,connection,at_s,metric,value,unit,detail\r\n\
                        a.json,3,1.5,ok,1,bool,host\r\n\
                        a.json,3,1.5,setup.ice,12.5,ms,\r\n\
                        a.json,3,1.5,pings.sent,2,count,\r\n\
                        a.json,3,1.5,pings.lost,1,count,\r\n\
                        a.json,3,1.6,rtt,0.25,ms,\r\n";
        assert_eq!(csv(&[example::named("a.json", result)]), expected);
    }

    #[test]
    fn text_cannot_be_a_formula_or_another_cell() {
        for text in ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1", "\u{202e}=1"] {
            let read = parse(&format!("{},\r\n", cell(text)));
            assert_eq!(read[0][0], format!("'{}", printable::line(text)));
        }
        for text in ["a,b", "say \"no\"", "plain", " spaces ", "a,\"b\",c"] {
            assert_eq!(parse(&format!("{},\r\n", cell(text)))[0], [text, ""]);
        }
    }

    #[test]
    fn text_cannot_break_lines_or_control_the_terminal() {
        let rows =
            csv(&[example::named("\u{1b}]0;x\u{7}\u{1b}[31m\r\n::error::x", example::hostile())]);
        for line in rows.split("\r\n") {
            assert!(!line.contains(is_unprintable), "{line:?}");
            assert!(!line.starts_with("::"), "{line:?}");
        }
        assert!(parse(&rows).iter().all(|row| row.len() == 7));
    }
}
