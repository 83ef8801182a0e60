//! Reads TOML files of networks and scenarios. Errors name the line, the key, and the nearest known key.

use std::{fs, path::Path};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::text::edit_distance;

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("cannot read `{file}`: {why}")]
    Unreadable {
        /// Path of the file.
        file: String,
        /// Error of the operating system.
        why: String,
    },
    /// The content of the file is not valid.
    #[error("`{file}`{}: {problem}{}", line.map(|line| format!(", line {line}")).unwrap_or_default(),
        suggestion.as_ref().map(|key| format!("; did you mean `{key}`?")).unwrap_or_default())]
    Wrong {
        /// Path of the file.
        file: String,
        /// Line number, from 1.
        line: Option<usize>,
        /// Description of the problem.
        problem: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
}

/// Reads a file.
///
/// # Errors
/// [`FileError`] if it cannot be read or its content is not valid.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let file = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => parse(&file, &text),
        Err(error) => Err(FileError::Unreadable { file, why: error.to_string() }),
    }
}

/// Parses the text of a file; `file` is its name in errors.
///
/// # Errors
/// [`FileError::Wrong`]
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().map(|span| &text[..span.start.min(text.len())]);
        let problem = error.message().to_owned();
        FileError::Wrong {
            file: file.to_owned(),
            line: before.map(|before| before.matches('\n').count() + 1),
            suggestion: nearest_key(&problem),
            problem,
        }
    })
}

/// The expected key nearest to the unknown one in serde's "unknown field `x`, expected one of `a`, `b`".
fn nearest_key(problem: &str) -> Option<String> {
    let (unknown, expected) =
        problem.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    let known = expected.split('`').skip(1).step_by(2);
    let near = known.min_by_key(|key| edit_distance(unknown, key))?;
    (edit_distance(unknown, near) <= 1 + unknown.len() / 3).then(|| near.to_owned())
}

/// Deserializes a quantity in human-readable form with `read`, such as a function of [`crate::units`].
///
/// # Errors
/// The error of `read`.
pub fn quantity<'de, D: Deserializer<'de>, T, E: std::fmt::Display>(
    deserializer: D,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    read(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "delay")]
        _delay: Option<String>,
        #[serde(rename = "rate")]
        _rate: Option<String>,
    }

    fn wrong(text: &str) -> String {
        parse::<Sample>("x.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn errors_of_unknown_keys_name_the_line_and_the_nearest_key() {
        let error = wrong("rate = '1Mbit'\ndelai = '3ms'\n");
        assert!(error.starts_with("`x.toml`, line 2: unknown field `delai`"), "{error}");
        assert!(error.ends_with("did you mean `delay`?"), "{error}");
        assert!(!wrong("frequency = 1").contains("did you mean"));
    }

    #[test]
    fn syntax_errors_name_the_line() {
        let error = wrong("rate = '1Mbit'\n[[");
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn the_error_of_a_missing_file_names_it() {
        let error = read::<Sample>(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
        assert!(error.contains("cannot read `/nowhere/x.toml`"), "{error}");
    }
}
