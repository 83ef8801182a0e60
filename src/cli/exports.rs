//! Report files, common to all commands with results: `--html`, `--markdown`, `--junit`, `--csv`.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::{
    report::{
        bench::{Named, csv, html, junit, markdown},
        whole_file,
    },
    types::Stage,
};

/// Flags for report files.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Reports")]
pub struct ExportArgs {
    /// Write a self-contained HTML page with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a Markdown summary, for example for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write `JUnit` XML for a CI server
    #[arg(long, value_name = "FILE", help = "Write JUnit XML for a CI server")]
    pub junit: Option<PathBuf>,
    /// Write the values as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// An output flag and its path.
pub type OutputFile<'a> = (&'static str, &'a Path);

/// One kind of report.
struct Format {
    flag: &'static str,
    path: fn(&ExportArgs) -> Option<&PathBuf>,
    render: fn(&[Named]) -> String,
}

/// To add a format, add a field above and a line here.
const FORMATS: &[Format] = &[
    Format { flag: "--html", path: |args| args.html.as_ref(), render: html::html },
    Format { flag: "--markdown", path: |args| args.markdown.as_ref(), render: markdown::markdown },
    Format { flag: "--junit", path: |args| args.junit.as_ref(), render: junit::junit },
    Format { flag: "--csv", path: |args| args.csv.as_ref(), render: csv::csv },
];

impl ExportArgs {
    /// Checks before the run that the files, and `others`, can be written afterward.
    ///
    /// # Errors
    /// Exit code 2 if two flags name the same file, 1 if a file is not writable.
    pub fn check(&self, others: &[OutputFile<'_>]) -> Result<(), Failure> {
        check(&[&self.requested()[..], others].concat())
    }

    /// Rejects reports that would overwrite an input file.
    ///
    /// # Errors
    /// Exit code 2: a report names one of `inputs`.
    pub fn check_apart_from(&self, inputs: &[PathBuf]) -> Result<(), Failure> {
        check_apart(&self.requested(), inputs)
    }

    /// Writes the requested reports, each of them atomically.
    ///
    /// # Errors
    /// A report cannot be written: exit code 1. Earlier ones are kept.
    pub fn write(&self, runs: &[Named]) -> Result<(), Failure> {
        for format in FORMATS {
            if let Some(path) = (format.path)(self) {
                whole_file::write(path, (format.render)(runs).as_bytes())
                    .map_err(|error| unwritable(format.flag, path, &error))?;
            }
        }
        Ok(())
    }

    fn requested(&self) -> Vec<OutputFile<'_>> {
        let one = |format: &Format| Some((format.flag, (format.path)(self)?.as_path()));
        FORMATS.iter().filter_map(one).collect()
    }
}

fn check(requested: &[OutputFile<'_>]) -> Result<(), Failure> {
    for (index, (flag, path)) in requested.iter().enumerate() {
        if let Some((other, _)) = requested[..index].iter().find(|(_, one)| same_file(one, path)) {
            return Err(Failure::usage(
                format!("{other} and {flag} name the same file `{}`", path.display()),
                "write each report to its own file",
            ));
        }
        whole_file::check(path).map_err(|error| unwritable(flag, path, &error))?;
    }
    Ok(())
}

fn check_apart(requested: &[OutputFile<'_>], inputs: &[PathBuf]) -> Result<(), Failure> {
    for (flag, path) in requested {
        if inputs.iter().any(|input| same_file(input, path)) {
            return Err(Failure::usage(
                format!("{flag} `{}` would overwrite an input file", path.display()),
                "use another name for the report",
            ));
        }
    }
    Ok(())
}

/// The failure for a file that cannot be written.
#[must_use]
pub fn unwritable(flag: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Stage::Output,
        format!("cannot write {flag} `{}`: {error}", path.display()),
        "use a file in an existing, writable directory on a disk with free space",
    )
}

/// Whether two paths name the same file, existing or not. Special files, such as /dev/null, may be named twice.
fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other && one.is_file(),
        (Err(_), Err(_)) => std::path::absolute(one).ok() == std::path::absolute(other).ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn unwritable_files_are_reported_before_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good.html");
        assert_eq!(check(&[("--html", &good)]), Ok(()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no file is left behind");
        let bad = dir.path().join("no/where.csv");
        let failure = check(&[("--html", &good), ("--csv", &bad)]).unwrap_err();
        assert_eq!(failure.exit, 1);
        assert!(failure.message.contains("--csv") && failure.message.contains("no/where.csv"));
        assert_eq!(check(&[("--csv", dir.path())]).unwrap_err().exit, 1, "a directory");
    }

    #[test]
    fn two_outputs_cannot_share_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("a"), dir.path().join("b"));
        let round = dir.path().join(".").join("a");
        let twice = |one: &Path, two: &Path| check(&[("--html", one), ("--csv", two)]);
        for there in [false, true] {
            if there {
                fs::write(&file, "x").unwrap();
            }
            let failure = twice(&file, &round).unwrap_err();
            assert_eq!(failure.exit, 2);
            assert!(failure.message.contains("--html and --csv"), "{failure}");
            assert_eq!(twice(&file, &other), Ok(()));
        }
        assert_eq!(twice(Path::new("/dev/null"), Path::new("/dev/null")), Ok(()));
        let failure = check_apart(&[("--csv", &round)], std::slice::from_ref(&file)).unwrap_err();
        assert_eq!(failure.exit, 2);
        assert_eq!(check_apart(&[("--csv", &other)], std::slice::from_ref(&file)), Ok(()));
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }
}
