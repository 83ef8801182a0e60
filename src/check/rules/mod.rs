//! All rules, one file per subject: first a table of rules, then their cases.

pub mod close;
pub mod flood;
pub mod handshake;
pub mod hostile;
pub mod offer_hold;
pub mod schema;
pub mod server_messages;
pub mod signal;
pub mod socket_lifetime;
pub mod token;
pub mod token_forgery;

use super::{
    plan::{CheckConfig, Selection, matches},
    rule::Rule,
};

const TABLES: [&[Rule]; 11] = [
    token::RULES,
    handshake::RULES,
    token_forgery::RULES,
    signal::RULES,
    server_messages::RULES,
    schema::RULES,
    offer_hold::RULES,
    close::RULES,
    hostile::RULES,
    flood::RULES,
    socket_lifetime::RULES,
];

/// Every rule, in the order of the report.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    TABLES.into_iter().flatten()
}

/// The selected rules up to the configured level.
#[must_use]
pub fn selected(config: &CheckConfig) -> Vec<&'static Rule> {
    all().filter(|rule| rule.level <= config.level && config.selection.includes(rule.id)).collect()
}

/// The first pattern of a selection that matches no rule.
#[must_use]
pub fn unknown_pattern(selection: &Selection) -> Option<&str> {
    let known = |pattern: &&String| all().any(|rule| matches(pattern, rule.id));
    selection.only.iter().chain(&selection.skip).find(|one| !known(one)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_pattern_that_matches_no_rule_is_found() {
        let only = |pattern: &str| Selection { only: vec![pattern.into()], ..Selection::default() };
        assert_eq!(unknown_pattern(&only("token.*")), None);
        assert_eq!(unknown_pattern(&only("token.nothing")), Some("token.nothing"));
    }

    #[test]
    fn ids_are_unique_and_every_rule_is_explained() {
        let mut seen = BTreeSet::new();
        for rule in all() {
            assert!(seen.insert(rule.id), "{} exists twice", rule.id);
            assert!(rule.id.contains('.'), "{} has no group", rule.id);
            for text in [rule.rule, rule.expected, rule.remedy] {
                assert!(!text.is_empty(), "{}", rule.id);
            }
        }
    }
}
