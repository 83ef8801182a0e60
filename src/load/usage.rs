//! Resource usage of a process so far, from `/proc` (proc(5)); not available on other systems.

use std::fs;

/// Clock ticks per second in `/proc/PID/stat` (`USER_HZ`): 100 on every architecture of Linux.
const TICKS: f64 = 100.0;

/// Memory and CPU time of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Resident and swapped memory, bytes.
    pub memory: u64,
    /// CPU time of all threads, user and system, seconds.
    pub cpu: f64,
}

/// Reads the usage of a process; `None` when there is no such process, or no `/proc`.
#[must_use]
pub fn of(pid: u32) -> Option<Usage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(Usage { memory: memory(&status)?, cpu: cpu(&stat)? })
}

fn memory(status: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kib("VmRSS:")? + kib("VmSwap:").unwrap_or(0)) * 1024)
}

fn cpu(stat: &str) -> Option<f64> {
    // The name in parentheses may contain anything; fields are counted after it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_is_skipped() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0";
        assert_eq!(cpu(stat), Some(2.0));
        assert_eq!(memory("Name:\tx\nVmRSS:\t   10 kB\nVmSwap:\t 2 kB\n"), Some(12 * 1024));
        assert_eq!(memory("Name:\tkthreadd\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        assert!(of(std::process::id()).is_some_and(|usage| usage.memory > 1 << 20));
        assert_eq!(of(u32::MAX), None);
    }
}
