//! The configuration file `orion-peer.toml`: a key per flag, a section per command.
//!
//! Top-level keys apply to every command that has a flag of that name; `[send]`, `[token]` and `[token.mint]`
//! hold keys for one command and its subcommands. The most specific section wins. The set of keys is derived
//! from the clap commands, so a new flag gets its key without further code.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

use super::failure::Failure;
use crate::text::edit_distance;

/// Name of the configuration file, in the working directory or in `$XDG_CONFIG_HOME/orion-peer`.
pub const FILE_NAME: &str = "orion-peer.toml";

/// Validates values for a flag; the error describes the problem.
pub type Accepts<'a> = &'a dyn Fn(&Arg, &[String]) -> Result<(), String>;

/// A parsed configuration file, not yet merged with the flags.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    table: Table,
    found_in_working_dir: bool,
}

impl ConfigFile {
    /// Reads the file named by the user, or else the first default file that exists.
    ///
    /// # Errors
    /// The named file does not exist; the file cannot be read or is not valid TOML.
    pub fn find(named: Option<&Path>) -> Result<Option<Self>, Failure> {
        if let Some(path) = named {
            return Self::read(path).map(Some);
        }
        let Some(path) = default_paths().into_iter().find(|path| path.is_file()) else {
            return Ok(None);
        };
        let found_in_working_dir = path == Path::new(FILE_NAME);
        Ok(Some(Self { found_in_working_dir, ..Self::read(&path)? }))
    }

    fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "specify an existing file with --config",
                _ => "make the file readable, or specify another file with --config",
            };
            Failure::usage(format!("cannot read `{}`: {error}", path.display()), remedy)
        })?;
        Self::from_text(path, &text)
    }

    fn from_text(path: &Path, text: &str) -> Result<Self, Failure> {
        let table = text.parse::<Table>().map_err(|error| {
            // toml's error text quotes the line, which may contain a secret.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            let message = error.message().lines().next().unwrap_or("not TOML");
            Failure::usage(
                format!("`{}` line {line} is not valid TOML: {message}", path.display()),
                "write `key = \"value\"` lines, under `[command]` to set them for one command only",
            )
        })?;
        Ok(Self { path: path.to_owned(), table, found_in_working_dir: false })
    }

    /// Path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file was found in the working directory rather than named by the user.
    #[must_use]
    pub fn found_in_working_dir(&self) -> bool {
        self.found_in_working_dir
    }

    /// The values for `arg` of the command at `path` (`["token", "mint"]`, empty for the program itself),
    /// and their full key.
    #[must_use]
    pub fn values(&self, path: &[String], arg: &Arg) -> Option<(String, Vec<String>)> {
        let mut levels = vec![&self.table];
        for name in path {
            match levels.last().and_then(|table| table.get(name)) {
                Some(Value::Table(table)) => levels.push(table),
                _ => break,
            }
        }
        for (depth, table) in levels.iter().enumerate().rev() {
            for name in key_names(arg) {
                if let Some(values) = table.get(name).and_then(|value| texts(value).ok()) {
                    let section: String =
                        path[..depth].iter().fold(String::new(), |s, p| s + p + ".");
                    return Some((section + name, values));
                }
            }
        }
        None
    }

    /// Checks every key of the file against the flags of `root` and its subcommands; `accepts` validates each
    /// value for each flag it applies to.
    ///
    /// # Errors
    /// A key that is not a flag, a section that is not a command, or an invalid value.
    pub fn check(&self, root: &Command, accepts: Accepts<'_>) -> Result<(), Failure> {
        self.check_table(&self.table, root, "", accepts)
    }

    fn check_table(
        &self,
        table: &Table,
        command: &Command,
        section: &str,
        accepts: Accepts<'_>,
    ) -> Result<(), Failure> {
        for (key, value) in table {
            let full = format!("{section}{key}");
            if let (Value::Table(inner), Some(below)) = (value, command.find_subcommand(key)) {
                self.check_table(inner, below, &format!("{full}."), accepts)?;
                continue;
            }
            let mut flags = Vec::new();
            flags_named(command, key, &mut flags);
            if flags.is_empty() || value.is_table() {
                return Err(self.unknown(&full, key, value.is_table(), command));
            }
            for flag in flags {
                let problem = texts(value).and_then(|texts| {
                    if value.is_array() && !matches!(flag.get_action(), ArgAction::Append) {
                        return Err("expected one value, not a list".to_owned());
                    }
                    accepts(flag, &texts)
                });
                problem.map_err(|problem| self.bad_value(&full, &problem))?;
            }
        }
        Ok(())
    }

    /// The failure for an invalid value of `key`.
    #[must_use]
    pub fn bad_value(&self, key: &str, problem: &str) -> Failure {
        Failure::usage(
            format!("key `{key}` in `{}`: {problem}", self.path.display()),
            format!(
                "correct or remove `{key}`; see `orion-peer COMMAND --help` for accepted values"
            ),
        )
    }

    fn unknown(&self, full: &str, key: &str, section: bool, command: &Command) -> Failure {
        let mut known = Vec::new();
        if section {
            known.extend(command.get_subcommands().map(|c| c.get_name().to_owned()));
        } else {
            all_keys(command, &mut known);
        }
        let what = if section { "section" } else { "key" };
        let remedy = nearest(key, &known).map_or_else(
            || "see `orion-peer COMMAND --help` for the flags; keys have the same names".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        Failure::usage(format!("unknown {what} `{full}` in `{}`", self.path.display()), remedy)
    }
}

