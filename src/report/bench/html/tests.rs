//! Tests of the whole page: safe for any result, complete, self-contained and of bounded size.

use std::collections::BTreeSet;

use roxmltree::{Document, Node};
use serde_json::json;

use super::html;
use crate::{
    report::{
        bench::{
            BenchResult, Named, collect,
            example::{empty, full, hostile, minimal, named, partial},
            samples::Sample,
            schema::{ConnectionRecord, KeyframeRecord, Rtt, Setup},
        },
        schema::{FailureRecord, GateResult},
    },
    stats::{Histogram, Spread},
    types::Stage,
};

const ELEMENTS: &str = "body main header section h1 h2 p ul ol li dl div dt dd span strong code br \
    table caption thead tbody tr th td details summary figure figcaption \
    svg defs pattern title desc line rect text path";

const ATTRIBUTES: &str = "class id lang role tabindex scope style width height x y x1 y1 x2 y2 dx \
    d \
    viewBox preserveAspectRatio overflow focusable patternUnits patternTransform";

fn page(result: BenchResult) -> String {
    html(&[named("result.json", result)])
}

/// The body, which is well-formed XML: a missing or superfluous tag is an error.
fn body(page: &str) -> &str {
    let (from, to) = (page.find("<body>").unwrap(), page.rfind("</body>").unwrap());
    &page[from..to + "</body>".len()]
}

/// Checks that a page contains only our own markup, whatever the result contains.
fn check(page: &str) {
    let document = Document::parse(body(page)).unwrap_or_else(|error| panic!("{error}\n{page}"));
    let elements: BTreeSet<_> = ELEMENTS.split_whitespace().collect();
    let attributes: BTreeSet<_> = ATTRIBUTES.split_whitespace().collect();
    let mut ids = BTreeSet::new();
    for node in document.descendants().filter(Node::is_element) {
        assert!(elements.contains(node.tag_name().name()), "{node:?}");
        for attribute in node.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(attributes.contains(name) || name.starts_with("aria-"), "{name} of {node:?}");
            assert!(name != "style" || value.starts_with("--h:"), "{value}");
            assert!(name != "id" || ids.insert(value.to_owned()), "{value} occurs twice");
        }
    }
    for node in document.descendants() {
        for id in node.attribute("aria-labelledby").unwrap_or_default().split_whitespace() {
            assert!(ids.contains(id), "{id} does not exist");
        }
    }
    assert_eq!(elements_named(&document, "h1"), 1);
    self_contained(page);
    drawn_with_numbers(&document);
}

fn elements_named(document: &Document, name: &str) -> usize {
    document.descendants().filter(|node| node.has_tag_name(name)).count()
}

fn self_contained(page: &str) {
    let (head, title) = page[..page.find("<body>").unwrap()].split_once("<title>").unwrap();
    let (title, style) = title.split_once("</title>").unwrap();
    assert!(!title.contains('<'), "{title}");
    let head = format!("{head}{style}");
    assert!(!head.contains("http:") && !head.contains("https:") && !head.contains("@import"));
    for (at, _) in head.match_indices("url(") {
        assert!(head[at..].starts_with("url(#"), "{}", &head[at..at + 40]);
    }
    assert!(head.contains("default-src 'none'") && head.contains("<html lang=\"en\">"));
    // The body contains only elements and attributes that are allowed.
    for forbidden in ["<script", "<link", "<base", " href=", " src="] {
        assert!(!head.contains(forbidden), "{forbidden}");
    }
}

/// Checks that every coordinate is a finite number.
fn drawn_with_numbers(document: &Document) {
    let places = ["x", "y", "x1", "y1", "x2", "y2", "dx", "width", "height"];
    for node in document.descendants() {
        for attribute in node.attributes().filter(|a| places.contains(&a.name())) {
            let number = attribute.value().trim_end_matches('%');
            let number: f64 = number.parse().unwrap_or_else(|_| panic!("{number:?} of {node:?}"));
            assert!(number.is_finite() && number.abs() < 1e5, "{number} of {node:?}");
        }
        let numbers = node.attribute("d").into_iter().chain(node.attribute("viewBox"));
        for number in numbers.flat_map(|text| text.split(|c: char| c.is_alphabetic() || c == ' ')) {
            // `-3.5-3.5` is two numbers.
            for number in number.split('-').filter(|number| !number.is_empty()) {
                let number: f64 = number.parse().unwrap_or_else(|_| panic!("{number:?}: {node:?}"));
                assert!(number.is_finite() && number < 1e5, "{number} of {node:?}");
            }
        }
        if node.attribute("role") == Some("img") {
            let has = |name| node.children().any(|c| c.has_tag_name(name) && c.text().is_some());
            assert!(has("title") && has("desc"), "{node:?}");
        }
    }
}

