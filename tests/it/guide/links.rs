//! Links in the guide and in README lead to existing files and sections.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use orion_peer::guide::PAGES;

use super::{documents, page, root};

/// The text without code blocks.
fn prose(text: &str) -> String {
    let mut code = false;
    let kept = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Targets of inline links.
fn inline(text: &str) -> Vec<String> {
    let at = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    at.filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// Labels of reference links.
fn labels(text: &str) -> Vec<String> {
    let at = text.match_indices("][").map(|(at, _)| &text[at + 2..]);
    at.filter_map(|rest| rest.split(']').next()).map(str::to_owned).collect()
}

/// `[label]: target` lines.
fn definitions(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("]: "))
        .map(|(label, target)| (label.to_owned(), target.to_owned()))
        .collect()
}

/// Ids of headings, as GitHub and rustdoc generate them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let line = line.trim_start_matches('#').trim().to_lowercase();
            let kept = line.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

fn broken(from: &Path, target: &str) -> Option<String> {
    if target.starts_with("http") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { from.to_owned() } else { from.parent().unwrap().join(file) };
    if !path.exists() {
        return Some(format!("{}: {target}: no such file", from.display()));
    }
    let known = || anchors(&fs::read_to_string(&path).unwrap()).iter().any(|known| known == anchor);
    (!anchor.is_empty() && !known())
        .then(|| format!("{}: {target}: no such section", from.display()))
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for path in documents() {
        let text = prose(&fs::read_to_string(&path).unwrap());
        let defined = definitions(&text);
        for label in labels(&text) {
            if !defined.contains_key(&label) {
                wrong.push(format!("{}: [{label}] is not defined", path.display()));
            }
        }
        for target in inline(&text).iter().chain(defined.values()) {
            wrong.extend(broken(&path, target));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rustdoc_has_every_link_between_pages() {
    let mut used: Vec<String> = Vec::new();
    for found in PAGES {
        let text = prose(&fs::read_to_string(page(&format!("{}.md", found.topic))).unwrap());
        for (label, target) in definitions(&text) {
            assert_eq!(label, target, "{}: the label of a link must be its target", found.topic);
            used.push(label);
        }
        for target in inline(&text) {
            let outside = target.starts_with("http") || target.starts_with('#');
            assert!(outside, "{}: [{target}] must be a reference link, for rustdoc", found.topic);
        }
    }
    used.sort();
    used.dedup();
    let mut text = String::new();
    for label in used {
        let (topic, anchor) = label.split_once(".md").unwrap();
        writeln!(text, "[{label}]: mod@{}{anchor}", topic.replace('-', "_")).unwrap();
    }
    text.push('\n');
    let path = root().join("src/guide/links.txt");
    if std::env::var_os("ORION_UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        text,
        "ORION_UPDATE_SNAPSHOTS=1 writes links.txt again"
    );
}

/// Source files named in a page, such as `peer/guard.rs`, are relative to `src/`.
#[test]
fn source_files_named_in_pages_exist() {
    let mut wrong = Vec::new();
    let text = fs::read_to_string(page("webrtc-crate.md")).unwrap();
    for name in text.split('`').skip(1).step_by(2) {
        let ours = ["peer/", "session/", "src/"].iter().any(|start| name.starts_with(start));
        let path = root().join("src").join(name.trim_start_matches("src/"));
        if ours && !path.exists() {
            wrong.push(name.to_owned());
        }
    }
    assert!(wrong.is_empty(), "webrtc-crate.md names files that do not exist: {wrong:?}");
}
