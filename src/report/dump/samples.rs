//! The samples of one stats object of a dump: its times, and series parallel to them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::iso;

/// Maximum number of samples kept per stats object.
pub(super) const MAX_SAMPLES: usize = 2_000;

/// The samples of one stats object.
#[derive(Debug, Default)]
pub(super) struct Samples {
    kind: String,
    pub(super) times: Vec<f64>,
    /// One value per sample for each property; null where the property was absent.
    pub(super) properties: BTreeMap<String, Vec<Value>>,
    /// One sample in `stride` is kept; at least 1 once sampled.
    stride: u64,
    seen: u64,
}

impl Samples {
    pub(super) fn add(&mut self, time: f64, object: &Map<String, Value>) {
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
        // Chromium's own name for the side of a candidate, which importers rely on.
        if matches!(self.kind.as_str(), "local-candidate" | "remote-candidate") {
            let values = self.properties.entry("isRemote".to_owned()).or_default();
            values.resize(before, Value::Null);
            values.push((self.kind == "remote-candidate").into());
        }
        for values in self.properties.values_mut() {
            values.resize(self.times.len(), Value::Null);
        }
        if self.times.len() >= MAX_SAMPLES {
            self.thin();
        }
    }

    /// Drops every second sample.
    fn thin(&mut self) {
        every_second(&mut self.times);
        self.properties.values_mut().for_each(every_second);
        self.stride *= 2;
    }

    pub(super) fn add_series(&self, id: &str, series: &mut Map<String, Value>) {
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
