//! `orion-peer lab list`: NAT profiles, and networks by name.

use std::fmt::Write;

use serde_json::json;

use crate::{
    cli::{failure::Failure, output::Output},
    matrix::{schema::LinkRecord, words},
    nat::{Profile, named, profile},
};

/// Flags of `lab list`.
#[derive(Debug, Clone, clap::Args)]
pub struct ListArgs {}

const GRAMMAR: &str = "\
Any mapping and filtering of RFC 4787: eim-eif to apdm-apdf (ei, ad, apd: endpoint-independent, address-
dependent, address-and-port-dependent). Options after a colon: hairpin, ports=preserving|random|sequential,
timeout=30s. Layers from the peer outwards with a plus: port+sym is a home router behind a carrier's NAT.";

/// Prints them.
///
/// # Errors
/// stdout cannot be written.
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
    let mut text = "NAT profiles\n".to_owned();
    for (name, profile) in profiles {
        let _ = writeln!(text, "  {name:<16}{}", words::behaviour(profile));
    }
    let _ = writeln!(text, "\n{GRAMMAR}\n\nNetworks: a profile and a link");
    let names = named::built_in().iter().map(|network| network.name.len());
    let width = names.max().unwrap_or(0) + 2;
    for network in named::built_in() {
        let named::NamedNetwork { name, profile, link, description, .. } = network;
        let _ = writeln!(text, "  {name:<width$}{profile}, {link}\n  {:width$}{description}", "");
    }
    text.push_str(
        "\nA network of your own: a file with nat, delay, jitter, loss, loss-burst, rate, as --nat FILE.toml",
    );
    text
}
