//! Transcripts in `console` blocks: each command is run, and its output is compared with the transcript. Numbers with
//! their units may differ, a line `…` matches any lines, and a line `? 3` is the exit code.

use std::{fs, path::Path, process::Command};

use super::{documents, root};

/// A command and its expected output.
#[derive(Debug, Default, PartialEq)]
struct Transcript {
    command: String,
    exit: i32,
    output: Vec<String>,
}

fn transcripts(text: &str) -> Vec<Transcript> {
    let mut found: Vec<Transcript> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some(command) = line.strip_prefix("$ ") {
            found.push(Transcript { command: command.to_owned(), ..Transcript::default() });
        } else if inside && let Some(last) = found.last_mut() {
            match line.strip_prefix("? ") {
                Some(exit) => last.exit = exit.parse().expect("an exit code"),
                None => last.output.push(line.to_owned()),
            }
        }
    }
    found
}

const UNITS: [&str; 11] =
    ["ms", "µs", "s", "B", "KB", "MB", "%", "Mbit/s", "kbit/s", "Gbit/s", "min"];

/// The line with one space between words, and each number with its unit replaced by `number`.
fn blurred(line: &str, number: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_end_matches([',', ')', ';', '.']);
        let after_number = words.last().is_some_and(|last| last.ends_with(number));
        if after_number && UNITS.contains(&bare) {
            words.last_mut().unwrap().push_str(&word[bare.len()..]);
            continue;
        }
        let mut text = String::new();
        let mut rest = word.trim_start_matches('<');
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            text.push_str(&rest[..at]);
            text.push_str(number);
            rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        }
        words.push(text + rest);
    }
    words.join(" ")
}

/// The pattern with which snapbox compares the output.
fn pattern(lines: &[String]) -> String {
    let line = |line: &String| if line == "…" { "...".to_owned() } else { blurred(line, "[..]") };
    lines.iter().map(line).map(|line| line + "\n").collect()
}

fn run(transcript: &Transcript, dir: &Path) {
    let peer = Path::new(env!("CARGO_BIN_EXE_orion-peer"));
    let path = format!("{}:/usr/bin:/bin", peer.parent().unwrap().display());
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {}", transcript.command)])
        .current_dir(dir)
        .env_clear()
        .env("PATH", path)
        .env("HOME", dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let name = &transcript.command;
    assert_eq!(output.status.code(), Some(transcript.exit), "{name}\n{text}");
    // A transcript without output is not compared.
    if transcript.output.is_empty() {
        return;
    }
    let actual: String = text.lines().map(|line| blurred(line, "0") + "\n").collect();
    let expected = snapbox::Data::text(pattern(&transcript.output));
    if let Err(error) = snapbox::Assert::new().try_eq(Some(name), actual.into(), expected) {
        panic!("{error}\nactual output:\n{text}");
    }
}

/// The documents run in parallel, because most commands wait.
#[test]
fn commands_print_what_transcripts_show() {
    let mut threads = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        threads.push(std::thread::spawn(move || {
            let found = transcripts(&text);
            for transcript in &found {
                let dir = tempfile::tempdir().unwrap();
                std::os::unix::fs::symlink(root().join("samples"), dir.path().join("samples"))
                    .unwrap();
                println!("{}: {}", path.display(), transcript.command);
                run(transcript, dir.path());
            }
            found.len()
        }));
    }
    let count: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(count >= 5, "only {count} transcripts were found");
}

#[test]
fn numbers_and_their_units_may_differ() {
    assert_eq!(blurred("  rtt   min 0.29 ms, p50 0.60 s", "#"), "rtt min #, p# #");
    assert_eq!(
        blurred("000001.h264: 1280x720, 94607 B in 81 packets", "#"),
        "#h#: #x#, # in # packets"
    );
    let text = "```console\n$ a b\n? 3\nout 1\n…\n$ c\n```\n```text\n$ d\n```\n";
    let found = transcripts(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].command.as_str(), found[0].exit), ("a b", 3));
    assert_eq!(pattern(&found[0].output), "out [..]\n...\n");
}
