//! Hints for flags known from other programs.

use std::ffi::OsString;

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Command, flags of other programs, and the hint.
const HINTS: [(&str, &[&str], &str); 1] =
    [("serve", &["--port", "-p", "--host", "--bind"], "use --listen ADDRESS:PORT")];

/// Replaces clap's suggestion of a similarly spelled flag with a hint.
pub(super) fn hinted(mut error: Error, argv: &[OsString]) -> Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return error };
    let hint = HINTS.iter().find(|(command, flags, _)| {
        flags.contains(&flag.as_str()) && argv.iter().skip(1).any(|word| word == command)
    });
    if let Some((.., tip)) = hint {
        error.remove(ContextKind::SuggestedArg);
        // clap's usage line shows the similarly spelled flag.
        error.remove(ContextKind::Usage);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*tip).into()]));
    }
    error
}

/// Removes redundant words from `help help`, `help --help` and `help COMMAND --help`: clap's `help` treats them as
/// commands, and has no help itself.
pub(super) fn without_help_of_help(argv: &[OsString]) -> Vec<OsString> {
    let is_help = |word: &OsString| word == "--help" || word == "-h";
    match argv {
        [program, help, rest @ ..] if help == "help" => {
            let rest = rest.iter().filter(|word| *word != "help" && !is_help(word));
            [program, help].into_iter().chain(rest).cloned().collect()
        }
        _ => argv.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redundant_help_is_removed() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (given, meant) in [
            ("x help help", "x help"),
            ("x help --help", "x help"),
            ("x help -h", "x help"),
            ("x help send --help", "x help send"),
            ("x help send", "x help send"),
            ("x send --help", "x send --help"),
            ("x", "x"),
        ] {
            assert_eq!(without_help_of_help(&words(given)), words(meant), "{given}");
        }
    }
}
