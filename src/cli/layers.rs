//! Argument layering: argv over environment over configuration file over default.
//!
//! This module does not know any particular flag. Before clap parses argv, every flag of every command gets the
//! variable `ORION_<FLAG>` and, as its clap default, its value from the configuration file. So clap's precedence
//! applies, and a new flag needs no code here. Values from outside argv are validated first, because clap's error
//! message would not mention the variable or the file.

mod redirect;

use std::{any::TypeId, ffi::OsString, path::Path};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{BoolishValueParser, Resettable, TypedValueParser},
    parser::ValueSource,
};

use super::{
    config::{ConfigFile, key_names},
    failure::Failure,
    secret::{SecretSource, SecretText},
    units,
};

/// Why the command line could not be parsed.
#[derive(Debug)]
pub enum ArgsError {
    /// A usage error, help or version, in clap's format.
    Clap(Box<clap::Error>),
    /// An invalid configuration file, or an invalid value in it or in a variable.
    Failure(Failure),
}

impl From<Failure> for ArgsError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// Parses argv alone; errors are left to [`parse`].
fn peek(root: &Command, argv: &[OsString]) -> Option<ArgMatches> {
    root.clone().ignore_errors(true).try_get_matches_from(argv).ok()
}

/// Parses argv, with environment and configuration file as lower layers.
///
/// # Errors
/// [`ArgsError`]: argv, a variable or the file is not valid.
pub fn parse(root: &Command, argv: &[OsString]) -> Result<ArgMatches, ArgsError> {
    let peeked = peek(root, argv);
    let config = match &peeked {
        Some(matches) => find_config(matches)?,
        None => None,
    };
    if let Some(config) = &config {
        config.check(root, &|arg, values| {
            // Secret files of other commands are not read.
            if is_secret(arg) { Ok(()) } else { check_value(arg, values) }
        })?;
    }
    if let Some(matches) = &peeked {
        check_invoked(root, matches, &mut Vec::new(), config.as_ref())?;
        if let Some(config) = &config {
            redirect::check(root, matches, config)?;
        }
    }
    let layered = layer(root.clone(), &mut Vec::new(), config.as_ref());
    layered.try_get_matches_from(argv).map_err(|error| ArgsError::Clap(Box::new(error)))
}

fn find_config(matches: &ArgMatches) -> Result<Option<ConfigFile>, Failure> {
    let mut named = None;
    let mut level = Some(matches);
    while let Some(matches) = level {
        if let Ok(Some(path)) = matches.try_get_one::<std::path::PathBuf>("config") {
            named = Some(path.clone());
        }
        level = matches.subcommand().map(|(_, below)| below);
    }
    let named = named.or_else(|| variable("ORION_CONFIG").map(Into::into));
    ConfigFile::find(named.as_deref().map(Path::new))
}

/// The value of an environment variable; an empty value counts as unset.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn is_secret(arg: &Arg) -> bool {
    let parsed = arg.get_value_parser().type_id();
    parsed == TypeId::of::<SecretText>() || parsed == TypeId::of::<SecretSource>()
}

/// The environment variable of a flag: the one it declares, or `ORION_<FLAG>`.
fn variable_name(arg: &Arg) -> Option<String> {
    if let Some(name) = arg.get_env() {
        return Some(name.to_string_lossy().into_owned());
    }
    let special = key_names(arg).is_empty() && arg.get_long() != Some("config");
    let long = arg.get_long().filter(|_| !special)?;
    Some(format!("ORION_{}", long.replace('-', "_").to_uppercase()))
}

/// Adds variables and file values to the flags of `command` and its subcommands.
fn layer(command: Command, path: &mut Vec<String>, config: Option<&ConfigFile>) -> Command {
    let command = command.mut_args(|arg| {
        let values = config.and_then(|config| config.values(path, &arg));
        layer_arg(arg, values.map(|(_, values)| values))
    });
    command.mut_subcommands(|below| {
        path.push(below.get_name().to_owned());
        let below = layer(below, path, config);
        path.pop();
        below
    })
}

