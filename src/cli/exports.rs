//! Reports as files, the same for every command that has results: `--html`, `--markdown`, `--junit`,
//! `--csv`.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::{
    report::{bench::Named, whole_file},
    types::Stage,
};

/// Flags for reports as files.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Reports")]
pub struct ExportArgs {}

/// One kind of report.
struct Format {
    flag: &'static str,
    path: fn(&ExportArgs) -> Option<&PathBuf>,
    render: fn(&[Named]) -> String,
}

/// A new format is a field above and a line here.
const FORMATS: &[Format] = &[];

impl ExportArgs {
    /// Finds out before the work whether the files can be written afterwards.
    ///
    /// # Errors
    /// Exit code 2 when two reports have the same file, 1 when one cannot be written.
    pub fn check(&self) -> Result<(), Failure> {
        let mut seen: Vec<(&str, &Path)> = Vec::new();
        for (format, path) in self.asked() {
            if let Some((other, _)) = seen.iter().find(|(_, one)| same_file(one, path)) {
                return Err(Failure::usage(
                    format!("{other} and {} name the same file `{}`", format.flag, path.display()),
                    "give each report a file of its own",
                ));
            }
            seen.push((format.flag, path));
            whole_file::check(path).map_err(|error| unwritable(format.flag, path, &error))?;
        }
        Ok(())
    }

    /// Refuses reports that would be written over a file that is read.
    ///
    /// # Errors
    /// Exit code 2: a report has the name of one of `inputs`.
    pub fn check_apart_from(&self, inputs: &[PathBuf]) -> Result<(), Failure> {
        for (format, path) in self.asked() {
            if inputs.iter().any(|input| same_file(input, path)) {
                return Err(Failure::usage(
                    format!("{} `{}` would replace a result", format.flag, path.display()),
                    "give the report another name",
                ));
            }
        }
        Ok(())
    }

    /// Writes the reports that were asked for; each is there whole, or not at all.
    ///
    /// # Errors
    /// One cannot be written: exit code 1. Those before it are written.
    pub fn write(&self, runs: &[Named]) -> Result<(), Failure> {
        for (format, path) in self.asked() {
            whole_file::write(path, (format.render)(runs).as_bytes())
                .map_err(|error| unwritable(format.flag, path, &error))?;
        }
        Ok(())
    }

    fn asked(&self) -> impl Iterator<Item = (&Format, &Path)> {
        FORMATS.iter().filter_map(|format| Some((format, (format.path)(self)?.as_path())))
    }
}

fn unwritable(flag: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(
        Stage::Output,
        format!("cannot write {flag} `{}`: {error}", path.display()),
        "give a file in a directory that is there and can be written, on a disk that has room",
    )
}

/// Whether two paths name one file, be it there or not. What is no regular file may be named twice.
fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other && one.is_file(),
        (Err(_), Err(_)) => std::path::absolute(one).ok() == std::path::absolute(other).ok(),
        _ => false,
    }
}
