//! `orion-peer lab`: peers behind given NATs and links.

pub mod shell;
mod wire;

use clap::{Args, Subcommand};

use super::{failure::Failure, output::Output};
use crate::{kernel::KernelError, types::Stage};

/// Flags of `lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    #[command(subcommand)]
    command: LabCommand,
}

/// What else the lab does.
#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Run a shell, or any command, behind a NAT made by the kernel (Linux)
    Shell(Box<shell::ShellArgs>),
    /// Be the link between two interfaces: the kernel lab starts this for itself
    #[command(hide = true)]
    Wire(wire::WireArgs),
}

/// Runs what was asked for.
///
/// # Errors
/// See the commands.
pub async fn run(args: LabArgs, output: Output) -> Result<(), Failure> {
    match args.command {
        LabCommand::Shell(args) => shell::run(*args, output).await,
        LabCommand::Wire(args) => wire::run(args),
    }
}

/// A lab of the kernel that could not be had: exit code 2 for what no machine could do, else 1.
#[must_use]
pub fn kernel_failure(error: &KernelError) -> Failure {
    let (message, remedy) = (error.to_string(), error.remedy());
    match error {
        KernelError::Unsupported(_) | KernelError::TwoProfiles { .. } => {
            Failure::usage(message, remedy)
        }
        _ => Failure::new(Stage::Config, message, remedy),
    }
}
