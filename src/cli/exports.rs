//! Reports as files, the same for every command that has results: `--html`, `--markdown`, `--junit`,
//! `--csv`.

use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::{
    report::{
        bench::{Named, csv, html, junit, markdown},
        whole_file,
    },
    types::Stage,
};

/// Flags for reports as files.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Reports")]
pub struct ExportArgs {
    /// Write a page with plots, whole in one file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a Markdown summary, as for a pull request
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Write `JUnit` XML for a CI server
    #[arg(long, value_name = "FILE", help = "Write JUnit XML for a CI server")]
    pub junit: Option<PathBuf>,
    /// Write the values as CSV
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
}

/// A flag that was given, and its file.
pub type Asked<'a> = (&'static str, &'a Path);

/// One kind of report.
struct Format {
    flag: &'static str,
    path: fn(&ExportArgs) -> Option<&PathBuf>,
    render: fn(&[Named]) -> String,
}

/// A new format is a field above and a line here.
const FORMATS: &[Format] = &[
    Format { flag: "--html", path: |args| args.html.as_ref(), render: html::html },
    Format { flag: "--markdown", path: |args| args.markdown.as_ref(), render: markdown::markdown },
    Format { flag: "--junit", path: |args| args.junit.as_ref(), render: junit::junit },
    Format { flag: "--csv", path: |args| args.csv.as_ref(), render: csv::csv },
];

impl ExportArgs {
    /// Finds out before the work whether the files, and `others` by their flags, can be written
    /// afterwards.
    ///
    /// # Errors
    /// Exit code 2 when two have the same file, 1 when one cannot be written.
    pub fn check(&self, others: &[Asked<'_>]) -> Result<(), Failure> {
        check(&[&self.asked()[..], others].concat())
    }

    /// Refuses reports that would be written over a file that is read.
    ///
    /// # Errors
    /// Exit code 2: a report has the name of one of `inputs`.
    pub fn check_apart_from(&self, inputs: &[PathBuf]) -> Result<(), Failure> {
        check_apart(&self.asked(), inputs)
    }

    /// Writes the reports that were asked for; each is there whole, or not at all.
    ///
    /// # Errors
    /// One cannot be written: exit code 1. Those before it are written.
    pub fn write(&self, runs: &[Named]) -> Result<(), Failure> {
        for format in FORMATS {
            if let Some(path) = (format.path)(self) {
                whole_file::write(path, (format.render)(runs).as_bytes())
                    .map_err(|error| unwritable(format.flag, path, &error))?;
            }
        }
        Ok(())
    }

    fn asked(&self) -> Vec<Asked<'_>> {
        let one = |format: &Format| Some((format.flag, (format.path)(self)?.as_path()));
        FORMATS.iter().filter_map(one).collect()
    }
}

fn check(asked: &[Asked<'_>]) -> Result<(), Failure> {
    for (index, (flag, path)) in asked.iter().enumerate() {
        if let Some((other, _)) = asked[..index].iter().find(|(_, one)| same_file(one, path)) {
            return Err(Failure::usage(
                format!("{other} and {flag} name the same file `{}`", path.display()),
                "give each report a file of its own",
            ));
        }
        whole_file::check(path).map_err(|error| unwritable(flag, path, &error))?;
    }
    Ok(())
}

fn check_apart(asked: &[Asked<'_>], inputs: &[PathBuf]) -> Result<(), Failure> {
    for (flag, path) in asked {
        if inputs.iter().any(|input| same_file(input, path)) {
            return Err(Failure::usage(
                format!("{flag} `{}` would replace a result that is read", path.display()),
                "give the report another name",
            ));
        }
    }
    Ok(())
}

/// A file that cannot be written, as a failure.
#[must_use]
pub fn unwritable(flag: &str, path: &Path, error: &std::io::Error) -> Failure {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_that_cannot_be_written_are_told_before_the_work() {
        let dir = tempfile::tempdir().unwrap();
        let good = dir.path().join("good.html");
        assert_eq!(check(&[("--html", &good)]), Ok(()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
        let bad = dir.path().join("no/where.csv");
        let failure = check(&[("--html", &good), ("--csv", &bad)]).unwrap_err();
        assert_eq!(failure.exit, 1);
        assert!(failure.message.contains("--csv") && failure.message.contains("no/where.csv"));
        assert_eq!(check(&[("--csv", dir.path())]).unwrap_err().exit, 1, "a directory");
    }

    #[test]
    fn a_file_has_one_content() {
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
