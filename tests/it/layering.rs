//! Modules import only from lower layers, and modules of one layer do not import each other. Within a
//! module, files do not import each other in a cycle, and a public type name is unique in its layer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use crate::source_text;

const LAYERS: [(&str, u8); 31] = [
    ("guide", 0),
    ("types", 0),
    ("text", 0),
    ("tls", 1),
    ("lock", 0),
    ("stats", 0),
    ("units", 0),
    ("page", 0),
    ("metering", 1),
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
    ("lab", 8),
    ("cli", 9),
];

fn layer(module: &str) -> u8 {
    LAYERS
        .iter()
        .find(|(name, _)| *name == module)
        .unwrap_or_else(|| panic!("module `{module}` has no layer: add it to LAYERS and to lib.rs"))
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

/// Top-level modules named after `crate::` in `text`, including those in the braces of `use crate::{a, b}`.
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
            if target != module && layer(&target) >= layer(&module) {
                wrong.push(format!("{}: imports crate::{target}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that do not go downward:\n{}", wrong.join("\n"));
}

#[test]
fn imports_in_lists_are_found() {
    let text = "use crate::{types::Stage, media::{frame, h264}, proto};\ncrate::auth::x();";
    assert_eq!(imports(text), ["types", "media", "proto", "auth"]);
}

/// A source file of the program, not of its tests.
struct Source {
    /// Relative to `src`.
    file: String,
    /// `["peer", "pacing"]` for both `peer/pacing.rs` and `peer/pacing/mod.rs`.
    module: Vec<String>,
    /// Without comments, contents of literals, and test modules.
    code: String,
}

fn program() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut tests = BTreeSet::new();
    let mut found = Vec::new();
    for path in files {
        let inside = path.strip_prefix(&src).unwrap();
        let mut module: Vec<String> = inside
            .with_extension("")
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .filter(|part| part != "mod")
            .collect();
        if module == ["main"] {
            continue;
        }
        if module == ["lib"] {
            module.clear();
        }
        let (code, test_modules) =
            without_tests(&source_text::code(&fs::read_to_string(&path).unwrap()));
        for name in test_modules {
            tests.insert([module.as_slice(), &[name]].concat());
        }
        found.push(Source { file: inside.to_str().unwrap().replace('\\', "/"), module, code });
    }
    found.retain(|source| {
        let last = source.module.last().map_or("", String::as_str);
        !(1..=source.module.len()).any(|length| tests.contains(&source.module[..length]))
            && !last.ends_with("_tests")
            && last != "tests"
    });
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

/// The code without test modules, and the names of test modules that have their own file.
fn without_tests(code: &str) -> (String, Vec<String>) {
    let (mut kept, mut names, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        rest = rest[at + "#[cfg(test)]".len()..].trim_start();
        while rest.starts_with("#[") {
            rest = rest[rest.find(']').unwrap() + 1..].trim_start();
        }
        let end = rest.find(['{', ';']).unwrap();
        let words: Vec<&str> = rest[..end].split_whitespace().collect();
        if rest[end..].starts_with(';') {
            if let [.., "mod", name] = words[..] {
                names.push(name.to_owned());
            }
            rest = &rest[end + 1..];
        } else {
            rest = &rest[end + block(&rest[end..])..];
        }
    }
    kept.push_str(rest);
    (kept, names)
}

/// Length of the block in braces with which `text` starts.
fn block(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// A leaf of the tree of a `use` declaration.
struct Use {
    path: Vec<String>,
    /// The name in this file.
    name: String,
    /// Whether it is a re-export: `pub use`, `pub(crate) use`.
    exported: bool,
}

/// The `use` declarations, and the code without them.
fn uses(code: &str) -> (Vec<Use>, String) {
    let (mut found, mut rest, mut from) = (Vec::new(), String::new(), 0);
    for (at, _) in code.match_indices("use ") {
        let before = &code[..at];
        if at < from || before.chars().next_back().is_some_and(|c| !c.is_whitespace()) {
            continue;
        }
        rest.push_str(&code[from..at]);
        let exported = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
        from = code[at..].find(';').map_or(code.len(), |end| at + end);
        let mut tree = Vec::new();
        leaves(&code[at + "use ".len()..from], &[], &mut tree);
        found.extend(tree.into_iter().map(|(path, name)| Use { path, name, exported }));
    }
    rest.push_str(&code[from..]);
    (found, rest)
}

fn leaves(tree: &str, above: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let (path, name) = tree.split_once(" as ").map_or((tree, None), |(p, n)| (p, Some(n)));
        let mut path = [above, &segments(path)].concat();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        if let Some(last) = path.last().cloned() {
            found.push((path, name.map_or(last, |name| name.trim().to_owned())));
        }
        return;
    };
    let above = [above, &segments(&tree[..open])].concat();
    let inside = &tree[open + 1..open + block(&tree[open..]) - 1];
    let (mut depth, mut from) = (0, 0);
    for (at, c) in inside.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                leaves(&inside[from..at], &above, found);
                from = at + 1;
            }
            _ => {}
        }
    }
    leaves(&inside[from..], &above, found);
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

/// Paths outside `use` declarations that start with `crate`, `self` or `super`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            let visibility = code[..at].ends_with("(in ");
            if visibility || before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let end = code[at..].find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
            found.push(segments(end.map_or(&code[at..], |end| &code[at..at + end])));
        }
    }
    found
}

