//! `--dump FILE`: the run as a webrtc-internals dump, the JSON that Chromium's page of that name saves
//! and that dump importers read.
//!
//! Each peer connection has its configuration, log and statistics. Importers require `UserAgentData`
//! and, for each stats object, a series `<id>-timestamp` with the same indices as the other series of that object.
//! Memory is bounded: a stats object with many samples loses every second one, and is sampled half as often from then
//! on; the oldest log entries and connections are dropped.

mod connection;
mod samples;

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::connection::Connection;
use super::whole_file;
use crate::session::negotiation::{NegotiationRecord, NegotiationStep};

/// Maximum number of peer connections kept; the oldest ones are dropped.
const MAX_CONNECTIONS: usize = 10;

/// Interval at which the file is written during a run.
const WRITE_INTERVAL: Duration = Duration::from_mins(1);

/// An error while writing a dump.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the dump `{path}`: {source}")]
pub struct DumpError {
    /// Path of the dump.
    pub path: PathBuf,
    /// The I/O error.
    pub source: io::Error,
}

/// Collects the events of the peer connections of a run, and writes them.
#[derive(Debug)]
pub struct DumpWriter {
    path: PathBuf,
    url: String,
    /// The last one is the current one; it is created before the connection it describes.
    connections: VecDeque<Connection>,
    /// Number of connections created.
    made: u64,
    written: SystemTime,
}

impl DumpWriter {
    /// Starts a dump and writes it once, so that an unwritable path is detected immediately. `url` is the page URL in
    /// the dump.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, url: &str, now: SystemTime) -> Result<Self, DumpError> {
        let mut dump = Self {
            path: path.to_owned(),
            url: url.to_owned(),
            connections: VecDeque::from([Connection::default()]),
            made: 0,
            written: now,
        };
        dump.write(now)?;
        Ok(dump)
    }

    fn current(&mut self) -> &mut Connection {
        self.connections.back_mut().expect("there is always one")
    }

    /// Logs a human-readable line.
    pub fn line(&mut self, time: SystemTime, text: &str) {
        self.current().log(time, "log", text);
    }

    /// Logs a step of the negotiation; a new peer connection gets its own log and statistics.
    pub fn negotiated(&mut self, NegotiationRecord { at, step }: &NegotiationRecord) {
        if let NegotiationStep::Created { .. } = step {
            self.made += 1;
            if self.made > 1 {
                self.connections.push_back(Connection::default());
            }
            if self.connections.len() > MAX_CONNECTIONS {
                self.connections.pop_front();
            }
        }
        self.current().step(*at, step);
    }

    /// Adds a statistics report: W3C stats objects by their id.
    pub fn stats(&mut self, time: SystemTime, report: &Map<String, Value>) {
        self.current().stats(time, report);
    }

    /// Writes the file if the last write was a minute ago; returns whether it was written.
    ///
    /// # Errors
    /// The file cannot be written; its previous content is kept.
    pub fn write_if_due(&mut self, now: SystemTime) -> Result<Option<()>, DumpError> {
        let age = now.duration_since(self.written).unwrap_or_default();
        if age >= WRITE_INTERVAL { self.write(now).map(Some) } else { Ok(None) }
    }

    /// Writes the file for the last time.
    ///
    /// # Errors
    /// The file cannot be written; its previous content is kept.
    pub fn finish(mut self, now: SystemTime) -> Result<(), DumpError> {
        self.write(now)
    }

    fn write(&mut self, now: SystemTime) -> Result<(), DumpError> {
        // Set first: a disk that stays full is retried once a minute, not on every call.
        self.written = now;
        let text = self.to_json().to_string();
        whole_file::write(&self.path, text.as_bytes())
            .map_err(|source| DumpError { path: self.path.clone(), source })
    }

    fn to_json(&self) -> Value {
        let pid = std::process::id();
        let first = self.made.max(1) + 1 - self.connections.len() as u64;
        let connections: Map<_, _> = (first..)
            .zip(&self.connections)
            .map(|(number, connection)| {
                (format!("{pid}-{number}"), connection.to_json(pid, &self.url))
            })
            .collect();
        let version = env!("CARGO_PKG_VERSION");
        json!({
            "UserAgent": format!("orion-peer/{version}"),
            "UserAgentData": [{ "brand": "orion-peer", "version": version }],
            "getUserMedia": [],
            "PeerConnections": connections,
        })
    }
}

