//! The command line as users see it: the real binary, its output, streams and exit codes.
//!
//! Help texts are compared with `tests/it/data/help/*.txt`; `ORION_UPDATE_SNAPSHOTS=1` updates them.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Runs the binary without the developer's environment, in its own empty directory.
struct Run {
    dir: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Run {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    fn variable(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn config(self, text: &str) -> Self {
        self.file("orion-peer.toml", text)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orion-peer"));
        command.args(words).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", self.dir.path());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The claims of a token printed to stdout.
fn claims(output: &Output) -> Value {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let token = stdout(output);
    let payload = token.trim().split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

const MINT: [&str; 4] = ["token", "mint", "--device", "phone"];

fn mint(run: &Run, more: &[&str]) -> Output {
    run.run(&[&MINT[..], more].concat())
}

#[test]
fn argv_takes_precedence_over_variable_file_and_default() {
    let pair = |run: &Run, more: &[&str]| claims(&mint(run, more))["pairId"].clone();
    let all = Run::new()
        .config(&format!("jwt-secret = '{SECRET}'\n[token]\npair = 'from-file'"))
        .variable("ORION_PAIR", "from-variable");
    assert_eq!(pair(&all, &["--pair", "from-argv"]), "from-argv");
    assert_eq!(pair(&all, &[]), "from-variable");
    let file = Run { variables: Vec::new(), ..all };
    assert_eq!(pair(&file, &[]), "from-file");
    // Without flag, variable and key, the default applies: 300 s.
    let minted = claims(&mint(&file, &[]));
    assert_eq!(minted["exp"].as_u64().unwrap() - minted["iat"].as_u64().unwrap(), 300);
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let run = Run::new()
        .config(&format!("secret = '{SECRET}'\npair = 'from-file'"))
        .variable("ORION_PAIR", "");
    assert_eq!(claims(&mint(&run, &[]))["pairId"], "from-file");
}

#[test]
fn the_most_specific_section_of_the_file_wins() {
    let text = format!(
        "secret = '{SECRET}'\npair = 'top'\n[token]\npair = 'middle'\n[token.mint]\npair = 'near'"
    );
    assert_eq!(claims(&mint(&Run::new().config(&text), &[]))["pairId"], "near");
}

#[test]
fn files_are_found_by_flag_by_variable_and_in_the_config_directory() {
    let text = |pair: &str| format!("secret = '{SECRET}'\npair = '{pair}'");
    let run = Run::new().file("other.toml", &text("other"));
    assert_eq!(claims(&mint(&run, &["--config", "other.toml"]))["pairId"], "other");
    let words = ["--config", "other.toml", "token", "mint", "--device", "phone"];
    assert_eq!(claims(&run.run(&words))["pairId"], "other");
    let run = run.variable("ORION_CONFIG", "other.toml");
    assert_eq!(claims(&mint(&run, &[]))["pairId"], "other");
    let run = Run::new().file(".config/orion-peer/orion-peer.toml", &text("home"));
    assert_eq!(claims(&mint(&run, &[]))["pairId"], "home");
    let run = run.file("xdg/orion-peer/orion-peer.toml", &text("xdg"));
    let run = run.variable("XDG_CONFIG_HOME", "xdg");
    assert_eq!(claims(&mint(&run, &[]))["pairId"], "xdg");
    let run = run.config(&text("here"));
    assert_eq!(claims(&mint(&run, &[]))["pairId"], "here");
}

#[test]
fn errors_in_the_file_name_the_key_and_the_file() {
    for (text, said) in [
        ("[token]\npiar = 'x'", &["`token.piar`", "orion-peer.toml", "did you mean `pair`"][..]),
        ("[tokne]\npair = 'x'", &["section `tokne`", "did you mean `token`"]),
        ("[token.mint]\nlifetime = 'soon'", &["`token.mint.lifetime`", "`soon`", "500ms"]),
        ("color = 'pink'", &["`color`", "`pink` is not one of auto, always, never"]),
        ("json = 'perhaps'", &["`json`", "`perhaps` is not a valid boolean"]),
        ("pair = ['a', 'b']", &["`pair`", "one value"]),
        ("pair = 1979-05-27", &["`pair`", "datetime"]),
        ("pair = ", &["orion-peer.toml", "line 1"]),
    ] {
        let output = mint(&Run::new().config(text), &["--pair", "demo", "--secret", SECRET]);
        assert_eq!(output.status.code(), Some(2), "{text}: {}", stdout(&output));
        for said in said {
            assert!(stderr(&output).contains(said), "{text}: no `{said}` in {}", stderr(&output));
        }
    }
    let missing = Run::new().run(&["man", "--config", "nowhere.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).contains("nowhere.toml"), "{}", stderr(&missing));
}

#[test]
fn an_invalid_variable_is_an_error_unless_argv_overrides_it() {
    let run = Run::new().variable("ORION_LIFETIME", "soon");
    let words = ["--pair", "demo", "--secret", SECRET];
    let output = mint(&run, &words);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("ORION_LIFETIME: `soon` is not a valid duration"),
        "{}",
        stderr(&output)
    );
    let output = mint(&run, &[&words[..], &["--lifetime", "10s"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for (name, value) in [("ORION_JSON", "perhaps"), ("ORION_VERBOSE", "x"), ("ORION_LOG", "a=b=c")]
    {
        let output = mint(&Run::new().variable(name, value), &words);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(stderr(&output).contains(name), "{}", stderr(&output));
    }
}

#[test]
fn variables_of_other_commands_are_ignored() {
    let run = Run::new().variable("ORION_LIFETIME", "soon");
    assert_eq!(run.run(&["man"]).status.code(), Some(0));
}

#[test]
fn switches_accept_booleans_from_variables_and_files() {
    let words = ["--pair", "demo", "--secret", SECRET];
    for run in [Run::new().variable("ORION_JSON", "1"), Run::new().config("json = true")] {
        assert_eq!(json_lines(&mint(&run, &words))[0]["kind"], "token");
    }
    let off = Run::new().variable("ORION_JSON", "no").config("json = true");
    assert!(stdout(&mint(&off, &words)).starts_with("eyJ"));
}

#[test]
fn secrets_come_from_files_in_every_layer() {
    let run = || Run::new().file("key", &format!("  {SECRET}\n")).variable("ORION_PAIR", "demo");
    let check = |output: &Output| {
        let token = stdout(output);
        let words = ["token", "inspect", token.trim(), "--secret", SECRET];
        let checked = run().run(&words);
        assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    };
    check(&mint(&run(), &["--secret", "@key"]));
    check(&mint(&run().variable("ORION_JWT_SECRET", "@key"), &[]));
    check(&mint(&run().config("jwt-secret = '@key'"), &[]));
    for run in [run().variable("ORION_JWT_SECRET", "@gone"), run().config("secret = '@gone'")] {
        let output = mint(&run, &[]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("`gone`"), "{}", stderr(&output));
    }
}

#[test]
fn secrets_are_never_printed() {
    let hush = "hush-hush-hush-hush-hush-hush-hush-hush";
    let quiet = |output: &Output| {
        let said = stdout(output) + &stderr(output);
        assert!(!said.contains("hush"), "{said}");
    };
    let variable = Run::new().variable("ORION_JWT_SECRET", hush);
    let config = Run::new().config(&format!("secret = '{hush}'\nsecrt = '{hush}'"));
    for run in [variable, Run::new().config(&format!("secret = '{hush}'")), config] {
        for words in [
            &["token", "mint", "--help"][..],
            &["token", "mint", "--device", "x", "-vvvv"],
            &["token", "mint", "--device", "x", "--pair", "y", "--lifetime", "1h"],
            &["man"],
        ] {
            quiet(&run.run(words));
        }
    }
    let broken = Run::new().config(&format!("secret = '{hush}"));
    quiet(&broken.run(&["man"]));
    quiet(&mint(&Run::new(), &["--pair", "p", "--secret", "hush"]));
    quiet(&mint(&Run::new().variable("ORION_JWT_SECRET", "hush"), &["--pair", "p"]));
}

#[test]
fn exit_codes() {
    let run = Run::new();
    let token = stdout(&mint(&run, &["--pair", "demo", "--secret", SECRET]));
    for (words, code) in [
        (&["--version"][..], 0),
        (&["--help"], 0),
        (&["token", "inspect", token.trim()], 0),
        (&["token", "inspect", token.trim(), "--audience", "else"], 1),
        (&["token", "inspect", "nonsense"], 1),
        (&["man", "--out", "/dev/null/below"], 1),
        (&[], 2),
        (&["sned"], 2),
        (&["token", "mint"], 2),
        (&["token", "mint", "--device", "d", "--pair", "p"], 2),
        (&["token", "mint", "--device", "d", "--pair", "p", "--secret", "short"], 2),
        (&["token", "inspect", "@/nowhere/at/all"], 2),
        (&["completions", "tcsh"], 2),
    ] {
        let output = run.run(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        assert_eq!(code == 0, stderr(&output).is_empty(), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn failures_have_a_stage_and_a_remedy() {
    let output = mint(&Run::new(), &["--pair", "p"]);
    assert_eq!(
        stderr(&output),
        "error: config: no secret to sign the token with\n  try: add --secret @FILE or set ORION_JWT_SECRET\n"
    );
    assert_eq!(stdout(&output), "");
}

#[test]
fn only_json_is_written_to_stdout_even_for_failures() {
    let run = Run::new();
    let lines = json_lines(&mint(&run, &["--pair", "demo", "--secret", SECRET, "--json"]));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["pairId"], "demo");
    let token = lines[0]["token"].as_str().unwrap();

    let refused = run.run(&["--json", "token", "inspect", token, "--issuer", "else"]);
    let lines = json_lines(&refused);
    assert_eq!(lines[0]["accepted"], false);
    assert_eq!(lines[0]["reasons"].as_array().unwrap().len(), 1);
    assert_eq!(lines[1]["error"]["stage"], "token");
    assert_eq!(lines[1]["error"]["exit"], 1);
    assert!(lines[1]["error"]["remedy"].is_string());

    for words in [&["--json", "sned"][..], &["token", "mint", "--json"], &["--json", "man", "--x"]]
    {
        let output = run.run(words);
        let lines = json_lines(&output);
        assert_eq!(lines.len(), 1, "{words:?}");
        assert_eq!(lines[0]["error"]["exit"], 2, "{words:?}");
        assert!(!lines[0]["error"]["message"].as_str().unwrap().is_empty(), "{words:?}");
    }
    let output = Run::new().config("json = true\nx = 1").run(&["man", "--json"]);
    assert_eq!(json_lines(&output)[0]["error"]["stage"], "config");
}

#[test]
fn a_token_is_read_from_stdin() {
    let run = Run::new();
    let token = mint(&run, &["--pair", "demo", "--secret", SECRET]).stdout;
    let mut child = run
        .command(&["token", "inspect", "-", "--secret", SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&token).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("verdict    accepted"), "{}", stdout(&output));
    assert!(stdout(&output).contains("signature  checked"), "{}", stdout(&output));
}

/// A token API that sends `answer` to one request, and returns the head and body of that request.
fn token_api(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut part = [0; 4096];
        while !String::from_utf8_lossy(&request).contains('}') {
            let read = stream.read(&mut part).unwrap();
            assert!(read > 0, "the request ends early");
            request.extend_from_slice(&part[..read]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, served)
}

#[test]
fn a_token_is_fetched_according_to_the_contract() {
    let (url, served) = token_api(concat!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        r#"{"token":"a.b.c","expiresIn":300,"pairId":"p1","iceServers":[{"urls":["stun:s"]}]}"#
    ));
    let run = Run::new().file("login", "hush\n");
    let words = ["token", "fetch", "--token-url", &url, "--access-token", "@login", "--json"];
    let output = run.run(&[&words[..], &["--device", "mac"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lines = json_lines(&output);
    assert_eq!(lines[0]["token"], "a.b.c");
    assert_eq!(lines[0]["pairId"], "p1");
    assert_eq!(lines[0]["iceServers"][0]["urls"][0], "stun:s");
    let request = served.join().unwrap();
    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("authorization: bearer hush\r\n"), "{request}");
    assert!(request.contains(r#""deviceId":"mac""#), "{request}");
}

#[test]
fn a_rejected_token_request_is_a_failure_with_its_stage() {
    let (url, served) = token_api(concat!(
        "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n",
        r#"{"code":"forbidden","message":"no such pair"}"#
    ));
    let output = Run::new().run(&["token", "fetch", "--token-url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: token: "), "{}", stderr(&output));
    assert!(stderr(&output).contains("no such pair"), "{}", stderr(&output));
    assert!(stderr(&output).contains("  try: "), "{}", stderr(&output));
    served.join().unwrap();

    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let signal = format!("ws://{gone}");
    let output = Run::new().run(&["token", "fetch", "--signal", &signal]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&gone.to_string()), "{}", stderr(&output));
    let output = Run::new().run(&["token", "fetch", "--signal", "http://127.0.0.1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("scheme `http`"), "{}", stderr(&output));
}

#[test]
fn a_closed_pipe_does_not_panic() {
    let run = Run::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = run.command(&["man"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(run.command(&["sned"]).stderr(writer).status().unwrap().code(), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn writing_stdout_to_a_full_disk_is_a_failure() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Run::new().command(&["man"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: output: cannot write to stdout"));
}

#[test]
fn color_is_used_only_on_request() {
    let colored = |run: &Run, words: &[&str]| stderr(&run.run(words)).contains('\x1b');
    let run = Run::new();
    let mint = ["token", "mint", "--device", "d", "--pair", "p"];
    assert!(!colored(&run, &mint));
    assert!(colored(&run, &[&mint[..], &["--color", "always"]].concat()));
    assert!(!colored(&run, &[&mint[..], &["--color", "never"]].concat()));
    assert!(colored(&run.variable("ORION_COLOR", "always"), &mint));
}

#[test]
fn man_pages() {
    let run = Run::new();
    let page = stdout(&run.run(&["man"]));
    for said in
        [".TH orion-peer 1", ".SH \"ORION\\-PEER TOKEN MINT\"", "\\-\\-lifetime", ".SH EXAMPLES"]
    {
        assert!(page.contains(said), "no `{said}`");
    }
    assert_eq!(page.matches(".TH ").count(), 1);
    assert_eq!(page.matches("\\-\\-config\\fR \\fI").count(), 1, "global flags are described once");
    let output = run.run(&["man", "--out", "pages"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for name in ["orion-peer.1", "orion-peer-token.1", "orion-peer-token-mint.1"] {
        let page = fs::read_to_string(run.dir.path().join("pages").join(name)).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
}

/// The words of every command, read from the help texts.
fn commands() -> Vec<Vec<String>> {
    let mut found = vec![Vec::new()];
    let mut at = 0;
    while at < found.len() {
        let words: Vec<String> = found[at].clone();
        let help = help(&words);
        let list = help.split_once("Commands:\n").map_or("", |(_, rest)| rest);
        for line in list.lines().take_while(|line| line.starts_with("  ")) {
            let Some(name) = line.strip_prefix("  ").and_then(|line| line.split(' ').next()) else {
                continue;
            };
            if !name.is_empty() && name != "help" {
                found.push([&words[..], &[name.to_owned()]].concat());
            }
        }
        at += 1;
    }
    found
}

fn help(words: &[String]) -> String {
    let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
    words.push("--help");
    let output = Run::new().run(&words);
    assert_eq!(output.status.code(), Some(0), "{words:?}");
    stdout(&output)
}

/// A time or percentage without a unit could be misread, so that its gate never fails: `--max-rtt-p95 100` once meant
/// 100 s, and `--min-success 0.99` meant 0.99 %.
#[test]
fn every_flag_for_a_time_or_a_percentage_requires_a_unit() {
    let mut flags = Vec::new();
    for words in commands() {
        for line in help(&words).lines() {
            let Some((flag, kind)) = line.trim_start().split_once(" <") else { continue };
            let (value, wanted) = match kind.split('>').next() {
                Some("TIME") => ("100", "`100` has no unit: use 100ms or 100s"),
                Some("PERCENT") => ("0.99", "`0.99` has no unit: use 99% or 0.99%"),
                _ => continue,
            };
            let flag = flag.rsplit(' ').next().unwrap().to_owned();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let output = Run::new().run(&[&words[..], &[&flag, value]].concat());
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{words:?} {flag}: {said}");
            assert!(said.contains(wanted), "{words:?} {flag}: {said}");
            flags.push(flag);
        }
    }
    for gate in ["--max-rtt-p95", "--min-success", "--max-regression", "--max-relay-p99"] {
        assert!(flags.iter().any(|flag| flag == gate), "{flags:?}");
    }
    let output = Run::new().config("[bench]\nmax-rtt-p95 = 100").run(&["bench"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("use 100ms or 100s"), "{}", stderr(&output));
}

#[test]
fn help_texts_match_the_snapshots() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/help");
    let update = std::env::var_os("ORION_UPDATE_SNAPSHOTS").is_some();
    let mut expected: Vec<PathBuf> = Vec::new();
    let mut different = Vec::new();
    for words in commands() {
        let name = [&["orion-peer".to_owned()], &words[..]].concat().join("-");
        let path = dir.join(format!("{name}.txt"));
        let text = help(&words);
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{name}: {line:?}");
        }
        if update {
            fs::create_dir_all(&dir).unwrap();
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            different.push(format!("{}:\n{text}", path.display()));
        }
        expected.push(path);
    }
    assert!(expected.len() > 5, "{expected:?}");
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if !expected.contains(&path) {
            if update {
                fs::remove_file(&path).unwrap();
            } else {
                different.push(format!("{}: no such command", path.display()));
            }
        }
    }
    assert!(
        different.is_empty(),
        "help texts differ (ORION_UPDATE_SNAPSHOTS=1 updates them):\n{}",
        different.join("\n")
    );
}

#[test]
fn every_line_of_the_sample_configuration_is_accepted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/orion-peer.toml");
    let sample = fs::read_to_string(path).unwrap();
    let commands: Vec<String> = commands().into_iter().map(|words| words.join(".")).collect();
    let mut text = String::new();
    let mut known = true;
    let mut keys = 0;
    for line in sample.lines() {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            known = commands.contains(&section.to_owned());
        }
        let entry = line.strip_prefix("# ").unwrap_or(line);
        let is_key = entry.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        if known && (is_key || entry.starts_with('[')) {
            keys += usize::from(is_key);
            text += entry;
            text.push('\n');
        }
    }
    assert!(keys >= 9, "{text}");
    let output = Run::new().config(&text).run(&["man"]);
    assert_eq!(output.status.code(), Some(0), "{}\n{text}", stderr(&output));
}