/// Modules by path, each with its file and the names that its `use` declarations import.
struct Modules<'a>(BTreeMap<&'a [String], (&'a str, Names)>);

/// Names that a file imports or re-exports, and their paths.
type Names = BTreeMap<String, Vec<String>>;

impl Modules<'_> {
    /// Converts a path written in module `here` to a path from the root of the crate.
    fn absolute(&self, here: &[String], path: &[String]) -> Option<Vec<String>> {
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([here, &path[1..]].concat()),
            "super" => {
                let up = path.iter().take_while(|segment| *segment == "super").count();
                Some([&here[..here.len().checked_sub(up)?], &path[up..]].concat())
            }
            _ => {
                let child = [here, &path[..1]].concat();
                self.0.contains_key(child.as_slice()).then(|| [here, path].concat())
            }
        }
    }

    /// The file that defines the item at `path`, following re-exports.
    fn file(&self, path: &[String], depth: u8) -> Option<&str> {
        let length = (0..=path.len()).rev().find(|n| self.0.contains_key(&path[..*n]))?;
        let (here, rest) = path.split_at(length);
        let (file, names) = &self.0[here];
        let through = rest.first().and_then(|name| names.get(name)).filter(|_| depth > 0);
        let elsewhere = through
            .and_then(|target| self.absolute(here, target))
            .and_then(|target| self.file(&[target.as_slice(), &rest[1..]].concat(), depth - 1));
        Some(elsewhere.unwrap_or(file))
    }
}

/// The files that each file uses. A parent and its own child may use each other: a parent often defines
/// a type that its children implement.
fn used_files(program: &[Source]) -> BTreeMap<&str, BTreeSet<&str>> {
    let modules = Modules(
        program
            .iter()
            .map(|source| {
                let names = uses(&source.code).0.into_iter().map(|u| (u.name, u.path)).collect();
                (source.module.as_slice(), (source.file.as_str(), names))
            })
            .collect(),
    );
    let module_of: BTreeMap<&str, &[String]> =
        program.iter().map(|source| (source.file.as_str(), source.module.as_slice())).collect();
    let family = |a: &[String], b: &[String]| {
        a.split_last().is_some_and(|(_, parent)| parent == b)
            || b.split_last().is_some_and(|(_, parent)| parent == a)
    };
    let mut found = BTreeMap::new();
    for source in program {
        let here = source.module.as_slice();
        let mut used = BTreeSet::new();
        let (declared, rest) = uses(&source.code);
        let declared = declared.into_iter().filter(|u| !u.exported).map(|u| u.path);
        for path in declared.chain(paths(&rest)) {
            let target = modules.absolute(here, &path).and_then(|path| modules.file(&path, 8));
            if let Some(target) = target.and_then(|file| module_of.get_key_value(file))
                && *target.0 != source.file
                && !family(here, target.1)
            {
                used.insert(*target.0);
            }
        }
        found.insert(source.file.as_str(), used);
    }
    found
}

/// Groups of files in which each uses every other, directly or indirectly.
fn cycles<'a>(used: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<Vec<&'a str>> {
    let reach: BTreeMap<&str, BTreeSet<&str>> = used
        .keys()
        .map(|file| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![*file]);
            while let Some(next) = open.pop() {
                open.extend(used[next].iter().copied().filter(|target| seen.insert(*target)));
            }
            (*file, seen)
        })
        .collect();
    used.keys()
        .filter(|file| reach[*file].contains(*file))
        .map(|file| {
            reach[file].iter().copied().filter(|other| reach[other].contains(file)).collect()
        })
        .collect()
}

#[test]
fn files_do_not_import_each_other_in_cycles() {
    let program = program();
    let used = used_files(&program);
    let found = cycles(&used);
    let mut wrong = String::new();
    for cycle in &found {
        let _ = writeln!(wrong, "{cycle:?}");
        for file in cycle {
            let inside: Vec<_> = used[file].iter().filter(|other| cycle.contains(other)).collect();
            let _ = writeln!(wrong, "    {file} uses {inside:?}");
        }
    }
    assert!(
        wrong.is_empty(),
        "cycles of files, move the code that both need into a separate file:\n{wrong}"
    );
}

/// Names of the public types defined in `code`.
fn public_types(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in code.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["pub", "struct" | "enum" | "trait" | "type" | "union", name, ..] = words[..] {
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            found.push(name[..end].to_owned());
        }
    }
    found
}

#[test]
fn a_public_type_name_is_unique_in_its_layer() {
    let program = program();
    let mut places: BTreeMap<(u8, String), Vec<&str>> = BTreeMap::new();
    for source in program.iter().filter(|source| !source.module.is_empty()) {
        for name in public_types(&source.code) {
            places.entry((layer(&source.module[0]), name)).or_default().push(&source.file);
        }
    }
    places.retain(|_, files| files.len() > 1);
    let mut wrong = String::new();
    for ((layer, name), files) in &places {
        let _ = writeln!(wrong, "layer {layer}: {name} in {files:?}");
    }
    assert!(
        wrong.is_empty(),
        "public type names that occur twice in a layer, rename one:\n{wrong}"
    );
}

#[test]
fn trees_of_use_declarations_are_read() {
    let (found, rest) = uses("pub use super::{a::{B, self}, c as d};\nuse crate::e::F;\nfn f() {}");
    let shown: Vec<String> =
        found.iter().map(|u| format!("{} {} {}", u.path.join("::"), u.name, u.exported)).collect();
    let pairs = ["super::a::B B true", "super::a a true", "super::c d true", "crate::e::F F false"];
    assert_eq!(shown, pairs);
    assert_eq!(rest, "pub ;\n;\nfn f() {}");
}

#[test]
fn cycles_are_found_over_several_steps() {
    let used = [
        ("a", vec!["b"]),
        ("b", vec!["c", "d"]),
        ("c", vec!["a"]),
        ("d", vec!["c2"]),
        ("c2", vec![]),
    ]
    .map(|(file, used)| (file, used.into_iter().collect()))
    .into();
    assert_eq!(cycles(&used), BTreeSet::from([vec!["a", "b", "c"]]));
}
