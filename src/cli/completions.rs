//! `completions`: shell completion scripts for commands, flags and their values.

use clap::{
    Arg, Command, CommandFactory, ValueHint,
    builder::{PossibleValue, PossibleValuesParser, Resettable, Str},
};
use clap_complete::Shell;

use super::{Cli, failure::Failure, output::Output};
use crate::{
    media::sink::PictureFormat,
    nat::{named, profile},
    report::bench::gates::RequiredType,
};

/// The program's name in the shell.
const NAME: &str = "orion-peer";

/// Keywords of `--source`, which also takes a file.
const SOURCES: [&str; 2] = ["camera", "pattern"];

/// Flags of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell to write the script for
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Writes the script to stdout.
///
/// # Errors
/// stdout cannot be written.
pub fn run(args: &CompletionsArgs, output: Output) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut commands = offered(&Cli::command());
    clap_complete::generate(args.shell, &mut commands, NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = match args.shell {
        Shell::Bash => with_one_name(&script),
        Shell::Zsh => script.replace(
            &format!(":SOURCE:({})", SOURCES.join(" ")),
            ":SOURCE:{_alternative \"words\\:word\\:(camera pattern)\" \"files\\:file\\:_files\"}",
        ),
        Shell::Fish => with_files(&script) + &positional_values(&commands),
        _ => script.into_owned(),
    };
    output.raw(script.as_bytes())
}

/// Makes bash complete subcommands. `clap_complete` 4.6.11 writes the hyphen of the program's name as `__`
/// where the script looks up the command (`src/aot/shells/bash.rs:31`), and as `__subcmd__` where it lists the
/// arguments of that command (`:155`); clap issues 6421 and 6529.
fn with_one_name(script: &str) -> String {
    let (looked_up, listed) = (NAME.replace('-', "__"), NAME.replace('-', "__subcmd__"));
    script.replace(&listed, &looked_up)
}

/// Also offers files for `--source`: in fish, known values exclude them (`-f`).
fn with_files(script: &str) -> String {
    let words = format!("\"{}\"", SOURCES.map(|word| format!("{word}\\t''")).join("\n"));
    script.replace(&format!("-r -f -a {words}"), &format!("-r -F -a {words}"))
}

/// The values of positional arguments, which `clap_complete` 4.6.11 omits for fish (`src/aot/shells/fish.rs:9`).
fn positional_values(commands: &Command) -> String {
    let lines = commands.get_subcommands().flat_map(|command| {
        command.get_positionals().map(|arg| {
            let values = arg.get_possible_values();
            let names: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
            (command.get_name().to_owned(), names.join(" "))
        })
    });
    let using = format!("__fish_{}_using_subcommand", NAME.replace('-', "_"));
    let lines = lines.filter(|(_, names)| !names.is_empty()).map(|(command, names)| {
        format!("complete -c {NAME} -n \"{using} {command}\" -f -a \"{names}\"\n")
    });
    lines.collect()
}

/// The command to complete: without hidden subcommands and flags, and with the known values of flags.
fn offered(command: &Command) -> Command {
    let args = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    let mut offered = Command::new(command.get_name().to_owned())
        .disable_help_flag(command.is_disable_help_flag_set())
        .args(args.map(|arg| complete(arg.clone())))
        .subcommands(below.map(self::offered));
    if let Some(about) = command.get_about() {
        offered = offered.about(about.clone());
    }
    match command.get_version() {
        Some(version) => offered.version(version.to_owned()),
        None => offered,
    }
}

/// Adds the accepted values of a flag, or a hint about their kind.
fn complete(arg: Arg) -> Arg {
    // Requirements and conflicts may refer to hidden flags.
    let arg = arg.requires(Resettable::Reset).conflicts_with(Resettable::Reset);
    let values = arg.get_long().map(values).unwrap_or_default();
    if !values.is_empty() {
        // The default may not be among the values.
        return arg
            .default_value(Resettable::Reset)
            .value_parser(PossibleValuesParser::new(values));
    }
    let names = arg.get_value_names().unwrap_or_default();
    let hint = match names.first().map(Str::as_str) {
        Some("FILE") => ValueHint::FilePath,
        Some("DIR") => ValueHint::DirPath,
        // Numbers are not file names.
        Some("N" | "TIME" | "PERCENT" | "BYTES" | "SIZE" | "RATE" | "PORT") => ValueHint::Other,
        _ => return arg,
    };
    arg.value_hint(hint)
}

/// Keywords that a flag accepts; empty if it accepts any text or its parser already lists them.
fn values(long: &str) -> Vec<String> {
    match long {
        "format" => PictureFormat::ALL.iter().map(ToString::to_string).collect(),
        "nat" | "profiles" => {
            let profiles = profile::NAMES.iter().map(|name| (*name).to_owned());
            profiles.chain(named::built_in().iter().map(|network| network.name.clone())).collect()
        }
        "require-type" => RequiredType::ALL.iter().map(ToString::to_string).collect(),
        "candidates" => owned(&["host", "srflx", "relay"]),
        "network" => owned(&["udp4", "udp6"]),
        "source" => owned(&SOURCES),
        "pace" | "phone-bitrate" => owned(&["auto", "off"]),
        "turn" => owned(&["udp", "tcp", "tls", "none"]),
        "message-rate" => owned(&["max", "off"]),
        _ => Vec::new(),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::layers, *};

    /// All flags of a command and its subcommands.
    fn flags(command: &Command) -> Vec<Arg> {
        let below = command.get_subcommands().flat_map(flags);
        command.get_arguments().cloned().chain(below).collect()
    }

    #[test]
    fn flags_accept_the_values_offered_for_completion() {
        let mut completed = Vec::new();
        for arg in flags(&Cli::command()) {
            let Some(long) = arg.get_long() else { continue };
            for value in values(long) {
                let checked = layers::check_value(&arg, std::slice::from_ref(&value));
                assert_eq!(checked, Ok(()), "--{long} {value}");
                completed.push(long.to_owned());
            }
        }
        completed.sort();
        completed.dedup();
        let known = [
            "candidates",
            "format",
            "message-rate",
            "nat",
            "network",
            "pace",
            "phone-bitrate",
            "profiles",
            "require-type",
            "source",
            "turn",
        ];
        assert_eq!(completed, known);
        for name in values("nat") {
            assert!(crate::nat::network(&name).is_ok(), "{name}");
        }
    }
}