/// One connection with these round trips, `[atS, ms]`.
fn with_rtt(rtt: Vec<[f64; 2]>) -> BenchResult {
    let histogram: Histogram = rtt.iter().map(|[_, ms]| *ms).collect();
    let sent = rtt.len() as u64;
    let record =
        ConnectionRecord { index: 1, ok: true, pings_sent: sent, rtt, ..Default::default() };
    BenchResult {
        connections: collect::connections(vec![record]),
        rtt_ms: Rtt { spread: histogram.spread(), sent, lost: 0 },
        ..minimal()
    }
}

fn figure<'p>(page: &'p str, title: &str) -> &'p str {
    let from = page.find(&format!("<figcaption>{title}")).unwrap_or_else(|| panic!("no {title}"));
    &page[from..from + page[from..].find("</figure>").unwrap()]
}

#[test]
fn text_of_a_result_never_becomes_markup() {
    let name = "<script>x</script>\"'><img src=x onerror=y>\u{202e}.json";
    let mut result = hostile();
    for record in &mut result.connections.records {
        record.rtt = vec![[f64::MAX, f64::MAX], [1e300, 1e-300], [f64::NAN, f64::INFINITY]];
        record.setup_ms = Setup::<()>::default().map(|()| Some(f64::MAX));
        for keyframe in &mut record.keyframes {
            (keyframe.bytes, keyframe.latency_ms) = (u64::MAX, Some(f64::MAX));
        }
    }
    let comparison = result.comparison.as_mut().unwrap();
    comparison.metrics[1].interval = Some([-1e300, 1e300]);
    let runs = [named(name, result), named(name, full()), named(name, empty())];
    for page in [html(&runs[..1]), html(&runs), html(&runs[1..])] {
        check(&page);
        assert!(page.contains("&lt;script&gt;x&lt;/script&gt;&quot;&#39;&gt;&lt;img"), "{page}");
        assert!(!page.contains('\u{202e}') && !page.contains('\u{1b}') && page.len() < 400_000);
    }
    let page = html(&runs[..1]);
    assert!(page.contains("&lt;/td&gt;&amp;amp;|`x`&lt;img src=x&gt;"));
    assert!(!figure(&page, "How peers were connected").contains(&"x".repeat(40)));
}

#[test]
fn missing_data_is_explained() {
    check(&html(&[]).replace("<p class=\"none\">", "<h1>x</h1><p class=\"none\">"));
    assert!(html(&[]).contains("There are no results to show."));
    for example in [empty, minimal, partial, full] {
        let result = example();
        check(&page(result.clone()));
        check(&html(&[named("a", result), named("b", empty())]));
    }
    let page = page(empty());
    for sentence in [
        "no connection was attempted",
        "No gates were set.",
        "No connection failed.",
        "Not drawn:",
        "No ping was answered, so there are no round-trip times to draw.",
        "No keyframe was sent or received.",
        "The result has no records of individual connections.",
        "No STUN or TURN server was queried.",
        "Nothing was measured.",
    ] {
        assert!(page.contains(sentence), "{sentence}\n{page}");
    }
    assert!(!page.contains("<figure>") && !page.contains("role=\"img\""), "{page}");
}

