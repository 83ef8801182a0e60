//! What people type who know other programs, and what it is called here.

use std::ffi::OsString;

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Command, flag that others have, and what to write instead.
const HINTS: [(&str, &[&str], &str); 1] =
    [("serve", &["--port", "-p", "--host", "--bind"], "write --listen ADDRESS:PORT")];

/// The error with a tip of ours in the place of the flag that is spelled most alike.
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
        // It is that of the flag which is spelled most alike.
        error.remove(ContextKind::Usage);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*tip).into()]));
    }
    error
}

/// `help help`, `help --help` and `help COMMAND --help` without what is said twice: clap's `help` takes words for
/// commands, and has no help of its own.
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
    fn help_of_help_is_help() {
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
