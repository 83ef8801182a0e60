//! Reads a saved bench result: a file written by `--out` or `--json`, or a stream of JSON Lines that ends with a
//! result.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    BenchResult,
    schema::{Connections, SCHEMA},
};
use crate::stats::Histogram;

/// Maximum file size, bytes. A run of 10,000 connections with 1,000 pings each takes about 200 MB.
const MAX_FILE: u64 = 256_000_000;

/// Name of the schema without its version.
const FAMILY: &str = "orion-peer/bench/";

/// Why a result cannot be read from a file.
#[derive(Debug, thiserror::Error)]
#[error("`{}` {problem}", path.display())]
pub struct LoadError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// It is a directory.
    #[error("is a directory")]
    Directory,
    /// It is larger than 256 MB.
    #[error("is larger than {} MB", MAX_FILE / 1_000_000)]
    TooLarge,
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is not JSON.
    #[error("is not JSON: {0}")]
    NotJson(String),
    /// It is truncated.
    #[error("is truncated: {0}")]
    Truncated(String),
    /// JSON Lines without a result.
    #[error("is a stream of {0} JSON lines without a result")]
    NoEnd(usize),
    /// JSON with another schema.
    #[error("is not a bench result: {0}")]
    OtherSchema(String),
    /// An unknown, newer version of the schema.
    #[error(
        "has the schema {0:?}, but this version reads {SCHEMA:?}: it was written by a newer \
         orion-peer"
    )]
    NewerSchema(String),
    /// It names the schema, but does not match it.
    #[error("claims to be {SCHEMA}, but is not valid: {0}")]
    Malformed(String),
}

impl LoadError {
    /// What to try.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match &self.problem {
            Problem::Read(error) if error.kind() == io::ErrorKind::NotFound => {
                "check the path; `orion-peer bench --out FILE` writes a result"
            }
            Problem::Read(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                "make the file readable"
            }
            Problem::Read(_) => "check the disk, or use another file",
            Problem::Directory => "pass the path of a file in the directory",
            Problem::TooLarge => "measure fewer connections or pings, or use another file",
            Problem::Empty | Problem::Truncated(_) => {
                "run `orion-peer bench --out FILE` again: the run or the copy was cut short"
            }
            Problem::NoEnd(_) => "run it again: the run was cut short",
            Problem::NotJson(_) | Problem::OtherSchema(_) => {
                "use a file written by `orion-peer bench --out FILE` or `bench --json`"
            }
            Problem::NewerSchema(_) => {
                "use a version of orion-peer at least as new as the one that wrote the file"
            }
            Problem::Malformed(_) => "use the file as `orion-peer bench` wrote it, unedited",
        }
    }
}

/// Reads a result.
///
/// # Errors
/// [`LoadError`] with the path: it cannot be read, is not a result, or has another version.
pub fn load(path: &Path) -> Result<BenchResult, LoadError> {
    read(path)
        .and_then(|text| parse(&text))
        .map_err(|problem| LoadError { path: path.to_owned(), problem })
}

fn read(path: &Path) -> Result<String, Problem> {
    let file = File::open(path).map_err(Problem::Read)?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Problem::Directory);
    }
    let mut bytes = Vec::new();
    // Do not rely on the file size in the metadata: pipes have none.
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(Problem::Read)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Problem::TooLarge);
    }
    String::from_utf8(bytes).map_err(|_| Problem::NotJson("it is not UTF-8 text".to_owned()))
}

/// The fields of a JSON value that identify it.
#[derive(Deserialize)]
struct Head<'t> {
    #[serde(default)]
    schema: Option<serde_json::Value>,
    #[serde(default)]
    event: Option<serde_json::Value>,
    #[serde(borrow, default)]
    data: Option<&'t RawValue>,
}

fn parse(text: &str) -> Result<BenchResult, Problem> {
    // Some editors write a byte order mark.
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Err(Problem::Empty);
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => value(text),
        Err(error) if text.lines().count() > 1 => stream(text, &error),
        Err(error) => Err(broken(&error)),
    }
}

fn broken(error: &serde_json::Error) -> Problem {
    if error.is_eof() {
        Problem::Truncated(error.to_string())
    } else {
        Problem::NotJson(error.to_string())
    }
}

/// JSON Lines: the last line that is a result. `error` is the error from parsing the text as one value.
fn stream(text: &str, error: &serde_json::Error) -> Result<BenchResult, Problem> {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    // A broken multi-line value starts with a line that is not a value by itself.
    if lines().next().is_none_or(|line| serde_json::from_str::<&RawValue>(line).is_err()) {
        return Err(broken(error));
    }
    let result = lines().rev().find(|line| {
        serde_json::from_str::<Head>(line).is_ok_and(|head| is_end(&head) || is_result(&head))
    });
    match result {
        Some(line) => value(line),
        None => Err(Problem::NoEnd(lines().count())),
    }
}

