//! `man`: the manual, as a single page or as one page per command.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, failure::Failure, output::Output};
use crate::types::Stage;

/// Flags of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Write one page per command into this directory, instead of a single page to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The description of an example, and its command line.
type Example = (&'static str, &'static str);

/// Examples by command. Those of the program itself come first.
const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "",
        &[
            ("Run server, sender and receiver in one process", "orion-peer demo"),
            ("Run a dev server, and connect both peers to it", "orion-peer serve"),
            ("", "orion-peer recv --out frames/"),
            ("", "orion-peer send --source pattern"),
        ],
    ),
    (
        "send",
        &[
            (
                "Send ten test pictures to the dev server",
                "orion-peer send --source pattern --count 10",
            ),
            (
                "Send a directory of pictures over another server",
                "orion-peer send --signal wss://example.org --access-token @login.jwt --source photos/",
            ),
        ],
    ),
    (
        "recv",
        &[
            (
                "Receive keyframes and show them in a browser",
                "orion-peer recv --out frames/ --view",
            ),
            (
                "Receive one keyframe, and fail if none arrives",
                "orion-peer recv --count 1 --timeout 30s",
            ),
        ],
    ),
    (
        "serve",
        &[
            ("Serve this machine", "orion-peer serve"),
            ("Serve phones on the local network", "orion-peer serve --lan"),
            (
                "Serve the internet",
                "orion-peer serve --listen 0.0.0.0:8787 --public-address 203.0.113.7 --db pairs.db \
                 --jwt-secret @jwt.secret --login-secret @login.secret --tls-cert chain.pem --tls-key key.pem",
            ),
        ],
    ),
    (
        "serve pairs add",
        &[(
            "Add a pair",
            "orion-peer serve pairs add --db pairs.db --phone iphone-1 --mac mac-1 --user alice",
        )],
    ),
    (
        "bench",
        &[
            ("Measure, and keep the result", "orion-peer bench --out baseline.json"),
            (
                "Fail if a metric has regressed",
                "orion-peer bench --baseline baseline.json --max-regression 25% --junit bench.xml",
            ),
        ],
    ),
    (
        "lab",
        &[
            ("Connect a phone on LTE with a Mac at home", "orion-peer lab --nat lte,home-router"),
            ("Measure all pairs of NAT profiles", "orion-peer lab --matrix --html matrix.html"),
        ],
    ),
    (
        "lab shell",
        &[(
            "Run a command behind a symmetric NAT",
            "orion-peer lab shell --nat sym -- orion-peer doctor",
        )],
    ),
    ("demo", &[("Send and receive five keyframes", "orion-peer demo --source pattern --count 5")]),
    (
        "report",
        &[(
            "Compare two results",
            "orion-peer report old.json new.json --max-regression 10% --html report.html",
        )],
    ),
    (
        "token",
        &[(
            "Fetch a token and show its contents",
            "orion-peer token fetch | orion-peer token inspect -",
        )],
    ),
    (
        "token mint",
        &[(
            "Sign a token",
            "orion-peer token mint --device phone --pair demo --secret @jwt.secret",
        )],
    ),
    (
        "doctor",
        &[
            ("Diagnose the network and the dev server", "orion-peer doctor"),
            (
                "Diagnose a single ICE server",
                "orion-peer doctor --no-signal --ice-server stun:stun.example.org",
            ),
        ],
    ),
    (
        "check",
        &[(
            "Test a server, with a report for CI",
            "orion-peer check --signal wss://example.org --access-token @login.jwt --junit check.xml",
        )],
    ),
    ("load", &[("Open 1000 rooms on a new server", "orion-peer load --rooms 1000 --duration 30s")]),
    ("devices", &[("List cameras", "orion-peer devices")]),
    (
        "completions",
        &[(
            "Install completions for bash",
            "orion-peer completions bash > ~/.local/share/bash-completion/completions/orion-peer",
        )],
    ),
    (
        "man",
        &[
            ("Show the manual", "orion-peer man | man -l -"),
            ("Install the manual", "orion-peer man --out ~/.local/share/man/man1"),
        ],
    ),
];

const EXIT_STATUS: [(&str, &str); 5] = [
    ("0", "Success."),
    ("1", "The command failed."),
    ("2", "Usage or configuration error."),
    ("3", "The command completed, but a requirement (a gate, a rule, an expectation) was not met."),
    ("130", "The command was interrupted by a signal before it completed."),
];

