//! Answers of STUN and TURN servers, one line per server and answer.

use std::collections::BTreeMap;

use crate::report::bench::{
    layout::{Align, cut},
    page::{Page, row},
    schema::{BenchResult, IceServerRecord},
    wording::number,
};

/// Writes the section; nothing when there were no servers.
pub(super) fn servers(page: &mut Page, result: &BenchResult) {
    let mut answers: BTreeMap<(&str, &str, String), Vec<Option<f64>>> = BTreeMap::new();
    for server in result.connections.records.iter().flat_map(|record| &record.ice_servers) {
        let key = (server.url.as_str(), server.result.as_str(), why(server));
        answers.entry(key).or_default().push(server.ms);
    }
    if answers.is_empty() {
        return;
    }
    let mut rows = vec![row(["STUN and TURN servers", "answer", "count", "p50"])];
    let mut reasons = Vec::new();
    for ((url, answer, why), times) in answers {
        let mut known: Vec<f64> = times.iter().copied().flatten().collect();
        known.sort_by(f64::total_cmp);
        let median = known.get(known.len() / 2).map_or_else(String::new, |ms| number(*ms, "ms"));
        let (url, answer) = (cut(url, 40), cut(answer, 11));
        let (count, median) = (times.len().to_string(), cut(&median, 9));
        rows.push(row([&format!("  {url}"), &answer, &count, &median]));
        if !why.is_empty() {
            reasons.push(format!("{url}: {why}"));
        }
    }
    page.line("");
    let layout = [(Align::Left, 42), (Align::Left, 11), (Align::Right, 5), (Align::Right, 8)];
    page.rows(&layout, &rows);
    for reason in reasons {
        page.paragraph(2, &reason);
    }
}

fn why(server: &IceServerRecord) -> String {
    let code = server.code.map(|code| code.to_string());
    let reason = server.reason.clone();
    [code, reason].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
