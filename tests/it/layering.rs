//! Modules import only from lower floors, and modules of one floor do not see each other.

use std::{
    fs,
    path::{Path, PathBuf},
};

const FLOORS: [(&str, u8); 27] = [
    ("types", 0),
    ("stats", 0),
    ("units", 0),
    ("page", 0),
    ("metering", 0),
    ("proto", 1),
    ("media", 1),
    ("http", 1),
    ("stun", 2),
    ("nat", 1),
    ("auth", 2),
    ("pairs", 2),
    ("netsim", 2),
    ("netns", 3),
    ("peer", 3),
    ("signaling", 4),
    ("turn", 4),
    ("session", 5),
    ("server", 5),
    ("report", 6),
    ("view", 6),
    ("bench", 7),
    ("check", 7),
    ("load", 7),
    ("doctor", 7),
    ("lab", 7),
    ("cli", 8),
];

fn floor(module: &str) -> u8 {
    FLOORS
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| {
            panic!("module `{module}` has no floor: name it in FLOORS and in lib.rs")
        })
        .1
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Top-level modules named after `crate::` in `text`, braces of `use crate::{a, b}` included.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = text[at + "crate::".len()..].trim_start();
        let word = |s: &str| -> String {
            s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut item_start = true;
            for (i, c) in list.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => item_start = true,
                    c if item_start && !c.is_whitespace() => {
                        found.push(word(&list[i..]));
                        item_start = false;
                    }
                    _ => {}
                }
            }
        } else {
            found.push(word(rest));
        }
    }
    found.retain(|module| !module.is_empty());
    found
}

#[test]
fn imports_go_downward_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let inside = file.strip_prefix(&src).unwrap();
        let module =
            inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let text: String = fs::read_to_string(file)
            .unwrap()
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .collect::<Vec<_>>()
            .join("\n");
        for target in imports(&text) {
            if target != module && floor(&target) >= floor(&module) {
                wrong.push(format!("{}: imports crate::{target}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not go downward:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_imports_sees_lists() {
    let text = "use crate::{types::Stage, media::{frame, h264}, proto};\ncrate::auth::x();";
    assert_eq!(imports(text), ["types", "media", "proto", "auth"]);
}