fn is_end(head: &Head) -> bool {
    head.event.as_ref().is_some_and(|event| event == "end") && head.data.is_some()
}

fn is_result(head: &Head) -> bool {
    let schema = head.schema.as_ref().and_then(serde_json::Value::as_str);
    schema.is_some_and(|schema| schema.starts_with(FAMILY))
}

/// One JSON value: a result, or the end of a stream with a result in it.
fn value(text: &str) -> Result<BenchResult, Problem> {
    let head = head(text)?;
    match head.data.filter(|_| is_end(&head)) {
        Some(data) => result(data.get()),
        None => result(text),
    }
}

fn head(text: &str) -> Result<Head<'_>, Problem> {
    let not_one = || Problem::OtherSchema("it is not a JSON object".to_owned());
    // serde also accepts a list for a struct.
    if !text.trim_start().starts_with('{') {
        return Err(not_one());
    }
    serde_json::from_str(text).map_err(|_| not_one())
}

fn result(text: &str) -> Result<BenchResult, Problem> {
    let head = head(text)?;
    match head.schema.as_ref().map(|schema| schema.as_str().unwrap_or_default()) {
        Some(SCHEMA) => {}
        Some(schema) if newer(schema) => return Err(Problem::NewerSchema(schema.to_owned())),
        Some(schema) => return Err(Problem::OtherSchema(format!("its schema is {schema:?}"))),
        None => return Err(Problem::OtherSchema("it has no `schema`".to_owned())),
    }
    let result: BenchResult =
        serde_json::from_str(text).map_err(|error| Problem::Malformed(error.to_string()))?;
    sane(&result).map_err(|what| Problem::Malformed(what.to_owned()))?;
    Ok(upgrade(result))
}

/// Upgrades a result written before `firstPictureMs` existed: its latency is the time from the first packet to the
/// last, unless the peer was the sender. Without records of individual keyframes, the latency is unknown.
fn upgrade(mut result: BenchResult) -> BenchResult {
    let connections = &mut result.connections;
    let had_a_picture = connections.setup_ms.first_keyframe.count > 0;
    let sends = result.config.get("role").is_none_or(|role| role == "send");
    if !had_a_picture || !sends || connections.first_picture_ms.from_start.count > 0 {
        return result;
    }
    let mut latency = Histogram::new();
    for record in &mut connections.records {
        let setup = &record.setup_ms;
        let first = setup.total.zip(setup.first_keyframe).map(|(total, first)| total + first);
        record.first_picture_ms.from_start = first;
        for keyframe in &mut record.keyframes {
            let stages = &keyframe.stages_ms;
            let prepared = [stages.capture_age, stages.convert, stages.encode];
            let prepared = prepared.into_iter().flatten().sum::<f64>();
            keyframe.latency_ms = keyframe.latency_ms.map(|network| network + prepared);
            latency.extend(keyframe.latency_ms);
        }
    }
    result.keyframes.latency_ms = latency.spread();
    let firsts = connections.records.iter().filter_map(|r| r.first_picture_ms.from_start);
    connections.first_picture_ms.from_start = firsts.collect::<Histogram>().spread();
    result
}

fn newer(schema: &str) -> bool {
    let version = |schema: &str| schema.strip_prefix(FAMILY).and_then(|v| v.parse::<u64>().ok());
    version(schema) > version(SCHEMA)
}

