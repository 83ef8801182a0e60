//! Bench results as one self-contained page: opens from disk without network access or scripts, can be
//! printed, fits on a phone, and follows the reader's light or dark scheme.
//!
//! - one run: `single`, from the verdict (`head`) down to every connection (`tables`)
//! - several runs side by side, the first being the reference: `versus`
//! - plots, one file per subject: `rtt`, `setup`, `links`, `keyframes`, `delivery`, `points`;
//!   `verdicts` for the intervals against a baseline
//!
//! Page frame, markup (with the escaping of everything that comes from a result) and SVG are in
//! `report::html`.

mod delivery;
mod head;
mod keyframes;
mod links;
mod points;
mod rtt;
mod setup;
mod single;
mod tables;
mod values;
mod verdicts;
mod versus;

use super::Named;
use crate::report::html::{document, markup::nothing};

/// Renders the page. One run is shown in full; several are compared, the first being the reference.
#[must_use]
pub fn html(runs: &[Named]) -> String {
    match runs {
        [] => bench("no results", &nothing("There are no results to show.")),
        [run] => bench(&single::title(run), &single::body(run)),
        several => bench(&versus::title(several), &versus::body(several)),
    }
}

fn bench(title: &str, body: &str) -> String {
    document(&format!("orion-peer bench: {title}"), "", body)
}

#[cfg(test)]
#[path = "html/tests.rs"]
mod tests;