fn default_paths() -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    let mut paths = vec![PathBuf::from(FILE_NAME)];
    paths.extend(home.map(|home| home.join("orion-peer").join(FILE_NAME)));
    paths
}

/// The keys of a flag: its long name and its aliases. Empty for positional arguments and for flags that are
/// meaningless in a file.
#[must_use]
pub fn key_names(arg: &Arg) -> Vec<&str> {
    let special = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    match arg.get_long() {
        Some(long) if !special && long != "config" => {
            let mut names = vec![long];
            names.extend(arg.get_all_aliases().unwrap_or_default());
            names
        }
        _ => Vec::new(),
    }
}

fn flags_named<'c>(command: &'c Command, key: &str, found: &mut Vec<&'c Arg>) {
    found.extend(command.get_arguments().filter(|arg| key_names(arg).contains(&key)));
    for below in command.get_subcommands() {
        flags_named(below, key, found);
    }
}

fn all_keys(command: &Command, found: &mut Vec<String>) {
    found.extend(command.get_arguments().flat_map(key_names).map(str::to_owned));
    for below in command.get_subcommands() {
        all_keys(below, found);
    }
}

/// Converts a TOML value to the arguments it would be on the command line.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    Ok(match value {
        Value::String(text) => vec![text.clone()],
        Value::Integer(number) => vec![number.to_string()],
        Value::Float(number) => vec![number.to_string()],
        Value::Boolean(yes) => vec![yes.to_string()],
        Value::Array(values) => {
            let mut words = Vec::new();
            for value in values {
                words.extend(texts(value)?);
            }
            words
        }
        Value::Datetime(_) | Value::Table(_) => {
            return Err(format!(
                "expected a string, a number, true or false, not a {}",
                value.type_str()
            ));
        }
    })
}

/// The known word with the smallest edit distance, if it is close enough to be a typo.
fn nearest<'w>(word: &str, known: &'w [String]) -> Option<&'w str> {
    let near = |one: &&String| edit_distance(word, one);
    let best = known.iter().min_by_key(near)?;
    (edit_distance(word, best) <= 1 + word.len() / 3).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name);
        Command::new("root").arg(flag("json").action(ArgAction::SetTrue)).subcommand(
            Command::new("token")
                .subcommand(Command::new("mint").arg(flag("lifetime")).arg(flag("pair")))
                .subcommand(Command::new("fetch").arg(flag("pair"))),
        )
    }

    fn file(text: &str) -> ConfigFile {
        ConfigFile::from_text(Path::new("x.toml"), text).unwrap()
    }

    fn path(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_most_specific_section_wins() {
        let file = file("pair='top'\n[token]\npair='mid'\n[token.mint]\npair='near'");
        let pair = Arg::new("pair").long("pair");
        let value = |names: &[&str]| file.values(&path(names), &pair).unwrap();
        assert_eq!(value(&["token", "mint"]), ("token.mint.pair".into(), vec!["near".into()]));
        assert_eq!(value(&["token", "fetch"]), ("token.pair".into(), vec!["mid".into()]));
        assert_eq!(value(&["send"]), ("pair".into(), vec!["top".into()]));
    }

    #[test]
    fn unknown_keys_and_sections_suggest_the_nearest() {
        let check = |text| file(text).check(&commands(), &|_, _| Ok(())).unwrap_err();
        let key = check("[token.mint]\nlifetme='3s'");
        assert!(key.message.contains("`token.mint.lifetme` in `x.toml`"), "{key}");
        assert!(key.remedy.contains("`lifetime`"), "{key}");
        let section = check("[tokn]\npair='p'");
        assert!(section.message.contains("section `tokn`"), "{section}");
        assert!(section.remedy.contains("`token`"), "{section}");
        assert!(check("zzzzzzzzzz=1").remedy.contains("--help"));
    }

    #[test]
    fn a_list_for_a_single_value_is_rejected() {
        let failure = file("pair=['a','b']").check(&commands(), &|_, _| Ok(())).unwrap_err();
        assert!(failure.message.contains("one value"), "{failure}");
    }

    #[test]
    fn errors_in_toml_are_located_but_not_quoted() {
        let error =
            ConfigFile::from_text(Path::new("x.toml"), "a=1\ntoken = \"hush\nb=2").unwrap_err();
        assert!(error.message.contains("line 2"), "{error}");
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}
