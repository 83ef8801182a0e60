//! `/metrics`: strict text format, bounded labels, a separate listener, and the dashboard that uses it.

use std::collections::{BTreeMap, BTreeSet};

use orion_peer::server::tls::Tls;
use serde_json::Value;
use tokio::net::TcpListener;

use super::{ask, both, server};

/// A metric family as parsed from the page.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    /// Name with labels, and value of each sample.
    samples: Vec<(String, f64)>,
}

/// Parses a page as strictly as `promtool check metrics` does.
fn read(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n'), "the last line is incomplete");
    let mut families = BTreeMap::<String, Family>::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
            assert!(!help.trim().is_empty() && !families.contains_key(name), "twice: {line}");
            assert!(valid_name(name), "{line}");
            name.clone_into(&mut current);
            families.insert(current.clone(), Family::default());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "a type does not follow its help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            let family = families.get_mut(name).unwrap();
            assert!(family.kind.is_empty() && family.samples.is_empty(), "{line}");
            kind.clone_into(&mut family.kind);
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
            assert!(seen.insert(series.to_owned()), "twice: {series}");
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("no family: {line}"));
            let own = if family.kind == "histogram" {
                ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{current}{end}"))
            } else {
                name == current
            };
            assert!(own && valid_labels(&series[name.len()..]), "{line} in {current}");
            family.samples.push((series.to_owned(), value.parse().unwrap()));
        }
    }
    for (name, family) in &families {
        assert!(!family.kind.is_empty() && !family.samples.is_empty(), "{name}");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

fn valid_name(name: &str) -> bool {
    name.starts_with("orion_")
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `{a="x",b="y"}` without characters that require escaping, or nothing.
fn valid_labels(labels: &str) -> bool {
    let Some(inner) = labels.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return labels.is_empty();
    };
    inner.split(',').all(|label| {
        let Some((name, value)) = label.split_once('=') else { return false };
        let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        name.chars().all(|c| c.is_ascii_lowercase())
            && quoted.is_some_and(|value| !value.is_empty() && !value.contains(['"', '\\', '\n']))
    })
}

/// Checks that buckets do not decrease, and end with `+Inf`, which equals the count.
fn check_histogram(name: &str, family: &Family) {
    let mut groups = BTreeMap::<String, Vec<(f64, f64)>>::new();
    let mut counts = BTreeMap::new();
    for (series, value) in &family.samples {
        let labels = &series[series.find('{').unwrap_or(series.len())..];
        if let Some(at) = labels.find("le=\"") {
            let bound = labels[at + 4..].trim_end_matches("\"}");
            let group = labels[..at].trim_end_matches([',', '{']).to_owned();
            groups.entry(group).or_default().push((bound.parse().unwrap(), *value));
        } else if series.starts_with(&format!("{name}_count")) {
            counts.insert(labels.trim_end_matches('}').trim_end_matches('{').to_owned(), *value);
        }
    }
    assert_eq!(groups.len(), counts.len(), "{name}");
    for (group, buckets) in groups {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}{group}: {buckets:?}");
        let (bound, last) = buckets.last().unwrap();
        assert!(bound.is_infinite(), "{name}{group}");
        assert_eq!(Some(last), counts.get(&group), "{name}{group}: {counts:?}");
    }
}

fn value(families: &BTreeMap<String, Family>, series: &str) -> f64 {
    let mut samples = families.values().flat_map(|family| &family.samples);
    samples.find(|(name, _)| name == series).unwrap_or_else(|| panic!("no {series}")).1
}

fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_page_is_valid_and_counts_events() {
    let server = server(|_| {}).await;
    let address = server.local_addr();
    let page = async || {
        let answer = ask(address, None, "GET /metrics", &[], "").await;
        assert!(answer.text.contains("text/plain; version=0.0.4"), "{answer:?}");
        body(&answer.text).to_owned()
    };
    let before = page().await;
    let (mut phone, mut mac) = both(address, None).await;
    for _ in 0..3 {
        phone.reaches(&mut mac).await;
    }
    for path in ["/healthz", "/no-such-route", "/another?one=2"] {
        ask(address, None, &format!("GET {path}"), &[], "").await;
    }
    let after = page().await;
    let families = read(&after);
    for (series, expected) in [
        ("orion_signaling_sockets", 2.0),
        ("orion_signaling_sockets_opened_total", 2.0),
        ("orion_signaling_messages_relayed_total{type=\"offer\"}", 3.0),
        ("orion_signaling_relay_seconds_count", 3.0),
        ("orion_http_requests_total{route=\"signal\",code=\"1xx\"}", 2.0),
        ("orion_http_requests_total{route=\"token\",code=\"2xx\"}", 2.0),
        ("orion_http_requests_total{route=\"other\",code=\"4xx\"}", 2.0),
        ("orion_http_request_seconds_count{route=\"signal\"}", 2.0),
        ("orion_store_up", 1.0),
        ("orion_store_errors_total", 0.0),
        ("orion_draining", 0.0),
    ] {
        assert!((value(&families, series) - expected).abs() < 1e-9, "{series}\n{after}");
    }
    let offer = br#"{"pairId":"demo","sdp":"are you there?","t":"offer"}"#.len() as f64;
    let received = value(&families, "orion_signaling_received_bytes_total");
    assert!((received - 3.0 * offer).abs() < 1e-9, "{received}");
    assert!(value(&families, "orion_signaling_sent_bytes_total") > received);
    assert!(value(&families, "orion_store_seconds_count") >= 4.0);
    let build = format!("orion_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert!((value(&families, &build) - 1.0).abs() < 1e-9);
    let names = |page: &str| -> Vec<String> {
        page.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(names(&before), names(&after), "no client adds a series");
}

#[tokio::test]
async fn a_store_that_is_down_is_visible() {
    let store = orion_peer::pairs::sqlite::SqlitePairs::in_memory().await.unwrap();
    let server = server(|config| config.store = std::sync::Arc::new(store.clone())).await;
    store.close().await;
    ask(server.local_addr(), None, "GET /readyz", &[], "").await;
    let answer = ask(server.local_addr(), None, "GET /metrics", &[], "").await;
    let families = read(body(&answer.text));
    assert!(value(&families, "orion_store_up").abs() < 1e-9);
    assert!((value(&families, "orion_store_errors_total") - 1.0).abs() < 1e-9);
}

#[tokio::test]
async fn metrics_may_have_a_separate_listener() {
    let server = server(|config| {
        config.listener.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
        config.listener.tls = Some(Tls::self_signed(&["127.0.0.1".to_owned()]).unwrap());
    })
    .await;
    let address = server.metrics_addr().unwrap();
    let families = read(body(&ask(address, None, "GET /metrics", &[], "").await.text));
    assert!(families.contains_key("orion_tls_reloads_total"));
    assert_eq!(ask(address, None, "GET /readyz", &[], "").await.status, 200);
    assert_eq!(ask(address, None, "GET /api/signal", &[], "").await.status, 404);
    let plain = super::server(|config| {
        config.listener.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    assert_eq!(ask(plain.local_addr(), None, "GET /metrics", &[], "").await.status, 404);
    let address = plain.metrics_addr().unwrap();
    drop(plain);
    while TcpListener::bind(address).await.is_err() {
        tokio::task::yield_now().await;
    }
}

/// Names of metrics in an expression of the dashboard.
fn named(expression: &str) -> Vec<String> {
    expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("orion_"))
        .map(str::to_owned)
        .collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value {
                    Value::String(text) if key == "expr" => found.push(text.clone()),
                    value => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_dashboard_uses_existing_metrics() {
    let server = server(|config| {
        config.listener.tls = Some(Tls::self_signed(&["127.0.0.1".to_owned()]).unwrap());
        config.listener.metrics_listen = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let page = ask(server.metrics_addr().unwrap(), None, "GET /metrics", &[], "").await;
    let families = read(body(&page.text));
    let series: BTreeSet<&str> = families
        .values()
        .flat_map(|family| &family.samples)
        .map(|(series, _)| series.split('{').next().unwrap())
        .collect();
    let path = format!("{}/samples/grafana-dashboard.json", env!("CARGO_MANIFEST_DIR"));
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    let metrics: BTreeSet<String> = found.iter().flat_map(|text| named(text)).collect();
    assert!(metrics.len() > 15, "the dashboard shows too little: {metrics:?}");
    let ids: Vec<&Value> =
        dashboard["panels"].as_array().unwrap().iter().map(|p| &p["id"]).collect();
    assert!(ids.iter().enumerate().all(|(at, id)| !ids[..at].contains(id)), "{ids:?}");
    let source = ["server/metrics/bus.rs", "server/twilio.rs", "cli/serve/turn/metrics.rs"];
    let source: String = source
        .map(|file| std::fs::read_to_string(format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"))))
        .map(Result::unwrap)
        .concat();
    for metric in &metrics {
        // Metrics of components that this server lacks must occur in the source.
        let elsewhere = ["orion_turn_", "orion_bus_", "orion_twilio_"]
            .iter()
            .any(|part| metric.starts_with(part) && source.contains(&format!("\"{metric}\"")));
        assert!(
            series.contains(metric.as_str()) || elsewhere,
            "{metric} is on the dashboard, but not on the page"
        );
    }
}
