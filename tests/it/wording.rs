//! Comments, strings and documentation use the terms of the field and none of the phrases in `INSTEAD`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use crate::source_text::{self, Kind};

/// Phrases, and what to write instead. A phrase is a sequence of words; `|` separates alternatives for a word,
/// and `*` at the end of a word matches any ending.
const INSTEAD: [(&str, &str); 31] = [
    ("the other side|side's|sides", "the peer, the remote peer, the sender, the receiver"),
    ("the other one", "the peer, the remote peer, the sender, the receiver"),
    ("the way", "the path; for a manner: as, how"),
    ("told|tell|tells|telling", "report, notify, announce, indicate; cannot be told: is unknown"),
    ("anew", "again"),
    ("begun", "started"),
    ("is|are|was|were no", "is not a valid …, is not a …"),
    ("come|comes|came|coming about", "be established, happen, occur"),
    ("believe*", "trusted, accepted, used"),
    ("for people", "human-readable"),
    ("mend|mends|mended|mending", "fix"),
    ("look-up|look-ups", "lookup"),
    ("for good", "permanently"),
    ("meanwhile", "in the meantime, while …"),
    ("at once", "immediately, concurrently"),
    ("besides", "in addition"),
    ("in turn|turns", "alternately, one after another"),
    ("go|goes|went before", "takes precedence over, precedes"),
    ("nobody", "no peer, no client; or the passive"),
    ("somebody|whoever", "a peer that …, another client"),
    ("holds|held nobody up", "does not block"),
    ("no matter of", "not a question of; name the cause"),
    ("surely", "certainly; or leave it out"),
    ("made anew", "created again, reconnects"),
    ("can|cannot be had", "is available, cannot be obtained"),
    ("who does not know", "peers that do not support …"),
    ("says|said nothing of", "does not indicate"),
    ("gives|gave up", "times out, closes, abandons"),
    ("nothing came of", "without a result"),
    ("held against", "compared with, checked against"),
    ("made to be", "name what was done"),
];

/// Words before or after `is no` that make it proper English: `there is no`, `is no longer`.
const BEFORE_IS_NO: [&str; 2] = ["there", "there's"];
const AFTER_IS_NO: [&str; 6] = ["longer", "more", "less", "larger", "later", "different"];

/// A word in lower case, and its line number. An empty word ends a phrase.
type Word = (String, usize);

fn words(text: &str, line: usize, found: &mut Vec<Word>) {
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '\'');
    for (offset, text) in text.lines().enumerate() {
        for part in text.replace("\\n", " ").split_inclusive(|c| !inside(c)) {
            let word = part.trim_matches(|c| !inside(c) || c == '\'' || c == '-');
            if !word.is_empty() {
                found.push((word.to_lowercase(), line + offset));
            }
            if part.ends_with(['.', ',', ';', ':', '(', ')', '?', '"', '|', '<', '>', '=']) {
                found.push((String::new(), line + offset));
            }
        }
    }
}

/// Words of a file: in Rust those in comments and literals, in other files all.
fn words_of(path: &Path, text: &str) -> Vec<Word> {
    let mut found = Vec::new();
    if path.extension().is_none_or(|extension| extension != "rs") {
        words(text, 1, &mut found);
        return found;
    }
    for piece in source_text::pieces(text) {
        match piece.kind {
            Kind::Code if piece.text.trim().is_empty() => {}
            Kind::Code => found.push((String::new(), piece.line)),
            Kind::Comment | Kind::Literal => words(piece.text, piece.line, &mut found),
        }
    }
    found
}

fn is_word(word: &str, pattern: &str) -> bool {
    pattern.split('|').any(|one| match one.strip_suffix('*') {
        Some(start) => word.starts_with(start),
        None => word == one,
    })
}

/// For each finding: the line number, the words found, and what to write instead.
fn findings(words: &[Word]) -> Vec<(usize, String, &'static str)> {
    let mut found = Vec::new();
    for (phrase, instead) in INSTEAD {
        let patterns: Vec<&str> = phrase.split(' ').collect();
        for (at, here) in words.windows(patterns.len()).enumerate() {
            if !here.iter().zip(&patterns).all(|((word, _), pattern)| is_word(word, pattern)) {
                continue;
            }
            let word = |at: Option<usize>| at.and_then(|at| words.get(at)).map_or("", |w| &w.0);
            let after = word(Some(at + patterns.len()));
            let proper = BEFORE_IS_NO.contains(&word(at.checked_sub(1)))
                || AFTER_IS_NO.contains(&after)
                || after.is_empty();
            if phrase == "is|are|was|were no" && proper {
                continue;
            }
            let shown: Vec<&str> = here.iter().map(|(word, _)| word.as_str()).collect();
            found.push((here[0].1, shown.join(" "), instead));
        }
    }
    found.sort();
    found
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            files(&entry.unwrap().path(), found);
        }
    } else if let Some("rs" | "md" | "js" | "html" | "sh" | "yml" | "toml" | "json" | "txt") =
        path.extension().and_then(|extension| extension.to_str())
    {
        found.push(path.to_owned());
    }
}

/// `ORION_WORDING=src/peer,README.md` checks only these paths.
#[test]
fn texts_use_the_terms_of_the_field() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let only = std::env::var("ORION_WORDING").ok();
    let places = only
        .as_deref()
        .unwrap_or("src,tests,benches,README.md,CHANGELOG.md,samples,scripts,.github,.config");
    let mut paths = Vec::new();
    for place in places.split(',') {
        files(&root.join(place), &mut paths);
    }
    // Data of others, and this list itself.
    let left_out = ["node_modules", "data", "corpus", "package-lock.json", "wording.rs"];
    paths.retain(|path| !path.iter().any(|part| left_out.iter().any(|name| part == *name)));
    paths.sort();
    let (mut wrong, mut count) = (String::new(), 0);
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(root).unwrap().display();
        for (line, phrase, instead) in findings(&words_of(path, &text)) {
            // The user of that name.
            if phrase == "nobody" && path.ends_with("tests/camera/checks.sh") {
                continue;
            }
            count += 1;
            writeln!(wrong, "{name}:{line}: `{phrase}`; instead: {instead}").unwrap();
        }
    }
    assert!(count == 0, "{count} phrases to reword:\n{wrong}");
}

#[test]
fn phrases_are_found_across_lines_and_only_as_whole_words() {
    let found = |text: &str| -> Vec<(usize, String)> {
        let all = findings(&words_of(Path::new("a.rs"), text));
        all.into_iter().map(|(line, phrase, _)| (line, phrase)).collect()
    };
    assert_eq!(found("// of the other\n/// side's"), [(1, "the other side's".to_owned())]);
    assert_eq!(found("let told = \"x\\nTold\";"), [(1, "told".to_owned())]);
    assert_eq!(found("// recommend, amend, bytes; there is no way, it is no longer"), []);
    assert_eq!(found("// `x` is no token"), [(1, "is no".to_owned())]);
    assert_eq!(found("// at. Once"), []);
}

/// Otherwise the lists of files under "How to add …" would become outdated unnoticed.
#[test]
fn files_named_in_the_contributing_guide_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(".github/CONTRIBUTING.md")).unwrap();
    let places = ["src/", "tests/", "scripts/", "samples/"];
    let missing: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| places.iter().any(|place| code.starts_with(place)))
        .filter_map(|code| code.split_whitespace().next())
        .filter(|path| !path.contains('…') && !root.join(path).exists())
        .collect();
    assert!(missing.is_empty(), ".github/CONTRIBUTING.md: no such file: {missing:?}");
}