const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "ORION_SOME_FLAG",
        "Value of the flag --some-flag, such as ORION_SIGNAL for --signal. A flag on the command line takes \
         precedence over the variable, and the variable over the configuration file.",
    ),
    ("ORION_CONFIG", "Configuration file, like --config."),
    (
        "ORION_LOG",
        "Log filter, such as orion_peer=debug,webrtc=warn. Takes precedence over --verbose and --quiet.",
    ),
    ("NO_COLOR", "Disables colors if it is not empty."),
    ("XDG_CONFIG_HOME", "Directory of the user's configuration; default: ~/.config."),
    ("GITHUB_ACTIONS", "If true, bench writes annotations, a step summary and step outputs."),
];

const FILES: [(&str, &str); 2] = [
    ("./orion-peer.toml", "Configuration file, read if there is no --config."),
    (
        "$XDG_CONFIG_HOME/orion-peer/orion-peer.toml",
        "Configuration file, read if there is neither --config nor ./orion-peer.toml.",
    ),
];

const NOTATION: &str = "Top-level keys in the configuration file apply to all commands, keys under \
                        [COMMAND] to one. Secrets can be given as @FILE. Durations are written as 3.5s, \
                        500ms or 1h30m; sizes as 100KB (1000 bytes each) or 64KiB (1024).";

/// Writes the page or pages.
///
/// # Errors
/// The directory or stdout is not writable.
pub fn run(args: &ManArgs, output: Output) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let Some(directory) = &args.out else { return output.raw(single_page(&command).as_bytes()) };
    write_pages(&command, directory).map_err(|error| {
        Failure::new(
            Stage::Output,
            format!("cannot write man pages to `{}`: {error}", directory.display()),
            "specify a writable directory with --out",
        )
    })?;
    output.line(format!("man pages written to {}", directory.display()));
    Ok(())
}

fn write_pages(root: &Command, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for command in with_subcommands(root) {
        let file = directory.join(Man::new(command.clone()).get_filename());
        fs::write(file, command_page(root, command))?;
    }
    Ok(())
}

/// A command and all visible commands below it.
fn with_subcommands(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    std::iter::once(command).chain(below.flat_map(with_subcommands)).collect()
}

/// The page of one command.
fn command_page(root: &Command, command: &Command) -> String {
    let man = Man::new(command.clone());
    let mut page = rendered(|page| {
        man.render_title(page)?;
        man.render_name_section(page)
    });
    page += &synopsis(command, ".SH");
    page += &rendered(|page| {
        man.render_description_section(page)?;
        man.render_options_section(page)
    });
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        page += &rendered(|page| man.render_subcommands_section(page));
    }
    let (words, own_name) = (words(command), display_name(command));
    let names = with_subcommands(root).into_iter().map(display_name);
    let related: Vec<String> = names
        .filter(|name| *name != own_name)
        .filter(|name| *name == display_name(root) || name.starts_with(&own_name))
        .collect();
    let examples = EXAMPLES.iter().filter(|(path, _)| *path == words);
    page += &closing_sections(examples.flat_map(|(_, examples)| *examples), &related);
    in_bold(&page)
}

/// The whole manual: the program, then a section per command.
fn single_page(root: &Command) -> String {
    let man = Man::new(root.clone());
    let mut page = rendered(|page| {
        man.render_title(page)?;
        man.render_name_section(page)
    });
    page += &synopsis(root, ".SH");
    page += &rendered(|page| {
        man.render_description_section(page)?;
        man.render_options_section(page)
    });
    for command in with_subcommands(root).into_iter().skip(1) {
        page += &command_section(command);
    }
    page += &closing_sections(EXAMPLES.iter().flat_map(|(_, examples)| *examples), &[]);
    in_bold(&page)
}

