//! `orion-peer report`: show and compare saved results, and write reports.

use std::path::PathBuf;

use serde::Serialize;

use super::{exports::ExportArgs, failure::Failure, output::Output, units};
use crate::{
    report::{
        bench::{
            Named, compare::compare, gates::Gates, load::load, schema::Comparison, table::table,
        },
        schema::GateResult,
    },
    types::Stage,
};

/// Schema of the line that `--json` prints for several results.
const SCHEMA: &str = "orion-peer/report/1";

/// Flags of `report`.
#[derive(Debug, Clone, clap::Args)]
pub struct ReportArgs {
    /// Results written by `bench --out`; all others are compared with the first
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Maximum regression from the first result; exit code 3 if exceeded
    #[arg(long, value_name = "PERCENT", value_parser = units::increase)]
    max_regression: Option<f64>,
    #[command(flatten)]
    exports: ExportArgs,
}

/// The JSON line for several results.
#[derive(Debug, Serialize)]
struct ReportLine<'r> {
    schema: &'static str,
    baseline: &'r str,
    compared: Vec<Compared<'r>>,
    pass: bool,
}

/// One result compared with the first.
#[derive(Debug, Serialize)]
struct Compared<'r> {
    name: &'r str,
    comparison: Option<&'r Comparison>,
    /// The checks of `--max-regression`; the checks of the run itself are in its file.
    checks: &'r [GateResult],
}

/// Loads the results, compares them with the first, shows them and writes reports.
///
/// # Errors
/// Exit code 2 for a file that is not a result and for conflicting flags, 1 for a report that cannot be written,
/// 3 for a regression.
pub fn run(args: &ReportArgs, output: Output) -> Result<(), Failure> {
    if args.max_regression.is_some() && args.files.len() < 2 {
        return Err(Failure::usage(
            "--max-regression needs at least two results",
            "put the baseline first: orion-peer report OLD.json NEW.json --max-regression 10%",
        ));
    }
    args.exports.check_apart_from(&args.files)?;
    args.exports.check(&[])?;
    let mut runs = read(&args.files)?;
    let checks = judge(&mut runs, args.max_regression);
    show(&runs, &checks, output)?;
    args.exports.write(&runs)?;
    verdict(&runs, &checks)
}

/// Loads saved results.
///
/// # Errors
/// Exit code 2 for a file that is not a result.
pub fn read(files: &[PathBuf]) -> Result<Vec<Named>, Failure> {
    let one = |path: &PathBuf| match load(path) {
        Ok(result) => Ok(Named { name: path.display().to_string(), result }),
        Err(error) => Err(Failure::usage(error.to_string(), error.remedy())),
    };
    files.iter().map(one).collect()
}

/// Compares each result with the first and applies the gate. Returns the checks of all results but the first; they
/// also replace the checks against another baseline in the result itself.
fn judge(runs: &mut [Named], max_regression: Option<f64>) -> Vec<Vec<GateResult>> {
    let Some((first, others)) = runs.split_first_mut() else { return Vec::new() };
    let gates = Gates { max_regression, ..Gates::default() };
    let judge_one = |run: &mut Named| {
        let result = &mut run.result;
        let baseline = std::slice::from_ref(&*first);
        result.comparison = Some(compare(baseline, result, max_regression));
        let checks = gates.check(result);
        result.checks.retain(|check| !check.name.starts_with("max-regression"));
        result.checks.extend(checks.iter().cloned());
        result.pass = !result.partial && result.checks.iter().all(|check| check.pass);
        checks
    };
    others.iter_mut().map(judge_one).collect()
}

fn show(runs: &[Named], checks: &[Vec<GateResult>], output: Output) -> Result<(), Failure> {
    let [first, others @ ..] = runs else { return Ok(()) };
    if others.is_empty() {
        output.event(&first.result)?;
    } else {
        output.event(&ReportLine {
            schema: SCHEMA,
            baseline: &first.name,
            compared: others
                .iter()
                .zip(checks)
                .map(|(run, checks)| Compared {
                    name: &run.name,
                    comparison: run.result.comparison.as_ref(),
                    checks,
                })
                .collect(),
            pass: checks.iter().flatten().all(|check| check.pass),
        })?;
    }
    output.page(table(runs).trim_end())
}

fn verdict(runs: &[Named], checks: &[Vec<GateResult>]) -> Result<(), Failure> {
    let failed: Vec<String> = runs
        .iter()
        .skip(1)
        .zip(checks)
        .flat_map(|(run, checks)| {
            checks.iter().filter(|check| !check.pass).map(|check| {
                let note = check.note.as_deref().unwrap_or_default();
                format!("`{}`: {}: {note}", run.name, check.name)
            })
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Stage::Gate,
        failed.join("\n  "),
        "see the table for the changes, or allow more with --max-regression",
    ))
}
