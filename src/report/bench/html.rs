//! Bench results as one page that explains itself: opens from disk without network or scripts, prints,
//! fits a phone, follows the reader's light or dark scheme.
//!
//! - one run: `single`, from the verdict (`head`) down to every connection (`tables`)
//! - several runs side by side, the first being the reference: `versus`
//! - plots are drawn as inline SVG: `svg` and `scale`, one file a subject (`rtt`, `setup`, `links`,
//!   `keyframes`, `delivery`, `points`; `verdicts` for the intervals against a baseline)
//! - pieces of HTML, among them the escaping of all that comes from a result: `markup`

mod delivery;
mod head;
mod keyframes;
mod links;
pub(crate) mod markup;
mod points;
mod rtt;
mod scale;
mod setup;
mod single;
mod svg;
mod tables;
mod values;
mod verdicts;
mod versus;

use super::Named;
use markup::{esc, nothing};

/// The page. One run is shown in full; several are compared, the first being the reference.
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

/// A whole page of this look: `title` is text, `style` is CSS beyond the common one, `body` is HTML.
pub(crate) fn document(title: &str, style: &str, body: &str) -> String {
    let common = include_str!("html/style.css");
    let patterns = include_str!("html/patterns.svg");
    // Should markup ever slip in from a result, the policy keeps it from loading or running anything.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{common}{style}</style>\n</head>\n\
         <body>\n{patterns}<main>\n{body}</main>\n</body>\n</html>\n",
        esc(title)
    )
}

#[cfg(test)]
#[path = "html/tests.rs"]
mod tests;
