//! `orion-peer lab`: peers behind given NATs and links, and whether they connect as theory says.
//!
//! - [`args`]: its flags, made into pairs to measure · [`list`]: what `--nat` takes
//! - `show`: progress, and the result for people
//! - [`shell`]: a shell behind a NAT made by the kernel · `wire`: the link of the kernel's lab
//!   · `datagrams`: an attacker in it

pub mod args;
mod datagrams;
pub mod list;
pub mod shell;
mod show;
mod wire;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{
    args::{Fallback, LabArgs},
    list::ListArgs,
    show::Show,
};
use super::{exports, exports::ExportArgs, failure::Failure, output::Output, stop};
use crate::{
    lab::matrix::{self, KernelBackend, LabBackend, LabResult, SimulatedBackend, run::Job, table},
    lab::timeline::{self, Timeline},
    netns::NetnsError,
    report::{schema::FailureRecord, whole_file},
    types::Stage,
};

/// What follows `lab`.
#[derive(Debug, clap::Subcommand)]
pub enum LabCommand {
    /// List the NAT profiles and the networks that have a name
    List(ListArgs),
    /// Run a shell, or any command, behind a NAT made by the kernel (Linux)
    Shell(Box<shell::ShellArgs>),
    /// Be the link between two interfaces: the kernel lab starts this for itself
    #[command(hide = true)]
    Wire(wire::WireArgs),
    /// Put datagrams on an interface: the kernel lab starts this for itself
    #[command(hide = true)]
    Inject(datagrams::InjectArgs),
    /// Write the datagrams of an interface: the kernel lab starts this for itself
    #[command(hide = true)]
    Capture(datagrams::CaptureArgs),
}

/// Measures, or does what the subcommand says.
///
/// # Errors
/// Exit code 2 for flags and files that mean nothing, 1 when the lab cannot be had or the run was cut
/// short, 3 when a pair did not come out as expected.
pub async fn run(args: LabArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        Some(LabCommand::List(args)) => list::run(&args, output),
        Some(LabCommand::Shell(args)) => shell::run(*args, output).await,
        Some(LabCommand::Wire(args)) => wire::run(args),
        Some(LabCommand::Inject(args)) => datagrams::inject(&args),
        Some(LabCommand::Capture(args)) => datagrams::capture(&args),
        None => measure(&args, output).await,
    }
}

/// What makes the NATs and links.
enum Lab {
    Simulated(Arc<SimulatedBackend>),
    Kernel(Arc<KernelBackend>),
}

impl Lab {
    /// The one that was asked for, or the simulated one where that is allowed to take its place.
    async fn start(args: &LabArgs, output: Output) -> Result<Self, Failure> {
        if args.kernel {
            match KernelBackend::start(None).await {
                Ok(lab) => return Ok(Self::Kernel(lab)),
                Err(error) if args.fallback == Some(Fallback::Simulated) => {
                    output.line(format!("{}; simulating the networks instead", error.message));
                }
                Err(error) => {
                    let remedy = format!("{}; or give --fallback simulated", error.remedy);
                    return Err(failed(FailureRecord { remedy, ..error }));
                }
            }
        }
        SimulatedBackend::start().await.map(Self::Simulated).map_err(failed)
    }

    fn layer(&self) -> Arc<dyn LabBackend> {
        match self {
            Self::Simulated(lab) => Arc::clone(lab) as Arc<dyn LabBackend>,
            Self::Kernel(lab) => Arc::clone(lab) as Arc<dyn LabBackend>,
        }
    }

    async fn close(self) {
        if let Self::Simulated(lab) = self {
            lab.close().await;
        }
    }
}

async fn measure(args: &LabArgs, output: Output) -> Result<(), Failure> {
    let (job, timelines) = (args.job()?, args.timelines()?);
    check_files(args)?;
    let one = job.plans.len() == 1 && timelines.is_empty();
    let mut show = Show::new(output, job.plans.len());
    let mut result = if job.plans.is_empty() {
        matrix::run::no_pairs(job.seed)
    } else {
        let lab = Lab::start(args, output).await?;
        show.start(&job);
        let mut tell = |cell: &matrix::Cell| show.cell(cell);
        let result = matrix::run(job, lab.layer(), stop::asked(), &mut tell).await;
        lab.close().await;
        result
    };
    play(&timelines, args.logs.as_ref(), &mut result, output).await;
    show.end(&result, one)?;
    write(args, &result)?;
    conclude(&result)
}

/// Plays time lines, one after the other: each has the machine for itself.
async fn play(
    timelines: &[Timeline],
    logs: Option<&PathBuf>,
    result: &mut LabResult,
    output: Output,
) {
    let options = timeline::PlaybackOptions { orion_peer: None, logs: logs.cloned() };
    for timeline in timelines {
        if result.partial {
            // What was not played was to be measured, too.
            result.total += 1;
            continue;
        }
        let (name, seconds) = (&timeline.name, timeline.duration.as_secs_f64());
        output.line(format!("{name}: {} ({seconds:.0} s)", timeline.description));
        let mut tell = |at: Duration, what: &str| {
            output.line(format!("{:>8.1} s  {what}", at.as_secs_f64()));
        };
        let played = timeline::run(timeline, options.clone(), stop::asked(), &mut tell).await;
        let stage = played.reason.as_ref().map(|reason| reason.stage);
        result.partial = stage == Some(Stage::Interrupted);
        result.add(played);
    }
}

/// Finds out before the work whether the results can be written.
fn check_files(args: &LabArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.logs {
        std::fs::create_dir_all(dir).map_err(|error| exports::unwritable("--logs", dir, &error))?;
    }
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
        return Err(Failure::new(Stage::Interrupted, message, remedy).told());
    }
    if result.all_agree() {
        return Ok(());
    }
    let mut reasons =
        result.timelines.iter().filter_map(|one| Some((&one.name, one.reason.as_ref()?)));
    if let Some((name, reason)) = reasons.next() {
        if reason.code == "no-kernel-lab" {
            return Err(failed(reason.clone()));
        }
        let message = format!("{name}: {}", reason.message);
        return Err(Failure::requirement(reason.stage, message, reason.remedy.clone()).told());
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

/// A lab of the kernel that could not be had: exit code 2 for what no machine could do, else 1.
#[must_use]
pub fn kernel_failure(error: &NetnsError) -> Failure {
    let (message, remedy) = (error.to_string(), error.remedy());
    match error {
        NetnsError::Unsupported(_) | NetnsError::TwoProfiles { .. } => {
            Failure::usage(message, remedy)
        }
        _ => Failure::new(Stage::Config, message, remedy),
    }
}
