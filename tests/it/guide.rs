//! Checks the guide and README against the program: links, transcripts, error codes, and the tables that are generated
//! from JSON Schemas and from `/metrics`; `ORION_UPDATE_SNAPSHOTS=1` writes those tables again.

mod fields;
mod links;
mod transcripts;

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use orion_peer::guide::PAGES;

use crate::{raw_http::request, run::serve};

const BEGIN: &str = "<!-- generated: ORION_UPDATE_SNAPSHOTS=1 cargo nextest run --release -E 'test(/guide::/)' -->\n";
const END: &str = "<!-- end of the generated part -->\n";

/// Maximum number of lines in README.
const README_LINES: usize = 220;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> PathBuf {
    root().join("src/guide").join(name)
}

/// The pages of the guide, and README.
fn documents() -> Vec<PathBuf> {
    let pages = PAGES.iter().map(|found| page(&format!("{}.md", found.topic)));
    pages.chain([root().join("README.md")]).collect()
}

/// The Rust sources, without tests.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !name.contains("tests") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    collect(&root().join("src"), &mut paths);
    let text = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
    };
    paths.into_iter().map(|path| (path.clone(), text(&path))).collect()
}

/// Compares the text between the markers of a page with `table`, or replaces it.
fn generated(name: &str, table: &str) {
    let path = page(name);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the start marker of a generated table");
    let (old, after) = rest.split_once(END).expect("its end marker");
    if old == table {
        return;
    }
    if std::env::var_os("ORION_UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        let differs = old.lines().zip(table.lines()).find(|(old, new)| old != new);
        panic!("{name} is out of date (ORION_UPDATE_SNAPSHOTS=1 writes it again): {differs:#?}");
    }
}

#[test]
fn every_page_is_mounted_under_its_name() {
    let mounted: BTreeSet<String> = PAGES.iter().map(|page| format!("{}.md", page.topic)).collect();
    let files: BTreeSet<String> = fs::read_dir(root().join("src/guide"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(mounted, files);
    for page in PAGES {
        assert!(page.text.starts_with("# "), "{} has no title", page.topic);
        assert!(!page.summary.is_empty() && !page.summary.ends_with('.'), "{}", page.topic);
    }
}

#[test]
fn readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= README_LINES, "README.md has {lines} lines: move some to the guide");
}

/// Words in places where codes are given that are not codes.
const NO_CODES: [&str; 8] = ["address", "all", "bad", "good", "public", "true", "udp", "gone"];

/// Source text directly before a string that is a code.
const BEFORE_CODES: [&str; 8] = [
    "code: \"",
    "code: Some(\"",
    "Problem::error(\"",
    "unavailable(\"",
    "failure(\"",
    "refuse(\"",
    "record(\"",
    "CODE: &str = \"",
];

/// Codes in a source: strings in the places where codes are given, and strings in functions named `code`.
fn codes(text: &str) -> BTreeSet<String> {
    let joined: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(str::trim_start)
        .collect::<Vec<_>>()
        .join(" ")
        .replace("( \"", "(\"");
    let mut found = BTreeSet::new();
    let mut take = |rest: &str| {
        let word = rest.split('"').next().unwrap_or_default();
        let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if word.starts_with(|c: char| c.is_ascii_lowercase()) && word.chars().all(kebab) {
            found.insert(word.to_owned());
        }
    };
    for before in BEFORE_CODES {
        for (at, _) in joined.match_indices(before) {
            take(&joined[at + before.len()..]);
        }
    }
    for kind in ["Stage::", "StatusCode::"] {
        for (at, _) in joined.match_indices(kind) {
            let rest = joined[at + kind.len()..]
                .trim_start_matches(|c: char| c.is_alphabetic() || c == '_');
            if let Some(rest) = rest.strip_prefix(", \"") {
                take(rest);
            }
        }
    }
    for (at, _) in text.match_indices("fn code(") {
        let body = &text[at..];
        let end = body.find("\n    }\n").or_else(|| body.find("\n}\n")).unwrap_or(body.len());
        for part in body[..end].split('"').skip(1).step_by(2) {
            take(&format!("{part}\""));
        }
    }
    found
}

#[test]
fn codes_are_found_in_sources() {
    let text = "fn code(&self) -> &str {\n        match self { A => \"a-a\", B => format!(\"b-{x}\") }\n    }\n\
                Self::new(\n    Stage::Ice,\n    \"c-c\",\n) X { code: \"d-d\".into() } // code: \"e-e\"\n\
                // code: \"f-f\"\n failure(\n  \"g-g\",";
    let expected: BTreeSet<String> = ["a-a", "c-c", "d-d", "e-e", "g-g"].map(str::to_owned).into();
    assert_eq!(codes(text), expected);
}

