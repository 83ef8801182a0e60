//! `man`: the manual, as one page with every command in it, or as one page a command.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, failure::Failure, output::Output};
use crate::types::Stage;

/// Flags of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write one page a command into this directory, instead of one page to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Writes the page or pages.
///
/// # Errors
/// The directory or stdout cannot be written.
pub fn run(args: &ManArgs, output: Output) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    match &args.out {
        Some(directory) => write_pages(command, directory, output),
        None => output.raw(&single_page(&command)),
    }
}

fn write_pages(command: Command, directory: &Path, output: Output) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Stage::Output,
            format!("cannot write man pages to `{}`: {error}", directory.display()),
            "give a directory that can be written with --out",
        )
    };
    fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(command, directory).map_err(failed)?;
    output.line(format!("man pages written to {}", directory.display()));
    Ok(())
}

/// One roff page: the program, then a section for each command.
fn single_page(command: &Command) -> Vec<u8> {
    let mut page = Vec::new();
    let program = Man::new(command.clone());
    let written = program
        .render_title(&mut page)
        .and_then(|()| program.render_name_section(&mut page))
        .and_then(|()| program.render_synopsis_section(&mut page))
        .and_then(|()| program.render_description_section(&mut page))
        .and_then(|()| program.render_options_section(&mut page))
        .and_then(|()| add_commands(command, &mut page))
        .and_then(|()| program.render_extra_section(&mut page));
    written.expect("writing to memory does not fail");
    String::from_utf8_lossy(&page).replace(".SH EXTRA", ".SH NOTES").into_bytes()
}

fn add_commands(above: &Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in above.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name =
            command.get_bin_name().unwrap_or(command.get_name()).to_uppercase().replace('-', "\\-");
        let about =
            command.get_about().map(ToString::to_string).unwrap_or_default().replace('-', "\\-");
        page.extend_from_slice(format!(".SH \"{name}\"\n{about}.\n").as_bytes());
        let mut body = Vec::new();
        // The global flags stand once, at the top.
        let own = command.clone().mut_args(|arg| {
            let hide = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(hide)
        });
        let man = Man::new(own);
        man.render_synopsis_section(&mut body)?;
        if command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help") {
            man.render_options_section(&mut body)?;
        }
        for line in String::from_utf8_lossy(&body).lines() {
            // roff's preamble stands once, at the top.
            if !line.starts_with(".ie ") && !line.starts_with(".el ") {
                page.extend_from_slice(line.replace(".SH ", ".SS ").as_bytes());
                page.push(b'\n');
            }
        }
        add_commands(command, page)?;
    }
    Ok(())
}