/// Rejects inconsistent counts, which would result in shares above 1.
fn sane(result: &BenchResult) -> Result<(), &'static str> {
    let Connections { attempted, succeeded, records, .. } = &result.connections;
    if succeeded > attempted {
        return Err("more connections succeeded than were attempted");
    }
    let lost = records.iter().any(|record| record.pings_lost > record.pings_sent);
    if lost || result.rtt_ms.lost > result.rtt_ms.sent {
        return Err("more pings were lost than were sent");
    }
    let keyframes = &result.keyframes;
    if keyframes.sent.zip(keyframes.intact).is_some_and(|(sent, intact)| intact > sent) {
        return Err("more keyframes arrived than were sent");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::{Value, json};

    use super::*;
    use crate::report::bench::samples::Sample;

    fn sample() -> BenchResult {
        Sample { connections: 3, ..Sample::default() }.result()
    }

    fn text() -> String {
        serde_json::to_string(&sample()).unwrap()
    }

    #[test]
    fn the_latency_of_older_results_is_converted() {
        let mut old = serde_json::to_value(sample()).unwrap();
        let connections = &mut old["connections"];
        connections.as_object_mut().unwrap().remove("firstPictureMs");
        connections["setupMs"]["firstKeyframe"]["count"] = json!(3);
        for record in connections["records"].as_array_mut().unwrap() {
            record.as_object_mut().unwrap().remove("firstPictureMs");
            record["setupMs"]["total"] = json!(20.0);
            record["setupMs"]["firstKeyframe"] = json!(5.0);
            for keyframe in record["keyframes"].as_array_mut().unwrap() {
                keyframe["latencyMs"] = json!(2.0);
                keyframe["stagesMs"]["convert"] = json!(1.0);
                keyframe["stagesMs"]["encode"] = json!(40.0);
            }
        }
        let read = parse(&old.to_string()).unwrap();
        assert_eq!(read.keyframes.latency_ms.p95, Some(43.0));
        assert_eq!(read.connections.records[0].keyframes[0].latency_ms, Some(43.0));
        assert_eq!(read.connections.first_picture_ms.from_start.p50, Some(25.0));
        old["connections"]["records"] = json!([]);
        let read = parse(&old.to_string()).unwrap();
        assert_eq!(read.keyframes.latency_ms.p95, None, "not the other quantity");
        old["config"]["role"] = json!("recv");
        let read = parse(&old.to_string()).unwrap();
        assert!(read.keyframes.latency_ms.p95.is_some(), "from the capture, as in current results");
    }

    fn problem(text: &str) -> String {
        let problem = parse(text).unwrap_err();
        let error = LoadError { path: "x.json".into(), problem };
        assert!(error.to_string().starts_with("`x.json` ") && !error.remedy().is_empty());
        error.to_string()
    }

    #[test]
    fn every_written_form_can_be_read() {
        let pretty = serde_json::to_string_pretty(&sample()).unwrap();
        let end = json!({"event": "end", "data": sample()});
        let stream = format!("{{\"event\":\"start\"}}\n{{\"event\":\"connection\"}}\n{end}\n");
        let failed = format!("{}\n{{\"error\":{{\"stage\":\"ice\"}}}}\n", text());
        let marked = format!("\u{feff}{}\r\n", text());
        for written in [text(), pretty, end.to_string(), stream, failed, marked] {
            let records = parse(&written).unwrap().connections.records;
            assert_eq!(records, sample().connections.records, "{}", &written[..40]);
        }
    }

    #[test]
    fn errors_say_what_the_file_is() {
        let newer = text().replace("bench/1", "bench/2");
        assert!(
            problem(&newer).contains("\"orion-peer/bench/2\"") && problem(&newer).contains("newer")
        );
        let half = &text()[..text().len() / 2];
        assert!(problem(half).contains("is truncated"), "{}", problem(half));
        let pretty = serde_json::to_string_pretty(&sample()).unwrap();
        let half = &pretty[..pretty.len() / 2];
        assert!(problem(half).contains("is truncated"), "{}", problem(half));
        for (text, expected) in [
            ("", "is empty"),
            (" \n ", "is empty"),
            ("hello", "is not JSON"),
            ("hello\nworld", "is not JSON"),
            ("<html>\n</html>", "is not JSON"),
            ("[1, 2]", "not a JSON object"),
            ("{}", "has no `schema`"),
            ("{\"schema\": \"orion-peer/lab/1\"}", "its schema is \"orion-peer/lab/1\""),
            ("{\"schema\": 7}", "its schema is"),
            ("{\"event\":\"start\"}\n{\"event\":\"conn", "a stream of 2 JSON lines"),
            ("{\"event\":\"end\",\"data\":7}", "not a JSON object"),
            ("{\"schema\": \"orion-peer/bench/1\"}", "missing field"),
        ] {
            assert!(problem(text).contains(expected), "{text}: {}", problem(text));
        }
    }

    #[test]
    fn inconsistent_counts_are_rejected() {
        let edit = |pointer: &str, value: u64| {
            let mut json: Value = serde_json::from_str(&text()).unwrap();
            *json.pointer_mut(pointer).unwrap() = value.into();
            problem(&json.to_string())
        };
        assert!(edit("/connections/succeeded", 99).contains("more connections"));
        assert!(edit("/rttMs/lost", 9999).contains("more pings"));
        assert!(edit("/connections/records/0/pingsLost", 41).contains("more pings"));
        assert!(edit("/keyframes/intact", 99).contains("more keyframes"));
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| load(&dir.path().join(name)).unwrap_err();
        let missing = at("gone.json");
        assert!(missing.to_string().contains("gone.json") && missing.remedy().contains("path"));
        assert!(matches!(at("").problem, Problem::Directory));
        fs::write(dir.path().join("binary"), [0xff, 0xfe, 0]).unwrap();
        assert!(at("binary").to_string().contains("not UTF-8"));
        // A sparse file takes no space on the disk.
        let large = File::create(dir.path().join("large")).unwrap();
        large.set_len(MAX_FILE + 1).unwrap();
        assert!(at("large").to_string().contains("larger than 256 MB"));
        fs::write(dir.path().join("good"), text()).unwrap();
        assert_eq!(load(&dir.path().join("good")).unwrap().connections.attempted, 3);
    }
}
