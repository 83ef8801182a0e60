//! `--dump FILE`: the run as a webrtc-internals dump, the JSON that Chromium's page of that name saves
//! and that dump importers read.
//!
//! Importers want `UserAgentData` and, for each stats object, a series `<id>-timestamp` that the other
//! series of that object run along with, index by index. Memory is bounded: a stats object that has
//! been sampled often loses every second sample, and is sampled half as often from then on.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{stats::millis, whole_file};

/// Samples kept of one stats object.
const MOST_SAMPLES: usize = 2_000;

/// Stats objects kept; later ones are left out.
const MOST_OBJECTS: usize = 500;

/// Log entries kept; the oldest ones go.
const MOST_EVENTS: usize = 10_000;

/// Time between two writings of the file during a run.
const WRITE_INTERVAL: Duration = Duration::from_mins(1);

/// A dump that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the dump `{path}`: {source}")]
pub struct DumpError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Collects what happens on one peer connection, and writes it.
#[derive(Debug)]
pub struct DumpWriter {
    path: PathBuf,
    url: String,
    configuration: Value,
    events: VecDeque<Value>,
    objects: BTreeMap<String, Samples>,
    written: SystemTime,
}

/// The samples of one stats object.
#[derive(Debug, Default)]
struct Samples {
    kind: String,
    times: Vec<f64>,
    /// Per property a value a sample; null where the property was not there.
    properties: BTreeMap<String, Vec<Value>>,
    /// One sample in `stride` is kept; at least 1 once sampled.
    stride: u64,
    seen: u64,
}

impl DumpWriter {
    /// Begins a dump and writes it a first time, so that a path that cannot be written is found out at
    /// once. `url` tells the signaling server, `configuration` is a W3C `RTCConfiguration` (leave
    /// credentials out of it).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(
        path: &Path,
        url: &str,
        configuration: Value,
        now: SystemTime,
    ) -> Result<Self, DumpError> {
        let mut dump = Self {
            path: path.to_owned(),
            url: url.to_owned(),
            configuration,
            events: VecDeque::new(),
            objects: BTreeMap::new(),
            written: now,
        };
        dump.write(now)?;
        Ok(dump)
    }

    /// Logs an event: `kind` as in webrtc-internals (`setLocalDescription`, `icecandidate`,
    /// `iceconnectionstatechange`), `value` as text.
    pub fn event(&mut self, time: SystemTime, kind: &str, value: &str) {
        if self.events.len() == MOST_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(json!({ "time": iso(millis(time)), "type": kind, "value": value }));
    }

    /// Logs the state of the connection; only those of `RTCPeerConnectionState` are states to importers.
    pub fn state(&mut self, time: SystemTime, state: &str) {
        let known = ["new", "connecting", "connected", "disconnected", "failed", "closed"];
        let kind = if known.contains(&state) { "connectionstatechange" } else { "log" };
        self.event(time, kind, state);
    }

    /// Adds a statistics report: W3C stats objects by their id.
    pub fn stats(&mut self, time: SystemTime, report: &Map<String, Value>) {
        for (id, object) in report {
            let Value::Object(object) = object else { continue };
            if self.objects.contains_key(id) || self.objects.len() < MOST_OBJECTS {
                self.objects.entry(id.clone()).or_default().add(millis(time), object);
            }
        }
    }

    /// Writes the file when it has not been written for a minute.
    ///
    /// # Errors
    /// The file cannot be written; what it held before is still there.
    pub fn write_if_due(&mut self, now: SystemTime) -> Result<(), DumpError> {
        let age = now.duration_since(self.written).unwrap_or_default();
        if age >= WRITE_INTERVAL { self.write(now) } else { Ok(()) }
    }

    /// Writes the file a last time.
    ///
    /// # Errors
    /// The file cannot be written; what it held before is still there.
    pub fn finish(mut self, now: SystemTime) -> Result<(), DumpError> {
        self.write(now)
    }

    fn write(&mut self, now: SystemTime) -> Result<(), DumpError> {
        // Set first: a disk that stays full is tried once a minute, not once a call.
        self.written = now;
        let text = self.to_json().to_string();
        whole_file::write(&self.path, text.as_bytes())
            .map_err(|source| DumpError { path: self.path.clone(), source })
    }

    fn to_json(&self) -> Value {
        let mut series = Map::new();
        for (id, samples) in &self.objects {
            samples.add_series(id, &mut series);
        }
        let version = env!("CARGO_PKG_VERSION");
        let connection = json!({
            "pid": std::process::id(),
            "url": self.url,
            "rtcConfiguration": self.configuration.to_string(),
            "constraints": "",
            "updateLog": self.events,
            "stats": series,
        });
        let mut connections = Map::new();
        connections.insert(format!("{}-1", std::process::id()), connection);
        json!({
            "UserAgent": format!("orion-peer/{version}"),
            "UserAgentData": [{ "brand": "orion-peer", "version": version }],
            "getUserMedia": [],
            "PeerConnections": connections,
        })
    }
}

impl Samples {
    fn add(&mut self, time: f64, object: &Map<String, Value>) {
        if let Some(Value::String(kind)) = object.get("type") {
            self.kind.clone_from(kind);
        }
        self.stride = self.stride.max(1);
        self.seen += 1;
        if !(self.seen - 1).is_multiple_of(self.stride) {
            return;
        }
        let time = object.get("timestamp").and_then(Value::as_f64).unwrap_or(time);
        let before = self.times.len();
        self.times.push(time);
        for (name, value) in object {
            if matches!(name.as_str(), "id" | "type" | "timestamp") {
                continue;
            }
            let values = self.properties.entry(name.clone()).or_default();
            values.resize(before, Value::Null);
            values.push(value.clone());
        }
        // Chromium's own name for the side of a candidate, which importers go by.
        if matches!(self.kind.as_str(), "local-candidate" | "remote-candidate") {
            let values = self.properties.entry("isRemote".to_owned()).or_default();
            values.resize(before, Value::Null);
            values.push((self.kind == "remote-candidate").into());
        }
        for values in self.properties.values_mut() {
            values.resize(self.times.len(), Value::Null);
        }
        if self.times.len() >= MOST_SAMPLES {
            self.thin();
        }
    }

