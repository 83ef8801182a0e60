//! The command line: one thin file a command.

pub mod devices;
pub mod failure;
pub mod serve;

/// Runs the program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
