//! `orion-peer lab`: peers behind given NATs and links, and whether they connect as theory says.
//!
//! - [`args`]: its flags, made into pairs to measure · [`list`]: what `--nat` takes
//! - `show`: progress, and the result for people

pub mod args;
pub mod list;
mod show;

use std::{path::Path, sync::Arc};

use self::{args::LabArgs, list::ListArgs, show::Show};
use super::{exports, exports::ExportArgs, failure::Failure, output::Output, stop};
use crate::{
    matrix::{self, LabResult, Layer, Simulated, run::Job, table},
    report::{bench::schema::FailureRecord, whole_file},
    types::Stage,
};

/// What follows `lab`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum LabCommand {
    /// List the NAT profiles and the networks that have a name
    List(ListArgs),
}

/// Measures, or does what the subcommand says.
///
/// # Errors
/// Exit code 2 for flags and files that mean nothing, 1 when the lab cannot be had or the run was cut
/// short, 3 when a pair did not come out as expected.
pub async fn run(args: LabArgs, output: Output) -> Result<(), Failure> {
    match &args.command {
        Some(LabCommand::List(args)) => list::run(args, output),
        None => measure(&args, output).await,
    }
}

async fn measure(args: &LabArgs, output: Output) -> Result<(), Failure> {
    let job = args.job()?;
    check_files(args)?;
    let layer = Simulated::start().await.map_err(failed)?;
    let one = job.plans.len() == 1;
    let mut show = Show::new(output, job.plans.len());
    show.start(&job);
    let result =
        matrix::run(job, Arc::clone(&layer) as Arc<dyn Layer>, stop::asked(), &mut |cell| {
            show.cell(cell);
        })
        .await;
    layer.close().await;
    show.end(&result, one)?;
    write(args, &result)?;
    conclude(&result)
}

/// Finds out before the work whether the results can be written.
fn check_files(args: &LabArgs) -> Result<(), Failure> {
    let asked = [("--out", &args.out), ("--html", &args.html)];
    let asked: Vec<(&'static str, &Path)> =
        asked.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))).collect();
    ExportArgs::default().check(&asked)
}

/// Writes the result everywhere it was asked for.
fn write(args: &LabArgs, result: &LabResult) -> Result<(), Failure> {
    let write = |flag, path: &Path, text: String| {
        whole_file::write(path, text.as_bytes())
            .map_err(|error| exports::unwritable(flag, path, &error))
    };
    if let Some(out) = &args.out {
        write("--out", out, format!("{}\n", serde_json::json!(result)))?;
    }
    if let Some(html) = &args.html {
        write("--html", html, matrix::html(result))?;
    }
    Ok(())
}

/// Whether all came out as expected.
fn conclude(result: &LabResult) -> Result<(), Failure> {
    if result.partial {
        let message = format!("stopped: {}", table::verdict(result));
        let remedy = "let it run to its end; what was measured until then is in the result";
        return Err(Failure::new(Stage::Config, message, remedy).told());
    }
    if result.all_agree() {
        return Ok(());
    }
    let wrong: Vec<&matrix::Cell> = result.cells.iter().filter(|cell| !cell.agree).collect();
    let first = wrong.first().and_then(|cell| cell.reason.as_ref());
    let stage = first.map_or(Stage::Ice, |reason| reason.stage);
    let message = match wrong.as_slice() {
        [cell] => {
            format!("{}: expected {}, measured {}", cell.pair(), cell.expected, cell.measured)
        }
        wrong => format!("{} of {} pairs are not as expected", wrong.len(), result.total),
    };
    let remedy = first.map_or_else(String::new, |reason| reason.remedy.clone());
    Err(Failure::requirement(stage, message, remedy).told())
}

fn failed(failure: FailureRecord) -> Failure {
    let FailureRecord { stage, code, message, remedy } = failure;
    Failure { code: Some(code), ..Failure::new(stage, message, remedy) }
}

/// Pairs that are measured at once when nobody says how many: most of the time of each is waiting.
fn parallel(job: &Job) -> usize {
    job.parallel.min(job.plans.len())
}
