//! All rules, one file a subject: a table first, then its cases.

pub mod close;
pub mod flood;
pub mod forged;
pub mod handshake;
pub mod held;
pub mod hostile;
pub mod live;
pub mod notices;
pub mod signal;
pub mod strict;
pub mod token;

use super::rule::Rule;

const TABLES: [&[Rule]; 11] = [
    token::RULES,
    handshake::RULES,
    forged::RULES,
    signal::RULES,
    notices::RULES,
    strict::RULES,
    held::RULES,
    close::RULES,
    hostile::RULES,
    flood::RULES,
    live::RULES,
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
            assert!(seen.insert(rule.id), "{} is there twice", rule.id);
            assert!(rule.id.contains('.'), "{} has no group", rule.id);
            for text in [rule.rule, rule.expected, rule.remedy] {
                assert!(!text.is_empty(), "{}", rule.id);
            }
        }
    }
}
