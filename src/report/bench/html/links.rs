//! How peers were connected: candidate types.

use std::collections::BTreeSet;

use super::values::{of, short_name};
use crate::report::{
    bench::schema::{BenchResult, Connections},
    html::{
        markup::{Plot, figure, no_figure},
        svg::{Anchor, Svg},
    },
    human,
};

const TITLE: &str = "How peers were connected";

/// Height of a row, px.
const ROW: f64 = 40.0;

/// Known types from the most direct to the least; others follow.
const ORDER: [&str; 6] = ["host", "srflx", "relay/udp", "relay/tcp", "relay/tls", "relay"];

/// Types that occur in any of the runs, most direct first.
pub(super) fn types<'r>(runs: impl IntoIterator<Item = &'r Connections>) -> Vec<String> {
    let mut seen: BTreeSet<(usize, String)> = BTreeSet::new();
    for kind in runs.into_iter().flat_map(|connections| connections.by_type.keys()) {
        let place = ORDER.iter().position(|known| known == kind).unwrap_or(ORDER.len());
        seen.insert((place, kind.clone()));
    }
    seen.into_iter().map(|(_, kind)| kind).collect()
}

/// One bar per type, and one for failed connections.
pub(super) fn plot(result: &BenchResult) -> Plot {
    let connections = &result.connections;
    if connections.attempted == 0 {
        return no_figure(TITLE, "No connection was attempted.");
    }
    let mut rows: Vec<(String, u64, &str)> = types([connections])
        .into_iter()
        .map(|kind| {
            let count = connections.by_type[&kind];
            (kind, count, "fill")
        })
        .collect();
    let failed = connections.attempted.saturating_sub(connections.succeeded);
    if failed > 0 {
        rows.push(("failed".into(), failed, "failed"));
    }
    let all = connections.attempted as f64;
    let counts = rows.iter().map(|(kind, count, _)| format!("{} {count}", short_name(kind)));
    let description = format!(
        "Of {} connections: {}.",
        connections.attempted,
        counts.collect::<Vec<_>>().join(", ")
    );
    let mut svg = Svg::new("types", TITLE, &description, ROW * rows.len() as f64);
    for (index, (kind, count, class)) in rows.iter().enumerate() {
        let (y, share) = (ROW * index as f64, *count as f64 / all);
        svg.text((0.0, y + 14.0), 0.0, Anchor::Start, "name", &short_name(kind));
        let number = format!("{}, {}", of(*count, connections.attempted), human::share(share));
        svg.text((1.0, y + 14.0), 0.0, Anchor::End, "tick", &number);
        svg.bar((0.0, y + 20.0), (1.0, 12.0), "track", "");
        svg.bar((0.0, y + 20.0), (share.min(1.0), 12.0), class, "");
    }
    let how = "host: directly within one network. srflx: through NATs, at an address seen by a \
               STUN server or the peer. relay: through a TURN server, with the transport to it. \
               The candidates of both peers count.";
    figure(TITLE, &svg.render(), how)
}
