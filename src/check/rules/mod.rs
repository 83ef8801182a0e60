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

use super::rule::Rule;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
