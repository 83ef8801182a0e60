//! `orion-peer lab list`: NAT profiles and named networks.

use serde_json::json;

use crate::{
    cli::{failure::Failure, output::Output},
    lab::matrix::{schema::LinkRecord, words},
    nat::{Profile, named, profile},
    report::layout::{WIDTH, hanging, wrap},
};

/// Flags of `lab list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {}

const GRAMMAR: &str = "\
Any mapping and filtering of RFC 4787: eim-eif to apdm-apdf (ei, ad, apd: endpoint-independent, \
address-dependent, address-and-port-dependent). Options after a colon: hairpin, \
ports=preserving|random|sequential, timeout=30s. Layers, joined by a plus from the peer outward: port+sym \
is a home router behind a carrier-grade NAT.";

/// Prints the profiles and networks.
///
/// # Errors
/// stdout is not writable.
pub fn run(_: &ListArgs, output: Output) -> Result<(), Failure> {
    let profiles: Vec<(&str, Profile)> =
        profile::NAMES.iter().filter_map(|name| Some((*name, name.parse().ok()?))).collect();
    for (name, profile) in &profiles {
        output.event(&json!({
            "kind": "profile",
            "name": name,
            "description": words::behaviour(profile),
        }))?;
    }
    for network in named::built_in() {
        output.event(&json!({
            "kind": "network",
            "name": network.name,
            "nat": network.profile.to_string(),
            "link": LinkRecord::from(&network.link),
            "description": network.description,
            "source": network.source,
        }))?;
    }
    output.page(text(&profiles))
}

fn text(profiles: &[(&str, Profile)]) -> String {
    let mut lines = vec!["NAT profiles".to_owned()];
    for (name, profile) in profiles {
        lines.extend(hanging(&format!("  {name:<16}"), &words::behaviour(profile), WIDTH));
    }
    lines.push(String::new());
    lines.extend(wrap(GRAMMAR, 0, WIDTH));
    lines.extend([String::new(), "Named networks: NAT profile and link".to_owned()]);
    let names = named::built_in().iter().map(|network| network.name.len());
    let width = names.max().unwrap_or(0) + 2;
    for network in named::built_in() {
        let named::NamedNetwork { name, profile, link, description, .. } = network;
        lines.extend(hanging(&format!("  {name:<width$}"), &format!("{profile}, {link}"), WIDTH));
        lines.extend(wrap(description, width + 2, WIDTH));
    }
    lines.push(String::new());
    lines.extend(wrap(
        "Custom network: --nat FILE.toml, a file with the keys nat, delay, jitter, loss, loss-burst, rate and queue",
        0,
        WIDTH,
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_not_wrapped_and_lines_fit_a_terminal() {
        let profiles: Vec<(&str, Profile)> =
            profile::NAMES.iter().map(|name| (*name, name.parse().unwrap())).collect();
        let text = text(&profiles);
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line:?}");
        }
        let names = named::built_in().iter().map(|network| &*network.name);
        for name in names.chain(profiles.iter().map(|(name, _)| *name)) {
            assert!(
                text.lines().any(|line| line.split_whitespace().next() == Some(name)),
                "{name}"
            );
        }
    }
}
