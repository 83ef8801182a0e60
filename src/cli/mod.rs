//! The command line: one thin file a command.
//!
//! `main` reads words into arguments ([`layers`]: argv over environment over [`config`] file over
//! default), starts a runtime, runs one command and turns its [`failure::Failure`] into an exit code.
//! A new command is a line in `Command` and a line in `run`.

use std::{ffi::OsString, path::PathBuf, process::ExitCode, time::Instant};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod bench;
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
pub mod link;
pub mod load;
pub mod logging;
pub mod man;
pub mod network;
pub mod observe;
pub mod observing;
pub mod output;
pub mod recv;
pub mod report;
pub mod secret;
pub mod send;
pub mod serve;
pub mod stop;
pub mod token;
pub mod twilio;
pub mod view;
pub use crate::units;

use self::{
    failure::{ErrorLine, Failure},
    layers::Refusal,
    output::{ColorWhen, Output},
};
use crate::types::Stage;

/// Worker threads of the runtime: network and timers; cameras and codecs have threads of their own.
const WORKER_THREADS: usize = 2;

const AFTER_HELP: &str = "\
Every flag --some-flag has a variable ORION_SOME_FLAG and a key some-flag in orion-peer.toml: in \
--config FILE, or else ./orion-peer.toml, or else $XDG_CONFIG_HOME/orion-peer/orion-peer.toml. \
Keys stand at its top for all commands, or under [COMMAND] for one. A flag goes before the variable, \
the variable before the key. Secrets may be @FILE. Times are written 3.5s, 500ms, 1h30m; sizes 100KB \
(1000 bytes each), 64KiB (1024).

Exit codes: 0 done, 1 could not do it, 2 usage or configuration, 3 a requirement was not met, 130 \
stopped by Ctrl-C before it was done.";

/// Headless WebRTC peer and test harness: sends and receives H.264 keyframes the way the Orion apps do.
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

/// Flags of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write JSON Lines to stdout, and nothing else there
    #[arg(long, global = true)]
    json: bool,
    /// Colors on stderr; auto obeys `NO_COLOR`
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: ColorWhen,
    /// Log to stderr: -v signaling messages, states and the selected pair; -vv descriptions, candidates and control
    /// messages, too; -vvv everything; `ORION_LOG` takes a filter
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Say only errors and results
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print help
    // HelpShort: one line a flag, with -h and with --help.
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    /// Be the phone: capture, encode every frame as a keyframe, send one every interval
    Send(send::SendArgs),
    /// Be the Mac: receive keyframes and write each to disk
    Recv(recv::RecvArgs),
    /// Serve signaling, tokens, STUN and TURN
    Serve(Box<serve::ServeArgs>),
    /// Connect again and again, measure, gate, report
    Bench(Box<bench::args::BenchArgs>),
    /// Run peers behind given NATs and links, and compare with theory
    Lab(Box<lab::args::LabArgs>),
    /// Run serve, send and recv on this machine
    Demo(demo::DemoArgs),
    /// Show saved bench results, compare them with the first, write reports
    Report(report::ReportArgs),
    /// Fetch, mint or inspect a signaling token
    Token(token::TokenArgs),
    /// Say what this network and these ICE servers can do
    Doctor(Box<doctor::DoctorArgs>),
    /// Hold a signaling and token server against the wire contract
    Check(Box<check::CheckArgs>),
    /// Open many rooms on a signaling server, relay, and measure
    Load(Box<load::LoadArgs>),
    /// List cameras and their formats
    Devices(devices::DevicesArgs),
    /// Show a page of the guide, or list its pages
    Guide(guide::GuideArgs),
    /// Print a shell completion script
    Completions(completions::CompletionsArgs),
    /// Print the man page, or write one page a command
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
    let begun = Instant::now();
    let argv = &hints::without_help_of_help(argv);
    let cli = match parse(argv) {
        Ok(cli) => cli,
        Err(Refusal::Clap(error)) => return refuse(&error, early_output(argv)),
        Err(Refusal::Failure(failure)) => return exit_of(Err(failure), early_output(argv)),
    };
    let output = Output {
        json: cli.global.json,
        // Lines for people would stand between those for a program.
        quiet: cli.global.quiet || log_format(&cli.command) == Some(logging::LogFormat::Json),
        color: cli.global.color.resolve(),
        begun: Some(begun),
    };
    exit_of(run_in_runtime(cli, output), output)
}

/// How a command logs; none is for people, on demand.
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
    // A thread that still reads stdin would keep an orderly shutdown waiting for ever.
    runtime.shutdown_background();
    result
}

fn parse(argv: &[OsString]) -> Result<Cli, Refusal> {
    let matches = layers::parse(&Cli::command(), argv).map_err(|refusal| match refusal {
        Refusal::Clap(error) => Refusal::Clap(Box::new(hints::hinted(*error, argv))),
        refusal @ Refusal::Failure(_) => refusal,
    })?;
    Cli::from_arg_matches(&matches).map_err(|error| Refusal::Clap(Box::new(error)))
}

/// How to talk when the arguments are not known yet, or are wrong.
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
        begun: None,
    }
}

/// Prints clap's text (an error, help, the version) and gives clap's exit code: 2, or 0 for the latter.
fn refuse(error: &clap::Error, output: Output) -> ExitCode {
    // Broken pipes are no reason to panic; there is nowhere else to write.
    let _ = error.print();
    if error.exit_code() != 0 {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::usage(message, "`orion-peer COMMAND --help` tells what is accepted");
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
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
