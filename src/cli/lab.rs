//! `orion-peer lab`: connects peers behind given NATs and links, and checks that the outcome is the expected one.
//!
//! - [`args`]: flags, converted to the pairs to measure · [`list`]: the values of `--nat`
//! - `show`: progress and the human-readable result
//! - [`shell`]: a shell behind a kernel NAT · `wire`: the link of the kernel lab · `datagrams`: an attacker on it

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
    show::LabDisplay,
};
use super::{exports, exports::ExportArgs, failure::Failure, output::Output, stop};
use crate::{
    lab::matrix::{self, KernelBackend, LabBackend, LabResult, SimulatedBackend, run::Job, table},
    lab::timeline::{self, Timeline},
    netns::NetnsError,
    report::{schema::FailureRecord, whole_file},
    types::Stage,
};

/// Subcommands of `lab`.
#[derive(Debug, clap::Subcommand)]
pub enum LabCommand {
    /// List the NAT profiles and named networks
    List(ListArgs),
    /// Run a shell or a command behind a kernel NAT (Linux)
    Shell(Box<shell::ShellArgs>),
    /// Link two interfaces (started internally by the kernel lab)
    #[command(hide = true)]
    Wire(wire::WireArgs),
    /// Inject datagrams into an interface (started internally by the kernel lab)
    #[command(hide = true)]
    Inject(datagrams::InjectArgs),
    /// Print the datagrams on an interface (started internally by the kernel lab)
    #[command(hide = true)]
    Capture(datagrams::CaptureArgs),
}

/// Runs the measurement or the subcommand.
///
/// # Errors
/// Exit code 2 for invalid flags and files, 1 if the lab is unavailable or the run was interrupted, 3 if a
/// pair did not connect as expected.
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

/// The backend that a run uses.
enum StartedBackend {
    Simulated(Arc<SimulatedBackend>),
    Kernel(Arc<KernelBackend>),
}

impl StartedBackend {
    /// Starts the requested backend, or the simulated one as the allowed fallback.
    async fn start(args: &LabArgs, output: Output) -> Result<Self, Failure> {
        if args.kernel {
            match KernelBackend::start(None).await {
                Ok(lab) => return Ok(Self::Kernel(lab)),
                Err(error) if args.fallback == Some(Fallback::Simulated) => {
                    output.line(format!("{}; using simulated networks instead", error.message));
                }
                Err(error) => {
                    let remedy = format!("{}; or add --fallback simulated", error.remedy);
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
    let mut show = LabDisplay::new(output, job.plans.len());
    let mut result = if job.plans.is_empty() {
        matrix::run::no_pairs(job.seed)
    } else {
        let lab = StartedBackend::start(args, output).await?;
        show.start(&job);
        let mut notify = |cell: &matrix::Cell| show.cell(cell);
        let result = matrix::run(job, lab.layer(), stop::shutdown_signal(), &mut notify).await;
        lab.close().await;
        result
    };
    play(&timelines, args.logs.as_ref(), &mut result, output).await;
    show.end(&result, one)?;
    write(args, &result)?;
    conclude(&result)
}

/// Plays timelines one after the other, so that each has the machine to itself.
async fn play(
    timelines: &[Timeline],
    logs: Option<&PathBuf>,
    result: &mut LabResult,
    output: Output,
) {
    let options = timeline::PlaybackOptions { orion_peer: None, logs: logs.cloned() };
    for timeline in timelines {
        if result.partial {
            // Timelines that were not played count toward the total.
            result.total += 1;
            continue;
        }
        let (name, seconds) = (&timeline.name, timeline.duration.as_secs_f64());
        output.line(format!("{name}: {} ({seconds:.0} s)", timeline.description));
        let mut notify = |at: Duration, what: &str| {
            output.line(format!("{:>8.1} s  {what}", at.as_secs_f64()));
        };
        let played =
            timeline::run(timeline, options.clone(), stop::shutdown_signal(), &mut notify).await;
        let stage = played.reason.as_ref().map(|reason| reason.stage);
        result.partial = stage == Some(Stage::Interrupted);
        result.add(played);
    }
}

/// Checks before the run that the results can be written.
fn check_files(args: &LabArgs) -> Result<(), Failure> {
    if let Some(dir) = &args.logs {
        std::fs::create_dir_all(dir).map_err(|error| exports::unwritable("--logs", dir, &error))?;
    }
    let outputs = [("--out", &args.out), ("--html", &args.html)];
    let outputs: Vec<(&'static str, &Path)> =
        outputs.into_iter().filter_map(|(flag, path)| Some((flag, path.as_deref()?))).collect();
    ExportArgs::default().check(&outputs)
}

/// Writes the result to every requested file.
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

/// The failure that a result implies, if any.
fn conclude(result: &LabResult) -> Result<(), Failure> {
    if result.partial {
        let message = format!("stopped: {}", table::verdict(result));
        let remedy = "let it run to completion; the result contains the measurements so far";
        return Err(Failure::new(Stage::Interrupted, message, remedy).in_result());
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
        return Err(Failure::requirement(reason.stage, message, reason.remedy.clone()).in_result());
    }
    let wrong: Vec<&matrix::Cell> = result.cells.iter().filter(|cell| !cell.agree).collect();
    let first = wrong.first().and_then(|cell| cell.reason.as_ref());
    let stage = first.map_or(Stage::Ice, |reason| reason.stage);
    let message = match wrong.as_slice() {
        [cell] => {
            format!("{}: expected {}, measured {}", cell.pair(), cell.expected, cell.measured)
        }
        wrong => format!("{} of {} pairs differ from the expectation", wrong.len(), result.total),
    };
    let remedy = first.map_or_else(String::new, |reason| reason.remedy.clone());
    Err(Failure::requirement(stage, message, remedy).in_result())
}

fn failed(failure: FailureRecord) -> Failure {
    let FailureRecord { stage, code, message, remedy } = failure;
    Failure { code: Some(code), ..Failure::new(stage, message, remedy) }
}

/// Number of pairs measured concurrently.
fn parallel(job: &Job) -> usize {
    job.parallel.min(job.plans.len())
}

/// The failure for an unavailable kernel lab: exit code 2 if no machine supports the request, otherwise 1.
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
