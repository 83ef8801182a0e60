//! `JUnit` XML as read by GitHub actions, GitLab and Jenkins.
//!
//! Uses only elements and attributes that all of them support: `testsuites`, `testsuite`, `properties`,
//! `testcase`, `failure`, `error`, `skipped`.

use std::fmt::Write as _;

use crate::text::printable::is_unprintable;

/// Outcome of a case. The strings are type, message and text.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// `failure`
    Failed([String; 3]),
    /// `error`
    Error([String; 3]),
    /// `skipped`, with its message.
    Skipped(String),
}

/// One test case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Class name.
    pub class: String,
    /// Name.
    pub name: String,
    /// Duration.
    pub seconds: f64,
    /// Outcome.
    pub outcome: Outcome,
}

/// A suite of cases.
#[derive(Debug, Clone)]
pub struct Suite {
    /// Name.
    pub name: String,
    /// Start time, RFC 3339.
    pub timestamp: String,
    /// Properties as name and value.
    pub properties: Vec<(String, String)>,
    /// Test cases.
    pub cases: Vec<Case>,
}

/// Renders the suites as one document; `seconds` is the total time.
#[must_use]
pub fn document(name: &str, seconds: f64, suites: &[Suite]) -> String {
    let cases = suites.iter().flat_map(|suite| &suite.cases);
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let name = escape(name);
    // Writing to a String does not fail.
    let _ = writeln!(xml, "<testsuites name=\"{name}\" {} time=\"{seconds:.3}\">", counts(cases));
    for suite in suites {
        suite.write(&mut xml);
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn counts<'c>(cases: impl Iterator<Item = &'c Case>) -> String {
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for case in cases {
        tests += 1;
        failures += u64::from(matches!(case.outcome, Outcome::Failed(_)));
        errors += u64::from(matches!(case.outcome, Outcome::Error(_)));
        skipped += u64::from(matches!(case.outcome, Outcome::Skipped(_)));
    }
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
}

impl Suite {
    fn write(&self, xml: &mut String) {
        let (name, at) = (escape(&self.name), escape(&self.timestamp));
        // An empty sum of floats is -0.
        let time = self.cases.iter().map(|case| case.seconds).fold(0.0, |sum, one| sum + one);
        let counts = counts(self.cases.iter());
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{name}\" {counts} time=\"{time:.3}\" timestamp=\"{at}\">"
        );
        xml.push_str("    <properties>\n");
        for (name, value) in &self.properties {
            let (name, value) = (escape(name), escape(value));
            let _ = writeln!(xml, "      <property name=\"{name}\" value=\"{value}\"/>");
        }
        xml.push_str("    </properties>\n");
        self.cases.iter().for_each(|case| case.write(xml));
        xml.push_str("  </testsuite>\n");
    }
}

impl Case {
    fn write(&self, xml: &mut String) {
        let (class, name) = (escape(&self.class), escape(&self.name));
        let _ = write!(
            xml,
            "    <testcase classname=\"{class}\" name=\"{name}\" time=\"{:.3}\"",
            self.seconds
        );
        let (element, [kind, message, text]) = match &self.outcome {
            Outcome::Passed => return xml.push_str("/>\n"),
            Outcome::Skipped(message) => {
                let message = escape(message);
                let _ = writeln!(xml, ">\n      <skipped message=\"{message}\"/>\n    </testcase>");
                return;
            }
            Outcome::Failed(texts) => ("failure", texts),
            Outcome::Error(texts) => ("error", texts),
        };
        let (kind, message, text) = (escape(kind), escape(message), escape(text));
        let _ = writeln!(
            xml,
            ">\n      <{element} type=\"{kind}\" message=\"{message}\">{text}</{element}>\n    \
             </testcase>"
        );
    }
}

/// Escapes text in an attribute or between tags; characters that XML 1.0 (§2.2) does not allow become U+FFFD, and
/// line ends are preserved in attributes as well. Terminal control characters become character references.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(escaped, "&#{};", c as u32);
            }
            '\0'..' ' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if is_unprintable(c) => {
                let _ = write!(escaped, "&#{};", c as u32);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    #[test]
    fn every_outcome_is_counted_and_written() {
        let texts = || ["kind".to_owned(), "message".into(), "text".into()];
        let outcomes = [
            Outcome::Passed,
            Outcome::Failed(texts()),
            Outcome::Error(texts()),
            Outcome::Skipped("needs <more>".into()),
        ];
        let case = |outcome| Case { class: "c".into(), name: "n".into(), seconds: 0.5, outcome };
        let suite = Suite {
            name: "s".into(),
            timestamp: "2026-01-01T00:00:00Z".into(),
            properties: vec![("a".into(), "b".into())],
            cases: outcomes.map(case).into(),
        };
        let xml = document("all", 2.0, &[suite]);
        let document = Document::parse(&xml).unwrap();
        let root = document.root_element();
        let counts = ["tests", "failures", "errors", "skipped"].map(|name| root.attribute(name));
        assert_eq!(counts, [Some("4"), Some("1"), Some("1"), Some("1")]);
        let skipped = document.descendants().find(|node| node.has_tag_name("skipped")).unwrap();
        assert_eq!(skipped.attribute("message"), Some("needs <more>"));
    }

    #[test]
    fn control_characters_are_references() {
        let text = escape("\u{9b}31m\u{7f}\u{202e}x\u{1b}");
        assert_eq!(text, "&#155;31m&#127;&#8238;x\u{fffd}");
    }

    proptest::proptest! {
        #[test]
        fn an_attribute_is_read_back_unchanged(text in "[^\u{0}-\u{8}\u{b}\u{c}\u{e}-\u{1f}\u{fffe}\u{ffff}]{0,50}") {
            let xml = format!("<a b=\"{}\"/>", escape(&text));
            let document = Document::parse(&xml).unwrap();
            proptest::prop_assert_eq!(document.root_element().attribute("b").unwrap(), text);
        }
    }
}
