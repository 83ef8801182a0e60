//! Progress output of a bench run: a bar on a terminal, occasional lines elsewhere, JSON Lines on request,
//! and the statistics file.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Map, Value, json};

use crate::{
    bench::BenchEvent,
    cli::{failure::Failure, output::Output},
    report::{
        bench::{BenchResult, schema::ConnectionRecord},
        human,
        live::{LiveMode, Progress},
        stats::StatsWriter,
    },
    types::Stage,
};

/// Interval between progress lines when stderr is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of a run.
pub struct BenchDisplay {
    output: Output,
    stream: bool,
    progress: Progress,
    stats: Option<StatsWriter>,
    connections: u64,
    done: u64,
    failed: u64,
    line_due: Instant,
    terminal: bool,
    failure: Option<Failure>,
    /// Number of occurrences of each kind of failure, of connections and of ICE servers.
    failure_counts: BTreeMap<(String, String), u64>,
}

impl BenchDisplay {
    /// Opens the outputs.
    ///
    /// # Errors
    /// The statistics directory is not writable.
    pub fn new(
        output: Output,
        stream: bool,
        stats: Option<&std::path::Path>,
        connections: u64,
    ) -> Result<Self, Failure> {
        let stats = stats.map(StatsWriter::create).transpose().map_err(|error| {
            Failure::new(
                Stage::Output,
                error.to_string(),
                "check the path, its permissions and the free disk space",
            )
        })?;
        let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let mode = LiveMode::choose(terminal, output.quiet, output.color);
        Ok(Self {
            output,
            stream,
            progress: Progress::new(mode, connections),
            stats,
            connections,
            done: 0,
            failed: 0,
            line_due: Instant::now() + LINE_EVERY,
            terminal,
            failure: None,
            failure_counts: BTreeMap::new(),
        })
    }

    /// Announces the configuration of the run.
    pub fn start(&mut self, config: &Map<String, Value>) {
        self.event("start", &json!({ "config": config, "version": env!("CARGO_PKG_VERSION") }));
    }

    /// Handles an event of the run.
    pub fn on(&mut self, event: BenchEvent) {
        match event {
            BenchEvent::Connection(record) => self.connection(&record),
            BenchEvent::Stats { connection, report } => {
                self.event("stats", &json!({ "connection": connection, "report": report }));
                if let Some(stats) = &mut self.stats {
                    let report = prefixed(connection, report);
                    if let Err(error) = stats.write(SystemTime::now(), &report) {
                        self.stats = None;
                        self.fail(Failure::new(
                            Stage::Output,
                            error.to_string(),
                            "free some disk space for --stats",
                        ));
                    }
                }
            }
        }
    }

    fn connection(&mut self, record: &ConnectionRecord) {
        self.done += 1;
        self.event("connection", &json!(record));
        if let Some(failure) = &record.failure {
            self.failed += 1;
            let times = self
                .failure_counts
                .entry((failure.stage.to_string(), failure.code.clone()))
                .or_default();
            *times += 1;
            // The first failure of a kind is shown immediately; the result lists all of them.
            if *times == 1 {
                self.output.line(format!(
                    "connection {} failed: {}: {}",
                    record.index, failure.stage, failure.message
                ));
                self.output.line(format!("  try: {}", failure.remedy));
            }
        }
        for server in record.ice_servers.iter().filter(|server| server.code.is_some()) {
            let times =
                self.failure_counts.entry((server.url.clone(), server.result.clone())).or_default();
            *times += 1;
            if *times == 1 {
                self.output.line(format!(
                    "ICE server {}: {} {}",
                    server.url,
                    server.code.unwrap_or_default(),
                    server.reason.as_deref().unwrap_or_default()
                ));
            }
        }
        let now = Instant::now();
        let text = self.text(record);
        self.progress.update(self.done, &text);
        if !self.terminal && now >= self.line_due {
            self.line_due = now + LINE_EVERY;
            self.output.line(format!("{}/{}: {text}", self.done, self.connections));
        }
    }

    fn text(&self, record: &ConnectionRecord) -> String {
        let mut parts = vec![record.connection_type.clone().unwrap_or_else(|| "failed".into())];
        if let Some(total) = record.setup_ms.total {
            parts.push(format!("setup {}", human::millis(total)));
        }
        let mut rtt: Vec<f64> = record.rtt.iter().map(|sample| sample[1]).collect();
        rtt.sort_by(f64::total_cmp);
        if let Some(median) = rtt.get(rtt.len() / 2) {
            parts.push(format!("rtt {}", human::millis(*median)));
        }
        if self.failed > 0 {
            parts.push(format!("{} failed so far", self.failed));
        }
        parts.join(", ")
    }

    /// Writes the result as the last line of the stream.
    pub fn end(mut self, result: &BenchResult) -> Result<(), Failure> {
        self.event("end", &json!(result));
        drop(self.progress);
        self.failure.map_or(Ok(()), Err)
    }

    fn event(&mut self, name: &str, data: &Value) {
        if self.stream
            && let Err(failure) =
                self.output.event(&json!({ "kind": name, "event": name, "data": data }))
        {
            self.fail(failure);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }
}

/// Prefixes stats ids with the connection, because they are unique only within a connection.
fn prefixed(connection: u64, report: Map<String, Value>) -> Map<String, Value> {
    report.into_iter().map(|(id, value)| (format!("{connection}/{id}"), value)).collect()
}