fn command_section(command: &Command) -> String {
    let name = escaped(command.get_bin_name().unwrap_or(command.get_name())).to_uppercase();
    let about = escaped(&command.get_about().map(ToString::to_string).unwrap_or_default());
    let mut section = format!(".SH \"{name}\"\n{about}.\n{}", synopsis(command, ".SS"));
    if command.get_arguments().any(|arg| !arg.is_global_set() && arg.get_id() != "help") {
        // The global flags are described once, at the top.
        let own = command.clone().mut_args(|arg| {
            let hide = arg.is_global_set() || arg.get_id() == "help";
            arg.hide(hide)
        });
        let options = rendered(|page| Man::new(own).render_options_section(page));
        // So is the roff preamble.
        let preamble = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
        for line in options.lines().filter(|line| !preamble(line)) {
            section += &line.replace(".SH ", ".SS ");
            section.push('\n');
        }
    }
    section
}

/// The usage line of a command under a heading of the given level.
fn synopsis(command: &Command, heading: &str) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let rest = usage.strip_prefix(name).unwrap_or(usage);
    format!("{heading} SYNOPSIS\n\\fB{}\\fR{}\n", escaped(name), escaped(rest))
}

/// The sections that follow the options.
fn closing_sections<'e>(examples: impl Iterator<Item = &'e Example>, related: &[String]) -> String {
    let mut text = String::new();
    for (index, (what, line)) in examples.enumerate() {
        if index == 0 {
            text += ".SH EXAMPLES\n";
        }
        if !what.is_empty() {
            let _ = writeln!(text, ".PP\n{}:", escaped(what));
        }
        let _ = writeln!(text, ".PP\n.RS 4\n.nf\n{}\n.fi\n.RE", escaped(line));
    }
    text += &list("EXIT STATUS", &EXIT_STATUS);
    text += &list("ENVIRONMENT", &ENVIRONMENT);
    text += &list("FILES", &FILES);
    let _ = writeln!(text, ".PP\n{}", escaped(NOTATION));
    text += ".SH \"SEE ALSO\"\n";
    if related.is_empty() {
        text += &escaped("orion-peer COMMAND --help prints the flags of a command.");
    } else {
        let pages = related.iter().map(|name| format!("\\fB{}\\fR(1)", escaped(name)));
        text += &pages.collect::<Vec<_>>().join(", ");
    }
    text + "\n"
}

fn list(heading: &str, entries: &[(&str, &str)]) -> String {
    let mut text = format!(".SH \"{heading}\"\n");
    for (term, description) in entries {
        let _ = writeln!(text, ".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(description));
    }
    text
}

/// Text as roff: hyphens and backslashes are literal, and no line is a request.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

/// Sets code between backticks in bold.
fn in_bold(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    for line in page.lines() {
        let parts: Vec<&str> = line.split('`').collect();
        let paired = parts.len() % 2 == 1;
        for (index, part) in parts.iter().enumerate() {
            text += match index {
                0 => "",
                _ if !paired => "`",
                odd if odd % 2 == 1 => "\\fB",
                _ => "\\fR",
            };
            text += part;
        }
        text.push('\n');
    }
    text
}

fn rendered(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
    let mut page = Vec::new();
    render(&mut page).expect("writing to memory cannot fail");
    String::from_utf8_lossy(&page).into_owned()
}

/// The name of a command's page: `orion-peer-serve-pairs`.
fn display_name(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

/// The words of a command after the program's name: `serve pairs`.
fn words(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    name.split_once(' ').map_or_else(String::new, |(_, words)| words.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn root() -> Command {
        let mut root = Cli::command().disable_help_subcommand(true);
        root.build();
        root
    }

    #[test]
    fn examples_are_valid_command_lines() {
        for (path, examples) in EXAMPLES {
            let known =
                with_subcommands(&root()).into_iter().any(|command| words(command) == *path);
            assert!(known, "{path}");
            for (_, line) in *examples {
                let line = line.split(' ').take_while(|word| !matches!(*word, "|" | ">"));
                match Cli::command().try_get_matches_from(line) {
                    Ok(_) => {}
                    // A file after `@` does not exist here.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ValueValidation, "{error}"),
                }
            }
        }
    }

    #[test]
    fn every_command_has_a_page_with_all_sections() {
        let root = root();
        for command in with_subcommands(&root) {
            let page = command_page(&root, command);
            for section in ["SYNOPSIS", "\"EXIT STATUS\"", "ENVIRONMENT", "FILES", "\"SEE ALSO\""] {
                assert!(page.contains(section), "{}: {section}", display_name(command));
            }
            assert!(!page.contains('`'), "{page}");
        }
        assert!(single_page(&root).contains(".SH EXAMPLES"));
    }
}