#[test]
fn every_error_code_is_explained() {
    let text = fs::read_to_string(page("errors.md")).unwrap();
    let listed: BTreeSet<&str> = text.split('`').skip(1).step_by(2).collect();
    let mut missing = Vec::new();
    let mut count = 0;
    for (path, source) in sources() {
        // Examples of reports, and labels that are not errors.
        if path.ends_with("example.rs")
            || path.ends_with("samples.rs")
            || path.ends_with("html/markup.rs")
        {
            continue;
        }
        for code in codes(&source) {
            let listed = [code.clone(), format!("turn-{code}"), format!("stun-{code}")]
                .iter()
                .any(|code| listed.contains(code.as_str()));
            count += 1;
            if !listed
                && !NO_CODES.contains(&code.as_str())
                && !["stun", "turn"].contains(&code.as_str())
            {
                missing.push(format!("{code} ({})", path.display()));
            }
        }
    }
    assert!(count > 100, "only {count} codes were found in the source");
    assert!(missing.is_empty(), "add these codes to src/guide/errors.md:\n{}", missing.join("\n"));
}

/// A package, a role and a channel of the database.
const NO_METRICS: [&str; 3] = ["orion_peer", "orion_signaling", "orion_pair_ended"];

#[tokio::test]
async fn every_metric_is_listed_as_a_server_shows_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, address, _) = serve(dir.path(), "127.0.0.1:0", "127.0.0.1:0", &[]);
    let address = address.parse().unwrap();
    let answer = request(address, "GET /metrics", &[], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let body = answer.body;
    generated("metrics.md", &metrics_table(&body));

    let text = fs::read_to_string(page("metrics.md")).unwrap();
    for (path, source) in sources() {
        for part in source.split('"').skip(1).step_by(2) {
            let is_name = part.starts_with("orion_")
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_name && !NO_METRICS.contains(&part) {
                assert!(text.contains(&format!("`{part}`")), "{part} ({})", path.display());
            }
        }
    }
}

/// One row per metric: name, type, labels with their values, HELP.
fn metrics_table(exposition: &str) -> String {
    let mut table = "\n| name | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    let lines: Vec<&str> = exposition.lines().collect();
    for line in &lines {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let kind = format!("# TYPE {name} ");
        let kind =
            lines.iter().find_map(|line| line.strip_prefix(kind.as_str())).unwrap_or_default();
        let mut labels: Vec<(String, Vec<String>)> = Vec::new();
        for line in &lines {
            let Some(rest) = line.strip_prefix(name) else { continue };
            let rest = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| rest.strip_prefix(end))
                .unwrap_or(rest);
            let Some(inside) = rest.strip_prefix('{').and_then(|rest| rest.split('}').next())
            else {
                continue;
            };
            for pair in inside.split("\",") {
                let Some((label, value)) = pair.split_once("=\"") else { continue };
                let value = value.trim_end_matches('"').to_owned();
                match labels.iter_mut().find(|(known, _)| known == label) {
                    _ if label == "le" => {}
                    Some((_, values)) if values.contains(&value) => {}
                    Some((_, values)) => values.push(value),
                    None => labels.push((label.to_owned(), vec![value])),
                }
            }
        }
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, values)| match label.as_str() {
                "version" => format!("`{label}`"),
                _ => format!(
                    "`{label}`: {}",
                    values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
                ),
            })
            .collect();
        writeln!(
            table,
            "| `{name}` | {kind} | {} | {} |",
            labels.join("; "),
            help.trim_end_matches('.')
        )
        .unwrap();
    }
    table + "\n"
}

#[test]
fn every_group_of_rules_names_its_section_of_the_contract() {
    let text = fs::read_to_string(page("check.md")).unwrap();
    let mut groups = BTreeSet::new();
    for (_, source) in sources().iter().filter(|(path, _)| path.iter().any(|part| part == "rules"))
    {
        for (at, _) in source.match_indices("Rule::new(") {
            let id = source[at..].split('"').nth(1).unwrap_or_default();
            groups.insert(id.split('.').next().unwrap_or_default().to_owned());
        }
    }
    assert!(groups.len() > 3, "{groups:?}");
    for group in groups {
        assert!(text.contains(&format!("`{group}.*`")), "check.md has no section for {group}");
    }
}
