//! Tables of a run: failures, all numbers, every connection, ICE servers, resources, quantities not measured.

use super::{
    head::length,
    values::{NONE, cell, median, of, spread_cells},
};
use crate::{
    report::{
        bench::{
            schema::{BenchResult, ConnectionRecord, FailureGroup, IceServerRecord},
            wording::keyframe_stage,
        },
        html::markup::{Table, badge, code, esc, long, nothing, section, words},
        human,
    },
    stats::Spread,
};

/// Maximum rows of the table of connections.
const MAX_ROWS: usize = 1_000;

/// Columns of a table of failures.
pub(super) const FAILURE_COLUMNS: [&str; 5] =
    ["Stage", "Code", "#Count", "What happened", "What to try"];

/// Failures by stage and code; a sentence when there were none.
pub(super) fn failures(groups: &[FailureGroup]) -> String {
    if groups.is_empty() {
        return nothing("No connection failed.");
    }
    let mut table = Table::new("Failures, most frequent first", &FAILURE_COLUMNS);
    for group in groups {
        table.row(&failure(group));
    }
    table.render()
}

/// The cells of [`FAILURE_COLUMNS`].
pub(super) fn failure(group: &FailureGroup) -> [String; 5] {
    [
        group.stage.to_string(),
        code(&group.code),
        group.count.to_string(),
        long(&group.message),
        long(&group.remedy),
    ]
}

/// Percentiles of every quantity.
pub(super) fn numbers(result: &BenchResult) -> String {
    let mut rows: Vec<(String, &Spread, &str)> = vec![("RTT".into(), &result.rtt_ms.spread, "ms")];
    if let Some(one_way) = &result.one_way_ms {
        rows.push(("one way, out".into(), &one_way.out, "ms"));
        rows.push(("one way, back".into(), &one_way.back, "ms"));
    }
    for (name, spread) in result.connections.setup_ms.stages() {
        rows.push((format!("setup: {}", words(name)), spread, "ms"));
    }
    for (name, spread) in result.connections.first_picture_ms.named() {
        rows.push((format!("first picture, {name}"), spread, "ms"));
    }
    let keyframes = &result.keyframes;
    rows.push(("keyframe size".into(), &keyframes.bytes, "bytes"));
    rows.push(("keyframe latency, capture to complete".into(), &keyframes.latency_ms, "ms"));
    rows.push(("keyframe, first to last packet".into(), &keyframes.spread_ms, "ms"));
    rows.push(("keyframe PSNR".into(), &keyframes.psnr_db, "dB"));
    for (name, spread) in keyframes.stages_ms.named() {
        rows.push((format!("keyframe: {}", keyframe_stage(name)), spread, "ms"));
    }
    rows.retain(|(_, spread, _)| spread.count > 0);
    if rows.is_empty() {
        return section("numbers", "All numbers", &nothing("Nothing was measured."));
    }
    let mut table = Table::new(
        "All measured quantities",
        &["Quantity", "#Count", "#Min", "#Mean", "#p50", "#p90", "#p95", "#p99", "#p99.9", "#Max"],
    );
    for (name, spread, unit) in rows {
        let cells: Vec<_> = std::iter::once(esc(&name)).chain(spread_cells(spread, unit)).collect();
        table.row(&cells);
    }
    let offset = result.one_way_ms.and_then(|one_way| one_way.offset_ms).map_or_else(
        String::new,
        |offset| {
            let offset = cell(Some(offset), "ms");
            format!(
                "<p class=\"how\">Clock offset of the peer (its clock minus ours), removed \
                     from the one-way times: {offset}.</p>\n"
            )
        },
    );
    section("numbers", "All numbers", &(table.render() + &offset))
}

/// A collapsed table of every connection.
pub(super) fn connections(result: &BenchResult) -> String {
    let records = &result.connections.records;
    if records.is_empty() {
        let none = nothing("The result has no records of individual connections.");
        return section("connections", "Connections", &none);
    }
    let mut table = Table::new(
        "Connections in the order they were started",
        &[
            "No.",
            "#Started",
            "Result",
            "Type",
            "Local / remote",
            "#Setup",
            "#First picture",
            "#RTT p50",
            "#Pings lost",
            "#Keyframes intact",
            "Failure",
        ],
    );
    records.iter().take(MAX_ROWS).for_each(|record| table.row(&connection(record)));
    let left = records.len().saturating_sub(MAX_ROWS);
    let left = match left {
        0 => String::new(),
        left => nothing(&format!("{left} more connections are in the JSON result.")),
    };
    let body = format!(
        "<details>\n<summary>Every connection ({})</summary>\n{}{left}</details>\n",
        records.len(),
        table.render()
    );
    section("connections", "Connections", &body)
}

