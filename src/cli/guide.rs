//! `guide`: the pages of [`crate::guide`] in the terminal.

use std::io::{self, IsTerminal};

use serde_json::json;

use super::{failure::Failure, output::Output};
use crate::{
    guide::{self, PAGES, Page},
    text::edit_distance,
};

/// Maximum width of text in columns: longer lines are hard to read.
const MAX_WIDTH: usize = 100;

/// Flags of `guide`.
#[derive(Debug, clap::Args)]
pub struct GuideArgs {
    /// Page to show; default: list all pages
    #[arg(value_name = "TOPIC")]
    topic: Option<String>,
}

/// Shows a page, or lists all pages.
///
/// # Errors
/// There is no such page, or stdout cannot be written.
pub fn run(args: &GuideArgs, output: Output) -> Result<(), Failure> {
    let Some(topic) = &args.topic else { return list(output) };
    let page = PAGES.iter().find(|page| page.topic == topic).ok_or_else(|| unknown(topic))?;
    if output.json {
        output.event(&json!({"topic": page.topic, "summary": page.summary, "markdown": page.text}))
    } else if io::stdout().is_terminal() {
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        output.raw(guide::render(page.text, width.min(MAX_WIDTH), output.color).as_bytes())
    } else {
        output.raw(page.text.as_bytes())
    }
}

fn list(output: Output) -> Result<(), Failure> {
    let widest = PAGES.iter().map(|page| page.topic.len()).max().unwrap_or_default();
    for Page { topic, summary, .. } in PAGES {
        output.event(&json!({"topic": topic, "summary": summary}))?;
        output.result(format!("{topic:widest$}  {summary}"))?;
    }
    Ok(())
}

fn unknown(topic: &str) -> Failure {
    let nearest = PAGES.iter().min_by_key(|page| edit_distance(topic, page.topic));
    let remedy = match nearest {
        Some(page) if edit_distance(topic, page.topic) <= 1 + topic.len() / 3 => {
            format!(
                "run `orion-peer guide {}`, or `orion-peer guide` for a list of all pages",
                page.topic
            )
        }
        _ => "run `orion-peer guide` for a list of all pages".to_owned(),
    };
    Failure::usage(format!("the guide has no page `{topic}`"), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_topic_suggests_the_nearest_one() {
        assert!(unknown("wire-contrct").remedy.contains("guide wire-contract"));
        assert_eq!(unknown("xyzzy").remedy, "run `orion-peer guide` for a list of all pages");
        assert_eq!(unknown("x").exit, 2);
    }
}