    /// Drops every second sample.
    fn thin(&mut self) {
        every_second(&mut self.times);
        self.properties.values_mut().for_each(every_second);
        self.stride *= 2;
    }

    fn add_series(&self, id: &str, series: &mut Map<String, Value>) {
        let (Some(first), Some(last)) = (self.times.first(), self.times.last()) else { return };
        let (start, end) = (iso(*first), iso(*last));
        let mut add = |property: &str, values: String| {
            let one = json!({
                "startTime": start, "endTime": end, "statsType": self.kind, "values": values,
            });
            series.insert(format!("{id}-{property}"), one);
        };
        add("timestamp", json!(self.times).to_string());
        for (name, values) in &self.properties {
            add(name, json!(values).to_string());
        }
    }
}

fn every_second<T>(values: &mut Vec<T>) {
    let mut index = 0;
    values.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}

/// Milliseconds since 1970 as `2026-01-02T03:04:05.678Z`.
fn iso(ms: f64) -> String {
    Timestamp::from_millisecond(ms as i64)
        .map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::UNIX_EPOCH};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn report(rtt: &Value) -> Map<String, Value> {
        let pair = json!({
            "id": "CP1", "type": "candidate-pair", "currentRoundTripTime": rtt, "state": "succeeded",
        });
        Map::from_iter([("CP1".to_owned(), pair)])
    }

    fn read(path: &Path) -> Value {
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn only_connection(dump: &Value) -> &Value {
        let connections = dump["PeerConnections"].as_object().unwrap();
        assert_eq!(connections.len(), 1);
        let (key, connection) = connections.iter().next().unwrap();
        assert_eq!(key, &format!("{}-1", std::process::id()));
        connection
    }

    fn values(connection: &Value, series: &str) -> Value {
        serde_json::from_str(connection["stats"][series]["values"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn the_shape_is_what_importers_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let configuration = json!({"iceServers": []});
        let mut dump = DumpWriter::create(&path, "ws://x/", configuration, at(0)).unwrap();
        dump.event(at(1), "createOffer", "");
        dump.stats(at(2), &report(&json!(0.5)));
        let mut more = report(&json!(0.25));
        more["CP1"]["nominated"] = json!(true);
        dump.stats(at(3), &more);
        dump.finish(at(4)).unwrap();

        let dump = read(&path);
        assert!(dump["UserAgent"].as_str().unwrap().starts_with("orion-peer/"));
        assert_eq!(dump["UserAgentData"][0]["brand"], "orion-peer");
        assert_eq!(dump["getUserMedia"], json!([]));
        let connection = only_connection(&dump);
        assert_eq!(connection["url"], "ws://x/");
        assert_eq!(connection["rtcConfiguration"], r#"{"iceServers":[]}"#);
        let event = json!({"time": "1970-01-01T00:00:01.000Z", "type": "createOffer", "value": ""});
        assert_eq!(connection["updateLog"], json!([event]));
        assert_eq!(values(connection, "CP1-timestamp"), json!([2000.0, 3000.0]));
        assert_eq!(values(connection, "CP1-currentRoundTripTime"), json!([0.5, 0.25]));
        assert_eq!(values(connection, "CP1-nominated"), json!([null, true]));
        let series = &connection["stats"]["CP1-state"];
        assert_eq!(series["statsType"], "candidate-pair");
        assert_eq!(series["startTime"], "1970-01-01T00:00:02.000Z");
        assert_eq!(series["endTime"], "1970-01-01T00:00:03.000Z");
    }

    #[test]
    fn it_is_written_every_minute_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let mut dump = DumpWriter::create(&path, "", Value::Null, at(0)).unwrap();
        dump.event(at(1), "one", "");
        dump.write_if_due(at(59)).unwrap();
        assert_eq!(only_connection(&read(&path))["updateLog"], json!([]));
        dump.write_if_due(at(60)).unwrap();
        assert_eq!(only_connection(&read(&path))["updateLog"][0]["type"], "one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn memory_is_bounded_and_series_stay_in_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let mut dump = DumpWriter::create(&path, "", Value::Null, at(0)).unwrap();
        for second in 0..10_000 {
            dump.stats(at(second), &report(&json!(second)));
            dump.event(at(second), "tick", "");
        }
        dump.event(at(10_000), "last", "");
        let samples = &dump.objects["CP1"];
        assert!((MOST_SAMPLES / 4..MOST_SAMPLES).contains(&samples.times.len()));
        let step = samples.times[1] - samples.times[0];
        assert!(
            samples.times.windows(2).all(|pair| (pair[1] - pair[0] - step).abs() < 0.5),
            "evenly spaced"
        );
        for (time, value) in samples.times.iter().zip(&samples.properties["currentRoundTripTime"]) {
            assert_eq!(value.as_f64(), Some(time / 1000.0));
        }
        assert_eq!(dump.events.len(), MOST_EVENTS);
        assert_eq!(dump.events.back().unwrap()["type"], "last");
    }

    #[test]
    fn a_path_that_cannot_be_written_is_found_out_at_once() {
        let error = DumpWriter::create(Path::new("/nowhere/at/all.json"), "", Value::Null, at(0));
        assert!(error.unwrap_err().to_string().contains("/nowhere/at/all.json"));
    }
}