fn layer_arg(arg: Arg, values: Option<Vec<String>>) -> Arg {
    let Some(name) = variable_name(&arg) else { return arg };
    let set = variable(&name).is_some();
    let secret = is_secret(&arg);
    let mut arg = prepare(arg).hide_env(true).hide_env_values(true);
    arg = if set { arg.env(name) } else { arg.env(None::<&str>) };
    match values {
        Some(values) => arg.required(false).hide_default_value(secret).default_values(values),
        None => arg,
    }
}

/// Makes a flag accept the notations of variables and files: `1` for a switch, `a,b` for a list.
fn prepare(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => arg.value_parser(BoolishValueParser::new()),
        ArgAction::Append if arg.get_value_delimiter().is_none() => arg.value_delimiter(','),
        _ => arg,
    }
}

/// Validates the variables and secrets that the invoked commands use and argv does not override.
fn check_invoked(
    command: &Command,
    matches: &ArgMatches,
    path: &mut Vec<String>,
    config: Option<&ConfigFile>,
) -> Result<(), Failure> {
    for arg in command.get_arguments() {
        if given(matches, arg) {
            continue;
        }
        let Some(name) = variable_name(arg) else { continue };
        if let Some(value) = variable(&name) {
            let value = value.into_string().map_err(|_| bad_variable(&name, "is not UTF-8"))?;
            check_value(arg, &[value]).map_err(|problem| bad_variable(&name, &problem))?;
        } else if let Some(config) = config.filter(|_| is_secret(arg))
            && let Some((key, values)) = config.values(path, arg)
        {
            check_value(arg, &values).map_err(|problem| config.bad_value(&key, &problem))?;
        }
    }
    if let Some((name, below)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        path.push(name.to_owned());
        check_invoked(command, below, path, config)?;
        path.pop();
    }
    Ok(())
}

/// Whether argv contains the flag at this level or, for a global flag, at a lower one.
fn given(matches: &ArgMatches, arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    let here = matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::CommandLine);
    here || (arg.is_global_set()
        && matches.subcommand().is_some_and(|(_, below)| given(below, arg)))
}

fn bad_variable(name: &str, problem: &str) -> Failure {
    Failure::usage(
        format!("environment variable {name}: {problem}"),
        format!("correct or unset {name}; see `orion-peer COMMAND --help` for accepted values"),
    )
}

/// Validates values with the parser of a flag; the error describes the problem.
pub(super) fn check_value(arg: &Arg, values: &[String]) -> Result<(), String> {
    let one = values.first().map_or("", String::as_str);
    match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => BoolishValueParser::new()
            .parse_ref(&Command::new("check"), None, one.as_ref())
            .map(|_| ())
            .map_err(|_| units::not_valid(one, "boolean", "true or false")),
        ArgAction::Count => {
            one.parse::<u8>().map(|_| ()).map_err(|_| units::not_valid(one, "number", "0 to 255"))
        }
        _ => check_with_parser(arg, values),
    }
}

fn check_with_parser(arg: &Arg, values: &[String]) -> Result<(), String> {
    let Some(long) = arg.get_long() else { return Ok(()) };
    let alone = prepare(arg.clone())
        .global(false)
        .required(false)
        .env(None::<&str>)
        .requires(Resettable::Reset)
        .conflicts_with(Resettable::Reset);
    let command = Command::new("check")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(alone);
    let words = values.iter().map(|value| format!("--{long}={value}"));
    command.try_get_matches_from(words).map(|_| ()).map_err(|error| describe(&error, values))
}

/// clap's error message without flag name and usage.
fn describe(error: &clap::Error, values: &[String]) -> String {
    use clap::error::{ContextKind, ContextValue};
    if let Some(cause) = std::error::Error::source(error) {
        return cause.to_string();
    }
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.clone(),
        _ => values.join(","),
    };
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            format!("`{value}` is not one of {}", valid.join(", "))
        }
        _ => format!("`{value}` is not accepted"),
    }
}
