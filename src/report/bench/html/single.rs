//! The page of one run.

use super::{delivery, head, keyframes, links, rtt, setup, tables, verdicts};
use crate::report::{
    bench::Named,
    html::markup::{plots, section},
};

/// Verdict and name, for the window's title.
pub(super) fn title(run: &Named) -> String {
    format!("{}, {}", head::outcome(&run.result).word.to_lowercase(), run.name)
}

/// The whole body, from the verdict down to individual connections.
pub(super) fn body(run: &Named) -> String {
    let result = &run.result;
    let (samples, frames) = (rtt::samples(result), keyframes::records(result));
    let pair = |left, right| vec![vec![left], vec![right]];
    let rows = vec![
        pair(rtt::distribution(result, &samples), rtt::timeline(result, &samples)),
        pair(setup::stages(result), setup::connections(result)),
        vec![vec![links::plot(result)]],
        pair(keyframes::sizes(result, &frames), keyframes::latency(result, &frames)),
        vec![vec![delivery::plot(result, &frames)]],
    ];
    let failures = tables::failures(&result.connections.failures);
    [
        head::header(run),
        head::tiles(result),
        verdicts::gates(result),
        verdicts::comparison(result),
        section("failures", "Failures", &failures),
        delivery::section(result, &frames),
        section("plots", "Plots", &plots(rows)),
        tables::numbers(result),
        tables::connections(result),
        tables::ice_servers(result),
        tables::resources(result),
        tables::not_measured(result),
    ]
    .concat()
}