#[test]
fn the_verdict_gives_its_reason() {
    let gate = |name: &str, pass| GateResult {
        name: name.into(),
        limit: json!(0.1),
        actual: json!(0.2),
        unit: "share".into(),
        pass,
        note: None,
    };
    let passed = Sample { connections: 3, ..Sample::default() }.result();
    let failed = Sample { connections: 3, failed: 2, ..Sample::default() }.result();
    let failed = BenchResult { pass: false, ..failed };
    let not_met = vec![gate("max-ping-loss", false), gate("min-success", true)];
    let stopped = partial();
    let early = BenchResult {
        config: serde_json::from_value(json!({"connections": 20})).unwrap(),
        ..stopped.clone()
    };
    let verdicts = vec![
        ("good", "Passed: all 3 connections succeeded", passed.clone()),
        (
            "good",
            "Passed: the only gate was met",
            BenchResult { checks: vec![gate("min-success", true)], ..passed.clone() },
        ),
        (
            "bad",
            "Failed: 1 of 2 gates not met: max-ping-loss",
            BenchResult { checks: not_met.clone(), pass: false, ..passed },
        ),
        ("bad", "Failed: 2 of 3 connections failed", failed.clone()),
        ("warn", "Partial: ended early", stopped),
        ("warn", "Partial: ended after 1 of 20 connections", early.clone()),
        (
            "bad",
            "Partial: ended after 1 of 20 connections; 1 of 2 gates not met: max-ping-loss",
            BenchResult { checks: not_met, ..early.clone() },
        ),
        (
            "warn",
            "Partial: ended before the first connection",
            BenchResult { connections: collect::connections(Vec::new()), ..early.clone() },
        ),
    ];
    for (class, headline, result) in verdicts {
        let page = page(result);
        check(&page);
        assert!(page.contains(&format!("<h1>{headline}</h1>")), "{headline}\n{page}");
        assert!(page.contains(&format!("class=\"verdict {class}\"")), "{headline}\n{page}");
    }
    assert!(page(early).contains(
        "<strong>Why it ended</strong> (signaling/gone): the signaling server closed the \
         connection. \
         <strong>Try</strong>: look at its log."
    ));
    assert!(page(failed).contains(
        "<strong>Most frequent failure</strong> (ice/no-pair, 2 times): no candidate pair worked. \
         <strong>Try</strong>: add a TURN server."
    ));
}

#[test]
fn a_full_run_has_every_part() {
    let mut result = full();
    result.config.insert("maxBytes".into(), json!(99_000));
    let page = page(result);
    check(&page);
    let document = Document::parse(body(&page)).unwrap();
    // Eight plots, and the intervals against the baseline.
    assert_eq!(elements_named(&document, "figure"), 9);
    assert!(!page.contains("Not drawn:"));
    for text in [
        "not met",
        "at least 99 %",
        "3 of 4",
        "Failed: 1 of 3 gates not met: min-success",
        "ice/no-pair",
        "add a TURN server, or two",
        "old.json",
        "regressed",
        "limit +25 %",
        "+26 to +50 %",
        "gate p95 ≤ 100 ms",
        "Unauthorized",
        "host.load",
        "<summary>Every connection (4)</summary>",
        "<summary>Every keyframe (4)</summary>",
        "bandwidth estimate limits keyframes to 980 kbit/s; the path carries at least 20.0 Mbit/s",
        "minimum at path rate 42.0 ms",
    ] {
        assert!(page.contains(text), "{text}\n{page}");
    }
    // The keyframe of the second connection is not intact; those from the third on are too large.
    let sizes = figure(&page, "Size of each keyframe");
    assert_eq!(sizes.matches("class=\"cross\"").count(), 1, "{sizes}");
    assert_eq!(sizes.matches("class=\"over\"").count(), 2, "{sizes}");
}

#[test]
fn a_hundred_thousand_samples_fit_in_a_small_page() {
    let rtt = |of: u32| -> Vec<[f64; 2]> {
        (0..100).map(|i| [f64::from(of * 100 + i) / 50.0, 0.3 + f64::from(i % 17)]).collect()
    };
    let keyframe = |of: u32| KeyframeRecord {
        at_s: f64::from(of),
        bytes: 90_000 + u64::from(of),
        intact: Some(!of.is_multiple_of(3)),
        latency_ms: Some(2.0),
        ..Default::default()
    };
    let failure = FailureRecord {
        stage: Stage::Ice,
        code: "no-pair".into(),
        message: "no candidate pair worked".into(),
        remedy: String::new(),
    };
    let record = |of: u32| ConnectionRecord {
        index: u64::from(of),
        at_s: f64::from(of) * 2.0,
        ok: !of.is_multiple_of(5),
        failure: of.is_multiple_of(5).then(|| failure.clone()),
        setup_ms: Setup::<()>::default().map(|()| Some(1.0 + f64::from(of % 7))),
        rtt: rtt(of),
        keyframes: vec![keyframe(of); 5],
        ..Default::default()
    };
    let records: Vec<_> = (0..1000).map(record).collect();
    let frames: Vec<_> = records.iter().flat_map(|record| record.keyframes.clone()).collect();
    let result = BenchResult {
        duration_s: 2000.0,
        keyframes: collect::keyframes(&frames, Some(90_500)),
        connections: collect::connections(records),
        rtt_ms: Rtt { spread: Spread { count: 100_000, ..Spread::default() }, ..Rtt::default() },
        ..minimal()
    };
    let page = page(result);
    check(&page);
    assert!(page.len() < 1_500_000, "{} bytes", page.len());
    assert!(figure(&page, "Round-trip time over the run").contains("Too many to draw"));
}