/// Milliseconds since 1970 as `2026-01-02T03:04:05.678Z`.
fn iso(ms: f64) -> String {
    Timestamp::from_millisecond(ms as i64)
        .map_or_else(|_| ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::UNIX_EPOCH};

    use super::{samples::MAX_SAMPLES, *};
    use crate::peer::IcePolicy;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn created(seconds: u64) -> NegotiationRecord {
        let step = NegotiationStep::Created { ice_servers: Vec::new(), ice_policy: IcePolicy::All };
        NegotiationRecord { at: at(seconds), step }
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
    fn the_shape_is_as_importers_expect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let mut dump = DumpWriter::create(&path, "ws://x/", at(0)).unwrap();
        dump.negotiated(&created(1));
        dump.line(at(1), "joining");
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
        assert_eq!(
            connection["rtcConfiguration"],
            r#"{"iceServers":[],"iceTransportPolicy":"all"}"#
        );
        let event = json!({"time": "1970-01-01T00:00:01.000Z", "type": "log", "value": "joining"});
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
    fn the_dump_is_written_every_minute_without_leftovers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let mut dump = DumpWriter::create(&path, "", at(0)).unwrap();
        dump.line(at(1), "one");
        dump.write_if_due(at(59)).unwrap();
        assert_eq!(only_connection(&read(&path))["updateLog"], json!([]));
        dump.write_if_due(at(60)).unwrap();
        assert_eq!(only_connection(&read(&path))["updateLog"][0]["value"], "one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn memory_is_bounded_and_series_stay_aligned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let mut dump = DumpWriter::create(&path, "", at(0)).unwrap();
        for second in 0..10_000 {
            dump.stats(at(second), &report(&json!(second)));
        }
        let samples = &dump.current().objects["CP1"];
        assert!((MAX_SAMPLES / 4..MAX_SAMPLES).contains(&samples.times.len()));
        let step = samples.times[1] - samples.times[0];
        assert!(
            samples.times.windows(2).all(|pair| (pair[1] - pair[0] - step).abs() < 0.5),
            "evenly spaced"
        );
        for (time, value) in samples.times.iter().zip(&samples.properties["currentRoundTripTime"]) {
            assert_eq!(value.as_f64(), Some(time / 1000.0));
        }
    }

    #[test]
    fn connections_are_separate_and_the_oldest_are_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.json");
        let mut dump = DumpWriter::create(&path, "", at(0)).unwrap();
        dump.line(at(0), "before the first");
        for number in 1..=12 {
            dump.negotiated(&created(number));
            dump.line(at(number), &format!("of {number}"));
            dump.stats(at(number), &report(&json!(number)));
        }
        dump.finish(at(20)).unwrap();
        let dump = read(&path);
        let connections = dump["PeerConnections"].as_object().unwrap();
        assert_eq!(connections.len(), MAX_CONNECTIONS);
        for number in 3..=12_u64 {
            let connection = &connections[&format!("{}-{number}", std::process::id())];
            assert_eq!(connection["updateLog"][0]["value"], format!("of {number}"));
            assert_eq!(values(connection, "CP1-currentRoundTripTime"), json!([number]));
        }
    }

    #[test]
    fn an_unwritable_path_is_detected_immediately() {
        let error = DumpWriter::create(Path::new("/nowhere/at/all.json"), "", at(0));
        assert!(error.unwrap_err().to_string().contains("/nowhere/at/all.json"));
    }
}
