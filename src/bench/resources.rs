//! Resource usage of a run.
//!
//! CPU time is read from the process clock (POSIX `CLOCK_PROCESS_CPUTIME_ID`); the resident set is read from
//! `/proc/self` (proc(5)) and omitted where that does not exist.

use std::sync::Mutex;

use crate::report::bench::schema::Resources;

/// Samples the resident set as connections open and close.
#[derive(Debug)]
pub(super) struct Meter {
    /// Resident set before the first counted connection, bytes.
    idle_rss: Option<u64>,
    cpu_before: Option<f64>,
    state: Mutex<MeterState>,
}

#[derive(Debug, Default)]
struct MeterState {
    open: u64,
    /// Maximum number of concurrent connections, and the resident set at that time, bytes.
    peak: Option<(u64, u64)>,
}

/// Guard of an open connection.
#[derive(Debug)]
pub(super) struct OpenConnection<'m>(&'m Meter);

impl Meter {
    pub(super) fn start() -> Self {
        Self { idle_rss: rss("VmRSS:"), cpu_before: cpu_seconds(), state: Mutex::default() }
    }

    /// Counts a connection as open until the returned guard is dropped.
    pub(super) fn opened(&self) -> OpenConnection<'_> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.open += 1;
        let now = state.open;
        if state.peak.is_none_or(|(most, _)| now >= most)
            && let Some(rss) = rss("VmRSS:")
        {
            state.peak = Some((now, rss));
        }
        OpenConnection(self)
    }

    pub(super) fn resources(&self) -> Resources {
        let state = self.state.lock().expect("no holder of this lock panics");
        let each = state.peak.zip(self.idle_rss).filter(|((open, _), _)| *open > 1);
        Resources {
            cpu_seconds: cpu_seconds().zip(self.cpu_before).map(|(now, before)| now - before),
            max_rss_bytes: rss("VmHWM:"),
            rss_bytes_per_connection: each
                .map(|((open, rss), idle)| rss.saturating_sub(idle) / open),
        }
    }
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.state.lock().expect("no holder of this lock panics").open -= 1;
    }
}

fn rss(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|text| text.strip_prefix(line))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

// `None` on other systems.
#[allow(clippy::unnecessary_wraps)]
#[cfg(unix)]
fn cpu_seconds() -> Option<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Some(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

#[cfg(not(unix))]
fn cpu_seconds() -> Option<f64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_reported_per_connection_if_there_are_several() {
        let meter = Meter::start();
        let one = meter.opened();
        assert_eq!(meter.resources().rss_bytes_per_connection, None, "one is not enough");
        let memory = std::hint::black_box(vec![1u8; 32 << 20]);
        let two = meter.opened();
        let each = meter.resources().rss_bytes_per_connection;
        assert!(each.is_none_or(|each| each >= 12 << 20), "{each:?} of {}", memory.len());
        drop((one, two));
        assert_eq!(meter.state.lock().unwrap().open, 0);
        assert!(meter.resources().cpu_seconds.is_none_or(|seconds| seconds >= 0.0));
    }
}
