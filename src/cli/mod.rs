//! The command line: one thin file per command.
//!
//! `main` parses the arguments ([`layers`]: argv over environment over [`config`] file over default), starts a
//! runtime, runs one command and converts its [`failure::Failure`] to an exit code. A new command needs one line
//! in `Command` and one in `run`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Instant};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod bench;
pub mod call;
pub mod check;
pub mod completions;
pub mod config;
pub mod connect;
pub mod demo;
pub mod devices;
pub mod doctor;
pub mod exports;
pub mod failure;
pub mod github_actions;
pub mod guide;
mod hints;
pub mod ice;
pub mod lab;
pub mod layers;
pub mod load;
pub mod logging;
pub mod man;
pub mod network;
pub mod output;
pub mod recv;
pub mod report;
pub mod reporter_thread;
pub mod secret;
pub mod send;
pub mod serve;
pub mod session_reporter;
pub mod stop;
pub mod token;
pub mod twilio;
pub mod view;
pub use crate::units;

use self::{
    failure::{ErrorLine, Failure},
    layers::ArgsError,
    output::{ColorWhen, Output},
};
use crate::types::Stage;

/// Worker threads of the runtime, for network and timers; cameras and codecs have their own threads.
const WORKER_THREADS: usize = 2;

const AFTER_HELP: &str = "\
Every flag --some-flag can also be set by the variable ORION_SOME_FLAG or the key some-flag in \
orion-peer.toml: in --config FILE, or else ./orion-peer.toml, or else \
$XDG_CONFIG_HOME/orion-peer/orion-peer.toml. Top-level keys apply to all commands, keys under [COMMAND] \
to one. Precedence: flag, environment variable, configuration file. Secrets can be given as @FILE. \
Durations are written as 3.5s, 500ms or 1h30m; sizes as 100KB (1000 bytes each) or 64KiB (1024).

Exit codes: 0 success, 1 failure, 2 usage or configuration error, 3 requirement not met, 130 \
interrupted.";

/// Headless WebRTC peer and test harness: sends and receives H.264 keyframes like the Orion apps.
#[derive(Debug, Parser)]
#[command(
    name = "orion-peer",
    version,
    after_help = AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_flag = true,
    max_term_width = 80
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

/// Flags common to all commands.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Configuration file to read
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write only JSON Lines to stdout
    #[arg(long, global = true)]
    json: bool,
    /// Use colors on stderr; auto respects `NO_COLOR`
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorWhen,
    /// Increase log verbosity: -v signaling messages, states and the selected candidate pair; -vv also descriptions,
    /// candidates and control messages; -vvv everything; `ORION_LOG` sets a filter
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Print only errors and results
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print help
    // HelpShort: the short form, for both -h and --help.
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Stand in for the phone: capture pictures and send them as H.264 keyframes
    Send(send::SendArgs),
    /// Stand in for the Mac: receive keyframes and write them to disk
    Recv(recv::RecvArgs),
    /// Run a signaling, token, STUN and TURN server
    Serve(Box<serve::ServeArgs>),
    /// Measure connection success, setup time, RTT and keyframes, and enforce gates
    Bench(Box<bench::args::BenchArgs>),
    /// Simulate NATs and links, and check which pairs connect
    Lab(Box<lab::args::LabArgs>),
    /// Run server, sender and receiver on this machine
    Demo(demo::DemoArgs),
    /// Show and compare saved bench results, and write reports
    Report(report::ReportArgs),
    /// Fetch, mint or inspect a signaling token
    Token(token::TokenArgs),
    /// Diagnose the network and the ICE servers
    Doctor(Box<doctor::DoctorArgs>),
    /// Test a signaling and token server for conformance with the wire contract
    Check(Box<check::CheckArgs>),
    /// Load-test a signaling server with many rooms
    Load(Box<load::LoadArgs>),
    /// List cameras and their formats
    Devices(devices::DevicesArgs),
    /// Show a page of the guide, or list its pages
    Guide(guide::GuideArgs),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
    /// Print the man page, or write one page per command
    Man(man::ManArgs),
}

