//! Finds the programs that have a file open, from `/proc` (proc(5)).

use std::{fs, path::Path};

/// The other programs that have `path` open, as `NAME (process ID)`; only root sees programs of other
/// users.
pub(super) fn of(path: &Path) -> Vec<String> {
    let own = std::process::id();
    let mut ids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| *id != own && has_open(*id, path))
        .collect();
    ids.sort_unstable();
    ids.into_iter().map(describe).collect()
}

fn has_open(process: u32, path: &Path) -> bool {
    fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .any(|target| target == path)
}

fn describe(process: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("process {process}"),
        name => format!("{name} (process {process})"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_program_is_named_and_this_one_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(of(file.path()), Vec::<String>::new());
        let mut other = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(file.reopen().unwrap()))
            .spawn()
            .unwrap();
        let found = of(file.path());
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(found, [format!("sleep (process {})", other.id())]);
    }
}