#[test]
fn equal_times_make_one_bar() {
    let page = page(with_rtt((0..50).map(|i| [f64::from(i), 2.0]).collect()));
    check(&page);
    let spread = figure(&page, "Distribution of round-trip times");
    assert_eq!(spread.matches("<rect").count(), 1, "{spread}");
    assert!(spread.contains("50 pings</title>") && spread.contains("p50 2.00 ms"), "{spread}");
    assert!(
        figure(&page, "Round-trip time over the run").contains("Each dot is one answered ping.")
    );
}

#[test]
fn times_far_apart_are_on_a_logarithmic_axis_with_round_ticks() {
    let rtt = [0.1, 0.3, 7.0, 80.0, 900.0, 10_000.0];
    let page = page(with_rtt(rtt.iter().map(|ms| [ms / 100.0, *ms]).collect()));
    check(&page);
    for title in ["Distribution of round-trip times", "Round-trip time over the run"] {
        let figure = figure(&page, title);
        for tick in [">0.1 ms<", ">1 ms<", ">10 ms<", ">100 ms<", ">1 s<", ">10 s<"] {
            assert!(figure.contains(tick), "{tick} in {figure}");
        }
    }
}

#[test]
fn one_connection_is_singular() {
    let page = page(Sample { connections: 1, keyframes: 1, ..Sample::default() }.result());
    check(&page);
    assert!(page.contains("<h1>Passed: the only connection succeeded</h1>"), "{page}");
    assert!(figure(&page, "Size of each keyframe").contains("Each bar is one keyframe."));
}

#[test]
fn several_runs_are_shown_side_by_side() {
    let run = |name: &str, sample: Sample| named(name, sample.result());
    let slow = Sample { slower: 2.0, failed: 3, ..Sample::default() };
    let runs: Vec<Named> = (0..9)
        .map(|i| match i {
            0 => run("reference.json", Sample::default()),
            1 => run("slow.json", slow),
            i => run(&format!("run-{i}.json"), Sample { seed: i, ..Sample::default() }),
        })
        .collect();
    for count in [2, 3, 9] {
        let page = html(&runs[..count]);
        check(&page);
        assert!(page.contains(&format!("<h1>{count} runs compared: all passed</h1>")), "{page}");
        assert_eq!(page.matches("class=\"legend\"").count(), 1, "{count}");
        let document = Document::parse(body(&page)).unwrap();
        let first = document.descendants().find(|node| node.has_tag_name("thead")).unwrap();
        let heads: Vec<_> =
            first.descendants().filter_map(|head| head.text().filter(|_| head.is_text())).collect();
        assert_eq!(heads[..3], ["Quantity", "reference.json", "slow.json"]);
        assert_eq!(heads.len(), count + 1);
        assert!(page.contains("−10 points") && page.contains("ice"), "{page}");
        let cdf = figure(&page, "Round-trip times, overlaid");
        assert_eq!(cdf.matches("class=\"cdf ").count(), count, "{cdf}");
    }
    let mut other = partial();
    other.config.insert("pings".into(), json!(7));
    let page = html(&[runs[1].clone(), named("b", other), named("c", full())]);
    assert!(page.contains("<h1>3 runs compared: 1 failed, 1 partial</h1>"), "{page}");
    assert!(page.contains("These runs have different settings"), "{page}");
}