async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Send(args) => send::run(args, output).await,
        Command::Recv(args) => Box::pin(recv::run(args, output)).await,
        Command::Serve(args) => Box::pin(serve::run(*args, output)).await,
        Command::Bench(args) => bench::run(*args, output).await,
        Command::Lab(args) => lab::run(*args, output).await,
        Command::Demo(args) => demo::run(args, output).await,
        Command::Report(args) => report::run(&args, output),
        Command::Token(args) => token::run(args, output).await,
        Command::Doctor(args) => doctor::run(*args, output).await,
        Command::Check(args) => check::run(*args, output).await,
        Command::Load(args) => Box::pin(load::run(*args, output)).await,
        Command::Devices(args) => devices::run(&args, output),
        Command::Guide(args) => guide::run(&args, output),
        Command::Completions(args) => completions::run(&args, output),
        Command::Man(args) => man::run(&args, output),
    }
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    start(&std::env::args_os().collect::<Vec<_>>())
}

fn start(argv: &[OsString]) -> ExitCode {
    let started_at = Instant::now();
    let argv = &hints::without_help_of_help(argv);
    let cli = match parse(argv) {
        Ok(cli) => cli,
        Err(ArgsError::Clap(error)) => return refuse(&error, early_output(argv)),
        Err(ArgsError::Failure(failure)) => return exit_of(Err(failure), early_output(argv)),
    };
    let output = Output {
        json: cli.global.json,
        // Human-readable lines would mix with the machine-readable log.
        quiet: cli.global.quiet || log_format(&cli.command) == Some(logging::LogFormat::Json),
        color: cli.global.color.resolve(),
        started_at: Some(started_at),
    };
    exit_of(run_in_runtime(cli, output), output)
}

/// The log format of a command; `None` means human-readable, and nothing but warnings without -v.
fn log_format(command: &Command) -> Option<logging::LogFormat> {
    match command {
        Command::Serve(args) => args.operation.log_format,
        _ => None,
    }
}

fn run_in_runtime(cli: Cli, output: Output) -> Result<(), Failure> {
    let format = log_format(&cli.command);
    logging::start(cli.global.verbose, cli.global.quiet, output.color, format)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| {
            Failure::new(
                Stage::Config,
                format!("cannot start the runtime: {error}"),
                "raise the limits on open files and threads (ulimit -n, ulimit -u)",
            )
        })?;
    let result = runtime.block_on(run(cli.command, output));
    // An orderly shutdown would wait forever for a thread that still reads stdin.
    runtime.shutdown_background();
    result
}

fn parse(argv: &[OsString]) -> Result<Cli, ArgsError> {
    let matches = layers::parse(&Cli::command(), argv).map_err(|error| match error {
        ArgsError::Clap(error) => ArgsError::Clap(Box::new(hints::hinted(*error, argv))),
        failure @ ArgsError::Failure(_) => failure,
    })?;
    Cli::from_arg_matches(&matches).map_err(|error| ArgsError::Clap(Box::new(error)))
}

/// The output settings to use when the arguments cannot be parsed.
fn early_output(argv: &[OsString]) -> Output {
    let words = || argv.iter().skip(1).take_while(|word| *word != "--");
    let variable = std::env::var("ORION_JSON").is_ok_and(|value| {
        !matches!(
            value.to_ascii_lowercase().as_str(),
            "" | "0" | "n" | "no" | "f" | "false" | "off"
        )
    });
    let never = words().any(|word| word == "--color=never")
        || argv.windows(2).any(|pair| pair[0] == "--color" && pair[1] == "never");
    Output {
        json: variable || words().any(|word| word == "--json"),
        quiet: false,
        color: if never { false } else { ColorWhen::Auto.resolve() },
        started_at: None,
    }
}

/// Prints clap's text (an error, help or the version) and returns clap's exit code: 2 for an error, otherwise 0.
fn refuse(error: &clap::Error, output: Output) -> ExitCode {
    // A broken pipe must not cause a panic, and there is nowhere else to write.
    let _ = error.print();
    if error.exit_code() != 0 {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::usage(message, "see `orion-peer COMMAND --help` for usage");
        let _ = output.event(&ErrorLine { error: &failure });
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn exit_of(result: Result<(), Failure>, output: Output) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