fn connection(record: &ConnectionRecord) -> [String; 11] {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| NONE.into(), esc);
    let failure = record.failure.as_ref().map_or_else(String::new, |failure| {
        format!("{} {} {}", failure.stage, code(&failure.code), long(&failure.message))
    });
    let rtt = record.rtt.iter().map(|[_, ms]| *ms).filter(|ms| ms.is_finite()).collect();
    let reported =
        record.keyframes.iter().filter(|keyframe| keyframe.intact.is_some()).count() as u64;
    let intact = record.keyframes.iter().filter(|keyframe| keyframe.intact == Some(true)).count();
    [
        record.index.to_string(),
        format!("{:.1} s", record.at_s),
        badge(record.ok, if record.ok { "ok" } else { "failed" }),
        text(&record.connection_type),
        format!("{} / {}", text(&record.local), text(&record.remote)),
        cell(record.setup_ms.total, "ms"),
        cell(record.first_picture_ms.from_start, "ms"),
        cell(median(rtt), "ms"),
        if record.pings_sent == 0 { NONE.into() } else { of(record.pings_lost, record.pings_sent) },
        if reported == 0 { NONE.into() } else { of(intact as u64, reported) },
        failure,
    ]
}

/// Equal answers of one server.
struct Answers<'r> {
    first: &'r IceServerRecord,
    times: Vec<f64>,
    count: u64,
}

/// The answers of STUN and TURN servers, with equal answers grouped.
pub(super) fn ice_servers(result: &BenchResult) -> String {
    let mut groups: Vec<Answers> = Vec::new();
    for server in result.connections.records.iter().flat_map(|record| &record.ice_servers) {
        let time = server.ms.filter(|ms| ms.is_finite());
        let alike = |a: &IceServerRecord| {
            (&a.url, &a.result, a.code) == (&server.url, &server.result, server.code)
        };
        if let Some(group) = groups.iter_mut().find(|group| alike(group.first)) {
            group.count += 1;
            group.times.extend(time);
        } else {
            groups.push(Answers { first: server, times: time.into_iter().collect(), count: 1 });
        }
    }
    if groups.is_empty() {
        let none = nothing("No STUN or TURN server was queried.");
        return section("servers", "STUN and TURN servers", &none);
    }
    groups.sort_by(|a, b| a.first.url.cmp(&b.first.url));
    let columns = ["Server", "Answer", "#Connections", "#Median time", "Code and reason"];
    let mut table = Table::new("Answers of each server during candidate gathering", &columns);
    for Answers { first, times, count } in groups {
        let code_text = first.code.map_or_else(String::new, |code| code.to_string());
        let reason = esc(first.reason.as_deref().unwrap_or_default());
        table.row(&[
            code(&first.url),
            esc(&first.result),
            count.to_string(),
            cell(median(times), "ms"),
            format!("{code_text} {reason}"),
        ]);
    }
    section("servers", "STUN and TURN servers", &table.render())
}

/// Resource usage of the run.
pub(super) fn resources(result: &BenchResult) -> String {
    let resources = &result.resources;
    let mut table =
        Table::new("This process: peers, and embedded servers", &["Resource", "#Used", "Meaning"]);
    if let Some(cpu) = resources.cpu_seconds.filter(|cpu| cpu.is_finite()) {
        let share = cpu / result.duration_s;
        let meaning = if share.is_finite() {
            format!("{} of one CPU over {}", human::share(share), length(result))
        } else {
            String::new()
        };
        table.row(&["CPU time".into(), format!("{cpu:.1} s"), long(&meaning)]);
    }
    let rows = [
        ("peak resident memory", resources.max_rss_bytes, "all connections, codecs and servers"),
        (
            "memory per connection",
            resources.rss_bytes_per_connection,
            "growth at the peak number of open connections",
        ),
    ];
    for (name, value, meaning) in rows {
        if let Some(bytes) = value {
            table.row(&[name.into(), human::bytes(bytes), long(meaning)]);
        }
    }
    let measured = resources.cpu_seconds.is_some()
        || resources.max_rss_bytes.is_some()
        || resources.rss_bytes_per_connection.is_some();
    let body = if measured { table.render() } else { nothing("Not measured.") };
    section("resources", "Resources", &body)
}

/// Quantities that were not measured, and why.
pub(super) fn not_measured(result: &BenchResult) -> String {
    if result.not_measured.is_empty() {
        return section("missing", "Not measured", &nothing("Everything was measured."));
    }
    let mut table = Table::new("Quantities missing from this result", &["Quantity", "Why"]);
    for missing in &result.not_measured {
        table.row(&[code(&missing.what), long(&missing.why)]);
    }
    section("missing", "Not measured", &table.render())
}
