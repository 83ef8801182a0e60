//! TOML files of networks and scenarios: what is wrong in one is told with its line, the key, and the
//! nearest key that is known.

use std::{fs, path::Path};

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use crate::types::edit_distance;

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read `{file}`: {why}")]
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        why: String,
    },
    /// It holds something that means nothing.
    #[error("`{file}`{}: {problem}{}", line.map(|line| format!(", line {line}")).unwrap_or_default(),
        suggestion.as_ref().map(|key| format!("; did you mean `{key}`?")).unwrap_or_default())]
    Wrong {
        /// Its path.
        file: String,
        /// The line, from 1.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
}

/// Reads a file.
///
/// # Errors
/// [`FileError`]: it cannot be read, or holds something that means nothing.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let file = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => parse(&file, &text),
        Err(error) => Err(FileError::Unreadable { file, why: error.to_string() }),
    }
}

/// Reads the text of a file; `file` is its name in errors.
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

/// Of serde's "unknown field `x`, expected one of `a`, `b`" the expected key that is nearest.
fn nearest_key(problem: &str) -> Option<String> {
    let (unknown, expected) =
        problem.strip_prefix("unknown field `")?.split_once("`, expected ")?;
    let known = expected.split('`').skip(1).step_by(2);
    let near = known.min_by_key(|key| edit_distance(unknown, key))?;
    (edit_distance(unknown, near) <= 1 + unknown.len() / 3).then(|| near.to_owned())
}

/// A field written the way people write it, read by one of [`crate::units`] or its like.
///
/// # Errors
/// What `read` says of it.
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
    fn unknown_keys_are_told_with_line_and_nearest_key() {
        let error = wrong("rate = '1Mbit'\ndelai = '3ms'\n");
        assert!(error.starts_with("`x.toml`, line 2: unknown field `delai`"), "{error}");
        assert!(error.ends_with("did you mean `delay`?"), "{error}");
        assert!(!wrong("frequency = 1").contains("did you mean"));
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let error = wrong("rate = '1Mbit'\n[[");
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = read::<Sample>(Path::new("/nowhere/x.toml")).unwrap_err().to_string();
        assert!(error.contains("cannot read `/nowhere/x.toml`"), "{error}");
    }
}
